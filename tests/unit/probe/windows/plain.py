"""Probes of one window in, every field of every flow out, in plain Python, by the words of docs/measuring.md.

Deliberately slow and without arrays: what the array code is held against.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from probe.engine.samples import (
    ABSENT,
    BACKWARD,
    CLOSED,
    ERROR,
    FORWARD,
    HIDDEN,
    LOCAL,
    SENT,
    SKIPPED,
    UNTOLD,
    Cut,
    Reflections,
    Samples,
    Strays,
)
from probe.windows.layout import Layout

Fields = dict[str, int | float]


@dataclass(frozen=True)
class Said:
    """What a reflector said of a probe, or its silence; ns, None: it cannot be told."""

    dwell: int = 0
    followed: bool = False
    forward: int | None = None
    backward: int | None = None
    error: int | None = None
    lost: int = UNTOLD


@dataclass(frozen=True)
class Probe:
    """One row of a ledger; times in ns, 0: never. `inside`: due in this window, not in a later one.

    hard: RTT by the interface's clock, 0: it has none of this probe; None: it was not asked.
    """

    flow: int = 0
    due: int = 0
    sent: int = 0
    tx: int = 0
    rx: int = 0
    state: int = SENT
    unstamped: bool = False
    duplicates: int = 0
    inside: bool = True
    hard: int | None = None
    said: Said | None = None

    @property
    def stamped(self) -> bool:
        return self.tx != 0 and not self.unstamped and self.rx >= self.tx

    @property
    def rough(self) -> int:
        """From leaving to the reply, by the kernel's stamps or by our clock."""
        return self.rx - (self.tx if self.stamped else self.sent)

    @property
    def by_hardware(self) -> bool:
        return bool(self.hard)

    @property
    def took(self) -> int:
        return self.hard or self.rough

    @property
    def rtt(self) -> int | None:
        """None: it cannot be told."""
        if self.said is None:
            return self.took
        return self.took - self.said.dwell if self.said.dwell >= 0 else None

    def late(self, timeout: int, flow_is_stamped: bool) -> bool:
        unsure = self.unstamped or (self.tx == 0 and flow_is_stamped)
        return self.rx != 0 and self.took > timeout and not unsure

    def left(self, flow_is_stamped: bool) -> bool:
        if not self.state & SENT:
            return False
        stuck = self.tx == 0 and flow_is_stamped
        return self.rx != 0 or not (stuck or self.state & (LOCAL | HIDDEN))


