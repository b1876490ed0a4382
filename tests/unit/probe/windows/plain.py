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

from probe.engine.samples import ERROR, HIDDEN, LOCAL, SENT, SKIPPED, Cut, Samples, Strays


@dataclass(frozen=True)
class Probe:
    """One row of a ledger; times in ns, 0: never. `inside`: due in this window, not in a later one."""

    flow: int = 0
    due: int = 0
    sent: int = 0
    tx: int = 0
    rx: int = 0
    state: int = SENT
    unstamped: bool = False
    duplicates: int = 0
    inside: bool = True

    @property
    def stamped(self) -> bool:
        return self.tx != 0 and not self.unstamped and self.rx >= self.tx

    @property
    def rtt(self) -> int:
        return self.rx - (self.tx if self.stamped else self.sent)

    def unsure(self, flow_is_stamped: bool) -> bool:
        return self.unstamped or (self.tx == 0 and flow_is_stamped)

    def left(self, flow_is_stamped: bool) -> bool:
        if not self.state & SENT:
            return False
        stuck = self.tx == 0 and flow_is_stamped
        return self.rx != 0 or not (stuck or self.state & (LOCAL | HIDDEN))


@dataclass(frozen=True)
class Window:
    """`channels`: the probes of each socket in order of due time, those inside first; `stamping` per flow."""

    channels: tuple[tuple[Probe, ...], ...]
    stamping: tuple[bool, ...]
    late: tuple[int, ...]
    duplicates: tuple[int, ...]
    errors: tuple[int, ...]

    @property
    def flows(self) -> int:
        return len(self.stamping)

    def cut(self, start_ns: int = 0, end_ns: int = 10**9) -> Cut:
        """The same as the engine hands it over."""
        strays = Strays(*(np.array(column, np.int64) for column in (self.late, self.duplicates, self.errors)))
        return Cut(start_ns, end_ns, tuple(self._samples(probes) for probes in self.channels), strays)

    def _samples(self, probes: Sequence[Probe]) -> Samples:
        inside = sum(p.inside for p in probes)
        assert [p.inside for p in probes] == [True] * inside + [False] * (len(probes) - inside)
        mine = {p.flow for p in probes}
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
        )

    def fields(self, flow: int, timeout: int) -> dict[str, int | float]:
        """The fields of one flow's `probe` point; empty where there is none."""
        probes = [p for channel in self.channels for p in channel if p.flow == flow]
        stamping = self.stamping[flow]
        inside = [p for p in probes if p.inside]
        left = [p for p in inside if p.left(stamping)]
        received = [p for p in left if p.rx and (p.rtt <= timeout or p.unsure(stamping))]
        out: dict[str, int | float] = {
            "sent": len(left),
            "received": len(received),
            "lost": len(left) - len(received),
            "late": sum(p.rx != 0 and p.rtt > timeout and not p.unsure(stamping) for p in left)
            + self.late[flow],
            "duplicates": sum(p.duplicates for p in inside) + self.duplicates[flow],
            "reordered": _reordered([p for p in probes if p.left(stamping) and p.rx]),
            "errors": sum(_failed(p, stamping) for p in inside) + self.errors[flow],
        }
        if not any(out.values()):
            return {}
        if left:
            out["loss"] = out["lost"] / out["sent"]
        out["loss_burst_max"] = _longest([p not in received for p in left])
        out["send_lag_max_ns"] = max((p.sent - p.due for p in left), default=0)
        out["unstamped"] = sum(not p.stamped for p in received)
        timed = [p for p in received if 0 <= p.rtt <= timeout]
        out |= _rtt_fields([p.rtt for p in timed])
        if len(timed) > 1:
            out["jitter_ns"] = _jitter([p.rtt for p in sorted(timed, key=lambda p: p.rx)])
        changes = [abs(b.rtt - a.rtt) for a, b in itertools.pairwise(left) if a in timed and b in timed]
        if changes:
            out["ipdv_mean_ns"] = _half_up(Fraction(sum(changes), len(changes)))
            out["ipdv_p99_ns"] = percentile(changes, Fraction(99, 100))
        return out


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


def _rtt_fields(rtts: Sequence[int]) -> dict[str, int | float]:
    if not rtts:
        return {}
    mean = Fraction(sum(rtts), len(rtts))
    variance = sum((rtt - mean) ** 2 for rtt in rtts) / len(rtts)
    return {
        "rtt_min_ns": min(rtts),
        "rtt_mean_ns": _half_up(mean),
        "rtt_stddev_ns": math.sqrt(variance),
        "rtt_p50_ns": percentile(rtts, Fraction(1, 2)),
        "rtt_p90_ns": percentile(rtts, Fraction(9, 10)),
        "rtt_p99_ns": percentile(rtts, Fraction(99, 100)),
        "rtt_p999_ns": percentile(rtts, Fraction(999, 1000)),
        "rtt_max_ns": max(rtts),
    }


def _jitter(rtts: Sequence[int]) -> float:
    estimate = Fraction(0)
    for earlier, later in itertools.pairwise(rtts):
        estimate += (abs(later - earlier) - estimate) / 16
    return float(estimate)
