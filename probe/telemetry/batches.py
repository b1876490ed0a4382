"""Lines in, batches out: each opens with the agent's line, has at most 256 KiB of text, gzip where it pays.

The text before packing is what is limited, because that is what a collector has to hold.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections import deque
from collections.abc import Callable, Iterable

from probe.errors import SpoolError

LIMIT = 256 << 10  # bytes of UTF-8 text in one batch
HEAD_ROOM = 4 << 10  # of them for the agent's own line
WORTH_PACKING = 4 << 10  # below this gzip gains nothing that a packet would notice
HOLD = 8 << 20  # bytes of text that wait in memory while the spool cannot be written

_log = logging.getLogger(__name__)


class Batcher:
    """Collects lines and spools them in batches; holds a bounded amount while the spool refuses.

    `head(number)` is the line that opens batch `number`: the measurement `agent`, with its field `batch`.
    """

    def __init__(self, head: Callable[[int], str], limit: int = LIMIT, hold: int = HOLD) -> None:
        self.oversized = 0  # lines that fit into no batch, and were let go
        self.longest = 0  # bytes of the longest of them
        self.dropped = 0  # lines let go because the spool refused for too long: the oldest
        self._head = head
        self._limit = limit
        self._hold = hold
        self._lines: deque[bytes] = deque()  # each with its newline
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of text that wait for `flush`."""
        return self._bytes

    def add(self, lines: Iterable[str]) -> None:
        """Take lines (without newline) in; they go out with the next `flush`."""
        for line in lines:
            data = f"{line}\n".encode()
            if len(data) > self._limit - HEAD_ROOM:
                if not self.oversized:
                    _log.error(
                        "a line of %d bytes fits into no batch and is lost: %.100s...", len(data), line
                    )
                self.oversized += 1
                self.longest = max(self.longest, len(data))
                continue
            self._lines.append(data)
            self._bytes += len(data)

    def flush(self, append: Callable[[Callable[[int], bytes]], int], *, empty: bool = False) -> list[int]:
        """Spool everything through `append` (`Spool.append`); return the batches' numbers.

        `empty`: make a batch of the agent's line alone where there is nothing else.
        Raises: SpoolError; what was not spooled by then is held for the next time, up to a limit.
        """
        numbers: list[int] = []
        while self._lines or (empty and not numbers):
            count, size = 0, 0
            for line in self._lines:
                if size + len(line) > self._limit - HEAD_ROOM:
                    break
                count, size = count + 1, size + len(line)
            body = b"".join(line for _, line in zip(range(count), self._lines, strict=False))
            try:
                numbers.append(append(lambda number, body=body: self._pack(number, body)))  # type: ignore[misc]
            except SpoolError:
                self._shrink()
                raise
            for _ in range(count):
                self._lines.popleft()
            self._bytes -= size
        return numbers

    def _shrink(self) -> None:
        """Hold no more than is allowed while the spool refuses: the oldest lines go, and are counted."""
        while self._bytes > self._hold:
            self._bytes -= len(self._lines.popleft())
            self.dropped += 1

    def _pack(self, number: int, body: bytes) -> bytes:
        head = f"{self._head(number)}\n".encode()
        if len(head) > HEAD_ROOM:
            raise SpoolError(
                f"the agent's own line has {len(head)} bytes; at most {HEAD_ROOM}: shorten agent.site"
            )
        return pack(head + body)


def pack(text: bytes) -> bytes:
    """`text`, or its gzip form (level 1) where that is smaller by a tenth; known by gzip's magic bytes."""
    if len(text) < WORTH_PACKING:
        return text
    packed = gzip.compress(text, 1, mtime=0)
    return packed if len(packed) < len(text) * 0.9 else text


def unpack(payload: bytes) -> bytes:
    """What `pack` was given; as it is where it is no gzip, or a damaged one."""
    if payload[:2] != b"\x1f\x8b":
        return payload
    try:
        return gzip.decompress(payload)
    except (OSError, EOFError, zlib.error):
        return payload
