"""Rows of a series in, columns of integers out: what a fleet's quarter of an hour fits into memory as."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from probe.clock import SECOND
from probe.telemetry.schema import Kind

MISSING = -(1 << 63)
DEFAULT_LENGTH = 10 * SECOND  # of a window, until two of them tell
_RANGE = (1 << 63) - 1
_TYPES: Mapping[str, tuple[type, ...]] = {"str": (str,), "float": (float, int)}


class Columns:
    """The points of one series in order of time; a field that no point has takes no room.

    times: integer ns since the epoch. kinds: of the fields; a value of another kind is none: a store takes
    what it is given. Ratios and texts are kept as they are, integers and booleans packed.
    """

    __slots__ = ("_columns", "_growth", "times")

    def __init__(
        self, names: Sequence[str], rows: Iterable[tuple[Any, ...]], kinds: Mapping[str, Kind] | None = None
    ) -> None:
        kinds = kinds or {}
        columns = list(zip(*rows, strict=True))
        self.times: array[int] = array("q", columns[0] if columns else ())
        self._columns: dict[str, Sequence[Any]] = {}
        self._growth: dict[str, tuple[tuple[int, int, int], ...]] = {}
        for name, column in zip(names, columns[1:], strict=False):
            if column.count(None) == len(column):
                continue
            if kinds.get(name, "int") in ("int", "bool"):
                self._columns[name] = _packed(column)
            else:
                types = _TYPES[kinds[name]]
                self._columns[name] = [value if isinstance(value, types) else None for value in column]

    def __len__(self) -> int:
        return len(self.times)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def raw(self, name: str) -> Sequence[Any] | None:
        """A whole column, with MISSING (integers) or None; None where no point has the field."""
        return self._columns.get(name)

    def at(self, name: str, index: int) -> Any:
        """One value; None where it is absent."""
        column = self._columns.get(name)
        if column is None:
            return None
        value = column[index]
        return None if value is None or (isinstance(value, int) and value == MISSING) else value

    def span(self, since_ns: int, until_ns: int) -> range:
        """The indices of points with since <= time < until."""
        return range(bisect_left(self.times, since_ns), bisect_left(self.times, until_ns))

    def numbers(self, name: str, some: range | None = None) -> list[int | float]:
        """The values of a field that are there, and are numbers."""
        column = self._columns.get(name)
        if column is None:
            return []
        values = column if some is None else column[some.start : some.stop]
        return [
            value
            for value in values
            if isinstance(value, int | float) and not isinstance(value, bool) and value != MISSING
        ]

    def total(self, name: str, some: range | None = None) -> int:
        """The sum of a count."""
        return int(sum(self.numbers(name, some)))

    def growth(self, name: str) -> Sequence[tuple[int, int, int]]:
        """(time before, time, by how much) for every step of a counter up; one that began anew does at 0."""
        found = self._growth.get(name)
        if found is None:
            found = self._growth[name] = tuple(self._steps(name))
        return found

    def _steps(self, name: str) -> Iterator[tuple[int, int, int]]:
        last: tuple[int, int] | None = None
        for time_ns, value in zip(self.times, self._columns.get(name, ()), strict=False):
            if not isinstance(value, int) or value == MISSING:
                continue
            if last is not None and value != last[1]:
                grown = value - last[1] if value > last[1] else value
                if grown > 0:
                    yield last[0], time_ns, grown
            last = time_ns, value

    def grown(self, name: str, since_ns: int, until_ns: int) -> int:
        """How much a counter grew between points of which one at least lies in this time."""
        return sum(by for before, at, by in self.growth(name) if at > since_ns and before < until_ns)

    def before(self, time_ns: int) -> int | None:
        """The index of the newest point at or before an instant."""
        index = bisect_right(self.times, time_ns) - 1
        return index if index >= 0 else None

    def length(self) -> int:
        """The usual distance of two points, ns: what a window of this series is long."""
        times = self.times
        if len(times) < 2:
            return DEFAULT_LENGTH
        distances = sorted(after - before for before, after in pairwise(times))
        # A shortened window and the gap of a stalled host are not usual.
        return max(1, min(distances[len(distances) // 2], _RANGE))


def _packed(column: Sequence[Any]) -> array[int]:
    try:
        return array("q", [MISSING if value is None else value for value in column])
    except (TypeError, OverflowError):
        return array("q", [v if isinstance(v, int) and abs(v) <= _RANGE else MISSING for v in column])
