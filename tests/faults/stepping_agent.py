"""`coloprobe agent` whose view of the wall clock can be stepped: by SIGUSR1 on, by SIGUSR2 back.

    python -m tests.faults.stepping_agent STEP_MS agent -c FILE

A machine has one wall clock and other programs need it, so only this process sees the step: what it reads of
the clock, and the kernel's stamps of its packets, which a real step would move as well. The fault is
injected, not real; nothing else of the agent is touched.
"""

from __future__ import annotations

import signal
import sys
import time

import numpy as np
from numpy.typing import NDArray

from probe import cli
from probe.clock import MILLISECOND, SystemClock
from probe.engine.stamps import WallToMono

_real = time.time_ns
_steps: list[tuple[int, int]] = []  # since when (true ns), by how much the clock is off from then on


def _wall() -> int:
    return _real() + (_steps[-1][1] if _steps else 0)


def _as_stepped(stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Kernel stamps as they would be, had the clock really been stepped; 0 stays 0."""
    moved = stamps.copy()
    for (since, by), before in zip(_steps, [0, *(by for _, by in _steps)], strict=False):
        moved[stamps >= since] += by - before
    return moved


def main() -> int:
    """Run the command line that follows the step."""
    step = int(sys.argv[1]) * MILLISECOND

    def on(*_: object) -> None:
        _steps.append((_real(), step))

    def back(*_: object) -> None:
        _steps.append((_real(), 0))

    true = WallToMono.__call__

    def call(self: WallToMono, stamps: NDArray[np.int64]) -> NDArray[np.int64]:
        return true(self, _as_stepped(stamps) if _steps else stamps)

    SystemClock.wall = staticmethod(_wall)
    WallToMono.__call__ = call  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, on)
    signal.signal(signal.SIGUSR2, back)
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
