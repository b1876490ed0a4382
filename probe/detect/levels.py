"""One number a flow and window in, the windows in which its level changed out: each flow against its own
history, robustly.

A two-sided CUSUM (E. S. Page, Continuous inspection schemes, Biometrika 41, 1954) for a change by a given
step: with the allowance k = step / 2, which is the best for that step, and the scatter besides, it adds up
how far each window lies beyond k from the usual level, and tells a change when the sum is large enough. So
what is clear is told after one full window, and what is doubtful only after several; what wanders by less
than half a step adds up to nothing.

- The usual level is the median of the last `HISTORY` windows, its scatter 1.4826 times their median absolute
  deviation (F. R. Hampel, The influence curve and its role in robust estimation, JASA 69, 1974). Windows
  with heavy tails, of which a few are far off, hide behind a MAD; therefore the scatter is at least half of
  the second largest deviation (of a normal distribution that is the same), and goes down slowly.
- A window counts with at most `clip` steps (P. J. Huber, Robust estimation of a location parameter, Annals of
  Mathematical Statistics 35, 1964), and with less where it has fewer probes than usual.
- After a change the history is moved to the new level, so its scatter is known at once, and the next change
  is found as soon as the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.detect.rows import Floats, Ints, Mask, Rows

HISTORY = 32  # windows
_LATELY = 8  # the usual level is worked out anew every so many windows, of an eighth of the flows each
_SURE = 5.0  # times the scatter: the least sum that is told
_DECAY = 0.85  # of the scatter, each time it is worked out anew
_YOUNG = 8.0  # with n windows of history the scatter is taken 1 + 8 / n times
_FEW = 16  # windows of history: with fewer, it is worked out anew in each
_NORMAL = 1.4826
NEARLY = 0.8  # of a step: less is not told, even where it adds up


@dataclass(frozen=True)
class Rule:
    """When a level counts as changed.

    clip: steps a window counts with at most. least: the sum, in steps, without which nothing is told.
    learn: windows before anything is told. windows, probes: of those that prove it, at least.
    little: a window that lies so many steps off is looked at.
    restless: the scatter counts as at most so many steps, so that what stays far off is told in the end.
    """

    clip: float
    least: float
    learn: int
    windows: int
    probes: int
    restless: float
    little: float


class Levels(Rows):
    """The levels of flows. Arrays of shape (rows,); a step is in the unit of the level itself."""

    def __init__(self, rows: int, rule: Rule) -> None:
        super().__init__(rows)
        self.rule = rule
        self.base = np.full(rows, np.nan)  # the usual level
        self.scatter = np.zeros(rows)
        self.known = np.zeros(rows, np.int64)  # windows of history, at most HISTORY
        self.since = np.zeros(
            (rows, 2), np.int64, order="F"
        )  # start of the first window that goes up, or down
        self._ring = np.full((rows, HISTORY), np.nan)
        self._at = np.zeros(rows, np.int64)
        self._sum = np.zeros((rows, 2), order="F")  # up, down
        self._run = np.zeros((rows, 2), np.int64, order="F")  # windows since the sum left 0
        self._probes = np.zeros((rows, 2), np.int64, order="F")  # ... and their probes
        self._usual = np.zeros(rows)  # probes a window
        self._before = np.zeros(
            (rows, 2), np.int64
        )  # start of the window before, where it went there a little
        self._busy = np.zeros(rows, np.bool_)  # any of these
        self._waits = np.zeros((rows, 2), np.bool_, order="F")  # ... and whether that one was the first such
        self._turn = 0

    @property
    def learnt(self) -> Mask:
        """Of which flows enough is known."""
        return self.known >= self.rule.learn

    def update(
        self,
        level: Floats,
        probes: Ints,
        up: Floats,
        down: Floats,
        start_ns: int,
        sound: Mask,
        seen: Floats | None = None,
        clear: Mask | None = None,
    ) -> Ints:
        """A window of every flow. Returns 1 where the level went up, -1 where it went down, else 0.

        level: of the window; `probes`: how many it is made of; 0: there is none.
        up, down: the steps to be found. sound: whether to heed the window at all.
        seen: what goes into the history, where that is not `level`.
        clear: which windows prove a change by themselves, however much levels scatter.
        Whoever is told of a change calls `move` with these rows.
        """
        rule = self.rule
        heed = sound & (probes > 0)
        judged = heed & self.learnt
        self._usual += heed * (probes - self._usual) / np.minimum(self._at + 1.0, 16.0)
        off = np.where(judged, level - self.base, 0.0)
        changed = np.zeros(self.rows, np.int64)
        # Nearly every flow lies at its level, and nothing has to be done.
        some = np.flatnonzero(judged & (self._busy | (np.abs(off) > rule.little * np.minimum(up, down))))
        if len(some):
            weight = np.minimum(1.0, probes[some] / np.maximum(self._usual[some], 1.0))
            for side, step in enumerate((up[some], -down[some])):
                sure = clear[some] if clear is not None else np.zeros(len(some), np.bool_)
                told = self._add_up(some, side, off[some], step, weight, probes[some], start_ns, sure)
                changed[some[told]] = 1 - 2 * side
            self._busy[some] = (self._sum[some] > 0).any(axis=1) | (self._before[some] > 0).any(axis=1)
        self._remember(level if seen is None else seen, heed)
        return changed

    def _add_up(
        self,
        rows: Ints,
        side: int,
        off: Floats,
        step: Floats,
        weight: Floats,
        probes: Ints,
        start_ns: int,
        clear: Mask,
    ) -> Mask:
        """A window of these rows, on one side; who is told of."""
        rule = self.rule
        off, step = off * np.sign(step), np.abs(step)
        far = np.clip(off, -rule.clip * step, rule.clip * step)
        scatter = np.minimum(self.scatter[rows], rule.restless * step)
        more = np.maximum(self._sum[rows, side] + weight * (far - step / 2 - scatter), 0.0)
        growing = more > 0
        run, before = self._run[rows, side], self._before[rows, side]
        first = np.where(before > 0, before, start_ns)
        self.since[rows, side] = np.where(growing & (run == 0), first, self.since[rows, side])
        # A window into whose end the change fell lies between both levels.
        little = ~growing & (off > np.maximum(rule.little * step, 2 * scatter))
        self._waits[rows, side] = little & (before == 0)
        self._before[rows, side] = np.where(little, start_ns, 0)
        self._run[rows, side] = run = (run + 1) * growing
        self._probes[rows, side] = proof = (self._probes[rows, side] + probes) * growing
        self._sum[rows, side] = more
        sure = _SURE * (1 + _YOUNG / np.maximum(self.known[rows], 1))
        told = growing & (run >= rule.windows) & (proof >= rule.probes) & (far > NEARLY * step)
        return np.asarray(told & (clear | (more >= np.maximum(rule.least * step, sure * scatter))))

    def move(self, which: Ints, level: Floats) -> None:
        """The levels of these rows are now these: their history moves along."""
        ring, base = self._ring[which], self.base[which][:, None]
        # What lay on the new level, or between both, says nothing of the scatter.
        age = (self._at[which][:, None] - 1 - np.arange(HISTORY)) % HISTORY
        mixed = (age <= self._run[which].max(axis=1)[:, None]) & ~np.isnan(ring)
        self._ring[which] = np.where(mixed, base, ring) + (level[:, None] - base)
        self.base[which] = level
        self.rest(which)

    def rest(self, which: Ints | slice) -> None:
        """Forget what has added up so far, as after a gap."""
        for state in (self._sum, self._run, self._probes, self._before, self._waits, self._busy):
            state[which] = 0

    def _remember(self, level: Floats, heed: Mask) -> None:
        rows = np.flatnonzero(heed)
        self._ring.reshape(-1)[rows * HISTORY + self._at[rows] % HISTORY] = level[rows]
        self._at += heed
        np.minimum(self._at, HISTORY, out=self.known)
        # All of what is little known is always worked out, of the rest some in each window.
        self._turn += 1
        due = np.zeros(self.rows, np.bool_)
        due[self._turn % _LATELY :: _LATELY] = True
        which = due | (self.known <= _FEW)
        which &= heed
        rows = np.flatnonzero(which)
        # While something adds up it is not known yet whether that is noise: if not, it is no part of it.
        settled = ((self._run[rows] == 0) | (self._run[rows] >= HISTORY)) & ~self._waits[rows]
        rows = rows[settled.all(axis=1)]
        if not len(rows):
            return
        ring, known = self._ring[rows], self.known[rows]
        each = np.arange(len(rows))
        base = _medians(ring, known)
        away = np.sort(np.abs(ring - base[:, None]), axis=1)  # NaN last
        deviation = away[each, (known - 1) // 2] * _NORMAL
        largest = away[each, np.maximum(known - np.where(known >= _FEW, 2, 1), 0)] / 2
        faded = self.scatter[rows] * np.where(known > _FEW, _DECAY, 0.0)
        self.base[rows] = base
        self.scatter[rows] = np.maximum(np.maximum(deviation, largest), faded)


def _medians(ring: Floats, known: Ints) -> Floats:
    ordered = np.sort(ring, axis=1)
    each = np.arange(len(ring))
    low, high = ordered[each, (known - 1) // 2], ordered[each, known // 2]
    return np.asarray((low + high) / 2)
