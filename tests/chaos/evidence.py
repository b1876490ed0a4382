"""The end of a run in, all that is known of it out: the wire's record, database, spools, packet filters."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collectors.validate import unpack
from probe.telemetry import topics
from probe.telemetry.lines import Point, Value, parse_many
from probe.telemetry.spool import Spool
from probe.telemetry.topics import BatchId
from tests.chaos.parts import Death
from tests.chaos.wire import Published

_MOST_UNPACKED = 1 << 20
_ACK = re.compile(re.escape(topics.ack("AGENT")).replace("AGENT", "([^/]+)"))
# A point's identity: measurement, tags, time. The same tags and time are the same point.
Key = tuple[str, frozenset[tuple[str, str]], int]
Span = tuple[int, int]  # wall clock, ns


@dataclass(frozen=True)
class SpoolState:
    """What an agent's own bookkeeping says when it has ended."""

    agent: str
    spool: str
    last: int  # the highest number ever given
    waiting: int  # batches still in it
    dropped: int  # batches that a full disk or the limit pushed out


@dataclass
class Sent:
    """What the wire showed: each batch's lines (once), and how often it passed."""

    points: dict[BatchId, list[Point]] = field(default_factory=dict)
    to_broker: Counter[BatchId] = field(default_factory=Counter)
    to_collectors: Counter[BatchId] = field(default_factory=Counter)
    changed: set[BatchId] = field(default_factory=set)  # came again with another content
    acknowledged: dict[BatchId, float] = field(default_factory=dict)  # by a collector, and when first
    _payloads: dict[BatchId, bytes] = field(default_factory=dict)

    def add(self, published: Published) -> None:
        batch = topics.parse_lines(published.topic)
        if batch is None:
            self._acknowledge(published)
            return
        (self.to_broker if published.to_broker else self.to_collectors)[batch] += 1
        known = self._payloads.setdefault(batch, published.payload)
        if known is not published.payload:
            if known != published.payload:
                self.changed.add(batch)
            return
        text = unpack(published.payload, _MOST_UNPACKED).decode()
        self.points[batch] = list(parse_many(text))

    def _acknowledge(self, published: Published) -> None:
        agent = _ACK.fullmatch(published.topic)
        if agent is None or not published.to_broker:
            return
        for spool, ranges in json.loads(published.payload).items():
            for first, last in ranges:
                for number in range(first, last + 1):
                    self.acknowledged.setdefault(BatchId(agent[1], spool, number), published.time_s)


@dataclass
class Evidence:
    """All that a verdict is made of."""

    spools: list[SpoolState]
    sent: Sent
    stored: dict[Key, dict[str, Value]]
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    bad_goodbyes: dict[str, list[int]] = field(default_factory=dict)
    seen: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # probes by agent and target, by the filter
    killed: set[str] = field(default_factory=set)  # agents that had a SIGKILL
    full: set[str] = field(default_factory=set)  # agents whose disk was full for a while
    # When agents did not run or could not measure or spool, so that windows may be missing.
    absent: dict[str, list[Span]] = field(default_factory=dict)
    window_ns: int = 1_000_000_000
    interval_ns: int = 50_000_000


def sent_of(packets: Iterable[Published]) -> Sent:
    """Every batch on the wire. Raises: BatchError, LineError where one cannot be read."""
    sent = Sent()
    for packet in packets:
        sent.add(packet)
    return sent


def key(point: Point) -> Key:
    return point.measurement, frozenset(point.tags.items()), point.time_ns


def stored_points(
    measurement: str, rows: Iterable[Mapping[str, Any]], tags: Iterable[str]
) -> dict[Key, dict[str, Value]]:
    """Rows of `SELECT *` as points; `tags`: which columns are tags, the others are fields."""
    names = set(tags)
    found: dict[Key, dict[str, Value]] = {}
    for row in rows:
        mine = {
            name: value for name, value in row.items() if name not in ("time", "name") and value is not None
        }
        series = frozenset(
            (name, str(value)) for name, value in mine.items() if name in names and value != ""
        )
        fields = {name: value for name, value in mine.items() if name not in names}
        found[measurement, series, row["time"]] = fields
    return found


def spool_state(agent: str, state_dir: Path) -> SpoolState:
    """Read the spool of an agent that has ended. Raises: SpoolError."""
    spool = Spool(state_dir / "spool.sqlite3", 1 << 40)
    try:
        return SpoolState(agent, spool.id, spool.last, spool.depth, spool.dropped)
    finally:
        spool.close()


def quarantine_entries(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Every entry of every quarantine file in these state directories."""
    files = [file for folder in folders for file in sorted(folder.glob("quarantine-*"))]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
