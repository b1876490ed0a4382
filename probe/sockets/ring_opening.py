"""An interface and the ways to a group's destinations in, an open `RingSocket` out."""

from __future__ import annotations

import errno
import mmap
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from probe.errors import PrivilegeError, SocketError
from probe.packets import ethernet
from probe.packets.icmp import HEADER
from probe.sockets import abi, filters
from probe.sockets.heads import Outlet, Way
from probe.sockets.opening import SocketOptions, enlarge, open_icmp, privilege_remedy
from probe.sockets.ring import RingSocket
from probe.sockets.ring_filters import other_program, ring_program

_FRAMES = 8192  # in a ring at most: 1.5 MB
_BEFORE = 66  # bytes of a frame in front of the packet
_ARRIVAL = abi.RX_SOFTWARE | abi.SOFTWARE
_LINE = 64  # a frame begins with a line of the processor's cache


@dataclass(frozen=True)
class Secret:
    """What tells a group's packets from others: its token, and its identifiers (the first, and how many)."""

    token: bytes
    first_id: int
    ids: int


def open_ring(options: SocketOptions, outlet: Outlet, ways: Sequence[Way], secret: Secret) -> RingSocket:
    """Open the sockets of one group; `ways` in the order of its destinations.

    Raises: PrivilegeError without CAP_NET_RAW; SocketError where the kernel or the interface does not lend
    itself.
    """
    header = ethernet.IPV4 if options.family == socket.AF_INET else ethernet.IPV6
    size = -(-(_BEFORE + ethernet.LINK + header + HEADER) // _LINE) * _LINE
    block = mmap.PAGESIZE * size // _common(size)  # so that frames lie without a gap from block to block
    frames = min(_FRAMES, options.receive_buffer // size)
    blocks = max(1, frames * size // block)
    frames = blocks * block // size
    with ExitStack() as opened:
        try:
            beside = open_icmp(replace(options, replies=False))
            opened.callback(beside.close)
            if not beside.raw:
                raise PrivilegeError(privilege_remedy())
            ids = secret.token, secret.first_id, secret.ids
            out = opened.enter_context(_packet_socket())
            out.bind((outlet.name, 0))
            enlarge(out, options.receive_buffer)
            other = opened.enter_context(_packet_socket(socket.SOCK_DGRAM))
            filters.attach(other, other_program(options.family, outlet.index, *ids))
            enlarge(other, options.receive_buffer)
            other.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, _ARRIVAL)
            protocol = abi.ETH_P_IP if options.family == socket.AF_INET else abi.ETH_P_IPV6
            abi.bind_everywhere(other, protocol)
            tap = opened.enter_context(_packet_socket())
            filters.attach(tap, ring_program(options.family, *ids))
            tap.setsockopt(abi.SOL_PACKET, abi.PACKET_VERSION, abi.TPACKET_V2)
            # The time of arrival is taken where the driver hands a packet over, as for any other socket.
            tap.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, _ARRIVAL)
            request = struct.pack("=4I", block, blocks, size, frames)
            tap.setsockopt(abi.SOL_PACKET, abi.PACKET_RX_RING, request)
            memory = mmap.mmap(tap.fileno(), blocks * block, mmap.MAP_SHARED)
            tap.bind((outlet.name, abi.ETH_P_ALL))
            ring = RingSocket(
                out,
                tap,
                memory,
                beside,
                other,
                frames=frames,
                outlet=outlet,
                ways=ways,
                dscp=options.dscp,
                max_size=options.max_size,
            )
        except OSError as problem:
            if problem.errno in (errno.EPERM, errno.EACCES):
                raise PrivilegeError(privilege_remedy()) from None
            raise SocketError(f"cannot open a ring on {outlet.name}: {problem.strerror}") from None
        opened.pop_all()
        return ring


def _packet_socket(kind: int = socket.SOCK_RAW) -> socket.socket:
    """It receives nothing until it is bound to a protocol."""
    return socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC, 0)


def _common(size: int) -> int:
    """The greatest number that divides both `size` and a page."""
    return size & -size if size & -size < mmap.PAGESIZE else mmap.PAGESIZE
