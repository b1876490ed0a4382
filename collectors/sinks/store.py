"""A store file in, points out: the embedded store's format and its reader.

    series(id, measurement, tags)       tags: JSON object, keys sorted, so that equal tags are equal text
    point(series, time, fields)         time: integer ns since the epoch; fields: JSON object

One process writes (`collectors.sinks.embedded`), any number read at the same time: SQLite in WAL mode. Same
series and same time are the same point. The board and `coloprobe show` read here and nowhere else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from probe.errors import SinkRefused, SinkUnavailable
from probe.telemetry.lines import Point, Value

FILE = "store.sqlite"
APPLICATION_ID = 0x636F6C70  # "colp" in the file's header: this SQLite file is ours
SCHEMA_VERSION = 1
SCHEMA = """
create table series (
    id integer primary key autoincrement,
    measurement text not null,
    tags text not null,
    unique (measurement, tags)
);
create table point (
    series integer not null,
    time integer not null,
    fields text not null,
    primary key (series, time)
) without rowid;
create index point_by_time on point (time);
"""
_BEGINNING, _END = -(1 << 63), (1 << 63) - 1  # of time
_PAGE = 2_000  # points a query fetches at once: no read transaction is held while somebody prints

T = TypeVar("T")
_decode_tags = msgspec.json.Decoder(dict[str, str]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Value]).decode


@cache
def _some_fields(names: tuple[str, ...]) -> Callable[[str], Any]:
    """Reads these fields of a point and passes over the others, which is much cheaper than to keep them."""
    wanted = [
        (f"field{n}", Value | None, msgspec.field(name=name, default=None)) for n, name in enumerate(names)
    ]
    return msgspec.json.Decoder(msgspec.defstruct("SomeFields", wanted)).decode


@dataclass(frozen=True)
class Series:
    """One series: points with the same measurement and the same tags."""

    id: int
    measurement: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Stored:
    """One point of a series: `time_ns` is integer ns since the epoch."""

    series: int
    time_ns: int
    fields: Mapping[str, Value]


def path_in(state_dir: str | Path) -> Path:
    """The store file of a state directory."""
    return Path(state_dir) / FILE


def canonical(tags: Mapping[str, str]) -> str:
    """Tags as the text that identifies them in a store."""
    return msgspec.json.encode(dict(sorted(tags.items()))).decode()


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raises: SinkRefused where the open file is not a store, or one of another version."""
    try:
        application = connection.execute("pragma application_id").fetchone()[0]
        version = connection.execute("pragma user_version").fetchone()[0]
    except sqlite3.DatabaseError as problem:
        raise translated(problem, path) from None
    if application != APPLICATION_ID:
        raise SinkRefused(f"{path} is not a coloprobe store; name another state directory with --state")
    if version != SCHEMA_VERSION:
        raise SinkRefused(
            f"{path} is a store of version {version}, this coloprobe reads version {SCHEMA_VERSION}"
        )


def translated(problem: sqlite3.Error, path: Path) -> SinkRefused | SinkUnavailable:
    """What SQLite said, as one of ours: a busy file or a full disk may get better, a broken file does not."""
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return SinkRefused(f"{path} is not a coloprobe store, or it is damaged: {problem}")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return SinkRefused(f"cannot use the store {path}: {problem}")
    return SinkUnavailable(f"the store {path} did not do it: {problem}")


