"""Datagrams of rtnetlink(7) in, links, addresses, routes and neighbours out; and requests for all of them.
Pure.

    nlmsghdr: length(4) type(2) flags(2) sequence(4) port(4), then a body, then attributes
    rtattr:   length(2) type(2) value, to the next multiple of 4; any number of them

Written here and not taken from pyroute2: any part of that imports all of it, 163 modules and 12 MB, which is
more than everything else that the agent knows of its host.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

# linux/netlink.h
ERROR, DONE = 2, 3
REQUEST, DUMP, APPEND = 0x1, 0x300, 0x800
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the table changed while it was written out
# linux/rtnetlink.h: RTM_NEW..., RTM_DEL... and RTM_GET... of each stand in a row
LINK, ADDRESS, ROUTE, NEIGHBOUR = 16, 20, 24, 28
KINDS = (LINK, ADDRESS, ROUTE, NEIGHBOUR)
# Multicast groups, as bits.
GROUPS = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 8 | 1 << 6 | 1 << 10

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_V4, _V6 = 2, 10
_IPS = {_V4: 4, _V6: 16}
# linux/if.h, linux/if_addr.h, linux/neighbour.h
UP, LOOPBACK = 1 << 0, 1 << 3
_DUPLICATE = 0x08  # IFA_F_DADFAILED
INCOMPLETE, FAILED, NO_ARP = 0x01, 0x20, 0x40
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")  # RFC 2863
UNICAST = 1
LOCAL_TABLE, MAIN_TABLE = 255, 254
_CLONED = 0x200  # RTM_F_CLONED: what is remembered of a destination, no route
_DEAD = 1  # RTNH_F_DEAD
# rtnl_link_stats64, as far as it is read: 24 numbers of 8 bytes
STATS = (
    *("rx_packets", "tx_packets", "rx_bytes", "tx_bytes"),
    *("rx_errors", "tx_errors", "rx_dropped", "tx_dropped"),
)
_STATS = struct.Struct("=8Q56xQ")


class Message(NamedTuple):
    """One message; `port` is whose request it answers, of an announcement whose doing it was."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


class Link(NamedTuple):
    """An interface. `carrier_changes`: how often its carrier came or went. `stats`: as STATS, then missed."""

    ifindex: int
    name: str
    flags: int
    mtu: int
    operstate: str
    carrier: bool
    carrier_changes: int
    kind: str
    stats: tuple[int, ...]

    @property
    def admin_up(self) -> bool:
        return bool(self.flags & UP)


class Address(NamedTuple):
    """An address of this host; `duplicate`: another host has it as well (RFC 4862)."""

    ifindex: int
    address: bytes
    length: int
    duplicate: bool


class Leg(NamedTuple):
    """One next hop of a route; `gateway` is empty where the destination is on the interface itself."""

    gateway: bytes
    ifindex: int
    weight: int


class Route(NamedTuple):
    """A way to a network (address, bits). `kind`: rtm_type. `legs`: those that are alive, in order."""

    address: bytes
    length: int
    table: int
    tos: int
    priority: int
    kind: int
    legs: tuple[Leg, ...]
    source: bytes


class Neighbour(NamedTuple):
    """An IP address on an interface, and the MAC address that the kernel has for it; empty: none."""

    ifindex: int
    address: bytes
    mac: bytes
    state: int


def messages(data: bytes) -> Iterator[Message]:
    """What a datagram holds; it ends where a length is impossible."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, at)
        if length < 16 or at + length > len(data):
            return
        yield Message(kind, flags, sequence, port, data[at + 16 : at + length])
        at += length + 3 & ~3


def attributes(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of each, from `start` to the end of `data`; it ends where a length is impossible."""
    at, end = start, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > end:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += length + 3 & ~3


def dump(kind: int, sequence: int, family: int = 0) -> bytes:
    """A request for everything of a kind."""
    body = {LINK: 16, ADDRESS: 8, ROUTE: 12, NEIGHBOUR: 12}[kind]
    return _HEADER.pack(16 + body, kind + 2, REQUEST | DUMP, sequence, 0) + bytes([family]) + bytes(body - 1)


