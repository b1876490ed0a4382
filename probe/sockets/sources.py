"""Destinations in, the IPv4 addresses that this host sends from to reach them out.

Asked by connecting a UDP socket, which sends nothing. The answer holds until routes, rules or addresses
change.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from probe.errors import SocketError
from probe.sockets.opening import SocketOptions, set_path

NOWHERE = bytes([0, 0, 0, 1])  # for a destination without a route: the kernel refuses to send from it

_NOBODY = bytes(16)
_libc = ctypes.CDLL(None)


class Watch(Protocol):
    """Announcements of the kernel, as `probe.host.netlink.Changes` has them."""

    def seen(self) -> tuple[bool, bool]:
        """(Routes, links or addresses; neighbours) have changed since the last call."""

    def close(self) -> None:
        """Listen no longer."""


class Sources:
    """Where packets with these options (DSCP, interface, source) are sent from.

    `watch` opens the announcements of changes; without it, or where it raises OSError, they always may have
    changed.
    Raises: SocketError where source or interface are not this host's.
    """

    def __init__(self, options: SocketOptions, watch: Callable[[], Watch] | None) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._watch: Watch | None = None
        try:
            set_path(self._socket, options)
            self._fixed = socket.inet_aton(self._socket.getsockname()[0]) if options.source else b""
            self._watch = watch() if watch is not None and not self._fixed else None
        except SocketError:
            self._socket.close()
            raise
        except OSError:
            pass

    def stale(self) -> bool:
        """Whether sources may have changed since the last call; without a watch they always may."""
        if self._fixed:
            return False
        return self._watch is None or self._watch.seen()[0]

    def to(self, addresses: Sequence[bytes]) -> list[bytes]:
        """4 bytes for each destination (4 bytes); NOWHERE where there is no route to it."""
        if self._fixed:
            return [self._fixed] * len(addresses)
        found = {address: self._ask(address) for address in dict.fromkeys(addresses)}
        return [found[address] for address in addresses]

    def _ask(self, address: bytes) -> bytes:
        # A connected socket keeps its source; connecting it to nobody (AF_UNSPEC) makes it as it was before.
        _libc.connect(self._socket.fileno(), _NOBODY, len(_NOBODY))
        try:
            self._socket.connect((socket.inet_ntoa(address), 9))
        except OSError:
            return NOWHERE
        return socket.inet_aton(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()
        if self._watch is not None:
            self._watch.close()
