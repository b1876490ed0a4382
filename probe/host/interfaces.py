"""Destinations in, what the interfaces towards them can do out: which of them stamp what they send."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Iterable
from functools import cache

TX_HARDWARE, TX_SOFTWARE, RX_HARDWARE = 1 << 0, 1 << 1, 1 << 2  # linux/net_tstamp.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GET_TS_INFO = 0x41
_NETLINK_ROUTE = 0  # linux/rtnetlink.h
_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST = 24, 26, 1
_RTA_DST, _RTA_OIF = 1, 4


def stamping(interface: str) -> int | None:
    """so_timestamping flags of ethtool's get_ts_info (struct ethtool_ts_info); None where the driver has
    none."""
    info = array.array("B", struct.pack("=I40x", _ETHTOOL_GET_TS_INFO))
    request = struct.pack("16sP16x", interface.encode(), info.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle.fileno(), _SIOCETHTOOL, request)
        except OSError:
            return None
    return int(struct.unpack_from("=I", info, 4)[0])


def stamped(destinations: Iterable[tuple[int, bytes]]) -> list[bool]:
    """Whether the kernel is sure to stamp packets to each destination (family, sockaddr) as they leave.

    False where there is no way, or the driver of the interface it leads through does not stamp.
    """

    @cache
    def stamps(index: int) -> bool:
        try:
            return bool((stamping(socket.if_indextoname(index)) or 0) & TX_SOFTWARE)
        except OSError:
            return False

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
        return [stamps(_outlet(kernel, *destination)) for destination in destinations]


def _outlet(kernel: socket.socket, family: int, sockaddr: bytes) -> int:
    """The index of the interface that the kernel would send through; 0 where there is none.

    One request of rtnetlink(7), made here: pyroute2 would cost every agent 13 MB.

        nlmsghdr: length(4) type(2) flags(2) sequence(4) port(4)
        rtmsg:    family(1) dst_len(1) src_len(1) tos(1) table(1) protocol(1) scope(1) type(1) flags(4)
        rtattr:   length(2) type(2) value, to the next multiple of 4; any number of them
    """
    v4 = family == socket.AF_INET
    address = sockaddr[4:8] if v4 else sockaddr[8:24]
    attributes = struct.pack("=HH", 4 + len(address), _RTA_DST) + address
    if not v4 and (scope := int.from_bytes(sockaddr[24:28], "little")):
        attributes += struct.pack("=HHI", 8, _RTA_OIF, scope)
    body = struct.pack("=4B4BI", family, 8 * len(address), *bytes(6), 0) + attributes
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
