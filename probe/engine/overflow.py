"""When a receive buffer was full in, which probes this host may have hidden from us out. Pure.

The kernel counts the packets that it drops and does not say whose they were. But a buffer that is full stays
full until
it is read, so what is dropped between two readings is what arrives last; and a flow's other replies say how
long after its
probe a reply comes:

    read                                  read
      |  taken  taken  taken  [ full: dropped ]|
    --+----------------------------------------+--> arrival (probe sent + an RTT of its flow)

Of the unanswered probes whose reply may have come while it was full, some were answered, and others may have
been lost by the
network. Nobody can tell which, so all of them are hidden, and none is called lost. Only where they are of
one flow can the
number at least be told: then as many are hidden as packets were dropped, the last ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 1 << 12  # overflows remembered: a quarter of an hour of them
STEADY = 5_000_000  # ns between the quickest and the slowest reply of a flow whose replies come in order
KNOWN = 20  # replies that say when a flow's replies come

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass
class _Overflow:
    """The buffer was full from `full`, at the earliest, until it was read at `until` (monotonic ns)."""

    full: int
    until: int
    drops: int
    decided: bool = False  # all of it that can be told has been


@dataclass(frozen=True)
class Exposure:
    """Probes in the order of sending, one a row; times are monotonic ns.

    flow: whose it is. open_ends: it left and nobody answered so far.
    sent: when it left. earliest, latest: when its flow's quickest and slowest reply would have come.
    """

    flow: NDArray[np.int32]
    open_ends: Mask
    sent: Ints
    earliest: Ints
    latest: Ints


class Overflows:
    """All overflows that may concern probes whose window is still open."""

    def __init__(self) -> None:
        self._all: list[_Overflow] = []
        self.read_at = 0  # what came until then (monotonic ns) has been read

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, full: int, until: int, drops: int) -> None:
        """The buffer was full between these two instants; `drops` packets found it so (0: TX stamps
        alone)."""
        self._all.append(_Overflow(full, until, drops))
        del self._all[:-MOST]

    def blame(self, probes: Exposure, inside: int, end: int, timeout: int) -> tuple[Mask, Mask]:
        """Say which probes were hidden; asked window by window, with the probes of later ones behind.

        Args:
            inside: rows of the window that is closed now, which have had their time.
            end: of that window, monotonic ns: later ones hold nothing that was due before.
            timeout: ns; where a flow's RTT is not known, its replies may take as long.
        Returns two masks of the shape of the rows: the probes whose replies may have been dropped here,
        which may lie behind
        `inside`; the probes that left while the buffer was full, so that their TX stamp may be missing.
        """
        hidden = np.zeros(len(probes.sent), np.bool_)
        blurred = hidden.copy()
        if not inside:
            self._forget(end)
            return hidden, blurred
        spared: list[_Overflow] = []
        for n, overflow in enumerate(self._all):
            blurred |= (probes.sent <= overflow.until) & (probes.sent >= overflow.full - timeout)
            if overflow.decided:
                continue
            rows = np.flatnonzero(probes.open_ends & ~hidden & _may_have_come(probes, overflow))
            if len(rows) < overflow.drops:
                spared.append(overflow)  # there are drops that these do not explain
            if not len(rows) or rows[0] >= inside:
                continue
            overflow.decided = bool((probes.latest[rows] <= self.read_at).all())
            if not overflow.decided:
                rows = rows[rows < inside]
            elif len(rows) > overflow.drops and self._counted(probes, rows, n, inside):
                rows = rows[len(rows) - overflow.drops :]
            hidden[rows] = True
        for overflow in spared:
            # ... so that an RTT that the flow did not have before is no proof.
            wide = (probes.sent + timeout > overflow.full) & (probes.sent <= overflow.until)
            hidden[:inside] |= (probes.open_ends & wide)[:inside]
        self._forget(end)
        return hidden, blurred

    def _counted(self, probes: Exposure, rows: Ints, n: int, inside: int) -> bool:
        """Whether numbers can be compared: these are one flow's, and no other overflow may explain them.

        Where they lie in two windows, the order of their replies has to be known besides.
        """
        flow = probes.flow[rows]
        if (flow != flow[0]).any():
            return False
        spread = int((probes.latest[rows] - probes.earliest[rows]).max())
        if rows[0] < inside <= rows[-1] and spread > STEADY:
            return False
        mine = Exposure(
            flow, probes.open_ends[rows], probes.sent[rows], probes.earliest[rows], probes.latest[rows]
        )
        others = [self._all[k] for k in (n - 1, n + 1) if 0 <= k < len(self._all)]
        return not any(_may_have_come(mine, other).any() for other in others)

    def _forget(self, end: int) -> None:
        """What was read before `end` concerns no probe that is sent after it."""
        self._all = [overflow for overflow in self._all if overflow.until >= end]


def _may_have_come(probes: Exposure, overflow: _Overflow) -> Mask:
    """Whose reply may have come while the buffer was full."""
    return (
        (probes.latest >= overflow.full)
        & (probes.earliest <= overflow.until)
        & (probes.sent <= overflow.until)
    )


def arrivals(flow: NDArray[np.int32], left: Ints, rx: Ints, flows: int, timeout: int) -> tuple[Ints, Ints]:
    """When a reply to each probe may come, by the replies that did: (earliest, latest), monotonic ns.

    `left`: when each probe left; `rx`: when its reply came, 0: not. Of a flow with few replies nothing is
    known but
    that a reply may take until the timeout.
    """
    quickest, slowest = np.full(flows, 1 << 62, np.int64), np.zeros(flows, np.int64)
    answered = np.flatnonzero(rx != 0)
    took, whose = np.clip(rx[answered] - left[answered], 0, timeout), flow[answered]
    np.minimum.at(quickest, whose, took)
    np.maximum.at(slowest, whose, took)
    unknown = np.bincount(whose, minlength=flows) < KNOWN
    # Those that nobody saw may have been slower, or quicker.
    spread = slowest - quickest
    quickest, slowest = np.maximum(quickest - spread, 0), np.minimum(slowest + spread, timeout)
    quickest[unknown], slowest[unknown] = 0, timeout
    return left + quickest[flow], left + slowest[flow]
