"""Losses of flows and targets in, what is told of them out: of a target, of the few of its flows that lose,
or that it does not answer at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probe.detect.found import BEGIN, END, Found, last, of_flows, share
from probe.detect.losses import Losses, Silences
from probe.detect.observed import Ends, Observed
from probe.detect.rows import Ints, Mask, Rows
from probe.text import duration

_HOLDS = 0.8  # of a target's losses: who has so many is the one that loses


class _Told(Rows):
    """What was told of each row of `Losses`."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.on = np.zeros(rows, np.bool_)


class Losing:
    """Loss and silence of every target. `run`: consecutive losses that are told; `windows`: without an
    answer, until a target is silent."""

    def __init__(self, ends: Ends, run: int, windows: int) -> None:
        self._ends, self._names = ends, ends.names
        self._first, self._whole, self._target = ends.first, ends.whole(), ends.target_of()
        self._least = run
        self.losses = Losses(ends.rows, run)
        self.silences = Silences(len(ends.flows), windows, max(run, 3))
        self.told_of = _Told(ends.rows)

    def told(self, window: Observed, starts: Sequence[int], end_ns: int, adjoining: bool) -> list[Found]:
        """What is to be told of a window; `starts`: of the last windows, of this one last."""
        tally = window.tally()
        begins, ends = self.losses.update(tally, starts[-1], end_ns, adjoining)
        found: list[Found] = []
        flows = self._ends.all_flows
        # Where a target with several flows loses, and nothing was told of it, that may change each window.
        open_ones = self.losses.on & ~self.told_of.on & (tally.lost > 0)
        some = begins | ends | open_ones
        if some.any():
            changed = np.flatnonzero(some[self._whole])
            for target in np.union1d(changed, self._target[(begins | ends)[:flows]]).tolist():
                found += self._of_target(target, begins, ends, tally.lost, starts)
        told, back = self.silences.update(window.at(self._whole), starts[-1])
        for target in np.flatnonzero(told).tolist():
            found.append(self._silent(target, starts))
        for target in np.flatnonzero(back).tolist():
            found.append(self._answers(target, starts))
        return found

    def closed(self, why: str, starts: Sequence[int], targets: Sequence[int]) -> list[Found]:
        """End the episodes of these targets: they are not measured any more."""
        found = []
        for target in targets:
            rows = [int(self._whole[target]), *self._flows_of(target).tolist()]
            for row in dict.fromkeys(rows):
                if self.told_of.on[row]:
                    flow = row if row < self._ends.all_flows and row != rows[0] else None
                    which = np.array([row if flow is None else flow])
                    found.append(self._loss(END, target, which, flow is None, starts, why))
            if self.silences.on[target]:
                found.append(self._answers(target, starts, why))
        return found

    def _of_target(
        self, target: int, begins: Mask, ends: Mask, lost: Ints, starts: Sequence[int]
    ) -> list[Found]:
        whole = int(self._whole[target])
        told, state = self.told_of.on, self.losses
        flows = self._flows_of(target)
        one = np.array([whole])
        found: list[Found] = []
        if len(flows) > 1:
            ceased = flows[(ends & told)[flows]]
            if len(ceased):
                told[ceased] = False
                found.append(self._loss(END, target, ceased, False, starts))
        if ends[whole] and told[whole]:
            told[whole] = False
            found.append(self._loss(END, target, one, True, starts))
        if told[whole]:
            return found  # its flows' losses are the target's
        begun = flows[begins[flows]]
        if not len(begun) and not (state.on[whole] and lost[whole]):
            return found
        if len(flows) > 1:
            losing = flows[state.on[flows]]
            few = 0 < len(losing) * 2 <= len(flows)
            if few and lost[losing].sum() >= _HOLDS * lost[whole]:
                if len(begun):
                    told[begun] = True
                    found.append(self._loss(BEGIN, target, begun, False, starts))
                return found
            if not state.on[whole]:
                # Runs over the end of a window are seen in flows only.
                self._take_over(whole, begun)
            elif not begins[whole] and lost[whole] < self._least:
                return found
        told[whole] = True
        found.append(self._loss(BEGIN, target, one, True, starts))
        return found

    def _take_over(self, whole: int, flows: Ints) -> None:
        state = self.losses
        state.on[whole] = True
        state.since[whole] = state.since[flows].min()
        state.until[whole] = state.until[flows].max()
        state.burst[whole] = state.burst[flows].max()
        state.sent[whole], state.lost[whole] = state.sent[flows].sum(), state.lost[flows].sum()

    def _loss(
        self,
        phase: str,
        target: int,
        rows: Ints,
        all_of_it: bool,
        starts: Sequence[int],
        why: str = "",
    ) -> Found:
        """Of these rows: the target's own, or some of its flows."""
        state = self.losses
        mine = self._flows_of(target)
        affected = mine[state.on[mine]] if all_of_it else rows
        words, values = of_flows((affected - mine[0]).tolist(), len(mine), one_by_one=not all_of_it)
        if all_of_it:
            words = ""
        kind = "loss" if all_of_it else "flow"
        if kind == "flow":
            values["what"] = "loss"
        sent, lost = int(state.sent[rows].sum()), int(state.lost[rows].sum())
        begin, end = int(state.since[rows].min()), int(state.until[rows].max())
        burst = int(state.burst[rows].max())
        size = lost / max(sent, 1)
        detail: dict[str, object] = {
            "phase": phase,
            "begin_ns": begin,
            **({"end_ns": end} if phase == END else {}),
            "size": round(size, 4),
            "sent": sent,
            "lost": lost,
            "burst": burst,
            **values,
            "windows": last(starts, begin),
        }
        row = f", {burst} in a row" if burst > 1 else ""
        text = f"{words}{lost} of {sent} probes lost ({share(size)}{row})"
        if phase == END:
            over = f"loss no longer watched: {why}" if why else "loss is over"
            lasted = duration(max(end - begin, 0))
            text = f"{words}{over} after {lasted}: {lost} of {sent} probes ({share(size)}{row})"
        if why:
            detail["why"] = why
        return Found(kind, text, (self._names[target],), detail)

    def _silent(self, target: int, starts: Sequence[int]) -> Found:
        begin, sent = int(self.silences.since[target]), int(self.silences.sent[target])
        detail = {
            "phase": BEGIN,
            "begin_ns": begin,
            "size": 1.0,
            "sent": sent,
            "lost": sent,
            "flows": self._ends.flows[target],
            "windows": last(starts, begin),
        }
        windows = len(last(starts, begin))
        text = f"no answer in {windows} windows, to {sent} probes"
        return Found("unreachable", text, (self._names[target],), detail)

    def _answers(self, target: int, starts: Sequence[int], why: str = "") -> Found:
        begin, sent = int(self.silences.since[target]), int(self.silences.sent[target])
        detail: dict[str, object] = {
            "phase": END,
            "begin_ns": begin,
            "end_ns": starts[-1],
            "size": 1.0,
            "sent": sent,
            "lost": sent,
            "flows": self._ends.flows[target],
            "windows": last(starts, begin),
        }
        lasted = f"after {duration(max(starts[-1] - begin, 0))}, {sent} probes unanswered"
        if why:
            detail["why"] = why
        text = f"silence no longer watched: {why}" if why else f"answers again {lasted}"
        return Found("unreachable", text, (self._names[target],), detail)

    def _flows_of(self, target: int) -> Ints:
        first = self._first[target]
        return np.arange(first, first + self._ends.flows[target])
