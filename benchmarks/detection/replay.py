"""A recording of quiet lines in, days of windows that look like it out, and what the detector says of them.

A recorded row is cut into blocks that are put together anew (moving block bootstrap, H. R. Kuensch, Annals of
Statistics 17, 1989), so what belongs together in time stays together. To that comes what longer lines have
besides: their length, a daily pattern, a wander, and heavy tails, each by itself and in spells of some
seconds, and single losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.recording import LOST, Rtts, load
from probe.clock import SECOND
from probe.detect.detector import Detector
from probe.detect.found import Found
from probe.settings import DetectTable
from probe.windows.summary import Summaries

RECORDING = Path(__file__).parents[2] / "tests" / "vectors" / "quiet" / "rtts.npz"
WINDOW = 10 * SECOND
DAY = 86_400 * SECOND
_BEGIN = 1_700_000_000 * SECOND
_WANDER_S = 600.0  # its memory
_SPELL_S = 2.0  # how long a busy spell lasts on average

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A flow to be made. Times in ns.

    rate: probes a second. length: what the line adds to every RTT. tail: the share of probes that a Pareto
    distributed time (exponent 1.5, scale `heavy`) is added to; `spells`: the share of the time in which that
    befalls 30 % of them. ripple: of a lognormal time added to all (sigma 0.8, median this). daily, wander: of
    the RTT, amplitude and standard deviation. loss: share of probes.
    """

    name: str
    rate: float
    length: int
    tail: float = 0.0
    heavy: float = 50_000.0
    spells: float = 0.0
    ripple: float = 0.0
    daily: float = 0.0
    wander: float = 0.0
    loss: float = 0.0


def lines(rate: float) -> list[Line]:
    """The flows of a day: as recorded, and with what may be on a long line."""
    us, ms = 1_000, 1_000_000
    return [
        Line("as recorded", rate, 0),
        Line("a metro line", rate, 600 * us, tail=0.01),
        Line("a long line", rate, 8 * ms, tail=0.01, daily=0.1),
        Line("2 % heavy tails", rate, 250 * us, tail=0.02, heavy=100_000),
        Line("5 % heavy tails", rate, 1 * ms, tail=0.05, heavy=300_000),
        Line("10 % heavy tails", rate, 2 * ms, tail=0.1, heavy=500_000),
        Line("busy spells", rate, 500 * us, tail=0.005, spells=0.02, heavy=150_000),
        Line("lognormal noise", rate, 400 * us, ripple=40 * us, tail=0.01),
        Line("wide lognormal noise", rate, 400 * us, ripple=200 * us, tail=0.01),
        Line("a daily pattern of 30 %", rate, 1 * ms, daily=0.3, tail=0.01, ripple=20 * us),
        Line("a wander of 4 %", rate, 1 * ms, wander=0.04, tail=0.02, ripple=20 * us),
        Line("a loss in 100,000", rate, 600 * us, loss=1e-5, tail=0.01),
        Line("a loss in 10,000", rate, 600 * us, loss=1e-4, tail=0.01),
        Line("a loss in 1,000", rate, 600 * us, loss=1e-3, tail=0.01),
    ]


