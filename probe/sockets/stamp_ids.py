"""TX stamp ids as the kernel counts them in, the ids that we gave the packets out (before Linux 6.13). Pure.

The kernel counts what it takes, from 0 after every restart. Whether a packet that it refuses takes an id
depends on who refuses it, so the counter is restarted after every refusal. A stamp of a packet from before a
restart may still come then (a queue held it), under an id that is given out again: such ids are left out for
a while. A probe may go without a stamp, but never gets another one's.

Where the interface has a clock of its own, a packet's id comes back a second time with that clock's stamp,
later, or not at all. That time says nothing of whose it is: the kernel's stamp under the same id, which comes
before it, does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SLOTS = 1 << 16  # ids are remembered for as many packets
_HELD = 5_000_000_000  # ns: no queue of a host holds a packet longer; the longest is the wait for a neighbour
_BEHIND = 1_000_000_000  # ns: no interface's stamp comes later after the kernel's; drivers give it up before


class KernelCounter:
    """Follows the kernel's counter. `hardware`: stamps by the interface's own clock come, too."""

    def __init__(self, hardware: bool = False) -> None:
        self._ours = np.zeros(_SLOTS, np.uint32)
        self._waiting = np.zeros(_SLOTS, np.bool_)  # sent since the restart, not stamped yet
        self._doubtful = np.zeros(_SLOTS, np.int64)  # until when (wall ns) it may be of before a restart
        self._any_doubtful = False
        self._hardware = hardware
        slots = _SLOTS if hardware else 0
        self._stamped = np.zeros(slots, np.int64)  # when the kernel stamped the last one, wall ns
        self._waiting_hard = np.zeros(slots, np.bool_)  # ... and the interface has not
        self._doubtful_hard = np.zeros(slots, np.int64)  # up to which kernel's stamp it may be another one's
        self._next = 0

    def sent(self, ids: NDArray[np.uint32]) -> None:
        """The kernel took packets to which we gave these ids, in this order."""
        slots = (self._next + np.arange(len(ids))) & (_SLOTS - 1)
        self._ours[slots] = ids
        self._waiting[slots] = True
        if self._hardware:
            self._waiting_hard[slots] = True
        self._next += len(ids)

    def restart(self, now: int) -> None:
        """The kernel counts from 0 again (wall ns); everything that was in its queue has been translated."""
        waiting = np.flatnonzero(self._waiting)
        if self._hardware:
            until = np.where(self._waiting, now + _HELD, now) + _BEHIND
            self._doubtful_hard = np.where(self._waiting_hard, until, self._doubtful_hard)
            self._waiting_hard[:] = False
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
        slots, known = self._slots(ids)
        if self._any_doubtful:
            known &= stamp > self._doubtful[slots]
        slots = slots[known]
        self._waiting[slots] = False
        if self._hardware:
            self._stamped[slots] = stamp[known]
        return self._ours[slots], stamp[known]

    def translate_hard(
        self, ids: NDArray[np.uint32], hard: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The same of stamps by the interface's clock (raw ns); `translate` those by the kernel's first."""
        slots, known = self._slots(ids)
        doubtful = self._doubtful_hard[slots]
        known &= (doubtful == 0) | (self._stamped[slots] > doubtful)
        slots = slots[known]
        self._waiting_hard[slots] = False
        return self._ours[slots], hard[known]

    def _slots(self, ids: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Where what we know of each is, and whether it was given out since the restart."""
        behind = (self._next - 1 - ids.astype(np.int64)) & 0xFFFFFFFF
        return ids & np.uint32(_SLOTS - 1), (behind < _SLOTS) & (behind < self._next)
