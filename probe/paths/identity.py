"""A target and a flow's number in, the header fields that a flow keeps out, and payloads that hold them
still.

Routers that share out flows look at addresses and ports, or where there are none at the first four bytes
behind the IP header: of ICMP its checksum is among them. So every probe of a flow has the same ones ("Paris
traceroute", Augustin et al., IMC 2006), and what tells probes apart stands where nobody looks:

    ICMP    id and checksum of the flow; the sequence number is the probe's, and two bytes of the payload make
            up for it in the checksum
    UDP     ports of the flow; the checksum is the probe's, and two bytes of the payload make it come true
    TCP     ports of the flow; the sequence number is the probe's

On IPv6 the flow label is the flow's as well. All of it follows from the target's name, so a later trace takes
the same paths.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

# Above what Linux gives programs that ask for no port (net.ipv4.ip_local_port_range).
FIRST_PORT, PORTS = 61_000, 4_000
MOST_NUMBERS = 30_000
_WORDS = 0xFFFF
STEP_BITS = 12  # between the TCP sequence numbers of two probes: 2^12
ECHO_HEAD, UDP_HEAD = 8, 8
TOKEN = 8
_STAMP = 44  # bytes of a STAMP packet (RFC 8762 section 4.2.1), so that reflectors answer


@dataclass(frozen=True)
class Flow:
    """What stays the same in all packets of a flow. label: IPv6's; ident, checksum: ICMP's; port: ours."""

    number: int
    ident: int
    checksum: int
    port: int
    label: int


def flows(seed: str, count: int) -> list[Flow]:
    """The flows of a target; their ports are wishes, and the same whenever it is asked."""
    mixed = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=16).digest(), "big")
    ident, mixed = mixed & _WORDS, mixed >> 16
    checksum, mixed = mixed % (_WORDS - 1), mixed >> 16
    port, mixed = mixed % PORTS, mixed >> 16
    label = mixed & 0xFFFFF
    return [
        Flow(
            n,
            (ident + n) & _WORDS,
            # 0 and 0xffff mean the same in ones' complement. Neighbours shall not look alike to a hash.
            (checksum + 40_503 * n) % (_WORDS - 1) + 1,
            FIRST_PORT + (port + n) % PORTS,
            (label + 0x9E37 * n) % 0xFFFFF + 1,
        )
        for n in range(count)
    ]


@dataclass(frozen=True)
class Secrets:
    """What is random in one trace, so that nobody who has not seen its packets can answer them.

    echo, datagram: added to numbers (16 bits); sequence: to TCP's (32 bits); noise: TCP's lowest bits.
    """

    token: bytes
    echo: int
    datagram: int
    sequence: int
    noise: int

    @classmethod
    def of(cls, random: bytes, wall_ns: int) -> Secrets:
        """`random`: 16 bytes.

        TCP's numbers grow with time as those of connections do (RFC 9293 section 3.4.1: one in 4 us): a
        firewall that remembers a flow's last SYN drops one with a smaller number.
        """
        echo, datagram, noise = struct.unpack("!HHH", random[8:14])
        sequence = wall_ns // 4_000 & 0xFFFFFFFF & -(1 << STEP_BITS)
        return cls(
            random[:TOKEN],
            echo,
            datagram % (_WORDS - MOST_NUMBERS - 1) + 1,
            sequence,
            noise & (1 << STEP_BITS) - 1,
        )

    def echo_sequence(self, number: int) -> int:
        return (self.echo + number) & _WORDS

    def udp_checksum(self, number: int) -> int:
        """Neither 0 (no checksum at all) nor 0xffff (which UDP writes for 0)."""
        return self.datagram + number

    def tcp_sequence(self, number: int) -> int:
        return (self.sequence + (number << STEP_BITS) + self.noise) & 0xFFFFFFFF

    def echo_number(self, sequence: int) -> int:
        return (sequence - self.echo) & _WORDS

    def udp_number(self, checksum: int) -> int:
        """Negative: it is none of ours."""
        return checksum - self.datagram

    def tcp_number(self, sequence: int) -> int:
        """Negative: it is none of ours."""
        number, rest = divmod((sequence - self.sequence) & 0xFFFFFFFF, 1 << STEP_BITS)
        return number if rest == self.noise else -1


def words(data: bytes) -> int:
    """Sum of the 16-bit words (RFC 1071); an odd byte is padded."""
    if len(data) % 2:
        data += b"\0"
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def pseudo(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Sum of the words of a pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
    return words(source + destination) + protocol + (length >> 16) + (length & _WORDS)


def make_up(total: int, wanted: int) -> int:
    """The word that makes `wanted` the checksum of a packet whose other words add up to `total`.

    wanted: 1 to 0xfffe.
    """
    return (_WORDS - wanted - total) % _WORDS


def echo_payload(flow: Flow, secrets: Secrets, number: int, size: int, kind: int, besides: int) -> bytes:
    """What follows the header of an echo request so that its checksum is the flow's.

    size: bytes of the ICMP message; kind: its type; besides: sum of a pseudo-header (IPv6).
    """
    length = max(size - ECHO_HEAD, TOKEN + 2)
    total = (kind << 8) + flow.ident + secrets.echo_sequence(number) + words(secrets.token) + besides
    fix = make_up(total, flow.checksum)
    return (secrets.token + fix.to_bytes(2, "big")).ljust(length, b"\0")


def udp_payload(
    secrets: Secrets, number: int, size: int, ports: tuple[int, int], addresses: Sequence[bytes]
) -> bytes:
    """A STAMP packet whose UDP checksum is the probe's: its number, and a time whose lowest bits fit.

    size: bytes of the UDP datagram; ports: ours and theirs; addresses: likewise.
    """
    length = max(size - UDP_HEAD, _STAMP)
    # sequence number, timestamp (seconds, fraction), error estimate; the rest of it is zero.
    head = struct.pack("!II", number, int.from_bytes(secrets.token[:4], "big")) + secrets.token[4:6]
    tail = struct.pack("!H", 1)
    whole = UDP_HEAD + length
    total = pseudo(addresses[0], addresses[1], 17, whole) + sum(ports) + whole + words(head + b"\0\0" + tail)
    fix = make_up(total, secrets.udp_checksum(number))
    return (head + fix.to_bytes(2, "big") + tail).ljust(length, b"\0")


def stamp_number(payload: bytes) -> int:
    """The number in a reflector's answer (the sender's sequence number, at byte 24); -1: there is none."""
    return int.from_bytes(payload[24:28], "big") if len(payload) >= _STAMP else -1
