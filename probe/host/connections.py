"""Addresses in, this host's live TCP connections to them out, as the kernel has them (inet_diag).

Needs no privilege; sees the connections of every process in this network namespace.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from probe.host import inet_diag
from probe.host.inet_diag import Connection
from probe.host.rtnetlink import DONE, ERROR, messages
from probe.host.watched import V4, V6

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_PATIENCE_S = 2.0
MOST = 4096  # connections that are looked at in a reading


class Connections:
    """A socket to ask with, opened once: it stays in the network namespace that it was opened in.

    Raises: OSError where the kernel has no inet_diag.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _SOCK_DIAG)
        self._socket.settimeout(_PATIENCE_S)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def to(self, remotes: Container[bytes]) -> list[Connection]:
        """Those to one of these addresses, MOST at most; in any thread, one at a time.

        Raises: OSError: refused (ENOENT: there is no module tcp_diag), or no answer; then close it, for the
            kernel takes no other question until it has answered this one.
        """
        found: list[Connection] = []
        for family in (V4, V6):
            self._sequence += 1
            self._socket.send(inet_diag.request(family, self._sequence))
            ended = False
            while not ended:
                data = self._socket.recv(65536)
                ended = self._ended(data)  # which may stand behind the last of them
                for connection in inet_diag.connections(data, remotes):
                    if len(found) < MOST:
                        found.append(connection)
        return found

    def _ended(self, data: bytes) -> bool:
        """Whether it is, or holds, the end of an answer. Raises: OSError, as the kernel says."""
        for message in messages(data):
            if message.kind == DONE:
                return True
            if message.kind == ERROR:
                code = -int.from_bytes(message.body[:4], "little", signed=True)
                raise OSError(code, os.strerror(code))
        return False


def own_inodes() -> set[int]:
    """Inodes of this process's sockets and files."""
    found = set()
    with suppress(OSError):
        for path in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                found.add(os.fstat(int(path.name)).st_ino)
    return found
