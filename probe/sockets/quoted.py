"""A message of a socket's error queue in, the ICMP error out: what it quotes of our packet, and who made
it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from probe.sockets import abi


@dataclass(frozen=True)
class QuotedError:
    """An ICMP error from a socket's error queue.

    quoted: what it quotes of our packet, cut at the bytes kept: from the ICMP header on (ping socket), from
        behind the UDP header on, or from behind the IP header on (raw socket).
    destination: sockaddr (28 bytes) to which that packet went, with the port on UDP; empty: not told.
    """

    type: int
    code: int
    local: bool  # this host made it, no router: the packet never left
    quoted: bytes
    destination: bytes = b""


def quoted_error(control: bytes, quoted: bytes, name: bytes) -> QuotedError | None:
    """The error that its control messages tell of; SCM_TIMESTAMPING may stand before IP_RECVERR, or not.

    `quoted` is the message's data, `name` the address it came with, as long as it is. None: it is no error.
    """
    at = 0
    while at + 16 <= len(control):
        length = int.from_bytes(control[at : at + 8], "little")
        level = int.from_bytes(control[at + 8 : at + 12], "little")
        kind = int.from_bytes(control[at + 12 : at + 16], "little")
        if length < 16:
            return None
        if (level, kind) in (
            (socket.IPPROTO_IP, abi.IP_RECVERR),
            (socket.IPPROTO_IPV6, abi.IPV6_RECVERR),
        ):
            found = control[at + 16 : at + length]
            if len(found) < 16:
                return None
            # struct sock_extended_err, and behind it who made the error: see abi.CONTROL
            origin, error_type, code, offender = found[4], found[5], found[6], found[16:]
            if origin == abi.ORIGIN_TIMESTAMPING:  # without a time: none of those that were asked for
                return None
            destination = name.ljust(abi.SOCKADDR, b"\0") if name else b""
            by_kernel = origin not in (abi.ORIGIN_ICMP, abi.ORIGIN_ICMP6)
            local = by_kernel or (not _same_host(offender, destination) and is_ours(offender))
            return QuotedError(error_type, code, local, quoted, destination)
        at += (length + 7) & ~7
    return None


def _same_host(one: bytes, other: bytes) -> bool:
    """Whether two sockaddrs have the same address: the destination itself refuses what reached it."""
    part = slice(4, 8) if int.from_bytes(one[:2], "little") == socket.AF_INET else slice(8, 24)
    return bool(other) and one[:2] == other[:2] and one[part] == other[part]


def is_ours(offender: bytes) -> bool:
    """Whether an ICMP error came from an address (a sockaddr) of this host: then the probe never left."""
    family = int.from_bytes(offender[:2], "little")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            if family == socket.AF_INET:
                trial.bind((socket.inet_ntop(family, offender[4:8]), 0))
            elif family == socket.AF_INET6:
                scope = int.from_bytes(offender[24:28], "little")
                trial.bind((socket.inet_ntop(family, offender[8:24]), 0, 0, scope))
            else:
                return False
    except (OSError, ValueError):
        return False
    return True
