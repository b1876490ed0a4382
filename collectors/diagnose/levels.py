"""Numbers in order of time in, the times out at which they stood above what is usual; pure, robust.

Usual is the lowest level that lasted: the smallest median of five consecutive windows. A network cannot be
faster than it is, so whatever lasts above that level is an addition, however much of the time it was there.
Noise is the median absolute difference of consecutive windows (1.05 of it is a standard deviation, for normal
noise); a step counts once in it, a wave of the day not at all. One window alone is never a level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, median_low

SPAN = 5  # windows of which the median is a level
RELATIVE = 0.2  # of the usual level: a rise by less is none
ABSOLUTE_NS = 20_000  # nor is one by less than this
NOISES = 6.0  # standard deviations of the noise
FEWEST = 2  # windows that a rise has at least
_DEEPEST = 4  # rises on top of rises


@dataclass(frozen=True, slots=True)
class Rise:
    """first, last: indices; before, after: the levels; over: whether it came back down."""

    first: int
    last: int
    before: float
    after: float
    over: bool

    @property
    def size(self) -> float:
        return self.after - self.before


def usual(values: Sequence[float]) -> float:
    """The lowest level that lasted; of a few values their median."""
    if len(values) < SPAN:
        return median(values)
    # Every other place would do; a level that lasts has more than one.
    return min(median(values[i : i + SPAN]) for i in range(len(values) - SPAN + 1))


def noise(values: Sequence[float]) -> float:
    """The standard deviation of what changes from one value to the next."""
    if len(values) < 3:
        return 0.0
    return 1.05 * median(abs(after - before) for before, after in pairwise(values))


def rises(values: Sequence[float], floor: float = ABSOLUTE_NS) -> list[Rise]:
    """Every time they stood above the level of before, also one on top of another, in order of time."""
    if len(values) < FEWEST + 2:
        return []
    # Nearly every series is quiet, and this is all that it costs.
    lowest = min(values)
    if max(values) <= lowest + max(RELATIVE * abs(lowest), floor):
        return []
    base, spread = usual(values), noise(values)
    if max(values) <= base + _least(base, spread, floor):
        return []
    return sorted(_rises(values, 0, len(values), spread, floor, _DEEPEST), key=lambda rise: rise.first)


def _least(base: float, spread: float, floor: float) -> float:
    return max(RELATIVE * abs(base), floor, NOISES * spread)


def _rises(
    values: Sequence[float], first: int, end: int, spread: float, floor: float, depth: int
) -> Iterator[Rise]:
    """Of values[first:end]."""
    base = usual(values[first:end])
    limit = base + _least(base, spread, floor)
    for begin, last in _runs(values, first, end, limit):
        if last - begin + 1 < FEWEST:
            continue
        run = values[begin : last + 1]
        after = usual(run) if len(run) >= SPAN else float(median_low(run))
        yield Rise(begin, last, base, after, last < len(values) - 1)
        if depth and (begin, last + 1) != (first, end):
            yield from _rises(values, begin, last + 1, spread, floor, depth - 1)


def _runs(values: Sequence[float], first: int, end: int, limit: float) -> Iterator[tuple[int, int]]:
    """Runs of values above `limit`; a single one below does not end a run."""
    begin = last = -1
    for index in range(first, end):
        if values[index] <= limit:
            continue
        if begin >= 0 and index - last > 2:
            yield begin, last
            begin = -1
        begin = index if begin < 0 else begin
        last = index
    if begin >= 0:
        yield begin, last
