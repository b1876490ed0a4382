"""Nothing in, what all parts of `make bench` share out: how much is run, where, and what is said of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Report
from tests.lab.netlab import Lab, Namespace
from tests.lab.peers import irtt_server


@dataclass(frozen=True)
class Size:
    """How much is run.

    accuracy_*: probes a run (of the slow ones, a fifth), rounds. probes, saturated_rounds: of a saturated
    run. window_s, paced_rounds: the agent's windows in [3] and [5]. scale_windows, scale_window_s: of [4]
    and [6].
    """

    accuracy_probes: int
    accuracy_rounds: int
    probes: int
    saturated_rounds: int
    window_s: int
    paced_rounds: int
    scale_windows: int
    scale_window_s: int = 10


FULL = Size(
    accuracy_probes=300,
    accuracy_rounds=3,
    probes=100_000,
    saturated_rounds=21,
    window_s=10,
    paced_rounds=7,
    scale_windows=6,
)
QUICK = Size(
    accuracy_probes=100,
    accuracy_rounds=1,
    probes=65_000,
    saturated_rounds=3,
    window_s=2,
    paced_rounds=1,
    scale_windows=2,
)


@dataclass
class Bench:
    """`near` probes `far`, which answers for every address of the target network."""

    lab: Lab
    near: Namespace
    far: Namespace
    c_loop: Path
    scratch: Path
    size: Size
    report: Report

    @contextlib.contextmanager
    def irtt(self) -> Iterator[str]:
        """HOST:PORT of an irtt server for the length of the block, where irtt is there."""
        if shutil.which("irtt") is None:
            yield f"{self.far.ipv4}:0"
            return
        with irtt_server(self.far) as server:
            yield server
