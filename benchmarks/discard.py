"""HTTP writes in, a yes and nothing else out: a sink that costs less than whatever writes to it.

    python -m benchmarks.discard [--port 0] [--count]

Answers /write, /api/v2/write, /ping, /health as InfluxDB does, and GET /stats with what came, as JSON. A body
is thrown away inside the kernel (MSG_TRUNC: not even copied) unless it is to be counted; small ones are
always unpacked, so that a body that is no gzip, or whose second member is damaged, is refused as InfluxDB
refuses it (HTTP 400).
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import socket
import socketserver
import sys
import threading
import zlib
from dataclasses import asdict, dataclass
from typing import Any

SMALL = 8 << 10  # bytes of a body that is always looked into
HEAD = 16 << 10  # bytes of a request's head at most
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_GZIP = re.compile(rb"(?i)\r\ncontent-encoding: *gzip")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_CLOSE = re.compile(rb"(?i)\r\nconnection: *close")
_REASONS = {200: "OK", 204: "No Content", 400: "Bad Request", 404: "Not Found"}


@dataclass
class Tally:
    """What came: `body_bytes` as sent; `lines`, `own_lines` (collectors' about themselves, among the others)
    and `text_bytes` of what was unpacked only."""

    requests: int = 0
    writes: int = 0
    body_bytes: int = 0
    largest: int = 0
    lines: int = 0
    own_lines: int = 0
    text_bytes: int = 0
    refused: int = 0
    connections: int = 0


class Discard(socketserver.ThreadingTCPServer):
    """A server on loopback; a thread a connection, which sleeps in the kernel nearly all of the time."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0, *, count: bool = False) -> None:
        super().__init__(("127.0.0.1", port), _Talk)
        self.count = count
        self.tally = Tally()
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def note(self, **more: int) -> None:
        """Add to the tally; `largest` is a maximum."""
        with self.lock:
            for name, value in more.items():
                old = getattr(self.tally, name)
                setattr(self.tally, name, max(old, value) if name == "largest" else old + value)


class _Talk(socketserver.BaseRequestHandler):
    """One connection: requests one after the other."""

    server: Discard

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._scrap = bytearray(1 << 20)
        self.server.note(connections=1)

    def handle(self) -> None:
        try:
            while self._one():
                pass
        except OSError:
            pass  # the client has gone

    def _one(self) -> bool:
        """One request. Returns whether another one may follow."""
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            if len(self._rest) > HEAD or not (more := self.request.recv(HEAD)):
                return False
            self._rest += more
        head, self._rest = self._rest[: end + 2], self._rest[end + 4 :]
        method, _, target = head.partition(b"\r\n")[0].partition(b" ")
        path = target.partition(b" ")[0].partition(b"?")[0]
        self.server.note(requests=1)
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if path in (b"/write", b"/api/v2/write"):
            status, said = self._write(head, length)
        elif method in (b"GET", b"HEAD") and path in (b"/ping", b"/health"):
            status, said = (204, b"") if path == b"/ping" else (200, b'{"status":"pass"}')
        elif path == b"/stats":
            with self.server.lock:
                status, said = 200, json.dumps(asdict(self.server.tally)).encode()
        else:
            self._skip(length)
            status, said = 404, b'{"error":"not found"}'
        answer = f"HTTP/1.1 {status} {_REASONS[status]}\r\nX-Influxdb-Version: 1.6.7\r\n"
        if status != 204:
            answer += f"Content-Type: application/json\r\nContent-Length: {len(said)}\r\n"
        self.request.sendall(answer.encode() + b"\r\n" + said)
        return _CLOSE.search(head) is None

    def _write(self, head: bytes, length: int) -> tuple[int, bytes]:
        chunked = _CHUNKED.search(head) is not None
        if not chunked and not self.server.count and length > SMALL:
            self._skip(length)
            self.server.note(writes=1, body_bytes=length, largest=length)
            return 204, b""
        body = self._chunks() if chunked else self._take(length)
        self.server.note(writes=1, body_bytes=len(body), largest=len(body))
        try:
            text = unpack(body) if _GZIP.search(head) else body
        except zlib.error as problem:
            self.server.note(refused=1)
            return 400, json.dumps({"error": str(problem)}).encode()
        lines = sum(map(bool, text.split(b"\n")))  # empty ones are none
        own = text.count(b"\ncollector,") + text.startswith(b"collector,")
        self.server.note(lines=lines, own_lines=own, text_bytes=len(text))
        return 204, b""

    def _skip(self, length: int) -> None:
        """Have the kernel drop so many bytes of the body."""
        length -= len(self._rest)
        if length < 0:
            self._rest = self._rest[length:]
            return
        self._rest = b""
        while length > 0:
            # With MSG_TRUNC a TCP socket counts the bytes and copies none (tcp(7)).
            got = self.request.recv_into(self._scrap, min(length, len(self._scrap)), socket.MSG_TRUNC)
            if not got:
                raise ConnectionError
            length -= got

    def _take(self, length: int) -> bytes:
        parts = [self._rest[:length]]
        self._rest = self._rest[length:]
        length -= len(parts[0])
        while length > 0:
            if not (more := self.request.recv(min(length, 1 << 20))):
                raise ConnectionError
            parts.append(more)
            length -= len(more)
        return b"".join(parts)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            while (end := self._rest.find(b"\r\n")) < 0:
                if not (more := self.request.recv(HEAD)):
                    raise ConnectionError
                self._rest += more
            size = int(self._rest[:end].partition(b";")[0], 16)
            self._rest = self._rest[end + 2 :]
            parts.append(self._take(size))
            self._take(2)
            if not size:
                return b"".join(parts)


def unpack(body: bytes) -> bytes:
    """The text of all gzip members of a body. Raises: zlib.error where one is damaged or none is there."""
    parts: list[bytes] = []
    while body:
        member: Any = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(body))
        if not member.eof:
            raise zlib.error("unexpected EOF")
        body = member.unused_data
    if not parts:
        raise zlib.error("EOF")
    return b"".join(parts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="of loopback; 0: a free one, which is printed")
    parser.add_argument("--count", action="store_true", help="unpack every body and count its lines")
    options = parser.parse_args(argv)
    with Discard(options.port, count=options.count) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        print(server.port, flush=True)
        server.serve_forever()
        print(json.dumps(asdict(server.tally)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
