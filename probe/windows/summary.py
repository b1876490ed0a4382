"""One window's samples in, every statistic of every flow out, exactly: each is computed from the samples
themselves.

Every flow is handled in the same few array operations: samples are sorted by flow once. docs/measuring.md
defines each field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from probe.engine.samples import ABSENT, BACKWARD, CLOSED, FORWARD, Cut, Reflections, Samples
from probe.windows import statistics
from probe.windows.layout import ORDINARY, Layout, inside, joined
from probe.windows.outcomes import judge
from probe.windows.statistics import SPREAD, Ints, Mask, Spread

Scalar = TypeVar("Scalar", bound=np.generic)

# Fields that not every flow has, by what has to be there for them.
OPTIONAL: dict[str, tuple[str, ...]] = {
    "handshakes": ("open", "closed"),
    "forward": tuple(f"forward_{name}_ns" for name in SPREAD),
    "backward": tuple(f"backward_{name}_ns" for name in SPREAD),
    "clocks": ("clock_error_ns",),
    "numbering": ("forward_lost", "backward_lost"),
    "reflected": ("unfollowed",),
    "hardware": ("hardware",),
}


@dataclass(frozen=True)
class Summaries:
    """The statistics of one window, a row a flow, and after them a row a group of flows. Every array has
    shape (rows,), where nothing else is said.

    `values` holds the fields of the measurement `probe` but `loss`; `timed`, `steps`, `pairs` and `present`
    say where the RTT, the jitter, the IPDV and the OPTIONAL fields have a value: a flow with nothing received
    has no RTT (never 0).
    """

    start_ns: int
    end_ns: int
    values: dict[str, Ints]
    timed: Ints  # received probes with a usable RTT
    steps: Mask  # whether two of them belong to one flow
    pairs: Ints  # consecutive probes of which both were received
    present: dict[str, Mask]  # by the keys of OPTIONAL; one that is not there is of no row
    rtt_flow: NDArray[np.int32]  # for the histogram: the flow of each received probe, shape (received,)
    rtt: Ints  # ... and its RTT in ns
    # Consecutive probes lost at the window's beginning and at its end, shape (flows,): with these, a run can
    # be followed into the next window.
    lost_first: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    lost_last: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


class _Columns:
    """The columns of `Summaries` while they are made: from a value a flow, those of the groups are added."""

    def __init__(self, flows: int, groups: tuple[tuple[int, int], ...]) -> None:
        self.values: dict[str, Ints] = {}
        self.present: dict[str, Mask] = {}
        self.flows, self._groups = flows, len(groups)
        counts = np.array([count for _, count in groups], np.int64)
        self._group = np.full(flows, -1)
        for number, (first, count) in enumerate(groups):
            self._group[first : first + count] = number
        self._members = np.flatnonzero(self._group >= 0)
        self._starts = np.cumsum(counts) - counts

    def sums(self, **columns: Ints) -> None:
        """A group has what its flows have together."""
        for name, column in columns.items():
            self.values[name] = self._with(np.add, column)

    def maxima(self, **columns: Ints) -> None:
        """A group has the largest that a flow of it has."""
        for name, column in columns.items():
            self.values[name] = self._with(np.maximum, column)

    def where(self, block: str, has: Mask) -> None:
        """The flows that have these OPTIONAL fields; a group has them where a flow of it has."""
        self.present[block] = self.any(has)

    def any(self, has: Mask) -> Mask:
        """Whether each row's flows are among these."""
        return self._with(np.logical_or, has)

    def spread(self, prefix: str, flow: Ints, value: Ints, names: tuple[str, ...] = SPREAD) -> Ints:
        """Statistics of the values of each flow, and of those of all flows of a group. Returns how many."""
        return self._take(prefix, statistics.spread(flow, value, self.flows, names), flow, value)

    def signed_spread(self, prefix: str, flow: Ints, value: Ints) -> Ints:
        """The same of values that may be negative."""
        return self._take(prefix, statistics.signed_spread(flow, value, self.flows), flow, value, signed=True)

    def jitter(self, estimate: NDArray[np.float64], n: Ints) -> Mask:
        """A group's jitter is the mean of its flows', each weighted with its RTTs. Returns who has one."""
        has = n > 1
        if self._groups:
            weight = np.where(has, n, 0)[self._members]
            total = np.add.reduceat(weight, self._starts)
            together = np.add.reduceat(estimate[self._members] * weight, self._starts)
            estimate = np.concatenate([estimate, together / np.maximum(total, 1)])
        self.values["jitter_ns"] = np.rint(estimate).astype(np.int64)
        return self.any(has)

    def _take(self, prefix: str, found: Spread, flow: Ints, value: Ints, *, signed: bool = False) -> Ints:
        count = found.count
        columns = found.values
        if self._groups:
            group = self._group[flow]
            mine = group >= 0
            if signed:
                more = statistics.signed_spread(group[mine], value[mine], self._groups)
            else:
                more = statistics.spread(group[mine], value[mine], self._groups, tuple(columns))
            count = np.concatenate([count, more.count])
            columns = {name: np.concatenate([columns[name], more.values[name]]) for name in columns}
        self.values |= {f"{prefix}_{name}_ns": column for name, column in columns.items()}
        return count

    def _with(self, together: np.ufunc, column: NDArray[Scalar]) -> NDArray[Scalar]:
        if not self._groups:
            return column
        more: NDArray[Scalar] = together.reduceat(column[self._members], self._starts)
        return np.concatenate([column, more])


