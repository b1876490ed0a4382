"""Windows and histograms of one target in, the numbers of its chart out: pure, time is an argument.

Times are ms since the epoch and round-trip times µs, as the page's chart wants them. Where a span holds more
windows than the chart has room for, neighbours are put together without hiding anything: the smallest
minimum, the largest maximum, all probes and losses, the median of the medians, the largest 99th percentile.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from collectors.board.rows import Window, window_length
from probe.clock import MILLISECOND, SECOND

MINUTE_NS = 60 * SECOND
SPANS = {"5 min": 5 * MINUTE_NS, "15 min": 15 * MINUTE_NS, "1 h": 60 * MINUTE_NS, "6 h": 360 * MINUTE_NS}
MAX_BOXES = 360  # windows side by side
MAX_COLUMNS = 120  # histograms side by side

Box = list[float | int | None]
Cell = list[float | int]


def boxes(windows: Sequence[Window], span_ns: int) -> list[Box]:
    """[start ms, end ms, min, p50, p99, max (µs, None where nothing came back), sent, lost, loss %] a box."""
    if not windows:
        return []
    length = window_length(windows)
    together = max(1, -(-span_ns // (length * MAX_BOXES))) * length
    groups: dict[int, list[Window]] = defaultdict(list)
    for window in windows:
        groups[window.start_ns if together == length else window.start_ns // together * together].append(
            window
        )
    return [_box(groups[start], start, together) for start in sorted(groups)]


def _box(windows: Sequence[Window], start_ns: int, length_ns: int) -> Box:
    def values(name: str) -> list[float]:
        return [v for w in windows if (v := w.number(name)) is not None]

    low, median, high, most = (values(f"rtt_{name}_ns") for name in ("min", "p50", "p99", "max"))
    sent, lost = (sum(w.integer(name) for w in windows) for name in ("sent", "lost"))
    return [
        start_ns / MILLISECOND,
        (start_ns + length_ns) / MILLISECOND,
        _us(min(low, default=None)),
        _us(statistics.median(median) if median else None),
        _us(max(high, default=None)),
        _us(max(most, default=None)),
        sent,
        lost,
        round(100 * lost / sent, 4) if sent else None,
    ]


def cells(buckets: Iterable[tuple[str, Sequence[Window]]], span_ns: int) -> list[Cell]:
    """The heat map: [start ms, end ms, lower µs, upper µs, count, share of its column's fullest cell] a cell.

    `buckets`: the tag `le` of a series, and its points.
    """
    series = [(bounds, points) for le, points in buckets if points and (bounds := bucket(le)) is not None]
    if not series:
        return []
    starts = sorted({p.start_ns for _, points in series for p in points})
    length = window_length([Window(start, {}) for start in starts]) if len(starts) > 1 else MINUTE_NS
    together = max(1, -(-span_ns // (length * MAX_COLUMNS))) * length
    counts: dict[tuple[int, float, float], int] = defaultdict(int)
    fullest: dict[int, int] = defaultdict(int)
    for (low, high), points in series:
        for point in points:
            start = point.start_ns // together * together
            counts[start, low, high] += point.integer("count")
    for (start, _, _), number in counts.items():
        fullest[start] = max(fullest[start], number)
    return [
        [
            start / MILLISECOND,
            (start + together) / MILLISECOND,
            low / 1e3,
            high / 1e3,
            n,
            round(n / fullest[start], 3),
        ]
        for (start, low, high), n in sorted(counts.items())
        if n
    ]


def bucket(le: str) -> tuple[float, float] | None:
    """The bounds in ns of the histogram bucket whose tag `le` is this; None where it names none.

    Buckets are log-linear, four an octave: the width of one is a quarter of the power of two below it.
    """
    if not le.isdecimal() or not 0 < int(le) < 1 << 62:
        return None
    upper = int(le)
    octave = 1 << max((upper - 1).bit_length() - 1, 0)
    return max(upper - octave / 4, 1.0), float(upper)


def extent(drawn: Sequence[Box]) -> Mapping[str, float]:
    """The scales that fit: `loss` is the top of the loss axis in percent, so that bars stay below a third."""
    worst = max((b[8] or 0.0 for b in drawn), default=0.0)
    for top in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0):
        if worst * 3 <= top:
            return {"loss": top}
    return {"loss": 100.0}


def shown_span(span_ns: int, history_ns: int) -> int:
    """How much of a span is drawn: not the emptiness before the first measurement, but a minute at least."""
    return min(span_ns, max(history_ns, MINUTE_NS))


def _us(ns: float | None) -> float | None:
    return None if ns is None else round(ns / 1e3, 3)
