"""Summaries of windows in, events out: the one place where what is watched of flows is joined.

docs/measuring.md defines each event. What is watched: loss and silence (`losses`), the level of the RTT and
its spread (`levels`), each against the flow's own history, and the flows of a target against each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from probe.detect.found import Found, bounded
from probe.detect.levels import NEARLY, Levels, Rule
from probe.detect.observed import Ends, Observed
from probe.detect.rows import Floats, Ints, Mask
from probe.detect.shifts import Moves, Shifts
from probe.detect.silence import Losing
from probe.windows.summary import Summaries

# A shift is told of where it is longer than so much, too: below it, kernels and processors have moods.
NOTABLE, NOTABLE_HARDWARE = 40_000.0, 2_000.0  # ns; by the kernel's stamps, and by the interface's
LATENCY = Rule(clip=1.25, least=0.32, learn=6, windows=1, probes=6, restless=0.3, little=0.2)
JITTER = Rule(clip=1.5, least=3.5, learn=16, windows=4, probes=100, restless=1.0, little=0.5)
_RISE = float(np.log(2.0))  # of jitter: what is to be found is twice the usual one
_STRANGE = 0.25  # more of the RTTs than usual are by our own clock: no window to compare others with
_CLEAR = 8.0  # times the scatter
_STARTS = 64
_SKEWED = 8  # in each window one of so many flows is looked at for how its mean lies to its median


class Sizes(Protocol):
    """What counts as an event; `probe.settings.DetectTable` is one."""

    @property
    def shift(self) -> float: ...
    @property
    def loss_burst(self) -> int: ...
    @property
    def unreachable(self) -> int: ...


class Detector:
    """The events of one measurement.

    Args:
        targets: tags of each, and how many flows it has, in the order of flows.
        before: of the measurement that this one follows. When the first window comes, what it knows of
            targets whose tags and number of flows are the same is taken over; its own windows are ignored
            from then on.
    """

    def __init__(
        self,
        sizes: Sizes,
        targets: Sequence[tuple[Mapping[str, str], int]],
        before: Detector | None = None,
    ) -> None:
        self._sizes = sizes
        self._ends = ends = Ends(
            tuple(dict(tags) for tags, _ in targets), tuple(flows for _, flows in targets)
        )
        self._before = before
        self._over = False  # another one has taken over
        self._losing = Losing(ends, sizes.loss_burst, sizes.unreachable)
        self._latency = Shifts(
            "latency", ends, Levels(ends.all_flows, LATENCY), self._near, falls=True, alone="flow"
        )
        self._jitter = Shifts(
            "jitter", ends, Levels(ends.all_flows, JITTER), _alike, falls=False, alone="jitter"
        )
        self._unstamped = np.full(ends.all_flows, np.nan)  # the usual share
        self._several = np.repeat(np.array(ends.flows) > 1, ends.flows)  # flows that have companions
        self._skew = np.zeros(ends.all_flows)  # how far the mean usually lies above the median, ns
        self._still = np.ones(ends.all_flows, np.bool_)  # this window did not go to another level
        self._starts: deque[int] = deque(maxlen=_STARTS)
        self._end = 0  # of the last window
        self._turn = 0  # windows so far
        self._window = Observed(ends.all_flows, ends.rows)
        self._pending: list[Found] = []  # of what was taken over
        self._limits: tuple[Floats, Floats, Mask] | None = None

    def add(self, first: int, flows: int, first_group: int, summaries: Summaries) -> None:
        """A piece of the window that is being closed: the flows from `first` on, and those targets with
        several flows from the `first_group`-th on."""
        if self._over:
            return
        if self._before is not None:
            self._inherit(self._before, summaries.start_ns)
        if self._limits is None:
            base = self._latency.levels.base
            up, down = self._steps(base)
            learnt = self._latency.levels.learnt
            due = np.zeros(len(base), np.bool_)
            due[self._turn % _SKEWED :: _SKEWED] = True
            due |= self._several
            self._limits = (
                np.where(learnt, base - LATENCY.clip * down, 0.0),
                np.where(learnt, base + LATENCY.clip * up, np.inf),
                due & learnt,
            )
        self._window.put(first, flows, first_group, summaries, *self._limits)

    def close(self, start_ns: int, end_ns: int) -> list[Found]:
        """The window is complete: wall clock, ns. What is to be told of it."""
        if self._over:
            return []
        adjoining = start_ns == self._end
        if not adjoining:
            for shifts in (self._latency, self._jitter):
                shifts.levels.rest(slice(None))
        self._end = end_ns
        self._turn += 1
        self._starts.append(start_ns)
        starts = list(self._starts)
        window = self._window
        found, self._pending = self._pending, []
        found += self._losing.told(window, starts, end_ns, adjoining)
        sound = self._sound(window)
        found += self._latency.told(self._latency_moves(window, sound, start_ns), starts)
        found += self._jitter.told(self._jitter_moves(window, sound, start_ns), starts)
        self._window = Observed(self._ends.all_flows, self._ends.rows)
        self._limits = None
        return bounded(found)

    # -- levels ----------------------------------------------------------------------------------------------

    def _steps(self, base: Floats) -> tuple[Floats, Floats]:
        """What has to be found, up and down: a fall undoes the rise of the same name."""
        least = np.where(self._window.hardware, NOTABLE_HARDWARE, NOTABLE)
        shift = self._sizes.shift
        return np.maximum(base * shift, least), np.maximum(base * shift / (1 + shift), least)

    def _near(self, level: Floats, usual: Floats) -> Mask:
        return np.asarray(np.abs(level - usual) <= np.maximum(usual * self._sizes.shift, NOTABLE) * 0.5)

    def _sound(self, window: Observed) -> Mask:
        usual = np.where(np.isnan(self._unstamped), window.unstamped, self._unstamped)
        sound = window.some & (window.unstamped <= usual + _STRANGE)
        self._unstamped = np.where(window.some, usual + (window.unstamped - usual) / 16, self._unstamped)
        return np.asarray(sound)

    def _latency_moves(self, window: Observed, sound: Mask, start_ns: int) -> Moves:
        levels = self._latency.levels
        before = levels.base.copy()
        up, down = self._steps(before)
        middle = window.times["rtt_p50_ns"]
        # The median does not heed a few outliers, but jumps where RTTs are of two sorts; the mean of what was
        # drawn in does not jump, but heeds outliers. Of both, what is nearer to the usual level counts.
        made = sound & levels.learnt & ~np.isnan(window.level)
        mean = np.where(made, window.level - self._skew, middle)
        off = np.minimum(np.abs(middle - before), np.abs(mean - before)) * np.sign(middle - before)
        off[(middle > before) != (mean > before)] = 0.0
        level = np.where(levels.learnt, before + off, middle)
        # Where nearly all RTTs of a window lie far beyond the scatter, one window is enough.
        clear = np.abs(off) >= np.where(off > 0, up, down)
        clear &= np.abs(middle - before) >= _CLEAR * levels.scatter
        changed = levels.update(level, window.timed, up, down, start_ns, sound, middle, clear)
        some = np.flatnonzero(made)
        skew, limit = self._skew[some], 0.25 * up[some]
        skew += (window.level[some] - middle[some] - skew) / 8
        self._skew[some] = np.clip(skew, -limit, limit)
        # Who goes along with others need not be sure.
        off = np.where(made, mean - before, off)
        off = np.where(off > 0, off / up, off / down)
        # Most of the probes have to be on their way to the new level, however far away the rest are.
        away = np.where(changed > 0, (middle - before) / up, (before - middle) / down)
        changed[~(away > NEARLY)] = 0
        # A window between two levels is spread out by that. (Those before are not known to be in time, but
        # they are too few to be told as jitter.)
        self._still = changed == 0
        return Moves(changed, np.where(sound, off, 0.0), before, middle)

    def _jitter_moves(self, window: Observed, sound: Mask, start_ns: int) -> Moves:
        levels = self._jitter.levels
        times = window.times
        level = np.log(np.maximum(times["rtt_p90_ns"] - times["rtt_min_ns"], NOTABLE))
        heed = sound & self._still
        before = levels.base.copy()
        step = np.full(len(level), _RISE)
        changed = levels.update(level, window.timed, step, step, start_ns, heed)
        off = np.where(heed, (level - before) / _RISE, 0.0)
        # Beside a long RTT, some us more are nothing.
        least = np.maximum(NOTABLE, times["rtt_p50_ns"] * self._sizes.shift / 2)
        changed[(changed > 0) & ~(np.exp(level) - np.exp(before) >= least)] = 0
        return Moves(changed, off, np.exp(before), np.exp(level))

    # -- another measurement ---------------------------------------------------------------------------------

    def _inherit(self, old: Detector, start_ns: int) -> None:
        """Take over what is known of targets that stay."""
        self._before = None
        if old._before is not None:
            old._inherit(old._before, start_ns)
        old._over = True
        self._starts, self._end = old._starts, old._end
        mine, theirs = self._ends, old._ends
        places = {(_key(tags), flows): n for n, (tags, flows) in _numbered(theirs)}
        source = np.array(
            [places.get((_key(tags), flows), -1) for _, (tags, flows) in _numbered(mine)], np.int64
        )
        gone = sorted(set(range(len(theirs.flows))) - set(source.tolist()))
        many = [n for n in source.tolist() if n >= 0 and theirs.flows[n] > 1]
        starts = [*self._starts, start_ns]
        self._pending = old._pending
        self._pending += old._losing.closed("it is not measured any more", starts, gone)
        for shifts in (old._latency, old._jitter):
            self._pending += shifts.closed("it is not measured any more", starts, gone)
            self._pending += shifts.closed("its flows are others now", starts, many)
        flow_source, row_source = _flow_sources(mine, theirs, source)
        self._losing.losses.adopt(old._losing.losses, row_source)
        self._losing.told_of.adopt(old._losing.told_of, row_source)
        self._losing.silences.adopt(old._losing.silences, source)
        # Ports and identifiers are new, and so are perhaps the paths: of several flows none is what it was.
        flow_source = np.where(self._several, -1, flow_source)
        for new, before in ((self._latency, old._latency), (self._jitter, old._jitter)):
            new.levels.adopt(before.levels, flow_source)
            new.levels.rest(slice(None))
            new.episodes.adopt(before.episodes, flow_source)
        kept = flow_source >= 0
        self._unstamped[kept] = old._unstamped[flow_source[kept]]
        self._skew[kept] = old._skew[flow_source[kept]]


def _alike(level: Floats, usual: Floats) -> Mask:
    return np.asarray(level <= usual * 1.5)


def _numbered(ends: Ends) -> list[tuple[int, tuple[Mapping[str, str], int]]]:
    return list(enumerate(zip(ends.tags, ends.flows, strict=True)))


def _key(tags: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(tags.items())


def _flow_sources(mine: Ends, theirs: Ends, source: Ints) -> tuple[Ints, Ints]:
    """Which flow, and which row, of the other measurement each of this one's is; -1: none."""
    flows: list[int] = []
    groups: list[int] = []
    first, whole = theirs.first, theirs.whole()
    for target, count in enumerate(mine.flows):
        there = int(source[target])
        flows += [-1] * count if there < 0 else list(range(first[there], first[there] + count))
        if count > 1:
            groups.append(-1 if there < 0 else int(whole[there]))
    return np.array(flows, np.int64), np.array(flows + groups, np.int64)
