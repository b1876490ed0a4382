"""Nothing in, integer nanoseconds out: wall time since the epoch and monotonic time, as an argument.

Whoever needs the time takes a `Clock`, so a test moves it by hand and never sleeps. Wall time names windows
and points; monotonic time is what deadlines and schedules are made of. Call sites name the one they mean.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
MICROSECOND = 1_000


class Clock(Protocol):
    """Both clocks of a host, in integer ns."""

    def wall(self) -> int:
        """CLOCK_REALTIME: ns since the epoch; may be stepped by an operator or NTP."""

    def mono(self) -> int:
        """CLOCK_MONOTONIC: ns since an unspecified start; never steps."""


class SystemClock:
    """The host's clocks."""

    # The functions themselves: these are read at every tick.
    wall = staticmethod(time.time_ns)
    mono = staticmethod(time.monotonic_ns)


@dataclass
class ManualClock:
    """Clocks that stand still until somebody moves them."""

    wall_ns: int = 1_700_000_000 * SECOND
    mono_ns: int = 1_000 * SECOND

    def wall(self) -> int:
        return self.wall_ns

    def mono(self) -> int:
        return self.mono_ns

    def advance(self, ns: int) -> None:
        """Let `ns` nanoseconds pass on both clocks."""
        self.wall_ns += ns
        self.mono_ns += ns

    def step(self, ns: int) -> None:
        """Step the wall clock by `ns` (negative: back) while no time passes."""
        self.wall_ns += ns
