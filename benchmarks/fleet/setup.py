"""Nothing in, what all parts of the fleet's benchmark share out: how much is run, where, and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Report


@dataclass(frozen=True)
class Size:
    """How much is run.

    rounds, slot_s, pool: of [a]: how often each size, for how long, with how many different batches;
    in_flight: on their way at a time, fewer than a collector takes before it lets some go (and than what
    agents of such a fleet send at once).
    warm_s: before either. share_s: of [b]. arms, arm_lines, try_lines: of [c]: rounds, lines of one, lines of
    one that only looks for the fastest way; connections: that are tried. windows, window_s: of [d] with the
    whole fleet; short_windows: with a tenth of it and windows of a second; every_ms: between two queries;
    quiet_s: how long queries alone are looked at.
    """

    rounds: int = 5
    slot_s: float = 4.0
    warm_s: float = 1.0
    pool: int = 2000
    in_flight: int = 800
    share_s: float = 8.0
    arms: int = 3
    arm_lines: int = 400_000
    try_lines: int = 100_000
    connections: tuple[int, ...] = (1, 2, 4)
    windows: int = 6
    window_s: float = 10.0
    short_windows: int = 30
    every_ms: int = 50
    quiet_s: float = 3.0


FULL = Size()
QUICK = Size(
    rounds=2,
    slot_s=2.0,
    pool=500,
    share_s=3.0,
    arms=1,
    arm_lines=100_000,
    try_lines=40_000,
    windows=2,
    short_windows=5,
)


@dataclass
class Setup:
    """A fleet of `agents` agents of `targets` targets each."""

    agents: int
    targets: int
    size: Size
    report: Report
    scratch: Path
    profile: Path | None = None

    def sizes(self) -> list[int]:
        """Numbers of agents to compare: a hundredth, a tenth, all."""
        return sorted({max(1, self.agents // part) for part in (100, 10, 1)})


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed (RFC 2330, 11.3)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
