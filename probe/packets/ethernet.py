"""Addresses in, the bytes in front of an ICMP message on Ethernet out: link header and IP header. No I/O.

    IPv4 (RFC 791): destination MAC(6) source MAC(6) 0x0800 |
        version+IHL tos total-length(2) id(2)=0 DF+offset(2) ttl protocol checksum(2) source(4) destination(4)
    IPv6 (RFC 8200): destination MAC(6) source MAC(6) 0x86dd |
        version+class+label(4) payload-length(2) next-header hop-limit source(16) destination(16)

Not fragmented, so an IPv4 identification of 0 is allowed (RFC 6864).
"""

from __future__ import annotations

from probe.packets.checksum import checksum

LINK = 14  # bytes of the Ethernet header
IPV4, IPV6 = 20, 40  # bytes of the IP headers, without options
_ETHERTYPE = {4: b"\x08\x00", 16: b"\x86\xdd"}
_ICMP, _ICMP6 = 1, 58
_HOPS = 64
_DONT_FRAGMENT = 0x4000


def header(mac: bytes, own_mac: bytes, source: bytes, destination: bytes, dscp: int, size: int) -> bytes:
    """Link and IP header of an ICMP message of `size` bytes; addresses of 4 or of 16 bytes."""
    link = mac + own_mac + _ETHERTYPE[len(source)]
    if len(source) == 16:
        first = (6 << 28 | dscp << 22).to_bytes(4, "big")
        return link + first + size.to_bytes(2, "big") + bytes((_ICMP6, _HOPS)) + source + destination
    head = bytes((0x45, dscp << 2)) + (IPV4 + size).to_bytes(2, "big") + bytes(2)
    head += _DONT_FRAGMENT.to_bytes(2, "big") + bytes((_HOPS, _ICMP))
    sums = checksum(head + bytes(2) + source + destination)
    return link + head + sums.to_bytes(2, "big") + source + destination


def pseudo_sum(source: bytes, destination: bytes) -> int:
    """What the checksum of an ICMP message covers besides it and its length (RFC 8200, 8.1); on IPv4
    nothing."""
    if len(source) == 4:
        return 0
    both = source + destination
    return sum(int.from_bytes(both[at : at + 2], "big") for at in range(0, len(both), 2)) + _ICMP6
