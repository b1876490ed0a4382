"""Destinations in, what the interfaces towards them can do out: which of them stamp what they send."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Iterable
from functools import cache
from ipaddress import ip_address
from pathlib import Path

TX_HARDWARE, TX_SOFTWARE, RX_HARDWARE = 1 << 0, 1 << 1, 1 << 2  # linux/net_tstamp.h
_SIOCETHTOOL, _SIOCGIFADDR = 0x8946, 0x8915
_ETHTOOL_GET_TS_INFO = 0x41
_INET6 = Path("/proc/thread-self/net/if_inet6")
_ANY_PORT = 9  # a UDP socket is connected to it, which sends nothing


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

    False where the driver does not, or where the interface is not found: by the source address that the
    kernel would
    use, and so not on an interface without one of its own.
    """

    @cache
    def stamps(interface: str) -> bool:
        return bool((stamping(interface) or 0) & TX_SOFTWARE)

    owners = _owners()
    found = [owners.get(_source(*destination), "") for destination in destinations]
    return [bool(name) and stamps(name) for name in found]


def _source(family: int, sockaddr: bytes) -> str:
    """Where the kernel would send from; empty where there is no way."""
    address: tuple[str, int] | tuple[str, int, int, int]
    if family == socket.AF_INET:
        address = socket.inet_ntop(family, sockaddr[4:8]), _ANY_PORT
    else:
        scope = int.from_bytes(sockaddr[24:28], "little")
        address = socket.inet_ntop(family, sockaddr[8:24]), _ANY_PORT, 0, scope
    with socket.socket(family, socket.SOCK_DGRAM) as handle:
        try:
            handle.connect(address)
            return str(ip_address(handle.getsockname()[0].partition("%")[0]))
        except (OSError, ValueError):
            return ""


def _owners() -> dict[str, str]:
    """Which interface has each of this host's addresses (the first IPv4 address of each, every IPv6 one)."""
    owners: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(handle.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue
            owners[socket.inet_ntoa(answer[20:24])] = name
    try:
        lines = _INET6.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        packed, *_, name = line.split()
        owners[str(ip_address(bytes.fromhex(packed)))] = name
    return owners