class Reader:
    """Reads a store while another connection or process writes it. Not for two threads at once.

    Raises (constructor): SinkRefused where there is no store at `path`, or a file that is none. Every method
    raises SinkUnavailable or SinkRefused where SQLite fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._series: dict[int, Series] = {}
        self._by_measurement: dict[str, dict[int, Series]] = {}
        self._seen = -1
        if not path.is_file():
            raise SinkRefused(f"there is no store at {path}; `coloprobe up` makes one, --state says where")
        try:
            # Read-only, so that a mistaken path is never written; the threads of the board take turns.
            self._db = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5, check_same_thread=False
            )
        except sqlite3.Error as problem:
            raise translated(problem, path) from None
        try:
            check_format(self._db, path)
            self._load_series()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Twice is harmless."""
        self._db.close()

    def changed(self) -> bool:
        """Whether anybody committed since the last call; the first call says yes. Costs microseconds."""
        seen = self._all("pragma data_version")[0][0]
        if seen == self._seen:
            return False
        self._seen = seen
        self._load_series()
        return True

    def series(self, measurement: str, /, **tags: str) -> list[Series]:
        """The series of a measurement that have all of these tags with these values."""
        wanted = tags.items()
        return [s for s in self._by_measurement.get(measurement, {}).values() if wanted <= s.tags.items()]

    def by_id(self, series: int) -> Series | None:
        """The series with this id."""
        return self._series.get(series)

    def latest(self, series: int) -> Stored | None:
        """The newest point of a series."""
        return next(iter(self.tail(series, 1)), None)

    def first_ns(self, series: int) -> int | None:
        """The time of the oldest point of a series."""
        rows = self._all("select min(time) from point where series = ?", series)
        return None if rows[0][0] is None else int(rows[0][0])

    def tail(self, series: int, count: int, since_ns: int = _BEGINNING, until_ns: int = _END) -> list[Stored]:
        """The newest `count` points of a series with `since_ns` <= time <= `until_ns`, oldest first."""
        rows = self._all(
            "select series, time, fields from point where series = ? and time between ? and ? "
            "order by time desc limit ?",
            series,
            since_ns,
            until_ns,
            count,
        )
        return [Stored(row[0], row[1], self._fields(row[2])) for row in reversed(rows)]

    def rows(
        self, series: int, fields: tuple[str, ...], since_ns: int = _BEGINNING, until_ns: int = _END
    ) -> Iterator[tuple[Any, ...]]:
        """(time, value of each of `fields`), oldest first, of a series' points with `since_ns` <= time <=
        `until_ns`; None where a point has no such field. A third of the time that `tail` takes."""
        rows = self._all(
            "select time, fields from point where series = ? and time between ? and ? order by time",
            series,
            since_ns,
            until_ns,
        )
        decode, astuple = _some_fields(fields), msgspec.structs.astuple
        try:
            for time_ns, text in rows:
                yield (time_ns, *astuple(decode(text)))
        except (msgspec.DecodeError, TypeError) as problem:
            raise SinkRefused(f"{self.path} is damaged: {problem}") from None

    def points(self, since_ns: int = _BEGINNING) -> Iterator[Point]:
        """Every point with time >= `since_ns`, in order of time.

        Points written while one iterates come too, unless they are older than what was already given.
        """
        at, series = since_ns, -1
        while True:
            rows = self._all(
                "select point.series, time, fields, measurement, tags from point "
                "join series on id = point.series "
                "where (time, point.series) > (?, ?) order by time, point.series limit ?",
                at,
                series,
                _PAGE,
            )
            for row in rows:
                yield Point(row[3], self._decoded(_decode_tags, row[4]), self._fields(row[2]), row[1])
            if len(rows) < _PAGE:
                return
            series, at = rows[-1][:2]

    def _load_series(self) -> None:
        newest = max(self._series, default=0)
        # Retention removes series too; ids are never used again, so a smaller count means: forget ours.
        if self._series and self._all("select count(*) from series where id <= ?", newest)[0][0] < len(
            self._series
        ):
            self._series.clear()
            self._by_measurement.clear()
            newest = 0
        for number, measurement, tags in self._all(
            "select id, measurement, tags from series where id > ?", newest
        ):
            one = Series(number, measurement, self._decoded(_decode_tags, tags))
            self._series[number] = one
            self._by_measurement.setdefault(measurement, {})[number] = one

    def _all(self, query: str, *values: int | str) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as problem:
            raise translated(problem, self.path) from None

    def _fields(self, text: str) -> dict[str, Value]:
        return self._decoded(_decode_fields, text)

    def _decoded(self, decode: Callable[[str], T], text: str) -> T:
        try:
            return decode(text)
        except (msgspec.DecodeError, TypeError) as problem:  # TypeError: not even text
            raise SinkRefused(f"{self.path} is damaged: {problem}") from None