def summarise(cut: Cut, flows: int, timeout: int, layout: Layout = ORDINARY) -> Summaries:
    """Every statistic of every flow of one window, and of every group of flows in `layout`.

    Args:
        cut: the window's samples, from all channels.
        flows: number of flows; samples carry indices below it.
        timeout: ns; a reply that took longer is late.
        layout: which flows are of kinds with more fields, and which share a target.
    """
    samples = joined(cut.samples, flows)
    outcomes = judge(samples, timeout)
    order = statistics.order_by(samples.flow)
    flow = samples.flow[order].astype(np.int64)
    here = inside(cut.samples)[order]
    columns = _Columns(flows, layout.groups)

    def count(mask: Mask) -> Ints:
        return np.bincount(flow[mask], minlength=flows)

    left = outcomes.left[order] & here
    received = outcomes.received[order] & here
    answered = outcomes.answered[order]
    rtt = outcomes.rtt[order]
    rx = samples.rx[order]
    sent, got = count(left), count(received)
    lost_first, lost_last = statistics.edge_runs(flow[left], ~received[left], sent)
    columns.sums(
        sent=sent,
        received=got,
        lost=sent - got,
        late=count(answered & here & ~received) + cut.strays.late,
        duplicates=np.bincount(flow, samples.duplicates[order] * here, flows).astype(np.int64)
        + cut.strays.duplicates,
        reordered=count(statistics.reordered(flow, rx, answered) & here),
        errors=count(outcomes.failed[order] & here) + cut.strays.errors,
        unstamped=count(received & outcomes.unstamped[order]),
    )
    columns.maxima(
        loss_burst_max=statistics.longest_runs(flow[left], ~received[left], flows),
        send_lag_max_ns=statistics.maxima(flow[left], (samples.sent - samples.due)[order][left], flows),
    )
    vague = _vague(samples, flows)
    timed = received & (rtt >= 0) & (rtt <= timeout)
    if vague is not None:
        timed &= ~vague[order]
    rtt_flow, rtts = flow[timed], rtt[timed]
    number = columns.spread("rtt", rtt_flow, rtts)
    steps = columns.jitter(statistics.jitter(rtt_flow, rtts, rx[timed], number[:flows]), number[:flows])
    pairs = columns.spread(
        "ipdv", *statistics.changes(flow[left], rtt[left], timed[left]), names=("mean", "p99")
    )
    if layout.handshakes is not None:
        closed = count(received & ((samples.state & CLOSED) != 0)[order])
        columns.sums(open=got - closed, closed=closed)
        columns.where("handshakes", layout.handshakes)
    if outcomes.hardware is not None:
        columns.sums(hardware=count(received & outcomes.hardware[order]))
        asked = np.zeros(flows, np.bool_)
        for part in cut.samples:
            if part.hard_rtt is not None:
                asked[part.flow] = True
        columns.where("hardware", asked & (sent > 0))
    if layout.reflected is not None:
        followed = (
            samples.reflections.followed[order] if samples.reflections else np.zeros(len(flow), np.bool_)
        )
        columns.sums(unfollowed=count(received & ~followed))
        columns.where("reflected", layout.reflected)
    if samples.reflections is not None:
        mine = np.flatnonzero(received & outcomes.stamped[order])
        _one_way(columns, samples.reflections, vague, flow[mine], order[mine])
        unanswered = left & ~answered
        lost = samples.reflections.lost[order]
        columns.sums(
            forward_lost=count(unanswered & (lost == FORWARD)),
            backward_lost=count(unanswered & (lost == BACKWARD)),
        )
        columns.where("numbering", samples.reflections.numbering & (sent > 0))
    return Summaries(
        cut.start_ns,
        cut.end_ns,
        columns.values,
        number,
        steps,
        pairs,
        columns.present,
        rtt_flow.astype(np.int32),
        rtts,
        lost_first,
        lost_last,
    )


def _vague(samples: Samples, flows: int) -> Mask | None:
    """Whose reply left nobody knows when, though the reflector tells that of others in the flow, or did in
    the window before: the time it read itself is earlier by its whole send call, and would stand out."""
    said = samples.reflections
    if said is None:
        return None
    follows = np.zeros(flows, np.bool_) if said.follows is None else said.follows.copy()
    follows[samples.flow[said.followed & (samples.rx != 0)]] = True
    vague: Mask = follows[samples.flow] & ~said.followed
    return vague


def _one_way(columns: _Columns, said: Reflections, vague: Mask | None, flow: Ints, rows: Ints) -> None:
    """The one-way delays of received probes with both our stamps: their flows, and their rows in `said`."""
    flows = columns.flows
    for name, delays in (("forward", said.forward[rows]), ("backward", said.backward[rows])):
        has = delays != ABSENT
        if name == "backward" and vague is not None:
            has &= ~vague[rows]
        number = columns.signed_spread(name, flow[has], delays[has])
        columns.present[name] = number > 0
    error = said.clock_error[rows]
    has = error != ABSENT
    columns.maxima(clock_error_ns=statistics.maxima(flow[has], error[has], flows))
    columns.where("clocks", np.bincount(flow[has], minlength=flows) > 0)
