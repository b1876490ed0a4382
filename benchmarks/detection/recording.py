"""A pair of namespaces in, the round-trip times of a quiet line out, as this machine has them; and
back from a file.

What is recorded is what the engine measures through a veth pair, under whatever load the machine has: kernel
stamps, every probe, in order. A file holds a few minutes of some targets.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probe.clock import SECOND, SystemClock
from probe.engine.samples import Cut
from probe.measurement import build
from probe.settings import agent_from
from probe.windows.outcomes import judge
from tests.lab.netlab import Namespace

LOST = 0  # in place of an RTT
_STEP = 10  # ns: what a recording is rounded to

Rtts = NDArray[np.int64]


def record(
    near: Namespace, far: Namespace, seconds: float, targets: int = 6, interval: str = "100ms"
) -> Rtts:
    """RTTs in ns, a row a target, a column a probe; LOST where none came."""
    network = "10.60.0.0/24"
    far.answer_for(network)
    near.route(network, far.ipv4)
    names = [{"name": f"t{n}", "address": f"10.60.0.{n + 1}"} for n in range(targets)]
    settings = agent_from(
        {
            "agent": {"id": "quiet"},
            "window": {"length": "10s", "timeout": "200ms"},
            "defaults": {"interval": interval},
            "target": names,
        },
        "recording",
    )
    cuts: list[Cut] = []
    with near.inside():
        measurement = build(settings, SystemClock(), cuts.append, lambda _: None)
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                wake = measurement.engine.turn()
                time.sleep(max(0.0, (wake - time.monotonic_ns()) / SECOND))
            measurement.engine.finish(time.sleep)
        finally:
            measurement.close()
    rows: list[list[int]] = [[] for _ in range(targets)]
    for cut in cuts:
        for samples in cut.samples:
            outcomes = judge(samples, int(settings.window.timeout))
            inside = np.arange(len(samples.flow)) < samples.inside
            rtt = np.where(outcomes.received, np.maximum(outcomes.rtt, 1), LOST)
            for flow in range(targets):
                rows[flow] += rtt[(samples.flow == flow) & inside & outcomes.left].tolist()
    length = min(map(len, rows))
    return np.array([row[:length] for row in rows], np.int64)


def save(rtts: Rtts, file: Path) -> None:
    """Rounded to 10 ns."""
    np.savez_compressed(
        file, rtt_10ns=np.rint(rtts / _STEP).astype(np.uint16 if rtts.max() < 655_000 else np.uint32)
    )


def load(file: Path) -> Rtts:
    """What `save` wrote."""
    with np.load(file) as found:
        return np.asarray(found["rtt_10ns"], np.int64) * _STEP
