"""TX stamp ids as the kernel counts them in, the ids that we gave the packets out (before Linux 6.13). Pure.

The kernel counts what it takes, from 0 after every restart. Whether a packet that it refuses takes an id
depends on who refuses it, so the counter is restarted after every refusal. A stamp of a packet from before a
restart may still come then (a queue held it), under an id that is given out again: such ids are left out for
a while. A probe may go without a stamp, but never gets another one's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SLOTS = 1 << 16  # ids are remembered for as many packets
_HELD = 5_000_000_000  # ns: no queue of a host holds a packet longer; the longest is the wait for a neighbour


class KernelCounter:
    """Follows the kernel's counter."""

    def __init__(self) -> None:
        self._ours = np.zeros(_SLOTS, np.uint32)
        self._waiting = np.zeros(_SLOTS, np.bool_)  # sent since the restart, not stamped yet
        self._doubtful = np.zeros(_SLOTS, np.int64)  # until when (wall ns) it may be of before a restart
        self._any_doubtful = False
        self._next = 0

    def sent(self, ids: NDArray[np.uint32]) -> None:
        """The kernel took packets to which we gave these ids, in this order."""
        slots = (self._next + np.arange(len(ids))) & (_SLOTS - 1)
        self._ours[slots] = ids
        self._waiting[slots] = True
        self._next += len(ids)

    def restart(self, now: int) -> None:
        """The kernel counts from 0 again (wall ns); everything that was in its queue has been translated."""
        waiting = np.flatnonzero(self._waiting)
        if len(waiting):
            self._doubtful[waiting] = now + _HELD
            self._any_doubtful = True
            self._waiting[waiting] = False
        self._next = 0

    def translate(
        self, ids: NDArray[np.uint32], stamp: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Our ids for the kernel's, with their stamps (wall ns), in order; without those in doubt."""
        if not len(ids):
            return ids, stamp
        behind = (self._next - 1 - ids.astype(np.int64)) & 0xFFFFFFFF
        slots = ids & (_SLOTS - 1)
        known = (behind < _SLOTS) & (behind < self._next)
        if self._any_doubtful:
            known &= stamp > self._doubtful[slots]
        slots = slots[known]
        self._waiting[slots] = False
        return self._ours[slots], stamp[known]
