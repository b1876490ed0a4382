"""Destinations in, what the interfaces towards them can do out: which of them stamp what they send, and by
which clock."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

TX_HARDWARE, TX_SOFTWARE, RX_HARDWARE = 1 << 0, 1 << 1, 1 << 2  # linux/net_tstamp.h
RX_SOFTWARE, RAW_HARDWARE = 1 << 3, 1 << 6
_SIOCETHTOOL = 0x8946
_ETHTOOL_GET_TS_INFO = 0x41
_NETLINK_ROUTE = 0  # linux/rtnetlink.h
_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST = 24, 26, 1
_RTA_DST, _RTA_SRC, _RTA_OIF = 1, 2, 4


@dataclass(frozen=True)
class Timestamping:
    """What a driver can do (struct ethtool_ts_info, linux/ethtool.h).

    flags: bits of so_timestamping, TX_HARDWARE and so on.
    clock: index of the PTP hardware clock, /dev/ptp<index>; -1: none.
    tx_types, rx_filters: one bit for each value that struct hwtstamp_config may take.
    """

    flags: int
    clock: int
    tx_types: int
    rx_filters: int


def timestamping(interface: str) -> Timestamping | None:
    """What ethtool's get_ts_info says; None where the driver has none, or there is no such interface."""
    info = array.array("B", struct.pack("=I40x", _ETHTOOL_GET_TS_INFO))
    request = struct.pack("16sP16x", interface.encode(), info.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle.fileno(), _SIOCETHTOOL, request)
        except OSError:
            return None
    flags, clock, tx_types, rx_filters = struct.unpack_from("=IiI12xI", info, 4)
    return Timestamping(flags, clock, tx_types, rx_filters)


def stamping(interface: str) -> int | None:
    """The flags of `timestamping` alone."""
    found = timestamping(interface)
    return None if found is None else found.flags


def has_clock() -> bool:
    """Whether any interface of this host has a clock of its own."""
    return any(
        found.clock >= 0 for _, name in socket.if_nameindex() if (found := timestamping(name)) is not None
    )


def sharing_clock(index: int) -> frozenset[int]:
    """Indices of the interfaces that stamp by the same PTP hardware clock as this one, itself among them.

    Two ports of a card may have one clock. Empty: this one has none, or is not there.
    """
    clocks = {each: found.clock for each, name in socket.if_nameindex() if (found := timestamping(name))}
    if clocks.get(index, -1) < 0:
        return frozenset()
    return frozenset(each for each, clock in clocks.items() if clock == clocks[index])


def stamped(destinations: Iterable[tuple[int, bytes]], interface: str = "", source: str = "") -> list[bool]:
    """Whether the kernel is sure to stamp packets to each destination (family, sockaddr) as they leave.

    False where there is no way, or the driver of the interface it leads through does not stamp. The way is
    that of packets of this socket: bound to `interface`, with an address of this host as their `source`.
    """

    @cache
    def stamps(index: int) -> bool:
        try:
            return bool((stamping(socket.if_indextoname(index)) or 0) & TX_SOFTWARE)
        except OSError:
            return False

    return [stamps(index) for index in outlets(destinations, interface, source)]


def outlets(destinations: Iterable[tuple[int, bytes]], interface: str = "", source: str = "") -> list[int]:
    """The index of the interface by which each destination is reached, as in `stamped`; 0: there is no
    way."""
    try:
        by = socket.if_nametoindex(interface) if interface else 0
    except OSError:
        return [0 for _ in destinations]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
        # Flows of one target have one destination.
        ask = cache(lambda family, sockaddr: _outlet(kernel, family, sockaddr, by, source))
        return [ask(family, sockaddr) for family, sockaddr in destinations]


def _outlet(kernel: socket.socket, family: int, sockaddr: bytes, by: int = 0, source: str = "") -> int:
    """The index of the interface that the kernel would send through; 0 where there is none.

    One request of rtnetlink(7), made here: pyroute2 would cost every agent 13 MB.

        nlmsghdr: length(4) type(2) flags(2) sequence(4) port(4)
        rtmsg:    family(1) dst_len(1) src_len(1) tos(1) table(1) protocol(1) scope(1) type(1) flags(4)
        rtattr:   length(2) type(2) value, to the next multiple of 4; any number of them
    """
    v4 = family == socket.AF_INET
    address = sockaddr[4:8] if v4 else sockaddr[8:24]
    attributes = struct.pack("=HH", 4 + len(address), _RTA_DST) + address
    scope = 0 if v4 else int.from_bytes(sockaddr[24:28], "little")
    if by or scope:
        attributes += struct.pack("=HHI", 8, _RTA_OIF, by or scope)
    bits = 0
    if source:
        own = socket.inet_pton(family, source)
        attributes += struct.pack("=HH", 4 + len(own), _RTA_SRC) + own
        bits = 8 * len(own)
    body = struct.pack("=4B4BI", family, 8 * len(address), bits, *bytes(5), 0) + attributes
    try:
        kernel.send(struct.pack("=IHHII", 16 + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0) + body)
        answer = kernel.recv(8192)
    except OSError:
        return 0
    if len(answer) < 28 or struct.unpack_from("=H", answer, 4)[0] != _RTM_NEWROUTE:
        return 0  # an error: there is no way
    at = 28
    while at + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == _RTA_OIF and length == 8:
            return int(struct.unpack_from("=I", answer, at + 4)[0])
        at += max(4, (length + 3) & ~3)
    return 0
