"""Round-trip times in, counts of log-linear buckets out: four buckets an octave, mergeable by adding.

A bucket holds lower < x <= upper. Its upper bounds are 2^k * {1, 5/4, 6/4, 7/4} ns from 1,024 ns to 2^36 ns
(69 s); what is smaller
falls into the first bucket, what is larger into +Inf. Any percentile read from merged buckets is therefore
at most
25 % above the exact one. The bounds do not depend on the data, so every agent and every window has the same
ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LOWEST, _HIGHEST = 10, 36  # log2 of the first and the last finite bound
_PER_OCTAVE = 4
BUCKETS = (_HIGHEST - _LOWEST) * _PER_OCTAVE + 2  # with the first and +Inf

BOUNDS: tuple[int, ...] = tuple(
    (1 << (_LOWEST + i // _PER_OCTAVE)) * (_PER_OCTAVE + i % _PER_OCTAVE) // _PER_OCTAVE
    for i in range(BUCKETS - 1)
)
LABELS: tuple[str, ...] = (*(f"{bound:012d}" for bound in BOUNDS), "+Inf")

_BOUNDS = np.array(BOUNDS)
_ONE = np.uint32(1)  # of the counts' own type: with any other, `add.at` takes thirty times as long


def bucket_of(rtt: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket's index for each RTT (ns, int64)."""
    return np.searchsorted(_BOUNDS, rtt, side="left")


@dataclass(frozen=True)
class Counts:
    """Buckets that are not empty, ascending by flow, then by bound. All arrays have the same shape (n,)."""

    flow: NDArray[np.int64]
    bucket: NDArray[np.int64]  # index into BOUNDS and LABELS
    count: NDArray[np.uint32]


class Histogram:
    """Counts of every flow over one histogram window.

    32 bits are enough: that many replies to one flow, which sends a thousand probes a second at most, take 49
    days, and a histogram window is a day at most.
    """

    def __init__(self, flows: int) -> None:
        # One row a bucket: most are never touched, and such a row needs no memory and no look at the end.
        self._counts = np.zeros((BUCKETS, flows), np.uint32)
        self._used = np.zeros(BUCKETS, np.bool_)

    def add(self, flow: NDArray[np.int32], rtt: NDArray[np.int64]) -> None:
        """Count RTTs (ns) of flows; equal shapes."""
        bucket = bucket_of(rtt)
        self._used[bucket] = True
        np.add.at(self._counts.reshape(-1), bucket * self._counts.shape[1] + flow, _ONE)

    def take(self) -> Counts:
        """Every bucket that is not empty; then start again from zero."""
        used = np.flatnonzero(self._used)
        rows = self._counts[used]
        self._counts[used] = 0
        self._used[:] = False
        flow, row = np.nonzero(rows.T)
        return Counts(flow, used[row], rows[row, flow])
