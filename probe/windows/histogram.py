"""Round-trip times in, counts of log-linear buckets out: four buckets an octave, mergeable by adding.

A bucket holds lower < x <= upper. Its upper bounds are 2^k * {1, 5/4, 6/4, 7/4} ns from 1,024 ns to 2^36 ns
(69 s); what is smaller
falls into the first bucket, what is larger into +Inf. Any percentile read from merged buckets is therefore
at most
25 % above the exact one. The bounds do not depend on the data, so every agent and every window has the same
ones.
"""

from __future__ import annotations

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


def bucket_of(rtt: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket's index for each RTT (ns, int64)."""
    return np.searchsorted(np.array(BOUNDS), rtt, side="left")


class Histogram:
    """Counts of every flow over one histogram window."""

    def __init__(self, flows: int) -> None:
        self._counts = np.zeros((flows, BUCKETS), np.int64)

    def add(self, flow: NDArray[np.int32], rtt: NDArray[np.int64]) -> None:
        """Count RTTs (ns) of flows; equal shapes."""
        if not len(flow):
            return
        first = int(flow.min())
        rows = self._counts[first : int(flow.max()) + 1]
        cells = (flow.astype(np.int64) - first) * BUCKETS + bucket_of(rtt)
        rows += np.bincount(cells, minlength=rows.size).reshape(rows.shape)

    def take(self) -> list[tuple[int, str, int]]:
        """(flow, label of `le`, count) of every bucket that is not empty; then start again from zero."""
        flow, bucket = np.nonzero(self._counts)
        counts = self._counts[flow, bucket]
        self._counts[:] = 0
        return [
            (f, LABELS[b], c) for f, b, c in zip(flow.tolist(), bucket.tolist(), counts.tolist(), strict=True)
        ]
