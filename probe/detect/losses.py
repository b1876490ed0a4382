"""Counts of windows in, the windows in which a flow began and ceased to lose, or to answer at all, out.

Loss begins with a run of consecutive losses (RFC 3357 loss period), followed over the end of a window; or
where losses come faster than this flow's usual ones: a one-sided Poisson CUSUM (J. M. Lucas, Counted data
CUSUM's, Technometrics 27, 1985), which adds up the logarithm of how much likelier a window is with the rate
to be found than with the usual one. It ceases by the same sum the other way round: windows without a loss are
proof of more the more losses there should have been (A. Wald, Sequential analysis, 1947).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.detect.rows import Floats, Ints, Mask, Rows

_SURE = 13.0  # of log likelihood: e^13 to 1
_OVER = 4.0  # ... and e^4 to 1 that it is over
_PRIOR, _PRIOR_LOST = 1000.0, 0.01  # probes, and losses of them, that count as seen before the first one
_MEMORY = 360  # windows
_LEARN = 12  # windows before a rate of loss, other than a run, is told
_TOLERATED = 0.003  # a share of loss above this is never usual
_FEWEST, _MOST = 0.001, 0.01  # the share of losses to be found, where none are usual


@dataclass(frozen=True)
class Tally:
    """One window's counts, of every row; shape (rows,). `first`, `last`: lost in a row at its ends."""

    sent: Ints
    received: Ints
    lost: Ints
    late: Ints
    errors: Ints
    burst: Ints
    first: Ints
    last: Ints


