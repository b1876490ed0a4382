"""What STAMP replies say in, `Reflections` of a window out: dwell times, one-way delays, the way of losses.

Columns beside the ledger's, one row a probe. A reply's own T3 is the reflector's clock just before it sends;
the kernel's TX stamp of the same reply comes with the session's next one (follow-up telemetry, RFC 8972,
section 4.7). So T3 is looked up, and losses are told, when a window is cut: the next replies are there then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.engine.numbering import Numbering, Successions
from probe.engine.samples import ABSENT, UNTOLD, Reflections, Samples

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

_MANY = 3  # replies of a window whose stamps were told: so they are in every one
_BITS = 43  # of a row's place below its flow's number
_PLACE = (1 << _BITS) - 1


@dataclass(frozen=True)
class Told:
    """What a block of replies says, in order of arrival; arrays of shape (n,). Times: monotonic ns."""

    number: NDArray[np.uint32]  # the reflector's of the reply
    t2: Indices  # when the probe came to the reflector, by its clock
    t3: Indices  # when the reply left, by its clock
    error: Indices  # how far that clock and ours may be off together, ns; ABSENT: not both are synchronised
    follow_number: NDArray[np.uint32]  # of the reply whose T3 follows
    follow: Indices  # ... as its kernel or interface took it; ABSENT: nothing follows
    follows: Mask  # the reflector answered the follow-up TLV: it keeps a session


class Reflected:
    """Rows for the last `size` probes of a socket whose targets are STAMP reflectors.

    Args:
        size: rows, as many as the ledger's; both are indexed with `Ledger.row`.
        flows: number of flows of the agent.
    """

    def __init__(self, size: int, flows: int) -> None:
        self.t1 = np.zeros(size, np.uint64)  # as sent
        self.seq = np.zeros(size, np.uint32)  # as sent
        # These are written with the first reply, and mean nothing before.
        self._number = np.zeros(size, np.uint32)
        self._t2 = np.zeros(size, np.int64)
        self._t3 = np.zeros(size, np.int64)
        self._error = np.zeros(size, np.int64)
        self._follow_number = np.zeros(size, np.uint32)
        self._follow = np.zeros(size, np.int64)
        self._numbered = np.zeros(size, np.bool_)  # the reflector showed that this number is its own
        self._numbering = Numbering(flows)
        self._follows = np.zeros(flows, np.bool_)
        # How far this host's clock may be off now, ns; None: it is not synchronised.
        self.own_error: Callable[[], int | None] = lambda: None

    def answered(
        self, rows: Indices, numbers: Indices, flows: NDArray[np.int32], fresh: Mask, floor: int, told: Told
    ) -> None:
        """Write down what a block of replies says; call it before the ledger is told of them.

        Args:
            rows, numbers, flows: of the probes that they answer.
            fresh: which of them are the first ones to their probes.
            floor: probes before this number were cut off the ledger.
            told: what they say.
        """
        late = fresh & (numbers < floor)
        if late.any():
            self._numbering.late(flows[late], numbers[late], told.number[late])
        pick: slice | Mask = slice(None) if fresh.all() else fresh
        where = rows[pick]
        self._number[where] = told.number[pick]
        self._t2[where] = told.t2[pick]
        self._t3[where] = told.t3[pick]
        self._error[where] = told.error[pick]
        self._follow_number[where] = told.follow_number[pick]
        self._follow[where] = told.follow[pick]
        self._numbered[where] = (told.follows | (told.number != self.seq[rows]))[pick]
        if not fresh.all():
            # A copy has its original's number; a probe that was copied has two replies.
            again = ~fresh & (told.number != self._number[rows])
            if again.any():
                self._numbering.stray(flows[again], told.number[again])

    def reflections(self, rows: Indices, samples: Samples, first: int) -> Reflections:
        """What became of the probes in `rows`, which `samples` says the rest of; call it once a cut.

        `first`: the number of the probe in the first row.
        """
        flow = samples.flow.astype(np.int64)
        count = len(flow)
        if count and (flow == flow[0]).all():
            order = np.arange(count)
        else:
            order = np.sort(flow << _BITS | np.arange(count)) & _PLACE
        at = order[(samples.rx != 0)[order]]  # what was answered, in order of flow and probe
        answered = rows[at]
        self._numbering.shown(flow[at], self._numbered[answered])
        chain = self._numbering.chain(flow[at], self._number[answered], self._t2[answered])
        follow = np.full(count, ABSENT, np.int64)
        follow[at] = self._followed(chain, answered)
        lost = self._numbering.tell(samples, first, order, at, chain)
        at = np.sort(at)  # in the order of memory
        dwell, followed, t3 = self._dwell(samples, rows, at, follow[at])
        forward, backward, error = self._one_way(samples, rows, at, t3)
        numbers, follows = self._numbering.numbers.copy(), self._follows.copy()
        inside = at[at < samples.inside]
        self._follows[flow[inside]] = False
        told = np.bincount(flow[inside[followed[inside]]], minlength=len(self._follows))
        self._follows |= told >= _MANY
        return Reflections(dwell, followed, forward, backward, error, lost, numbers, follows)

    def glance(self, rows: Indices, samples: Samples, behind: Sequence[Indices]) -> Reflections:
        """As `reflections`, at any time and as often as one likes: but nothing is told of losses.

        `behind`: rows of replies of the same flow that came after each one's own, -1 where there is none: in
        these its T3 is looked for.
        """
        at = np.flatnonzero(samples.rx != 0)
        follow = np.full(len(at), ABSENT, np.int64)
        for later in behind:
            tells = later[at]
            fits = (tells >= 0) & (self._follow_number[tells] == self._number[rows[at]])
            fits &= self._follow[tells] != ABSENT
            follow[fits] = self._follow[tells[fits]]
        dwell, followed, t3 = self._dwell(samples, rows, at, follow)
        forward, backward, error = self._one_way(samples, rows, at, t3)
        lost = np.full(len(rows), UNTOLD, np.uint8)
        return Reflections(dwell, followed, forward, backward, error, lost, self._numbering.numbers)

    def _one_way(
        self, samples: Samples, rows: Indices, at: Indices, t3: Indices
    ) -> tuple[Indices, Indices, Indices]:
        """One-way delays there and back, and how far they may be off, of those `at` that were answered."""
        count = len(samples.flow)
        forward, backward, error = (np.full(count, ABSENT, np.int64) for _ in range(3))
        known = self._error[rows[at]] != ABSENT
        if known.any():
            stamped = (samples.tx[at] != 0) & ~samples.unstamped[at] & (samples.rx[at] >= samples.tx[at])
            sure = at[stamped & known & (t3[at] != ABSENT)]
            forward[sure] = self._t2[rows[sure]] - samples.tx[sure]
            backward[sure] = samples.rx[sure] - t3[sure]
            error[sure] = self._error[rows[sure]]
        return forward, backward, error

    def _followed(self, chain: Successions, rows: Indices) -> Indices:
        """The kernel's T3 of each answered probe, which a later reply tells; ABSENT: none did."""
        out = np.full(len(rows), ABSENT, np.int64)
        about, when = self._follow_number[rows], self._follow[rows]
        tells = when != ABSENT
        before = np.zeros(len(rows), np.bool_)  # it tells of the reply just before it, as usual
        before[1:] = tells[1:] & ~chain.begins[1:] & (about[1:] == chain.number[:-1])
        at = np.flatnonzero(before)
        out[at - 1] = when[at]
        others = np.flatnonzero(tells & ~before)
        if len(others):
            key = _key(chain.flow, chain.away)
            wanted = chain.away[others] - (chain.number[others] - about[others]).view(np.int32)
            order = np.argsort(key, kind="stable")
            place = np.searchsorted(key[order], _key(chain.flow[others], wanted))
            at = order[np.minimum(place, len(order) - 1)]
            fits = (chain.flow[at] == chain.flow[others]) & (chain.away[at] == wanted)
            out[at[fits]] = when[others[fits]]
        return out

    def _dwell(
        self, samples: Samples, rows: Indices, at: Indices, follow: Indices
    ) -> tuple[Indices, Mask, Indices]:
        """Dwell times, whether they end with the kernel's stamp, and the T3 they end with (ABSENT: none).

        A dwell time that is negative, or longer than all the time the probe was away, is not believed.
        """
        count = len(samples.flow)
        dwell, followed = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        t3 = np.full(count, ABSENT, np.int64)
        away = samples.rx[at] - np.where(samples.tx[at] != 0, samples.tx[at], samples.sent[at])
        t2, own = self._t2[rows[at]], self._t3[rows[at]]
        best = np.where(follow != ABSENT, follow, t2 - 1)
        kernel = (best >= t2) & (best - t2 <= away)
        best = np.where(kernel, best, own)
        believed = (best >= t2) & (best - t2 <= away)
        dwell[at] = np.where(believed, best - t2, 0)
        followed[at] = kernel
        t3[at] = np.where(believed, best, ABSENT)
        return dwell, followed, t3


def _key(flow: Indices, away: Indices) -> Indices:
    """Flow and number in one: unique, and in the order of both."""
    return (flow << 34) + away
