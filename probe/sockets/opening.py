"""A family and socket options in, an open probe socket out: raw with CAP_NET_RAW, a ping socket where the
kernel allows it."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from probe.errors import PrivilegeError, SocketError
from probe.packets import icmp
from probe.sockets import abi
from probe.sockets.packet_socket import PacketSocket

PING_GROUP_RANGE = Path("/proc/sys/net/ipv4/ping_group_range")


@dataclass(frozen=True)
class SocketOptions:
    """What one socket fixes for all its probes; flows that differ here need a socket of their own."""

    family: int  # socket.AF_INET or socket.AF_INET6
    dscp: int = 0  # 0..63
    max_size: int = 64  # largest IP payload, bytes
    receive_buffer: int = 16 << 20  # bytes; shared by replies and TX stamps
    ttl: int = 0  # or hop limit, 1..255; 0: the kernel's default
    source: str = ""  # an address of this host; empty: the route's
    interface: str = ""  # SO_BINDTODEVICE: also a VRF; empty: the route's
    dont_fragment: bool = False  # DF on every packet, and none that exceeds the path's MTU
    # Stamps by the interface's own clock, too: indices of the interfaces that share the clock.
    hardware: frozenset[int] = frozenset()
    replies: bool = True  # of a raw socket: whether it receives echo replies, or ICMP errors alone


def open_icmp(
    options: SocketOptions, *, allow_raw: bool = True, choose_id: bool | None = None
) -> PacketSocket:
    """Open a socket for ICMP echo probes with kernel stamps in both directions.

    `allow_raw=False` and `choose_id=False` ask for the fallbacks that other hosts would get.
    Raises: PrivilegeError where neither kind of socket is allowed; SocketError where the family is not
        available.
    """
    handle, raw = _open(options.family, allow_raw)
    with setting_up(handle, "probe socket"):
        _configure(handle, options, raw)
        set_path(handle, options)
        set_stamping(handle, hardware=bool(options.hardware))
    chosen = kernel_takes_ids() if choose_id is None else choose_id
    return PacketSocket(
        handle, raw=raw, choose_id=chosen, max_size=options.max_size, hardware=options.hardware
    )


def _open(family: int, allow_raw: bool) -> tuple[socket.socket, bool]:
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    refusal: OSError | None = None
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM) if allow_raw else (socket.SOCK_DGRAM,):
        try:
            return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol), kind == socket.SOCK_RAW
        except OSError as problem:
            refusal = problem
    assert refusal is not None
    if refusal.errno in (errno.EPERM, errno.EACCES):
        raise PrivilegeError(privilege_remedy())
    name = "IPv4" if family == socket.AF_INET else "IPv6"
    raise SocketError(f"cannot open an {name} probe socket: {refusal.strerror}")


def privilege_remedy() -> str:
    """What to do where probe sockets are refused: both ways, with this process's group filled in."""
    try:
        allowed = " ".join(PING_GROUP_RANGE.read_text().split())
    except OSError:
        allowed = "unknown"
    group = os.getegid()
    return (
        "the kernel refuses probe sockets to this process. Either give it CAP_NET_RAW (run it as root, or "
        "with AmbientCapabilities=CAP_NET_RAW in its systemd unit), or allow unprivileged ping sockets for "
        f"its group: sysctl -w net.ipv4.ping_group_range='{group} {group}' (now: '{allowed}')"
    )


def _configure(handle: socket.socket, options: SocketOptions, raw: bool) -> None:
    enlarge(handle, options.receive_buffer)
    if not raw:
        quote_errors(handle)
    elif options.family == socket.AF_INET:
        wanted = (*((icmp.ECHO_REPLY,) if options.replies else ()), *icmp.ERRORS4)
        blocked = 0xFFFFFFFF & ~sum(1 << kind for kind in wanted)
        handle.setsockopt(abi.SOL_RAW, abi.ICMP_FILTER, struct.pack("=I", blocked))
    else:
        words = [0xFFFFFFFF] * 8
        for kind in (*((icmp.ECHO6_REPLY,) if options.replies else ()), *icmp.ERRORS6):
            words[kind >> 5] &= ~(1 << (kind & 31))
        handle.setsockopt(socket.IPPROTO_ICMPV6, abi.ICMP6_FILTER, struct.pack("=8I", *words))


