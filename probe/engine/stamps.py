"""Kernel stamps (wall clock) in, the same instants on the monotonic scale out, also across a step of the
wall clock.

The kernel stamps packets with the wall clock, which an operator or NTP may step between a probe and its
reply. CLOCK_REALTIME and
CLOCK_MONOTONIC run at the same (slewed) rate, so their difference changes by steps alone. It is therefore
measured at every
drain, and taken over only when it moved by more than reading both clocks can explain: without a step, a
round-trip time is exactly the difference of the two stamps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.clock import MICROSECOND, SECOND, Clock

STEP = 200 * MICROSECOND  # a smaller change is not told from the noise of reading two clocks
AHEAD = SECOND  # no stamp is read before it is taken; reading takes less than this
_TIGHT = 20 * MICROSECOND  # two readings further apart than this were interrupted


class WallToMono:
    """Subtracts the offset (wall - monotonic) that was in force when a stamp was taken."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset = _measure(clock)
        self.stepped_by = 0  # ns, of the step that the last `refresh` saw; 0: none
        self._before = self.offset
        self._checked = self._now = clock.mono()

    def moved(self, now: int) -> bool:
        """Whether the wall clock seems to have been stepped (`now`: monotonic ns, just read); cheap enough
        for a tick."""
        if abs(self._clock.wall() - now - self.offset) > STEP:
            return True
        self._checked = now
        return False

    def refresh(self) -> None:
        """Measure again; call this just before a drain."""
        offset = _measure(self._clock)
        self._now = self._clock.mono()
        self.stepped_by = 0
        if abs(offset - self.offset) > STEP:
            self.stepped_by = offset - self.offset
            self._before, self.offset = self.offset, offset

    def __call__(self, stamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """`stamps` (wall ns, 0 = none) as monotonic ns; 0 stays 0."""
        mono = stamps - self.offset
        if self.stepped_by:
            # The step came after the last check: what the new offset does not put there was stamped before
            # it.
            after = (stamps == 0) | ((mono >= self._checked - STEP) & (mono <= self._now + STEP))
            # Packets queue in order, so nothing in front of a stamp from before the step is from after it.
            after = np.logical_and.accumulate(after[::-1])[::-1]
            mono = np.where(after, mono, stamps - self._before)
        ahead = mono > self._now + AHEAD
        if ahead.any():  # the clock was set there and back between two looks: such a stamp says nothing
            mono[ahead] = 0
        if not stamps.all():
            mono[stamps == 0] = 0
        return mono

    def wall(self, mono: int) -> int:
        """A monotonic instant as wall time, by the offset now in force."""
        return mono + self.offset


def _measure(clock: Clock) -> int:
    """wall - mono in ns; of a few tries, the first that was not interrupted."""
    best, width = 0, 1 << 62
    for _ in range(5):
        before = clock.mono()
        wall = clock.wall()
        after = clock.mono()
        if after - before < width:
            best, width = wall - (before + after) // 2, after - before
        if width < _TIGHT:
            break
    return best