class Noise:
    """RTTs of lines of one rate, window by window."""

    def __init__(self, recording: Rtts, made: list[Line], seed: int, window: int = WINDOW) -> None:
        self._recording = recording
        self._lines = made
        self._rng = np.random.default_rng(seed)
        self._count = round(made[0].rate * window / SECOND)
        self._window = window
        self._at = self._rng.integers(0, recording.shape[1], len(made))
        self._row = self._rng.integers(0, len(recording), len(made))
        self._block = np.zeros(len(made), np.int64)
        self._wander = np.zeros(len(made))
        self._spell = np.zeros(len(made), np.bool_)

    def _column(self, name: str) -> Floats:
        return np.array([float(getattr(line, name)) for line in self._lines])

    def window(self, number: int) -> Rtts:
        """Shape (lines, probes), ns; LOST where none came."""
        rng, many, count = self._rng, len(self._lines), self._count
        base = np.empty((many, count))
        for line in range(many):
            base[line] = self._blocks(line)
        base += self._column("length")[:, None]
        memory = np.exp(-self._window / SECOND / _WANDER_S)
        self._wander = self._wander * memory + rng.normal(size=many) * np.sqrt(1 - memory**2)
        of_day = np.sin(2 * np.pi * number * self._window / DAY)
        base *= (1 + self._column("daily") * of_day + self._column("wander") * self._wander)[:, None]
        ripple = self._column("ripple")
        some = ripple > 0
        base[some] += ripple[some, None] * rng.lognormal(0, 0.8, (int(some.sum()), count))
        tail = np.maximum(self._column("tail")[:, None], 0.3 * self._spells())
        hit = rng.random((many, count)) < tail
        heavy = np.broadcast_to(self._column("heavy")[:, None], hit.shape)[hit]
        base[hit] += heavy * (1 + rng.pareto(1.5, int(hit.sum())))
        rtts = np.minimum(base, 0.9e9).astype(np.int64)
        rtts[rng.random((many, count)) < self._column("loss")[:, None]] = LOST
        return rtts

    def _blocks(self, line: int) -> Rtts:
        parts = []
        need = self._count
        while need:
            if self._block[line] == 0:
                self._block[line] = self._rng.integers(50, 400)
                self._row[line] = self._rng.integers(0, len(self._recording))
                self._at[line] = self._rng.integers(0, self._recording.shape[1])
            take = int(min(need, self._block[line], self._recording.shape[1] - self._at[line]))
            parts.append(self._recording[self._row[line], self._at[line] : self._at[line] + take])
            self._block[line] -= take
            self._at[line] = (self._at[line] + take) % self._recording.shape[1]
            need -= take
        whole = np.concatenate(parts)
        return np.where(whole == LOST, np.median(whole).astype(np.int64), whole)

    def _spells(self) -> Floats:
        """Which probes fall into a busy spell: 1 or 0."""
        share = self._column("spells")
        out = np.zeros((len(self._lines), self._count))
        step = self._window / SECOND / self._count
        leave = min(1.0, step / _SPELL_S)
        for line in np.flatnonzero(share).tolist():
            enter = leave * share[line] / (1 - share[line])
            dice = self._rng.random(self._count)
            state = bool(self._spell[line])
            for probe in range(self._count):
                state = dice[probe] >= leave if state else dice[probe] < enter
                out[line, probe] = state
            self._spell[line] = state
        return out


def summaries(rtts: Rtts, start_ns: int, end_ns: int) -> Summaries:
    """What `probe.windows.summary` would say of these probes, as far as the detector asks."""
    flows, count = rtts.shape
    lost = rtts == LOST
    got = count - lost.sum(axis=1)
    ordered = np.sort(np.where(lost, np.iinfo(np.int64).max, rtts), axis=1)
    each = np.arange(flows)

    def rank(percent: int) -> Rtts:
        return np.where(got > 0, ordered[each, np.maximum(-(-got * percent // 100) - 1, 0)], 0)

    burst, first, last = (np.zeros(flows, np.int64) for _ in range(3))
    for flow in np.flatnonzero(lost.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], lost[flow].astype(np.int8), [0]])))
        runs = edges[1::2] - edges[::2]
        burst[flow] = runs.max()
        first[flow] = runs[0] if lost[flow, 0] else 0
        last[flow] = runs[-1] if lost[flow, -1] else 0
    nothing = np.zeros(flows, np.int64)
    values = {
        "sent": np.full(flows, count),
        "received": got,
        "lost": count - got,
        "late": nothing,
        "errors": nothing,
        "unstamped": nothing,
        "loss_burst_max": burst,
        "rtt_min_ns": np.where(got > 0, ordered[:, 0], 0),
        "rtt_p50_ns": rank(50),
        "rtt_p90_ns": rank(90),
    }
    at, probe = np.nonzero(~lost)
    return Summaries(
        start_ns,
        end_ns,
        values,
        got,
        got > 1,
        nothing,
        {},
        at.astype(np.int32),
        rtts[at, probe],
        first,
        last,
    )


def replay(
    made: list[Line], windows: int, seed: int, recording: Rtts | None = None, window: int = WINDOW
) -> list[tuple[str, Found]]:
    """So many windows of these lines: (name of the line, event), each one false."""
    noise = Noise(load(RECORDING) if recording is None else recording, made, seed, window)
    detector = Detector(DetectTable(), [({"target": line.name}, 1) for line in made])
    found: list[tuple[str, Found]] = []
    for number in range(windows):
        start = _BEGIN + number * window
        detector.add(0, len(made), 0, summaries(noise.window(number), start, start + window))
        for one in detector.close(start, start + window):
            found += [(name, one) for name in one.targets]
    return found
