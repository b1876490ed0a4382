"""Levels of flows that changed in, what is told of it out: of a target, or of the few of its flows that
differ.

An episode begins when the level leaves the usual one and ends when it is back. A level that stays for `STAYS`
windows is the usual one from then on. Where more than half of the flows of a target go the same way, that is
one event of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from probe.detect.found import BEGIN, END, Found, last, of_flows, share, times
from probe.detect.levels import Levels
from probe.detect.observed import Ends
from probe.detect.rows import Floats, Ints, Mask, Rows
from probe.text import duration

STAYS = 60  # windows
_GRACE = 5  # windows in which the other flows of a target may follow
_COMPANION = 0.25  # of a step: so far away, a flow goes along with others of its target
NONE, OWN, JOINT = 0, 1, 2


@dataclass(frozen=True)
class Moves:
    """What a window says of every flow. `changed`: 1 up, -1 down, else 0; `off`: how many steps the level is
    away from the usual one; `after`: the new level, ns; `before`: the one until now, ns."""

    changed: Ints
    off: Floats
    before: Floats
    after: Floats


class Episodes(Rows):
    """Who is away from its usual level. Arrays of shape (flows,)."""

    def __init__(self, flows: int) -> None:
        super().__init__(flows)
        self.state = np.zeros(flows, np.int64)
        self.usual = np.zeros(flows)  # the level to which it comes back, ns
        self.level = np.zeros(flows)  # ... and the one to which it went
        self.since = np.zeros(flows, np.int64)  # wall ns
        self.age = np.zeros(flows, np.int64)  # windows
        self.size = np.zeros(flows)  # of the usual level
        self.grace = np.zeros(flows, np.int64)  # windows left in which to follow the target's other flows
        self.way = np.zeros(flows, np.int64)  # ... and where to
        self.to = np.zeros(flows, np.int64)  # ... and the state that follows


class Shifts:
    """One measure of every flow, `kind` "latency" or "jitter".

    near: whether levels count as the usual ones again, of levels and usual ones in ns.
    falls: whether a fall below the usual level is told, too.
    alone: the kind of event for some flows out of many.
    """

    def __init__(
        self,
        kind: str,
        ends: Ends,
        levels: Levels,
        near: Callable[[Floats, Floats], Mask],
        *,
        falls: bool,
        alone: str,
    ) -> None:
        self._kind, self._alone = kind, alone
        self._near, self._falls = near, falls
        self.levels = levels
        self.episodes = Episodes(ends.all_flows)
        self._ends, self._names = ends, ends.names
        self._first, self._target = ends.first, ends.target_of()

    def told(self, moves: Moves, starts: Sequence[int]) -> list[Found]:
        """What is to be told of a window; `starts`: of the last windows, of this one last."""
        episodes = self.episodes
        if not (moves.changed.any() or episodes.state.any() or episodes.grace.any()):
            return []
        found: list[Found] = []
        for target in np.unique(self._target[moves.changed != 0]).tolist():
            for way in (1, -1):
                mine = self._flows_of(target)
                went = mine[moves.changed[mine] == way]
                if len(went):
                    found += self._went(target, way, went, moves, starts)
        away = episodes.state != NONE
        episodes.age += away
        episodes.grace = np.maximum(episodes.grace - 1, 0)
        staying = np.flatnonzero(away & (episodes.age >= STAYS))
        for target in np.unique(self._target[staying]).tolist():
            of_it = staying[self._target[staying] == target]
            for state in (OWN, JOINT):
                flows = of_it[episodes.state[of_it] == state]
                if len(flows):
                    now = self.levels.base[flows]
                    found.append(self._end(target, flows, self._shown(now), starts, stays=True))
        return found

    def closed(self, why: str, starts: Sequence[int], targets: Sequence[int]) -> list[Found]:
        """End the episodes of these targets: they are not measured any more."""
        found = []
        for target in targets:
            mine = self._flows_of(target)
            for state in (OWN, JOINT):
                flows = mine[self.episodes.state[mine] == state]
                if len(flows):
                    now = self._shown(self.levels.base[flows])
                    found.append(self._end(target, flows, now, starts, why=why))
        return found

    # -- of one target ---------------------------------------------------------------------------------------

    def _went(self, target: int, way: int, went: Ints, moves: Moves, starts: Sequence[int]) -> list[Found]:
        """These flows of a target went the same way."""
        episodes = self.episodes
        since = int(self.levels.since[went, 0 if way > 0 else 1].min())
        mine = self._flows_of(target)
        along = mine[self.levels.learnt[mine] & (way * moves.off[mine] > _COMPANION)]
        along = np.union1d(along, went)
        before = moves.before[went]
        self._move(went, moves)
        follows = (episodes.grace[went] > 0) & (episodes.way[went] == way)
        found: list[Found] = []
        apart = went[follows & (episodes.state[went] == OWN)]
        if len(apart):  # from now on they go with the others
            found.append(self._end(target, apart, moves.after[apart], starts, when=since))
        self._follow(went[follows], before[follows], mine)
        went, before = went[~follows], before[~follows]
        if not len(went):
            return found
        back = (episodes.state[went] != NONE) & self._is_back(went, moves)
        joint = mine[episodes.state[mine] == JOINT]
        returning = went[back & (episodes.state[went] == JOINT)]
        if len(returning):
            if len(np.intersect1d(along, joint)) * 2 > len(joint):
                after = moves.after[np.intersect1d(along, joint)]
                found.append(self._end(target, joint, after, starts, when=since))
                self._wait(joint, way, NONE)
            else:
                episodes.state[returning] = NONE
        own = went[back & (episodes.state[went] == OWN)]
        if len(own):
            found.append(self._end(target, own, moves.after[own], starts, when=since))
        further, before = went[~back], before[~back]
        if not len(further):
            return found
        if self._kind == "jitter" and (episodes.state[further] != NONE).any():
            return found  # still too much: how much is no other event
        if way < 0 and not self._falls:
            return found
        found += self._begin(target, way, further, along, before, moves, starts, since)
        return found

    def _begin(
        self,
        target: int,
        way: int,
        went: Ints,
        along: Ints,
        before: Floats,
        moves: Moves,
        starts: Sequence[int],
        since: int,
    ) -> list[Found]:
        found: list[Found] = []
        episodes = self.episodes
        mine = self._flows_of(target)
        all_flows = len(mine)
        most = all_flows == 1 or len(along) * 2 > all_flows
        # What goes on to a third level ends one episode and begins another.
        root = np.where(episodes.state[went] != NONE, episodes.usual[went], before)
        away = mine[episodes.state[mine] == JOINT] if most else went[episodes.state[went] != NONE]
        if most:
            away = np.union1d(away, went[episodes.state[went] == OWN])
        for state in (OWN, JOINT):
            ending = away[episodes.state[away] == state]
            if len(ending):
                # A few that leave the others' company do not end what the target has.
                if state == JOINT and not most:
                    episodes.state[ending] = NONE
                else:
                    found.append(self._end(target, ending, moves.after[ending], starts, when=since))
        episodes.state[went] = JOINT if most and all_flows > 1 else OWN
        episodes.usual[went], episodes.since[went], episodes.age[went] = root, since, 0
        episodes.level[went] = moves.after[went]
        episodes.size[went] = moves.after[went] / np.maximum(before, 1.0) - 1
        if most and all_flows > 1:
            self._wait(np.setdiff1d(mine, went), way, JOINT)
        flows = along if most else went
        usual, now = float(np.median(moves.before[flows])), float(np.median(moves.after[flows]))
        words, values = of_flows((flows - mine[0]).tolist(), all_flows, one_by_one=not most)
        kind = self._kind if most else self._alone
        if kind == "flow":
            values["what"] = self._kind
        size = now / max(usual, 1.0) - 1
        detail = {
            "phase": BEGIN,
            "begin_ns": since,
            "size": round(size, 4),
            "before_ns": round(usual),
            "after_ns": round(now),
            **values,
            "windows": last(starts, since),
        }
        text = f"{words}{self._kind} {'up' if way > 0 else 'down'} {share(abs(size))}: "
        found.append(Found(kind, text + times(round(usual), round(now)), (self._names[target],), detail))
        return found

    def _end(
        self,
        target: int,
        flows: Ints,
        after: Floats,
        starts: Sequence[int],
        *,
        when: int = 0,
        stays: bool = False,
        why: str = "",
    ) -> Found:
        """The end of an episode of these flows: at the beginning of the window `when`, or now."""
        episodes = self.episodes
        mine = self._flows_of(target)
        joint = len(mine) == 1 or bool((episodes.state[flows] == JOINT).any())
        usual, now = float(np.median(episodes.usual[flows])), float(np.median(after))
        begin, end = int(episodes.since[flows].min()), when or starts[-1]
        words, values = of_flows((flows - mine[0]).tolist(), len(mine), one_by_one=not joint)
        kind = self._kind if joint else self._alone
        if kind == "flow":
            values["what"] = self._kind
        left = float(np.median(episodes.level[flows]))
        size = float(np.median(episodes.size[flows]))
        detail: dict[str, object] = {
            "phase": END,
            "begin_ns": begin,
            "end_ns": end,
            "size": round(size, 4),
            "before_ns": round(usual if stays else left),
            "after_ns": round(now),
            **values,
            "windows": last(starts, when or starts[-1]),
        }
        lasted = f" after {duration(max(end - begin, 0))}"
        if stays:
            detail["stays"] = True
            text = f"{words}{self._kind} stays: {times(round(usual), round(now))} is the usual one{lasted}"
        elif why:
            detail["why"] = why
            text = f"{words}{self._kind} no longer watched: {why}{lasted}"
        elif self._near(np.array([now]), np.array([usual]))[0]:
            text = f"{words}{self._kind} back at {duration(round(now))}{lasted}"
        else:
            text = f"{words}{self._kind} changes again: {times(round(left), round(now))}{lasted}"
        episodes.state[flows] = NONE
        return Found(kind, text, (self._names[target],), detail)

    # -- parts -----------------------------------------------------------------------------------------------

    def _flows_of(self, target: int) -> Ints:
        first = self._first[target]
        return np.arange(first, first + self._ends.flows[target])

    def _is_back(self, flows: Ints, moves: Moves) -> Mask:
        return self._near(moves.after[flows], self.episodes.usual[flows])

    def _shown(self, level: Floats) -> Floats:
        return level if self._kind == "latency" else np.exp(level)

    def _move(self, flows: Ints, moves: Moves) -> None:
        to = moves.after[flows]
        self.levels.move(flows, to if self._kind == "latency" else np.log(to))

    def _wait(self, flows: Ints, way: int, state: int) -> None:
        episodes = self.episodes
        episodes.grace[flows], episodes.way[flows], episodes.to[flows] = _GRACE, way, state

    def _follow(self, flows: Ints, before: Floats, mine: Ints) -> None:
        episodes = self.episodes
        joint = mine[episodes.state[mine] == JOINT]
        joins = (episodes.to[flows] == JOINT) & (episodes.state[flows] == NONE) & (len(joint) > 0)
        ends = episodes.to[flows] == NONE
        who = flows[joins]
        if len(who):
            episodes.usual[who], episodes.level[who] = before[joins], self._shown(self.levels.base[who])
            episodes.since[who], episodes.age[who] = episodes.since[joint].min(), episodes.age[joint].min()
            episodes.size[who] = episodes.size[joint].max()
        episodes.state[who] = JOINT
        episodes.state[flows[ends]] = NONE
        episodes.grace[flows] = 0
