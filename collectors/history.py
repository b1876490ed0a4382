"""A time span in, stored points out: whatever keeps measurements, as those who look back see it.

Three keep them: the embedded store, InfluxDB (`collectors.influxql`), and a file of `coloprobe show --json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from collectors.sinks.store import Reader, path_in
from probe.errors import UsageError
from probe.telemetry.lines import Point
from probe.telemetry.schema import MEASUREMENTS

ALL = -(1 << 63), (1 << 63) - 1  # of time


class Strand(NamedTuple):
    """The points of one series: (time, value of each field that was asked for, None where it is absent)."""

    tags: Mapping[str, str]
    rows: Sequence[tuple[Any, ...]]


class History(Protocol):
    """Where measurements can be looked up."""

    name: str  # for messages: which store, which database

    def strands(
        self, measurement: str, fields: tuple[str, ...], since_ns: int, until_ns: int
    ) -> Iterator[Strand]:
        """Every series of a measurement that has points with `since_ns` <= time <= `until_ns`, oldest first.

        One series at a time, so that whoever reads needs no memory for all of them.
        Raises: SinkUnavailable, SinkRefused.
        """

    def close(self) -> None:
        """Let go of files and connections. Twice is harmless."""


def points(
    history: History, since_ns: int, until_ns: int, measurements: Iterable[str] = tuple(MEASUREMENTS)
) -> Iterator[Point]:
    """Every point of these measurements, series by series, with the fields that the schema knows."""
    for measurement in measurements:
        names = tuple(field.name for field in MEASUREMENTS[measurement].fields)
        for tags, rows in history.strands(measurement, names, since_ns, until_ns):
            for time_ns, *values in rows:
                fields = {n: v for n, v in zip(names, values, strict=True) if v is not None}
                if fields:
                    yield Point(measurement, tags, fields, time_ns)


class StoreHistory:
    """The embedded store of a state directory. Raises (constructor): SinkRefused (there is none)."""

    def __init__(self, state_dir: str | Path) -> None:
        self._reader = Reader(path_in(state_dir))
        self.name = str(self._reader.path)

    def strands(
        self, measurement: str, fields: tuple[str, ...], since_ns: int, until_ns: int
    ) -> Iterator[Strand]:
        """See `History`."""
        for series in self._reader.series(measurement):
            rows = list(self._reader.rows(series.id, fields, since_ns, until_ns))
            if rows:
                yield Strand(series.tags, rows)

    def close(self) -> None:
        """See `History`."""
        self._reader.close()


class PointHistory:
    """Points in memory."""

    def __init__(self, points: Iterable[Point], name: str = "memory") -> None:
        self.name = name
        self._series: dict[str, dict[tuple[tuple[str, str], ...], list[Point]]] = {}
        for point in points:
            series = self._series.setdefault(point.measurement, {})
            series.setdefault(tuple(sorted(point.tags.items())), []).append(point)
        for by_tags in self._series.values():
            for tags, some in by_tags.items():
                # Written twice is stored once, as in every store: the last one counts, field by field.
                once: dict[int, Point] = {}
                for point in some:
                    if before := once.get(point.time_ns):
                        point = replace(point, fields={**before.fields, **point.fields})
                    once[point.time_ns] = point
                by_tags[tags] = [once[time_ns] for time_ns in sorted(once)]

    def newest_ns(self, until_ns: int) -> int | None:
        """The time of the newest point until then."""
        series = (some for by_tags in self._series.values() for some in by_tags.values())
        times = (point.time_ns for some in series for point in some if point.time_ns <= until_ns)
        return max(times, default=None)

    def strands(
        self, measurement: str, fields: tuple[str, ...], since_ns: int, until_ns: int
    ) -> Iterator[Strand]:
        """See `History`."""
        for tags, some in self._series.get(measurement, {}).items():
            rows = [
                (point.time_ns, *map(point.fields.get, fields))
                for point in some
                if since_ns <= point.time_ns <= until_ns
            ]
            if rows:
                yield Strand(dict(tags), rows)

    def close(self) -> None:
        """See `History`."""


def recorded(path: str | Path) -> PointHistory:
    """The points of a file that `coloprobe show --json` wrote. Raises: UsageError (no such file, no JSON)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"cannot read {path}: {problem}") from None
    return PointHistory(from_json(text.splitlines(), str(path)), str(path))


def from_json(lines: Iterable[str], file: str = "the text") -> Iterator[Point]:
    """What `coloprobe show --json` printed as points again. Raises: UsageError, naming file and line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            said = msgspec.json.decode(line, type=dict[str, int | float | bool | str])
            measurement, time_ns = str(said.pop("measurement")), said.pop("time")
            known = MEASUREMENTS[measurement].tags
        except (msgspec.DecodeError, KeyError) as problem:
            raise UsageError(
                f"{file}, line {number}: {problem} (allowed: what `coloprobe show --json` writes)"
            ) from None
        tags = {key: str(said.pop(key)) for key in ("agent", "site", *known) if key in said}
        yield Point(measurement, tags, said, int(time_ns))