def link(body: bytes) -> Link | None:
    """struct ifinfomsg: family(1) pad(1) type(2) index(4) flags(4) change(4). None: about something else."""
    if len(body) < 16 or body[0]:  # a bridge announces its ports in a family of its own
        return None
    index, flags = struct.unpack_from("=iI", body, 4)
    name, operstate, carrier, changes, mtu, kind = "", 0, True, 0, 0, ""
    stats: tuple[int, ...] = ()
    for which, value in attributes(body, 16):
        if which == 3:
            name = _text(value)
        elif which == 4:
            mtu = _u32(value)
        elif which == 16 and value:
            operstate = value[0]
        elif which == 18:
            kind = next((_text(inner) for what, inner in attributes(value, 0) if what == 1), "")
        elif which == 23 and len(value) >= _STATS.size:
            stats = _STATS.unpack_from(value)
        elif which == 33 and value:
            carrier = bool(value[0])
        elif which == 35:
            changes = _u32(value)
    state = OPERSTATES[operstate] if operstate < len(OPERSTATES) else str(operstate)
    return Link(index, name, flags, mtu, state, carrier, changes, kind, stats)


def address(body: bytes) -> Address | None:
    """struct ifaddrmsg: family(1) prefixlen(1) flags(1) scope(1) index(4)."""
    if len(body) < 8 or body[0] not in _IPS:
        return None
    own = peer = b""
    flags = body[2]
    for which, value in attributes(body, 8):
        if which == 1:
            peer = value
        elif which == 2:
            own = value
        elif which == 8:
            flags = _u32(value)
    found = own or peer
    if len(found) != _IPS[body[0]]:
        return None
    return Address(struct.unpack_from("=I", body, 4)[0], found, body[1], bool(flags & _DUPLICATE))


def route(body: bytes) -> Route | None:
    """struct rtmsg: family(1) dst_len(1) src_len(1) tos(1) table(1) protocol(1) scope(1) type(1) flags(4).

    None: what is of no use as a way out: this host's own addresses, broadcasts, multicast, exceptions that
    were learnt for single destinations.
    """
    if len(body) < 12 or body[0] not in _IPS:
        return None
    size, length, tos, table, kind = _IPS[body[0]], body[1], body[3], body[4], body[7]
    if (
        kind not in (UNICAST, *REFUSALS)
        or struct.unpack_from("=I", body, 8)[0] & _CLONED
        or length > 8 * size
    ):
        return None
    destination, gateway, source, index, priority = bytes(size), b"", b"", 0, 0
    legs: tuple[Leg, ...] = ()
    for which, value in attributes(body, 12):
        if which == 1 and len(value) == size:
            destination = value
        elif which == 4:
            index = _u32(value)
        elif which == 5:
            gateway = value
        elif which == 6:
            priority = _u32(value)
        elif which == 7:
            source = value
        elif which == 9:
            legs = tuple(_legs(value))
        elif which == 15:
            table = _u32(value)
        elif which == 18:  # RTA_VIA: a gateway of another family
            gateway = value[2:]
    if table == LOCAL_TABLE or (size == 16 and (destination[0] == 0xFF or destination[:2] == b"\xfe\x80")):
        return None
    if not legs and index:
        legs = (Leg(gateway, index, 1),)
    return Route(destination, length, table, tos, priority, kind, legs, source)


REFUSALS = {6: "blackhole", 7: "unreachable", 8: "prohibit"}  # rtm_type of routes that lead nowhere


def _legs(value: bytes) -> Iterator[Leg]:
    """struct rtnexthop: length(2) flags(1) hops(1) ifindex(4), attributes; one after the other."""
    at = 0
    while at + 8 <= len(value):
        length, flags, hops, index = struct.unpack_from("=HBBi", value, at)
        if length < 8 or at + length > len(value):
            return
        gateway = b""
        for which, inner in attributes(value[at : at + length], 8):
            if which == 5:
                gateway = inner
            elif which == 18:
                gateway = inner[2:]
        if not flags & _DEAD:
            yield Leg(gateway, index, hops + 1)
        at += length + 3 & ~3


def neighbour(body: bytes) -> Neighbour | None:
    """struct ndmsg: family(1) pad(3) ifindex(4) state(2) flags(1) type(1)."""
    if len(body) < 12 or body[0] not in _IPS:  # a bridge's table of MAC addresses comes by the same group
        return None
    index, state = struct.unpack_from("=iH", body, 4)
    ip = mac = b""
    for which, value in attributes(body, 12):
        if which == 1:
            ip = value
        elif which == 2:
            mac = value
    if len(ip) != _IPS[body[0]] or state & NO_ARP:
        return None
    return Neighbour(index, ip, b"" if state & (INCOMPLETE | FAILED) else mac, state)


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode(errors="replace")


def _u32(value: bytes) -> int:
    return int.from_bytes(value[:4], "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\1\0"