@contextmanager
def setting_up(handle: socket.socket, what: str) -> Iterator[None]:
    """Close a socket that cannot be set up in this block. Raises: SocketError in place of OSError."""
    try:
        yield
    except OSError as problem:
        handle.close()
        raise SocketError(f"cannot set up the {what}: {problem.strerror}") from None
    except SocketError:
        handle.close()
        raise


def quote_errors(handle: socket.socket) -> None:
    """Have ICMP errors for what is sent come by the error queue, with what they quote. Raises: OSError."""
    if handle.family == socket.AF_INET:
        handle.setsockopt(socket.IPPROTO_IP, abi.IP_RECVERR, 1)
    else:
        handle.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_RECVERR, 1)


def set_stamping(handle: socket.socket, *, hardware: bool = False) -> None:
    """Have the kernel stamp what is sent and what is received; `hardware`: by the interface's clock, too.

    It takes 5 ms, so it comes when what must not wait is done. Raises: OSError.
    """
    flags = abi.HARDWARE_STAMPING if hardware else abi.STAMPING
    handle.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, flags)
    # The kernel switches stamping on in the background; the first packet after setsockopt may miss it.
    time.sleep(0.005)


def set_path(handle: socket.socket, options: SocketOptions, port: int = 0) -> None:
    """What decides a packet's way: DSCP, TTL, DF, source address (and port), interface, IPv6 flow labels.

    Raises: SocketError where source or interface are not this host's; OSError.
    """
    v4 = options.family == socket.AF_INET
    if options.interface:
        try:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.interface.encode() + b"\0")
        except OSError as problem:
            reason = f"cannot send by interface {options.interface!r}: {problem.strerror}"
            raise SocketError(reason) from None
    if v4:
        handle.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, options.dscp << 2)
    else:
        handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, options.dscp << 2)
        # A destination's sockaddr says the flow label, so that each flow has one and keeps it (RFC 6438).
        handle.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_FLOWINFO_SEND, 1)
    if options.ttl:
        level, name = (
            (socket.IPPROTO_IP, socket.IP_TTL) if v4 else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        )
        handle.setsockopt(level, name, options.ttl)
    if options.dont_fragment:
        if v4:
            handle.setsockopt(socket.IPPROTO_IP, abi.IP_MTU_DISCOVER, abi.IP_PMTUDISC_DO)
        else:
            handle.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_MTU_DISCOVER, abi.IP_PMTUDISC_DO)
            handle.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_DONTFRAG, 1)
    if options.source or port:
        try:
            found = socket.getaddrinfo(
                options.source or None,
                port,
                options.family,
                socket.SOCK_DGRAM,
                0,
                socket.AI_NUMERICHOST | socket.AI_PASSIVE,
            )
            handle.bind(found[0][4])
        except OSError as problem:
            reason = f"cannot send from {options.source or 'any address'}: {problem.strerror}"
            raise SocketError(reason) from None


def enlarge(handle: socket.socket, size: int) -> None:
    """Give both buffers of a socket this many bytes, or as many as are allowed."""
    for forced, plain in ((abi.SO_RCVBUFFORCE, socket.SO_RCVBUF), (abi.SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            handle.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:  # without CAP_NET_ADMIN the kernel cuts it at net.core.[rw]mem_max
            handle.setsockopt(socket.SOL_SOCKET, plain, size)


@cache
def kernel_takes_ids() -> bool:
    """Whether the kernel knows SCM_TS_OPT_ID: ask it, on a packet that it refuses to send anyway
    (broadcast)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, abi.STAMPING)
            message = [(socket.SOL_SOCKET, abi.SCM_TS_OPT_ID, struct.pack("=I", 1))]
            trial.sendmsg([b""], message, 0, ("255.255.255.255", 9))
        except OSError as refusal:
            return refusal.errno in (errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH)
    return False