@dataclass(frozen=True)
class Window:
    """`channels`: the probes of each socket in order of due time, those inside first; the rest per flow.

    kinds: empty, if every flow's is icmp. numbering: whether the flow's reflector numbers its replies.
    counts: how many flows each target has, in order; empty: one each.
    """

    channels: tuple[tuple[Probe, ...], ...]
    stamping: tuple[bool, ...]
    late: tuple[int, ...]
    duplicates: tuple[int, ...]
    errors: tuple[int, ...]
    kinds: tuple[str, ...] = ()
    numbering: tuple[bool, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def flows(self) -> int:
        return len(self.stamping)

    @property
    def targets(self) -> list[tuple[int, int]]:
        """First flow and number of flows of each."""
        counts = self.counts or (1,) * self.flows
        return list(zip(itertools.accumulate(counts, initial=0), counts, strict=False))

    @property
    def layout(self) -> Layout:
        return Layout.of(self.kinds, self.targets)

    @property
    def rows(self) -> list[Sequence[int]]:
        """The flows of each row of the summaries: single ones, then targets with several."""
        groups = [range(first, first + count) for first, count in self.targets if count > 1]
        return [*([flow] for flow in range(self.flows)), *groups]

    def cut(self, start_ns: int = 0, end_ns: int = 10**9) -> Cut:
        """The same as the engine hands it over."""
        strays = Strays(*(np.array(column, np.int64) for column in (self.late, self.duplicates, self.errors)))
        return Cut(start_ns, end_ns, tuple(self._samples(probes) for probes in self.channels), strays)

    def _samples(self, probes: Sequence[Probe]) -> Samples:
        inside = sum(p.inside for p in probes)
        assert [p.inside for p in probes] == [True] * inside + [False] * (len(probes) - inside)
        mine = {p.flow for p in probes}
        hard = any(p.hard is not None for p in probes)
        return Samples(
            flow=np.array([p.flow for p in probes], np.int32),
            due=np.array([p.due for p in probes], np.int64),
            sent=np.array([p.sent for p in probes], np.int64),
            tx=np.array([p.tx for p in probes], np.int64),
            rx=np.array([p.rx for p in probes], np.int64),
            state=np.array([p.state for p in probes], np.uint8),
            unstamped=np.array([p.unstamped for p in probes], np.bool_),
            duplicates=np.array([p.duplicates for p in probes], np.uint8),
            inside=inside,
            # Each socket knows only of its own flows.
            stamping=np.array([s and f in mine for f, s in enumerate(self.stamping)], np.bool_),
            reflections=self._reflections(probes, mine),
            hard_rtt=np.array([p.hard or 0 for p in probes], np.int64) if hard else None,
        )

    def _reflections(self, probes: Sequence[Probe], mine: set[int]) -> Reflections | None:
        if all(p.said is None for p in probes):
            return None
        said = [p.said or Said() for p in probes]
        forward, backward, error = (
            np.array([ABSENT if value is None else value for value in column], np.int64)
            for column in ([s.forward for s in said], [s.backward for s in said], [s.error for s in said])
        )
        return Reflections(
            dwell=np.array([s.dwell for s in said], np.int64),
            followed=np.array([s.followed for s in said], np.bool_),
            forward=forward,
            backward=backward,
            clock_error=error,
            lost=np.array([s.lost for s in said], np.uint8),
            numbering=np.array([n and f in mine for f, n in enumerate(self._numbering)], np.bool_),
        )

    @property
    def _numbering(self) -> tuple[bool, ...]:
        return self.numbering or (False,) * self.flows

    def fields(self, row: int, timeout: int) -> Fields:
        """The fields of the `probe` point of one row; empty where there is none."""
        flows = [_Flow(self, flow, timeout) for flow in self.rows[row]]

        def total(name: str) -> int:
            return sum(getattr(flow, name) for flow in flows)

        names = ("sent", "received", "lost", "late", "duplicates", "reordered", "errors")
        out: Fields = {name: total(f"n_{name}") for name in names}
        if not any(out.values()):
            return {}
        if out["sent"]:
            out["loss"] = out["lost"] / out["sent"]
        got = [p for flow in flows for p in flow.received]
        out["loss_burst_max"] = max(flow.longest for flow in flows)
        out["send_lag_max_ns"] = max(flow.lag for flow in flows)
        out["unstamped"] = sum(not p.stamped and not p.by_hardware for p in got)
        out |= _spread("rtt", [rtt for flow in flows for rtt in flow.rtts])
        estimates = [(flow.jitter, len(flow.rtts)) for flow in flows if len(flow.rtts) > 1]
        if estimates:
            out["jitter_ns"] = float(sum(j * n for j, n in estimates) / sum(n for _, n in estimates))
        changes = [change for flow in flows for change in flow.changes]
        if changes:
            out["ipdv_mean_ns"] = _half_up(Fraction(sum(changes), len(changes)))
            out["ipdv_p99_ns"] = percentile(changes, Fraction(99, 100))
        kind = (self.kinds or ("icmp",) * self.flows)[self.rows[row][0]]
        if kind in ("tcp", "connect"):
            out["open"] = sum(not p.state & CLOSED for p in got)
            out["closed"] = sum(bool(p.state & CLOSED) for p in got)
        said = [p.said for p in got if p.said is not None and p.stamped]
        out |= _spread("forward", [s.forward for s in said if s.forward is not None])
        clear = {each for flow in flows for each in flow.told}
        back = [p.said.backward for p in got if p.said is not None and p.stamped and id(p) in clear]
        out |= _spread("backward", [delay for delay in back if delay is not None])
        errors = [s.error for s in said if s.error is not None]
        if errors:
            out["clock_error_ns"] = max(errors)
        if any(flow.numbered for flow in flows):
            out["forward_lost"] = total("n_forward_lost")
            out["backward_lost"] = total("n_backward_lost")
        if kind == "stamp":
            out["unfollowed"] = sum(p.said is None or not p.said.followed for p in got)
        if any(flow.asked for flow in flows):
            out["hardware"] = sum(p.by_hardware for p in got)
        return out


class _Flow:
    """What became of one flow's probes."""

    def __init__(self, window: Window, flow: int, timeout: int) -> None:
        stamping = window.stamping[flow]
        probes = [p for channel in window.channels for p in channel if p.flow == flow]
        inside = [p for p in probes if p.inside]
        left = [p for p in inside if p.left(stamping)]
        unanswered = [p.said.lost for p in left if p.said is not None and not p.rx]
        self.received = [p for p in left if p.rx and not p.late(timeout, stamping)]
        self.n_sent, self.n_received = len(left), len(self.received)
        self.n_lost = self.n_sent - self.n_received
        self.n_late = sum(p.late(timeout, stamping) for p in left) + window.late[flow]
        self.n_duplicates = sum(p.duplicates for p in inside) + window.duplicates[flow]
        self.n_reordered = _reordered([p for p in probes if p.left(stamping) and p.rx])
        self.n_errors = sum(_failed(p, stamping) for p in inside) + window.errors[flow]
        self.n_forward_lost = sum(lost == FORWARD for lost in unanswered)
        self.n_backward_lost = sum(lost == BACKWARD for lost in unanswered)
        self.longest = _longest([p not in self.received for p in left])
        self.lag = max((p.sent - p.due for p in left), default=0)
        # A reflector that tells when its kernel sent replies has not told it of these.
        follows = any(p.rx and p.said is not None and p.said.followed for p in probes)
        self.told = {id(p) for p in probes if not follows or (p.said is not None and p.said.followed)}
        timed = {
            id(p): p.rtt
            for p in self.received
            if p.rtt is not None and 0 <= p.rtt <= timeout and id(p) in self.told
        }
        self.rtts = list(timed.values())
        arrived = sorted((p for p in self.received if id(p) in timed), key=lambda p: p.rx)
        self.jitter = _jitter([timed[id(p)] for p in arrived])
        self.changes = [
            abs(timed[id(b)] - timed[id(a)])
            for a, b in itertools.pairwise(left)
            if id(a) in timed and id(b) in timed
        ]
        said = any(p.said is not None for p in probes)
        self.numbered = bool(left) and said and window.numbering[flow]
        self.asked = bool(left) and any(p.hard is not None for p in probes)


def percentile(values: Sequence[int], p: Fraction) -> int:
    """RFC 2330 section 11.3: the smallest x for which F(x), the share of values <= x, is at least p."""
    return min(x for x in values if Fraction(sum(v <= x for v in values), len(values)) >= p)


def _failed(probe: Probe, stamping: bool) -> bool:
    return not probe.state & SKIPPED and (not probe.left(stamping) or bool(probe.state & ERROR))


def _reordered(answered: Sequence[Probe]) -> int:
    return sum(
        p.inside and any(later.rx < p.rx for later in answered[i + 1 :]) for i, p in enumerate(answered)
    )


def _longest(lost: Sequence[bool]) -> int:
    longest = run = 0
    for one in lost:
        run = run + 1 if one else 0
        longest = max(longest, run)
    return longest


def _half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def _spread(prefix: str, values: Sequence[int]) -> Fields:
    if not values:
        return {}
    mean = Fraction(sum(values), len(values))
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return {
        f"{prefix}_min_ns": min(values),
        f"{prefix}_mean_ns": _half_up(mean),
        f"{prefix}_stddev_ns": math.sqrt(variance),
        f"{prefix}_p50_ns": percentile(values, Fraction(1, 2)),
        f"{prefix}_p90_ns": percentile(values, Fraction(9, 10)),
        f"{prefix}_p99_ns": percentile(values, Fraction(99, 100)),
        f"{prefix}_p999_ns": percentile(values, Fraction(999, 1000)),
        f"{prefix}_max_ns": max(values),
    }


def _jitter(rtts: Sequence[int]) -> Fraction:
    estimate = Fraction(0)
    for earlier, later in itertools.pairwise(rtts):
        estimate += (abs(later - earlier) - estimate) / 16
    return estimate
