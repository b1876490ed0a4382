"""RTTs of a window's probes in, what a detector tells of them out, by way of real summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.detect.detector import Detector
from probe.detect.found import Found
from probe.engine.samples import REFUSED, SENT, Cut, Samples, Strays
from probe.settings import DetectTable
from probe.windows.layout import Layout
from probe.windows.summary import summarise

WINDOW = 10 * SECOND
NOON = 1_700_000_000 * SECOND
MS, US = MILLISECOND, MICROSECOND
LOST, STAYED = 0, -1  # in place of an RTT: nobody answered; the kernel did not take it

Rtts = NDArray[np.int64]


class Drive:
    """A detector of targets with so many flows each, and the probes that it is shown."""

    def __init__(
        self,
        targets: Mapping[str, int] | None = None,
        *,
        probes: int = 20,
        settings: DetectTable | None = None,
        seed: int = 1,
        before: Drive | None = None,
    ) -> None:
        self.targets = dict(targets or {"x": 1})
        self.flows, self.probes = sum(self.targets.values()), probes
        counts = list(self.targets.values())
        firsts = np.cumsum([0, *counts])[:-1].tolist()
        self._layout = Layout.of(["icmp"] * self.flows, list(zip(firsts, counts, strict=True)))
        tags = [({"target": name}, flows) for name, flows in self.targets.items()]
        former = before.detector if before else None
        self.detector: Detector = Detector(settings or DetectTable(), tags, former)
        self._rng = np.random.default_rng(seed)
        self.now: int = before.now if before else NOON
        self.told: list[Found] = []

    def quiet(self, level: int | Sequence[int] = MS, noise: int = 10 * US) -> Rtts:
        """RTTs around a level, of all flows or of each."""
        base = np.broadcast_to(np.asarray(level), (self.flows,))[:, None]
        wide = self._rng.exponential(noise, (self.flows, self.probes))
        return np.asarray(base + wide, np.int64)

    def window(self, rtts: Rtts, *, late: int = 0) -> list[Found]:
        """One window of these probes, shape (flows, probes)."""
        flows, probes = rtts.shape
        flow = np.tile(np.arange(flows, dtype=np.int32), probes)
        rtt = rtts.T.ravel()
        due = np.repeat(np.arange(1, probes + 1) * (WINDOW // (probes + 1)), flows)
        none, nobody = np.zeros(len(flow), np.bool_), np.zeros(flows, np.int64)
        samples = Samples(
            flow,
            due,
            due,
            np.where(rtt == STAYED, 0, due),
            np.where(rtt > 0, due + rtt, 0),
            np.where(rtt == STAYED, REFUSED, SENT).astype(np.uint8),
            none,
            np.zeros(len(flow), np.uint8),
            len(flow),
            np.ones(flows, np.bool_),
        )
        strays = Strays(nobody + late, nobody, nobody)
        cut = Cut(self.now, self.now + WINDOW, (samples,), strays)
        self.detector.add(0, flows, 0, summarise(cut, flows, SECOND, self._layout))
        found = self.detector.close(cut.start_ns, cut.end_ns)
        self.now = cut.end_ns
        self.told += found
        return found

    def windows(self, count: int, level: int | Sequence[int] = MS, noise: int = 10 * US) -> list[Found]:
        """So many quiet ones."""
        return [one for _ in range(count) for one in self.window(self.quiet(level, noise))]


def short(found: Sequence[Found]) -> list[tuple[str, str, str]]:
    """Kind, phase and targets."""
    return [(one.kind, one.phase, " ".join(one.targets)) for one in found]
