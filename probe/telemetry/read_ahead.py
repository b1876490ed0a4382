"""A socket in, the same socket out that reads 64 KiB at a time: for a client that asks for single bytes.

paho reads a message's first byte, its length byte by byte, and then the rest: five system calls and a turn of
the event loop for each. Behind this there is one call for several messages. `pending`, which TLS sockets have
as well, says that more can be read although the kernel has nothing; aiomqtt asks for it after each message,
and goes on reading. So that it comes to an end, however much arrives, the rest of a message is read without
what follows it, even where what was read ahead ends within the message's first bytes.
"""

from __future__ import annotations

from typing import Any

AHEAD = 64 << 10  # bytes


class ReadAhead:
    """In the place of a non-blocking socket; everything but reading is the socket's own."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._data = b""
        self._at = 0
        self._within = False  # a message was begun, as single bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, most: int) -> bytes:
        """At most so many bytes; none: the other side has hung up. Raises: BlockingIOError, OSError."""
        left = len(self._data) - self._at
        if not left:
            if most > 1 or self._within:
                data: bytes = self._sock.recv(most)
                self._within = most == 1
                return data
            self._data, self._at = b"", 0
            self._data = self._sock.recv(AHEAD)
        self._within = most == 1
        chunk = self._data[self._at : self._at + most]
        self._at += len(chunk)
        return chunk

    def pending(self) -> int:
        """Bytes that can be read although the kernel may have none."""
        decrypted = getattr(self._sock, "pending", None)
        return len(self._data) - self._at + (decrypted() if decrypted else 0)


def of(paho: Any) -> None:
    """Have this client read ahead on every connection it makes."""
    create = paho._create_socket
    paho._create_socket = lambda: ReadAhead(create())
