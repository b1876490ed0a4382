"""Socket options and lanes in, TCP sockets that are used for one connection after the other out.

A socket is not closed after a connection but disconnected (connect(2) to AF_UNSPEC, which sends the RST) and
used again: that costs a third less, and it keeps its options and its port. All sockets of a lane have one
source port, which is reserved as long as this is open: one that connects to another end each.
"""

from __future__ import annotations

import ctypes
import errno
import resource
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probe.errors import SocketError
from probe.sockets import abi
from probe.sockets.opening import SocketOptions, quote_errors, set_path

MOST = 8192  # sockets
SPARE = -1  # the lane of sockets whose port the kernel chooses, anew for each connection
RESERVED = 96  # file descriptors that are left to the rest of the process
_IP_BIND_ADDRESS_NO_PORT = 24
_IPV6_AUTOFLOWLABEL = 70
_RESET = struct.pack("=ii", 1, 0)  # struct linger: close() sends RST
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_libc = ctypes.CDLL(None, use_errno=True)
_connect = _libc.connect
_connect.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
_UNSPEC = ctypes.create_string_buffer(bytes(abi.SOCKADDR), abi.SOCKADDR)  # a sockaddr of family AF_UNSPEC
_UNSPEC_AT = ctypes.addressof(_UNSPEC)


@dataclass(slots=True, eq=False)
class Handle:
    """A socket and the connection that it is used for."""

    socket: socket.socket
    fd: int
    lane: int
    to: int = -1  # the destination; -1: none
    number: int = 0  # of the probe
    sent: int = 0  # wall ns
    left: int = 0  # monotonic ns
    overdue: bool = False  # its time-out is over

    def connect(self, address: int, length: int) -> int:
        """Begin a connection to the sockaddr at a memory address. Returns 0, or the errno that refuses it."""
        if _connect(self.fd, address, length) == 0:
            return 0
        refused = ctypes.get_errno()
        return 0 if refused == errno.EINPROGRESS else refused


class Handles:
    """The sockets of one family with the same options.

    Args:
        options: what they have in common.
        lanes: numbers from 0; each has its own source port.
        opened, closing: called with each socket that is new, or about to go.
    Raises: SocketError.
    """

    def __init__(
        self,
        options: SocketOptions,
        lanes: Sequence[int],
        opened: Callable[[Handle], None],
        closing: Callable[[Handle], None],
    ) -> None:
        self._options, self._opened, self._closing = options, opened, closing
        self.limit = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED)  # of descriptors
        self._all: set[Handle] = set()
        self._free: dict[int, list[Handle]] = {SPARE: []}  # by lane
        self._ports: dict[int, int] = {SPARE: 0}  # by lane
        self._holders: list[socket.socket] = []  # of the ports
        try:
            for lane in sorted(set(lanes)):
                self._reserve(lane)
        except OSError as problem:
            self.close()
            raise SocketError(f"cannot open a connection: {problem.strerror}") from None
        except SocketError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._all)

    def port(self, lane: int) -> int:
        """The source port of a lane's connections."""
        return self._ports[lane]

    def _reserve(self, lane: int) -> None:
        """Take a port for the lane. Nobody gets it by chance: who asks for any port gets another one."""
        holder = self._socket(0)
        self._holders.append(holder)
        if not self._options.source:
            holder.bind(("", 0))
        self._ports[lane] = holder.getsockname()[1]
        self._free[lane] = []

    def _socket(self, port: int, *, late: bool = False) -> socket.socket:
        """`port`: 0: any; `late`: the connection chooses it. Raises: SocketError, OSError."""
        family = self._options.family
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            quote_errors(opened)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # The kernel would give each connection another flow label, and with it another path.
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_AUTOFLOWLABEL, 0)
            if late:
                opened.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            set_path(opened, self._options, port)
        except BaseException:
            opened.close()
            raise
        return opened

    def take(self, lane: int) -> Handle | int:
        """A socket of the lane that is free; else the errno why there is none, EAGAIN: there are too many."""
        free = self._free[lane]
        if free:
            return free.pop()
        if len(self._all) >= MOST and not self._close_a_free_one():
            return errno.EAGAIN
        for _ in range(2):
            try:
                opened = self._socket(self._ports[lane], late=lane == SPARE)
            except OSError as problem:
                if problem.errno not in _FULL:
                    return problem.errno or errno.EINVAL
            except SocketError as problem:
                # The source address or the interface is gone: what this says was told when we began.
                cause = problem.__context__
                return (cause.errno if isinstance(cause, OSError) else 0) or errno.EADDRNOTAVAIL
            else:
                if (fd := opened.fileno()) < self.limit:  # the kernel gives out the lowest
                    handle = Handle(opened, fd, lane)
                    self._all.add(handle)
                    self._opened(handle)
                    return handle
                opened.close()
            if not self._close_a_free_one():
                break
        return errno.EAGAIN

    def _close_a_free_one(self) -> bool:
        """Make room for another lane's socket."""
        free = max(self._free.values(), key=len)
        if not free:
            return False
        self.drop(free.pop())
        return True

    def release(self, handle: Handle) -> None:
        """Reset its connection, where there is one, and keep the socket for the next."""
        if _connect(handle.fd, _UNSPEC_AT, abi.SOCKADDR) == 0:
            self._free[handle.lane].append(handle)
        else:
            self.drop(handle)

    def drop(self, handle: Handle) -> None:
        """Close it."""
        self._all.discard(handle)
        self._closing(handle)
        handle.socket.close()

    def close(self) -> None:
        """Reset every connection, and give every socket and port back."""
        for handle in self._all:
            handle.socket.close()
        for holder in self._holders:
            holder.close()
        self._all.clear()
        self._free.clear()
        self._holders.clear()
