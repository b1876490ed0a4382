"""A family and a number in, TCP ports that nobody else on this host gets out.

A bound socket that never listens keeps its port from every other program: `bind` refuses it, and the kernel
gives connections of its own choosing other ports. It receives nothing, and segments that come to its port
find no connection, so the kernel answers SYN/ACK with RST (RFC 9293 section 3.10.7.1).
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from probe.errors import SocketError


class ReservedPorts:
    """`count` ports on all addresses of this host, until `close`.

    Raises: SocketError where there are not as many.
    """

    def __init__(self, family: int, count: int) -> None:
        self._sockets: list[socket.socket] = []
        self.numbers: tuple[int, ...] = ()
        with ExitStack() as opened:
            opened.callback(self.close)
            try:
                for _ in range(count):
                    handle = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                    self._sockets.append(handle)
                    if family == socket.AF_INET6:  # the same number on IPv4 is somebody else's
                        handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    # The kernel chooses: a port that no connection has, not even one in TIME-WAIT.
                    handle.bind(("", 0))
            except OSError as problem:
                reason = f"cannot reserve {count} TCP ports to probe from: {problem.strerror}"
                if problem.errno == errno.EADDRINUSE:
                    reason += " (not as many of net.ipv4.ip_local_port_range are free)"
                raise SocketError(reason) from None
            opened.pop_all()
        self.numbers = tuple(handle.getsockname()[1] for handle in self._sockets)

    def close(self) -> None:
        """Give the ports back."""
        for handle in self._sockets:
            handle.close()
        self._sockets.clear()
