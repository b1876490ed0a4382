"""A plan of what an emulated link does and when in, when each of it was told out: with real probes.

Everything goes by probes' numbers: the link changes its delay, or loses, at the n-th packet, and the window
of the n-th probe is known from what was sent. So no clocks have to be compared.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import numpy as np

from probe.clock import SECOND, SystemClock
from probe.detect.detector import Detector
from probe.detect.found import BEGIN, Found
from probe.engine.samples import Cut
from probe.measurement import build
from probe.reporting import Reporter
from probe.settings import DetectTable, agent_from
from probe.windows.outcomes import judge
from tests.lab.emulated import EmulatedLink
from tests.lab.link import Constant, Impairments, Listed, Trace
from tests.lab.netlab import Lab

SHIFT, BURST = "shift", "burst"
_OWN = 100_000  # ns that the emulator and the kernels add to the RTT


@dataclass(frozen=True)
class Change:
    """One thing that the link does from probe `at` (from 0) on. `size`: RTT afterwards / before - 1, or how
    many packets in a row are lost."""

    kind: str
    at: int
    size: float


@dataclass(frozen=True)
class Plan:
    """`delay`: there and back, ns; `delays`: besides, of each probe on its way there."""

    window: int
    interval: int
    delay: int
    delays: tuple[int, ...]
    changes: tuple[Change, ...]

    @property
    def per_window(self) -> int:
        return self.window // self.interval

    @property
    def lost(self) -> tuple[int, ...]:
        """The packets to be lost, from 1."""
        runs = [(one.at, int(one.size)) for one in self.changes if one.kind == BURST]
        return tuple(at + n + 1 for at, count in runs for n in range(count))


def plan(
    seed: int,
    shifts: int,
    bursts: int,
    *,
    window: int,
    interval: int,
    delay: int,
    least: float = 0.2,
    apart: tuple[int, int] = (7, 12),
    learn: int = 10,
) -> Plan:
    """So many shifts, to and fro, and bursts in any order, at random times `apart` windows from each other.

    least: a shift up is by at least so much of the RTT, and at most by three times as much.
    """
    dice = random.Random(seed)
    per_window = window // interval
    kinds = [SHIFT] * shifts + [BURST] * bursts
    dice.shuffle(kinds)
    changes: list[Change] = []
    delays: list[int] = []
    at, more = learn * per_window, 0
    for kind in kinds:
        at += dice.randrange(apart[0] * per_window, apart[1] * per_window)
        delays += [more] * (at - len(delays))
        if kind == BURST:
            changes.append(Change(BURST, at, dice.choice((3, 3, 4, 5, 8))))
            continue
        before = delay + _OWN + more
        more = 0 if more else round((delay + _OWN) * dice.uniform(least, 3 * least))
        changes.append(Change(SHIFT, at, (delay + _OWN + more) / before - 1))
    delays += [more] * (apart[1] * per_window)
    return Plan(window, interval, delay, tuple(delays), tuple(changes))


@dataclass(frozen=True)
class Told:
    """A change, and in which window after it was told: 1 is the one that it fell into; 0: never."""

    change: Change
    windows: int
    text: str = ""


@dataclass(frozen=True)
class Outcome:
    """What was told of a plan; `false`: events that nothing caused."""

    told: list[Told]
    false: list[str]
    rtt_ns: int


def linked(lab: Lab, planned: Plan) -> EmulatedLink:
    """A link that does as planned to the packets that come to it."""
    each = planned.delay // 2
    return lab.emulated(
        Impairments(Trace(tuple(each + more for more in planned.delays)), Listed(planned.lost)),
        Impairments(Constant(planned.delay - each)),
        logging=False,
    )


def perform(link: EmulatedLink, planned: Plan) -> Outcome:
    """Probe through it, and hold what is told against the plan. May run in a thread of its own."""
    return hold(planned, _probe(link, planned))


def _probe(link: EmulatedLink, planned: Plan) -> list[Cut]:
    settings = agent_from(
        {
            "agent": {"id": "lab"},
            "window": {"length": f"{planned.window}ns", "timeout": "100ms"},
            "target": [{"name": "x", "address": link.far.ipv4, "interval": f"{planned.interval}ns"}],
        },
        "lab",
    )
    cuts: list[Cut] = []
    with link.near.inside():
        measurement = build(settings, SystemClock(), cuts.append, lambda _: None)
        try:
            until = time.monotonic() + len(planned.delays) * planned.interval / SECOND
            while time.monotonic() < until:
                wake = measurement.engine.turn()
                time.sleep(max(0.0, (wake - time.monotonic_ns()) / SECOND))
            measurement.engine.finish(time.sleep)
        finally:
            measurement.close()
    return cuts


class _Measured:
    """One target with one flow."""

    tags = target_tags = ({"target": "x", "kind": "icmp"},)
    series = target_series = ("probe,target=x",)
    targets = ((0, 1),)


def hold(planned: Plan, cuts: list[Cut]) -> Outcome:
    """What a reporter's detector tells of these windows, against the plan."""
    found: list[tuple[int, Found]] = []
    ends: list[int] = []  # of each window: the number of probes sent until then
    detector = Detector(DetectTable(), [({"target": "x"}, 1)])
    reporter = Reporter(
        _Measured(), 60 * SECOND, SECOND // 10, detector, lambda one: found.append((len(ends) - 1, one))
    )
    rtts: list[int] = []
    for cut in cuts:
        sent = ends[-1] if ends else 0
        for samples in cut.samples:
            outcomes = judge(samples, SECOND // 10)
            inside = np.arange(len(samples.flow)) < samples.inside
            sent += int((outcomes.left & inside).sum())
            rtts += outcomes.rtt[outcomes.received & inside].tolist()
        ends.append(sent)
        reporter.lines(cut)
    told, used = [], set()
    for change in planned.changes:
        fell = next((n for n, end in enumerate(ends) if change.at < end), len(ends))
        told.append(Told(change, 0))
        for number, (window, one) in enumerate(found):
            mine = (
                one.kind == "latency" if change.kind == SHIFT else one.kind == "loss" and one.phase == BEGIN
            )
            if mine and number not in used and fell <= window < fell + 6:
                used.add(number)
                told[-1] = Told(change, window - fell + 1, one.text)
                break
    over = [n for n, (_, one) in enumerate(found) if one.kind == "loss" and one.phase != BEGIN]
    false = [one.text for n, (_, one) in enumerate(found) if n not in used and n not in over]
    return Outcome(told, false, int(np.median(rtts)))
