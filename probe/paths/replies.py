"""Bytes of a packet that came in, which probe it answers and how out. Pure; whatever the bytes, nothing
raises.

An ICMP error quotes the header of the packet that it is about (RFC 792, RFC 4443): at least eight bytes
behind the IP header, which is where the probe's number stands. What does not quote a probe of ours is
nobody's answer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from probe.paths.identity import TOKEN, Flow, Secrets, stamp_number

EXCEEDED, TOO_BIG = "exceeded", "too big"
SYN_ACK, RESET, ECHOED, REFLECTED = "syn-ack", "reset", "echo reply", "reflected"
PORT_UNREACHABLE = "port unreachable"
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
# Codes of destination unreachable; what is not named here is "unreachable (code N)".
_CODES4 = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: PORT_UNREACHABLE,
    9: "prohibited",
    10: "prohibited",
    13: "prohibited",
}
_CODES6 = {
    0: "no route",
    1: "prohibited",
    3: "address unreachable",
    4: PORT_UNREACHABLE,
    5: "prohibited",
    6: "route rejected",
}


@dataclass(frozen=True)
class Reply:
    """An answer to probe `number` of `flow`. what: in words; mtu: what a "too big" says (0: nothing)."""

    flow: int
    number: int
    address: str
    what: str
    reached: bool
    mtu: int = 0


class Matcher:
    """Knows which packets answer the probes of one trace.

    Args:
        destination: the target's address, 4 or 16 bytes.
        port: the target's, of UDP and TCP.
        flows: their ports are those that they really have.
    """

    def __init__(self, destination: bytes, port: int, flows: Sequence[Flow], secrets: Secrets) -> None:
        self._destination, self._port, self._secrets = destination, port, secrets
        self._six = len(destination) == 16
        self._by_ident: Mapping[int, int] = {flow.ident: flow.number for flow in flows}
        self._by_port: Mapping[int, int] = {flow.port: flow.number for flow in flows}

    def icmp4(self, packet: bytes) -> Reply | None:
        """What a raw ICMP socket receives: an IPv4 packet with its header."""
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return None
        message = packet[(packet[0] & 15) * 4 :]
        if len(message) < 8 or (packet[0] & 15) < 5:
            return None
        source, kind, code = packet[12:16], message[0], message[1]
        if kind == 0:
            return self._echoed(source, message)
        if kind not in (3, 11):
            return None
        found = self._quoted4(message[8:])
        if found is None:
            return None
        if kind == 11:
            return self._reply(found, source, EXCEEDED) if code == 0 else None
        if code == 4:
            return self._reply(found, source, TOO_BIG, int.from_bytes(message[6:8], "big"))
        return self._reply(found, source, _CODES4.get(code, f"unreachable (code {code})"))

    def icmp6(self, message: bytes, source: bytes) -> Reply | None:
        """What a raw ICMPv6 socket receives: the message; `source`: the 16 bytes of who sent it."""
        if len(message) < 8:
            return None
        kind, code = message[0], message[1]
        if kind == 129:
            return self._echoed(source, message)
        if kind not in (1, 2, 3):
            return None
        found = self._quoted6(message[8:])
        if found is None:
            return None
        if kind == 3:
            return self._reply(found, source, EXCEEDED) if code == 0 else None
        if kind == 2:
            return self._reply(found, source, TOO_BIG, int.from_bytes(message[4:8], "big"))
        return self._reply(found, source, _CODES6.get(code, f"unreachable (code {code})"))

    def segment(self, source: bytes, segment: bytes) -> Reply | None:
        """A TCP segment, without its IP header, that came from `source`."""
        if len(segment) < 20 or source != self._destination:
            return None
        theirs, ours, _, acknowledged = struct.unpack_from("!HHII", segment)
        flow, flags = self._by_port.get(ours), segment[13]
        number = self._secrets.tcp_number((acknowledged - 1) & 0xFFFFFFFF)
        if flow is None or theirs != self._port or number < 0 or not flags & 0x10:
            return None
        if flags & 0x04:
            return self._reply((flow, number), source, RESET)
        return self._reply((flow, number), source, SYN_ACK) if flags & 0x02 else None

    def datagram(self, flow: int, source: bytes, port: int, payload: bytes) -> Reply | None:
        """A UDP datagram that came to a flow's port."""
        number = stamp_number(payload)
        if source != self._destination or port != self._port or number < 0:
            return None
        # A reflector copies our timestamp, which holds the secret (RFC 8762 section 4.3.1).
        if payload[28:34] != self._secrets.token[:6]:
            return None
        return self._reply((flow, number), source, REFLECTED)

    def _reply(self, found: tuple[int, int], source: bytes, what: str, mtu: int = 0) -> Reply:
        address = str(IPv6Address(source) if self._six else IPv4Address(source))
        theirs = source == self._destination and what not in (EXCEEDED, TOO_BIG)
        # A host with several addresses may say so from another one.
        return Reply(*found, address, what, theirs or what == PORT_UNREACHABLE, mtu)

    def _echoed(self, source: bytes, message: bytes) -> Reply | None:
        found = self._probe_of_echo(message)
        if found is None or source != self._destination or len(message) < 8 + TOKEN:
            return None
        return self._reply(found, source, ECHOED)

    def _quoted4(self, quoted: bytes) -> tuple[int, int] | None:
        if len(quoted) < 28 or quoted[0] >> 4 != 4 or (quoted[0] & 15) < 5:
            return None
        if quoted[16:20] != self._destination:
            return None
        return self._probe_of(quoted[9], quoted[(quoted[0] & 15) * 4 :])

    def _quoted6(self, quoted: bytes) -> tuple[int, int] | None:
        if len(quoted) < 48 or quoted[0] >> 4 != 6 or quoted[24:40] != self._destination:
            return None
        return self._probe_of(quoted[6], quoted[40:])

    def _probe_of(self, protocol: int, quoted: bytes) -> tuple[int, int] | None:
        """Flow and number of one of our packets, from its first bytes behind the IP header."""
        if len(quoted) < 8:
            return None
        if protocol == (_ICMP6 if self._six else _ICMP):
            return self._probe_of_echo(quoted) if quoted[0] == (128 if self._six else 8) else None
        ours, theirs = struct.unpack_from("!HH", quoted)
        flow = self._by_port.get(ours)
        if flow is None or theirs != self._port:
            return None
        if protocol == _UDP:
            number = self._secrets.udp_number(int.from_bytes(quoted[6:8], "big"))
        elif protocol == _TCP:
            number = self._secrets.tcp_number(int.from_bytes(quoted[4:8], "big"))
        else:
            return None
        return (flow, number) if number >= 0 else None

    def _probe_of_echo(self, message: bytes) -> tuple[int, int] | None:
        """Of an echo request or its reply: by id and sequence number, and by the secret where it is there."""
        ident, sequence = struct.unpack_from("!HH", message, 4)
        flow = self._by_ident.get(ident)
        if flow is None:
            return None
        token = message[8 : 8 + TOKEN]
        if len(token) == TOKEN and token != self._secrets.token:
            return None
        return flow, self._secrets.echo_number(sequence)
