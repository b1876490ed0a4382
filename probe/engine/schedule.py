"""Intervals in, due times out: an open-loop schedule that never waits for a reply. Pure; time is an argument.

Flows of one interval are spread evenly over it, so no tick is a burst and no two agents that start together
stay in step.
`poisson` draws the gaps from an exponential distribution (RFC 2330 section 11.1.1), for which probes meet an
unbiased state of the path. A flow may send bursts: several probes that are due at one instant, back to back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_FAR = np.iinfo(np.int64).max


class Schedule:
    """Due times (int64 ns, monotonic) of a fixed set of flows.

    Args:
        intervals: ns between two probes of each flow, or between two bursts.
        poisson: which flows have random gaps with that mean.
        rng: random phases and gaps.
        bursts: probes of each flow at each of its due instants, at least 1; default: 1 each.
    """

    def __init__(
        self,
        intervals: Sequence[int],
        poisson: Sequence[bool],
        rng: np.random.Generator,
        bursts: Sequence[int] | None = None,
    ) -> None:
        self._interval = np.array(intervals, np.int64)
        self._poisson = np.array(poisson, np.bool_)
        self._rng = rng
        self._next = np.empty(len(self._interval), np.int64)
        for interval in np.unique(self._interval):
            members = np.flatnonzero(self._interval == interval)
            step = interval / len(members)
            phase = (np.arange(len(members)) + rng.random()) * step
            self._next[members] = phase.astype(np.int64)
        random = self._poisson
        self._next[random] = self._gaps(self._interval[random])
        self._bursts: NDArray[np.int64] | None = None  # all of 1, as nearly always
        self._shortest = 1
        if bursts is not None and any(burst != 1 for burst in bursts):
            self._bursts = np.array(bursts, np.int64)
            self._shortest = min(bursts)
        self._exact = self._bursts is None and not random.any()  # `take` gives whatever leaves the schedule
        # Probes of instants that are off the schedule and were more than `take` might give: flows, dues.
        self._over = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._interval)

    def begin(self, start: int) -> None:
        """Start here (ns): every flow's first probe is due within one interval, or one random gap."""
        self._next += start

    def earliest(self) -> int:
        """When the next probe is due; far in the future where there are no flows."""
        if len(self._over[1]):
            return int(self._over[1][0])
        return int(self._next.min()) if len(self._next) else int(_FAR)

    def skip(self, until: int) -> int:
        """Pass over what is due before `until`, however much that is. Returns how many probes."""
        over = 0
        if len(self._over[1]):
            over = len(self._take_over(until, len(self._over[1]))[0])
        late = np.flatnonzero(self._next < until)
        if not len(late):
            return over
        interval = self._interval[late]
        behind = until - self._next[late]
        counts = (behind + interval - 1) // interval
        after = self._next[late] + counts * interval
        random = self._poisson[late]
        if random.any():
            # Exponential gaps have no memory: from `until` on, the next one is as long as any.
            counts[random] = 1 + self._rng.poisson(behind[random] / interval[random])
            after[random] = until + self._gaps(interval[random])
        self._next[late] = after
        if self._bursts is not None:
            counts *= self._bursts[late]
        return over + int(counts.sum())

    def take(self, until: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The probes due before `until`, at most `limit`, taken off the schedule.

        Returns (flow indices, due times), both int64 and in order of due time; the probes of a burst are
        consecutive. Where `limit` cuts a burst, the next call begins with the rest of it.
        """
        if self._exact:
            return self._take_instants(until, limit)
        flows, dues = self._over
        if (missing := limit - len(flows)) > 0:
            more, instants = self._take_instants(until, -(-missing // self._shortest))
            if self._bursts is not None:
                bursts = self._bursts[more]
                more, instants = np.repeat(more, bursts), np.repeat(instants, bursts)
            self._over = np.concatenate((flows, more)), np.concatenate((dues, instants))
        return self._take_over(until, limit)

    def _take_over(self, until: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `take`, of what is off the schedule already: it is all due before what is still on it."""
        flows, dues = self._over
        count = min(limit, int(np.searchsorted(dues, until)))
        self._over = flows[count:], dues[count:]
        return flows[:count], dues[:count]

    def _take_instants(self, until: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `take`, were no burst longer than one probe; of random gaps perhaps a few more than `limit`."""
        ready = np.flatnonzero(self._next < until)
        if not len(ready):
            return ready, ready
        if self._poisson[ready].any():
            return self._take_random(ready, until, limit)
        interval = self._interval[ready]
        counts = (until - self._next[ready] + interval - 1) // interval
        flows, dues = self._series(ready, np.minimum(counts, limit))
        order = np.argsort(dues, kind="stable")[:limit]
        flows, dues = flows[order], dues[order]
        taken = np.bincount(flows, minlength=len(self._next))
        self._next += taken * self._interval
        return flows, dues

    def _series(
        self, flows: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The next `counts` instants of periodic flows: one flow after the other, left on the schedule."""
        if int(counts.max(initial=0)) == 1:
            return flows, self._next[flows]
        each = np.repeat(flows, counts)
        nth = np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)
        return each, self._next[each] + nth * self._interval[each]

    def _take_random(
        self, ready: NDArray[np.int64], until: int, limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `_take_instants`: all that is due before a time at which that is about `limit`.

        A random gap is drawn only once, so that none of them can be left for later.
        """
        rate = float((1 / self._interval[ready]).sum())
        until = min(until, int(self._next[ready].min() + limit / rate) + 1)
        ready = ready[self._next[ready] < until]
        random = self._poisson[ready]
        periodic = ready[~random]
        interval = self._interval[periodic]
        counts = (until - self._next[periodic] + interval - 1) // interval
        flows, dues = self._series(periodic, counts)
        self._next[periodic] += counts * interval
        for some, instants in self._arrivals(ready[random], until):
            flows, dues = np.concatenate((flows, some)), np.concatenate((dues, instants))
        order = np.argsort(dues, kind="stable")
        return flows[order], dues[order]

    def _arrivals(
        self, flows: NDArray[np.int64], until: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """All instants of random flows before `until`, taken off the schedule: one flow after the other."""
        while len(flows):
            expected = (until - self._next[flows]) / self._interval[flows]
            counts = (expected + 4 * np.sqrt(expected) + 4).astype(np.int64)  # nearly always enough
            each, begin = np.repeat(flows, counts), np.cumsum(counts) - counts
            gaps = self._gaps(self._interval[each])
            sums = np.cumsum(gaps)
            ends = self._next[each] + sums - np.repeat(sums[begin] - gaps[begin], counts)
            inside = ends - gaps < until  # the first of each flow always is
            last = begin + np.add.reduceat(inside, begin, dtype=np.int64) - 1
            self._next[flows] = ends[last]
            yield each[inside], (ends - gaps)[inside]
            flows = flows[self._next[flows] < until]

    def _gaps(self, mean: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.maximum(self._rng.exponential(1.0, len(mean)) * mean, 1.0).astype(np.int64)


class Saturated:
    """A schedule that always has something due, round robin: how fast can the engine go? For benchmarks."""

    def __init__(self, flows: int, total: int) -> None:
        self._flows = flows
        self._left = total
        self._at = 0

    def begin(self, start: int) -> None:
        """Nothing depends on when it starts."""

    def __len__(self) -> int:
        return self._flows

    def earliest(self) -> int:
        """0 (overdue) until all have been taken."""
        return 0 if self._left else int(_FAR)

    def take(self, until: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # noqa: ARG002 - Schedule's signature
        """The next `limit` probes, all of them overdue since the clock's zero."""
        count = min(limit, self._left)
        flows = (self._at + np.arange(count)) % self._flows
        self._at += count
        self._left -= count
        return flows, np.zeros(count, np.int64)