class Losses(Rows):
    """Loss of flows and of groups of them. Arrays of shape (rows,)."""

    def __init__(self, rows: int, run: int) -> None:
        super().__init__(rows)
        self._least = run  # consecutive losses that are told
        self.on = np.zeros(rows, np.bool_)
        self.since = np.zeros(rows, np.int64)  # start of the first window of it, wall ns
        self.until = np.zeros(rows, np.int64)  # end of the last window with a loss
        self.sent = np.zeros(rows, np.int64)  # between these two
        self.lost = np.zeros(rows, np.int64)
        self.burst = np.zeros(rows, np.int64)  # the longest run
        self._tail = np.zeros(rows, np.int64)  # lost in a row at the end of the window before
        self._tail_start = np.zeros(rows, np.int64)  # the window in which that run began
        self._last_sent = np.zeros(rows, np.int64)  # of the window before
        self._last_lost = np.zeros(rows, np.int64)
        self._seen = np.zeros(rows, np.int64)  # windows
        self._usual_sent = np.zeros(rows)
        self._usual_lost = np.zeros(rows)
        self._sum = np.zeros(rows)  # log likelihood that it loses more than usual
        self._clean_sent = np.zeros(rows, np.int64)  # since the last loss
        self._clean = np.zeros(rows)  # log likelihood that it is over

    def update(self, tally: Tally, start_ns: int, end_ns: int, adjoining: bool) -> tuple[Mask, Mask]:
        """A window. Returns who begins to lose, and who has ceased: for these, `since`, `until`, `sent`,
        `lost` and `burst` say when and how much, until the next call.

        adjoining: it begins where the one before ended.
        """
        sent, lost = tally.sent, tally.lost
        if not adjoining:
            self._tail[:] = 0
        if not (lost.any() or self.on.any() or self._sum.any() or self._tail.any()):
            return self._nothing(sent, start_ns)
        some = sent > 0
        usual = np.minimum((self._usual_lost + _PRIOR_LOST) / (self._usual_sent + _PRIOR), _TOLERATED)
        found = np.minimum(
            np.maximum(3 * usual, np.clip(self._least / np.maximum(sent, 1), _FEWEST, _MOST)), 1.0
        )
        likelier = lost * np.log(found / usual) - sent * (found - usual)
        judged = ~self.on & (self._seen >= _LEARN)
        total = np.where(judged, np.maximum(self._sum + likelier, 0.0), 0.0)
        # What is counted begins with the sum, or anew with a run, where that began.
        joined = np.where((self._tail > 0) & (tally.first > 0), self._tail + tally.first, 0)
        crossing = joined >= self._least
        run = (crossing | (tally.burst >= self._least)) & ~self.on
        fresh = run | (~self.on & (self._sum <= 0) & (lost > 0))
        for state in (self.sent, self.lost, self.burst, self._clean_sent, self._clean):
            state[fresh] = 0
        self.since = np.where(fresh, np.where(crossing, self._tail_start, start_ns), self.since)
        carried = fresh & crossing
        self.sent[carried] = self._last_sent[carried]
        self.lost[carried] = self._last_lost[carried]
        rate = (total >= _SURE) & (self.lost + lost >= self._least)
        begins = (run | rate) & ~self.on & some
        ends = self._ends(sent, lost, usual) & some
        counted = self.on | begins | (total > 0)
        losing = counted & (lost > 0)
        self.sent += np.where(losing, self._clean_sent + sent, 0)
        self._clean_sent = np.where(losing, 0, self._clean_sent + np.where(counted, sent, 0))
        self.lost += np.where(losing, lost, 0)
        self.burst = np.where(losing, np.maximum(self.burst, np.maximum(tally.burst, joined)), self.burst)
        self.until = np.where(losing, end_ns, self.until)
        # What adds up is usual only once it came to nothing.
        quiet = ~counted
        nothing = quiet & (self._sum > 0)
        kept = np.where(quiet, 1 - 1 / _MEMORY, 1.0)
        waited = np.where(nothing, self.sent + self._clean_sent, 0)
        self._usual_sent = (self._usual_sent + waited + np.where(quiet, sent, 0)) * kept
        self._usual_lost = (
            self._usual_lost + np.where(nothing, self.lost, 0) + np.where(quiet, lost, 0)
        ) * kept
        whole = some & (tally.first == sent)
        goes_on = (whole & (self._tail > 0)) | ~some
        self._tail_start = np.where(goes_on, self._tail_start, start_ns)
        self._tail = np.where(some, np.where(whole, self._tail + sent, tally.last), self._tail)
        self._last_sent = np.where(some, sent, self._last_sent)
        self._last_lost = np.where(some, lost, self._last_lost)
        self._seen += some
        self.on = (self.on | begins) & ~ends
        self._sum = np.where(begins | ends, 0.0, total)
        return begins, ends

    def _nothing(self, sent: Ints, start_ns: int) -> tuple[Mask, Mask]:
        """Nothing was lost, and nothing is open: what `update` comes to then."""
        self._usual_sent += sent
        self._usual_sent *= 1 - 1 / _MEMORY
        self._usual_lost *= 1 - 1 / _MEMORY
        self._tail_start[:] = start_ns
        np.copyto(self._last_sent, sent, where=sent > 0)
        np.copyto(self._last_lost, 0, where=sent > 0)
        self._seen += sent > 0
        none = np.zeros(self.rows, np.bool_)
        return none, none

    def _ends(self, sent: Ints, lost: Ints, usual: Floats) -> Mask:
        share = np.clip(self.lost / np.maximum(self.sent, 1), 2 * usual, 1.0)
        clean = sent * (share - usual) - lost * np.log(share / usual)
        self._clean = np.where(self.on, np.maximum(self._clean + clean, 0.0), 0.0)
        return np.asarray(self.on & (self._clean >= _OVER) & (lost == 0))


class Silences(Rows):
    """Targets that do not answer at all. Arrays of shape (rows,)."""

    def __init__(self, rows: int, windows: int, probes: int) -> None:
        super().__init__(rows)
        self._windows, self._probes = windows, probes
        self.on = np.zeros(rows, np.bool_)
        self.since = np.zeros(rows, np.int64)
        self.sent = np.zeros(rows, np.int64)  # probes that left, and were not answered
        self._run = np.zeros(rows, np.int64)

    def update(self, tally: Tally, start_ns: int) -> tuple[Mask, Mask]:
        """A window. Returns who is told to be silent now, and who answers again (`since` and `sent` then say
        since when and how many)."""
        answered = (tally.received > 0) | (tally.late > 0)
        # What this host did not let out tells nothing; but where it let out some before, as a kernel that
        # then found no neighbour, the target has not come back.
        tried = (tally.sent > 0) | ((tally.errors > 0) & (self._run > 0))
        silent = tried & ~answered
        self.since = np.where(silent & (self._run == 0), start_ns, self.since)
        self.sent = np.where(silent, np.where(self._run == 0, 0, self.sent) + tally.sent, self.sent)
        self._run = np.where(answered, 0, self._run + silent)
        told = silent & ~self.on & (self._run >= self._windows) & (self.sent >= self._probes)
        back = self.on & answered
        self.on = (self.on | told) & ~back
        return told, back
