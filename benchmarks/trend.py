"""A series of readings in, its slope, a verdict and a chart in text out. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

HOUR_S = 3600.0
FLAT_MB_PER_HOUR = 1.0


def slope_per_hour(times_s: Sequence[float], values: Sequence[float]) -> float:
    """By least squares, per hour; 0 where there are not two times."""
    if len(set(times_s)) < 2:
        return 0.0
    return statistics.linear_regression(times_s, values).slope * HOUR_S


def settled(times_s: Sequence[float], first_s: float) -> int:
    """The index from which on a run counts: after `first_s`, or its first third where it is short."""
    start, length = times_s[0], times_s[-1] - times_s[0]
    begin = start + min(first_s, length / 3)
    return next(at for at, time in enumerate(times_s) if time >= begin)


def verdict(times_s: Sequence[float], megabytes: Sequence[float]) -> str:
    """What the readings say, in words."""
    slope = slope_per_hour(times_s, megabytes)
    tenth = max(1, len(megabytes) // 10)
    begin, end = statistics.median(megabytes[:tenth]), statistics.median(megabytes[-tenth:])
    said = f"{slope:+.2f} MB/h, from {begin:.1f} to {end:.1f} MB, at most {max(megabytes):.1f} MB"
    if times_s[-1] - times_s[0] < HOUR_S / 2:
        return f"{said}: too short a run to tell"
    return f"{said}: {'flat' if slope < FLAT_MB_PER_HOUR else 'IT GROWS'}"


def chart(values: Sequence[float], *, width: int = 72, height: int = 6, least: float = 1.0) -> list[str]:
    """Lines of text, time from left to right; the scale spans at least `least`. A column shows the mean."""
    columns = min(width, len(values))
    edges = [len(values) * at // columns for at in range(columns + 1)]
    means = [statistics.fmean(values[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    spare = max(0.0, least - (high - low)) / 2
    low, high = low - spare, high + spare
    rows = [min(height - 1, int((mean - low) / (high - low) * height)) for mean in means]
    lines = []
    for row in range(height - 1, -1, -1):
        label = low + (high - low) * (row + 0.5) / height
        lines.append(f"{label:9.2f} |" + "".join("*" if at == row else " " for at in rows).rstrip())
    return lines
