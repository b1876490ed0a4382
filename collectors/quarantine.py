"""What nobody can write in, a bounded JSON-lines file out; on disk before it is acknowledged.

One object a line: `time` (ns), `agent`, `spool`, `batch`, `reason`, and `line` (the text as it came) or
`payload` (base64 of a whole message that is no batch). The file is rotated at half of its limit, so that
together with its predecessor it stays within it. No agent gets more than a quarter of the limit between two
rotations, or in a day: one that sends rubbish cannot push out what was set aside for the others.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from collectors.validate import BadLine
from probe.clock import SECOND
from probe.telemetry.topics import BatchId

LINES_EACH = 100  # of one batch: what follows shares one entry, as an object a line would multiply the bytes
DAY_NS = 86_400 * SECOND

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is set aside: `lines` of it (1, unless one entry holds the rest of a bad batch)."""

    id: BatchId
    reason: str
    content: str | bytes  # text of lines, or a whole payload
    lines: int = 1

    def encode(self, time_ns: int, most: int) -> bytes:
        """As one line of JSON; where it were longer than `most` bytes, an excerpt that says so."""
        head = {
            "time": time_ns,
            "agent": self.id.agent,
            "spool": self.id.spool,
            "batch": self.id.number,
            "reason": self.reason[:500],
        }
        if isinstance(self.content, bytes):
            head["payload"] = base64.b64encode(self.content).decode()
        else:
            head["line"] = self.content
        data = json.dumps(head, ensure_ascii=False).encode()
        if len(data) > most:
            excerpt = self.content[: max(most - 1024, 0) // 6]  # JSON may make six bytes of one
            return Entry(self.id, f"(cut from {len(self.content)}) {self.reason}", excerpt).encode(
                time_ns, 1 << 30
            )
        return data + b"\n"


def entries(batch: BatchId, bad: Iterable[BadLine]) -> list[Entry]:
    """The bad lines of one batch: an entry each, and one for all beyond the first hundred."""
    listed = list(bad)
    made = [Entry(batch, line.reason, line.text) for line in listed[:LINES_EACH]]
    if rest := listed[LINES_EACH:]:
        reason = f"{len(rest)} more lines of this batch; the first: {rest[0].reason}"
        made.append(Entry(batch, reason, "\n".join(line.text for line in rest), len(rest)))
    return made


class Quarantine:
    """The file of one collector. Threads take turns."""

    def __init__(self, directory: Path, collector: str, max_bytes: int) -> None:
        self.path = directory / f"quarantine-{collector}.jsonl"
        self.evicted = 0  # entries that rotation pushed out, since start
        self.withheld = 0  # entries not kept because their agent had used up its share, since start
        self._old = self.path.with_suffix(".jsonl.1")
        self._half = max_bytes // 2
        self._share = max_bytes // 4
        self._used: Counter[str] = Counter()  # bytes by agent since `_renewed_ns`
        self._renewed_ns = 0
        self._lock = Lock()  # the writer has two writes under way

    def prepare(self) -> None:
        """Make the directory and see that the file can be written. Raises: OSError."""
        self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
        with self.path.open("ab"):
            _sync_directory(self.path.parent)

    def add(self, items: list[Entry], time_ns: int) -> None:
        """Write entries and return when they are on disk; `time_ns`: wall clock. Raises: OSError."""
        with self._lock:
            self._add(items, time_ns)

    def _add(self, items: list[Entry], time_ns: int) -> None:
        if not 0 <= time_ns - self._renewed_ns < DAY_NS:
            self._renew(time_ns)
        stream = self.path.open("ab")
        try:
            for item in items:
                data = item.encode(time_ns, min(self._half, self._share))
                size = stream.tell()
                if size and size + len(data) > self._half:
                    stream.flush()
                    os.fsync(stream.fileno())
                    stream.close()
                    self._rotate(time_ns)
                    stream = self.path.open("ab")
                agent = item.id.agent
                if self._used[agent] + len(data) > self._share:
                    self._withhold(agent)
                    continue
                self._used[agent] += len(data)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        finally:
            stream.close()

    def _withhold(self, agent: str) -> None:
        self.withheld += 1
        if self._used[agent] <= self._share:
            self._used[agent] = self._share + 1  # say it once, until the next renewal
            log.warning(
                "agent %s has used up its share of %s; what else it sends wrongly is counted, not kept",
                agent,
                self.path,
            )

    def _rotate(self, time_ns: int) -> None:
        if self._old.exists():
            with self._old.open("rb") as stream:
                gone = sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 16), b""))
            self.evicted += gone
            log.warning("%s is full: its oldest %d entries go", self.path, gone)
        self.path.replace(self._old)
        _sync_directory(self.path.parent)
        self._renew(time_ns)

    def _renew(self, time_ns: int) -> None:
        self._used.clear()
        self._renewed_ns = time_ns


def _sync_directory(directory: Path) -> None:
    """A file is on disk once its name is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
