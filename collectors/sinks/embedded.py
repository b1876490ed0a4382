"""Lines in, a bounded SQLite file out: the sink behind `coloprobe up`, for one host without any server.

Durable when `write` returns (WAL, synchronous=FULL). Writing a point again is harmless, its fields are merged
and the later value wins. Bounded by age and by size, oldest points first; what goes for its size is counted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from collectors import members
from collectors.sinks import store
from probe.clock import SECOND, Clock, SystemClock
from probe.errors import LineError, SinkRefused, SinkRejected, SinkUnavailable
from probe.telemetry import lines
from probe.units import ByteSize, Duration

log = logging.getLogger("coloprobe.store")
T = TypeVar("T")

MAX_AGE = Duration.parse("7d")
MAX_BYTES = ByteSize.parse("2GiB")
_CHUNK = 5_000  # points one deletion takes: a writer never waits long for retention
_RETENTION_EVERY = 60 * SECOND
_ORPHANS_EVERY = 3_600 * SECOND
_KNOWN_SERIES = 100_000  # ids kept in memory
_UPSERT = """
insert into point (series, time, fields) values (?, ?, ?)
on conflict (series, time) do update set fields = json_patch(fields, excluded.fields)
where fields is not excluded.fields
"""


class EmbeddedSink:
    """The Sink over a store file, made where there is none.

    max_age: points older than this go, ns. max_bytes: the file's size, bytes, met within one chunk of points.
    Raises (constructor): SinkRefused where the file cannot be made, or is not a store.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_age: int = MAX_AGE,
        max_bytes: int = MAX_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self.name = f"store {path}"
        self.path = path
        self.aged = 0  # points removed because of their age, since start
        self.dropped = 0  # points removed because the file was full, since start
        self._max_age, self._max_bytes = max_age, max_bytes
        self._clock = clock or SystemClock()
        self._ids: dict[tuple[str, str], int] = {}
        self._retention_due = self._orphans_due = self._clock.mono()
        self._db = _open(path)
        # One thread: SQLite calls never block the event loop, and never overlap.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._closed = False

    async def write(self, body: bytes, *, packed: bool = False) -> None:
        """See `collectors.sinks.Sink`; here all lines are written, or none.

        Raises: SinkRejected, SinkUnavailable, SinkRefused.
        """
        await self._do(lambda: self._write(members.unpacked(body) if packed else body))

    async def check(self) -> None:
        """See `collectors.sinks.Sink`. Raises: SinkUnavailable, SinkRefused."""
        await self._do(self._check)

    async def close(self) -> None:
        """Finish what is being written and let go of the file. Twice is harmless."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._thread.shutdown()

    async def _do(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise SinkUnavailable(f"{self.name} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as problem:
            raise store.translated(problem, self.path) from None

    def _check(self) -> None:
        with self._db:
            self._db.execute("begin immediate")

    def _write(self, body: bytes) -> None:
        points = _parse(body)
        try:
            with self._db:
                self._db.execute("begin immediate")
                self._db.executemany(_UPSERT, [(self._id(p), p.time_ns, _fields(p)) for p in points])
        except BaseException:
            self._ids.clear()  # ids made inside the transaction went with it
            raise
        self._retain()

    def _id(self, point: lines.Point) -> int:
        key = point.measurement, store.canonical(point.tags)
        known = self._ids.get(key)
        if known is not None:
            return known
        if len(self._ids) >= _KNOWN_SERIES:
            self._ids.clear()
        found = self._db.execute("select id from series where measurement = ? and tags = ?", key).fetchone()
        if found is None:
            found = self._db.execute(
                "insert into series (measurement, tags) values (?, ?) returning id", key
            ).fetchone()
        self._ids[key] = int(found[0])
        return self._ids[key]

    def _retain(self) -> None:
        now = self._clock.mono()
        removed = 0
        if now >= self._retention_due:
            self._retention_due = now + _RETENTION_EVERY
            removed = self._remove_aged(self._clock.wall() - self._max_age)
        if self._used() > self._max_bytes:
            removed += self._remove_surplus()
        if not removed:
            return
        if now >= self._orphans_due:
            self._orphans_due = now + _ORPHANS_EVERY
            with self._db:
                self._db.execute(
                    "delete from series where not exists (select 1 from point where series = id)"
                )
            self._ids.clear()
        self._db.executescript("pragma incremental_vacuum;")

    def _remove_aged(self, before_ns: int) -> int:
        removed = 0
        while count := self._delete_oldest("where time < ?", before_ns):
            removed += count
        self.aged += removed
        return removed

    def _remove_surplus(self) -> int:
        if not self.dropped:
            log.warning("%s is full (%s): the oldest points go first", self.name, ByteSize(self._max_bytes))
        removed = 0
        while self._used() > self._max_bytes * 0.95 and (count := self._delete_oldest("", None)):
            removed += count
        self.dropped += removed
        return removed

    def _delete_oldest(self, where: str, value: int | None) -> int:
        """Delete one chunk, oldest first, in a transaction of its own; how many points went."""
        oldest = f"select series, time from point {where} order by time limit {_CHUNK}"  # noqa: S608 - our own text
        query = f"delete from point where (series, time) in ({oldest})"  # noqa: S608 - our own text
        return self._db.execute(query, () if value is None else (value,)).rowcount

    def _used(self) -> int:
        pages, free, size = (
            int(self._db.execute(f"pragma {what}").fetchone()[0])
            for what in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as problem:
        raise SinkRefused(f"cannot make the store {path}: {problem}") from None
    try:
        if connection.execute("select count(*) from sqlite_master").fetchone()[0] == 0:
            _create(connection)
        store.check_format(connection, path)
        connection.execute("pragma synchronous = full")
        connection.execute(f"pragma journal_size_limit = {64 << 20}")
    except BaseException as problem:
        connection.close()
        if isinstance(problem, sqlite3.Error):
            raise store.translated(problem, path) from None
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    # auto_vacuum only takes effect before the file has content, and before WAL.
    connection.execute("pragma auto_vacuum = incremental")
    connection.execute("pragma journal_mode = wal")
    connection.executescript(
        f"begin immediate; {store.SCHEMA} pragma application_id = {store.APPLICATION_ID}; "
        f"pragma user_version = {store.SCHEMA_VERSION}; commit;"
    )


def _parse(body: bytes) -> list[lines.Point]:
    try:
        points = list(lines.parse_many(body.decode()))
    except (LineError, ValueError) as problem:  # ValueError: not UTF-8, or an integer beyond any reason
        raise SinkRejected(str(problem)) from None
    for point in points:
        if not -(1 << 63) <= point.time_ns < 1 << 63:
            raise SinkRejected(f"time {point.time_ns} does not fit into 64 bits")
    return points


def _fields(point: lines.Point) -> str:
    for key, value in point.fields.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise SinkRejected(f"field {key!r} of {point.measurement} is not finite")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise SinkRejected(f"field {key!r} of {point.measurement} does not fit into 64 bits")
    return msgspec.json.encode(point.fields).decode()
