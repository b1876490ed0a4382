"""When a receive buffer was full and what that cost in, which probes' replies this host dropped itself out.
Pure.

The kernel counts the packets that it drops and does not say whose they were. But a buffer that is full stays
full until
it is read, so what is dropped between two drains is what arrives last; and a flow's other replies say how
long after
its probe a reply arrives:

    drain                               drain
      |  taken  taken  taken  [ full: dropped ]|
    --+----------------------------------------+--> arrival (probe sent + the flow's usual RTT)

So of the unanswered probes whose replies should have come between two drains, the last ones are taken to be
those that were
dropped, as many as the kernel counted. What the counts still leave over is given to any probe that had its
time then. Which
probe it was may be wrong; how many were not lost by the network is right, as long as it was only our replies
that were
dropped, and too large, never too small, where others' packets were among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 1 << 14  # overflows remembered: over an hour of them
NEVER = 1 << 61  # ns from now

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass
class _Overflow:
    """Between two drains at `since` and `until` (monotonic ns) the buffer was full; `drops` are unexplained
    so far."""

    since: int
    until: int
    drops: int


class Overflows:
    """All overflows that may concern probes whose window is still open."""

    def __init__(self) -> None:
        self._all: list[_Overflow] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, since: int, until: int, drops: int) -> None:
        """`drops` packets found the buffer full between these two drains; 0: it was full, of TX stamps."""
        self._all.append(_Overflow(since, until, drops))
        del self._all[:-MOST]

    def blame(
        self,
        sent: Ints,
        earliest: Ints,
        latest: Ints,
        open_ends: Mask,
        inside: int,
        timeout: int,
    ) -> tuple[Mask, Mask]:
        """Say which probes were hidden; asked window by window, with the probes of later ones behind.

        Args (one row a probe, in order of sending; times monotonic ns):
            sent: when it left.
            earliest, latest: when its flow's quickest and its usual slow reply would have come.
            open_ends: it left and nobody answered so far.
            inside: rows of the window that is closed now: only they are decided, and have had their time.
            timeout: ns after which no reply is awaited.
        Returns masks of shape (inside,): the probes whose replies were dropped here; the probes that left or
        would have
        been answered while the buffer was full, so that a TX stamp may be missing.
        """
        blurred = np.zeros(inside, np.bool_)
        for overflow in self._all:
            blurred |= (latest[:inside] > overflow.since) & (sent[:inside] <= overflow.until)
        likely = self._likely(earliest, latest, open_ends)[:inside]
        hidden = self._explained(sent[:inside], open_ends[:inside], timeout)
        if (count := int(hidden.sum())) < int(open_ends[:inside].sum()):
            # Some of them were lost by the network. How many is certain, which is not.
            unlikely = np.flatnonzero(hidden & ~likely)
            likely_rows = np.flatnonzero(likely)[-count:] if count else unlikely[:0]
            hidden = np.zeros(inside, np.bool_)
            hidden[likely_rows] = True
            hidden[unlikely[: count - len(likely_rows)]] = True
        if len(sent) > inside:
            # Nothing that comes later was sent before this.
            first_open = int(sent[inside])
            self._all = [overflow for overflow in self._all if overflow.until >= first_open]
        return hidden, blurred

    def _explained(self, sent: Ints, free: Mask, timeout: int) -> Mask:
        """As many probes as the counted drops explain, taken off the counts.

        Probes and overflows are in order of time, so serving the oldest probe from the oldest overflow that
        it had
        its time in explains the most, and leaves the most for those that come later.
        """
        hidden = np.zeros(len(free), np.bool_)
        for overflow in self._all:
            open_then = free & ~hidden & (sent + timeout > overflow.since) & (sent <= overflow.until)
            taken = np.flatnonzero(open_then)[: overflow.drops]
            hidden[taken] = True
            overflow.drops -= len(taken)
        return hidden

    def _likely(self, earliest: Ints, latest: Ints, free: Mask) -> Mask:
        """The last of those whose replies should have come during each overflow."""
        likely = np.zeros(len(free), np.bool_)
        for overflow in reversed(self._all):
            should = free & ~likely & (latest > overflow.since) & (earliest <= overflow.until)
            rows = np.flatnonzero(should)
            likely[rows[max(0, len(rows) - overflow.drops) :]] = True
        return likely


def usual_arrivals(
    flow: NDArray[np.int32], sent: Ints, rx: Ints, flows: int, timeout: int
) -> tuple[Ints, Ints]:
    """When a reply to each probe would come, from the replies that did: (earliest, latest), monotonic ns.

    Latest is by the 90th percentile of the flow's times from sending to reply: a few stragglers shall not
    blur all. Of
    a flow that was never answered nothing is known but that a reply may take until the timeout: its earliest
    is
    never, and it is left to what the others leave over.
    """
    low, high = np.full(flows, NEVER, np.int64), np.full(flows, timeout, np.int64)
    answered = np.flatnonzero(rx != 0)
    if len(answered):
        took = np.clip(rx[answered] - sent[answered], 0, timeout)
        order = np.lexsort((took, flow[answered]))
        owners, took = flow[answered][order], took[order]
        first = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        many = np.diff(np.append(first, len(owners)))
        low[owners[first]] = took[first]
        high[owners[first]] = took[first + (many - 1) * 9 // 10]
    return sent + low[flow], sent + high[flow]
