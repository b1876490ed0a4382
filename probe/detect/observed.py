"""Summaries of a window, piece by piece in, the columns that events are made of out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from probe.detect.losses import Tally
from probe.detect.rows import Floats, Ints, Mask
from probe.windows.summary import Summaries


@dataclass(frozen=True)
class Ends:
    """The targets of a measurement, and which rows they have: flows first, then groups, as in `Summaries`.

    tags: of each target. flows: how many each has.
    """

    tags: tuple[Mapping[str, str], ...]
    flows: tuple[int, ...]

    @cached_property
    def names(self) -> list[str]:
        return [tags.get("target", "") for tags in self.tags]

    @cached_property
    def first(self) -> list[int]:
        """The first flow of each."""
        return list(accumulate(self.flows, initial=0))[:-1]

    @cached_property
    def all_flows(self) -> int:
        return sum(self.flows)

    @cached_property
    def rows(self) -> int:
        """Flows, and targets with several."""
        return self.all_flows + sum(flows > 1 for flows in self.flows)

    def whole(self) -> Ints:
        """The row of each target as a whole."""
        group = self.all_flows
        rows = []
        for first, flows in zip(self.first, self.flows, strict=True):
            rows.append(first if flows == 1 else group)
            group += flows > 1
        return np.array(rows, np.int64)

    def target_of(self) -> Ints:
        """The target of each flow."""
        return np.repeat(np.arange(len(self.flows)), self.flows)


_INNER = 0.06  # of the range of RTTs, on each side of its middle: there a median shows no shift
_COUNTS = ("sent", "received", "lost", "late", "errors")
_TIMES = ("rtt_min_ns", "rtt_p50_ns", "rtt_p90_ns")


class Observed:
    """One window of all flows, while its pieces come.

    counts: by name, of all rows; the rest of flows alone.
    """

    def __init__(self, flows: int, rows: int) -> None:
        self._flows = flows
        self.counts: dict[str, Ints] = {
            name: np.zeros(rows, np.int64) for name in (*_COUNTS, "burst", "first", "last")
        }
        self.timed = np.zeros(flows, np.int64)
        self.times: dict[str, Floats] = {name: np.zeros(flows) for name in _TIMES}
        self.level = np.zeros(flows)  # the mean RTT, with outliers drawn in, of some flows
        self.unstamped = np.zeros(flows)  # share
        self.hardware = np.zeros(flows, np.bool_)  # most RTTs are by the interface's own clock

    def put(
        self,
        first: int,
        flows: int,
        first_group: int,
        summaries: Summaries,
        low: Floats,
        high: Floats,
        due: Mask,
    ) -> None:
        """The flows from `first` on, and the groups from `first_group` on. RTTs count as not below `low` and
        not above `high` (of all flows, ns) for the mean of those flows that are `due`, or whose median lies
        outside a fifth of that range; NaN: no mean was made."""
        values = summaries.values
        rows = len(values["sent"])
        begin = self._flows + first_group
        parts = (
            (slice(first, first + flows), slice(0, flows)),
            (
                slice(begin, begin + rows - flows),
                slice(flows, rows),
            ),
        )
        for to, source in parts:
            for name in _COUNTS:
                self.counts[name][to] = values[name][source]
            self.counts["burst"][to] = values["loss_burst_max"][source]
        here = slice(first, first + flows)
        self.counts["first"][here] = summaries.lost_first
        self.counts["last"][here] = summaries.lost_last
        self.timed[here] = timed = summaries.timed[:flows]
        for name in _TIMES:
            self.times[name][here] = values[name][:flows]
        middle = values["rtt_p50_ns"][:flows]
        low, high = low[here], high[here]
        wide = (high - low) * _INNER
        with np.errstate(invalid="ignore"):
            inner = np.abs(middle - (low + high) / 2) <= wide
        which = np.flatnonzero((timed > 0) & (due[here] | ~inner))
        self.level[here] = np.nan
        if len(which):
            # RTTs are in the order of flows.
            many = timed[which]
            places = (np.cumsum(timed) - timed)[which]
            ends = np.cumsum(many)
            at = np.repeat(places - (ends - many), many) + np.arange(ends[-1])
            drawn = np.clip(summaries.rtt[at], np.repeat(low[which], many), np.repeat(high[which], many))
            self.level[first + which] = np.add.reduceat(drawn, ends - many) / many
        received = np.maximum(values["received"][:flows], 1)
        self.unstamped[here] = values["unstamped"][:flows] / received
        if "hardware" in values:
            self.hardware[here] = values["hardware"][:flows] * 2 > received

    def tally(self) -> Tally:
        """Every row's counts."""
        return Tally(**self.counts)

    def at(self, rows: Ints) -> Tally:
        """The counts of these rows."""
        return Tally(**{name: column[rows] for name, column in self.counts.items()})

    @property
    def some(self) -> Mask:
        return self.timed > 0
