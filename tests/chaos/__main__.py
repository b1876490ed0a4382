"""A seed and a length of time in, chaos and what came of it out: `make chaos ARGS="--seed 7 --for 5m"`.

Exit status: 0 nothing was lost and nothing is there twice, 1 otherwise, 2 this cannot be run here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from probe.arguments import duration, whole
from probe.units import Duration
from tests.chaos.plan import draw
from tests.chaos.run import run, say
from tests.chaos.site import FleetSize, Site, cast

_FLEET_TARGETS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _options(argv)
    if os.geteuid() != 0:
        print("chaos: namespaces and mounts need root; begin the line with sudo", file=sys.stderr)
        return 2
    _clean_up_on_signals()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    length_s = options.length.seconds
    parts = cast(options.agents, fleet=options.fleet > 0)
    plan = draw(seed, length_s, parts, pace_s=options.pace.seconds, longest_s=options.longest.seconds)
    fleet = FleetSize(options.fleet, _FLEET_TARGETS, length_s) if options.fleet else None
    if options.plan:
        for fault in plan.faults:
            print(f"[{fault.at_s:6.1f} s] {fault}")
        return 0
    print(f"seed {seed}: {len(plan.faults)} faults in {options.length}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="coloprobe-chaos-"))
    shown = _Progress()
    try:
        with Site(directory, plan, agents=options.agents, fleet=fleet) as site:
            result = run(site, shown.tell, shown.progress)
    except KeyboardInterrupt:
        return 130
    finally:
        shown.clear()
        if options.keep:
            print(f"everything is kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    say(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
    return 0 if result.verdict.good else 1


class _Progress:
    """A line that changes, on a terminal; elsewhere only what happens."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._width = shutil.get_terminal_size().columns - 1

    def tell(self, text: str) -> None:
        self.clear()
        print(text, flush=True)

    def progress(self, text: str) -> None:
        if self._terminal:
            print(f"\r\x1b[K{text[: self._width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog='Example: make chaos ARGS="--seed 7 --for 45s --plan"',
    )
    parser.add_argument("--seed", type=int, help="the same seed breaks the same things (default: a new one)")
    parser.add_argument(
        "--for",
        dest="length",
        type=duration,
        default=Duration.parse("5m"),
        metavar="DURATION",
        help="how long things are broken: 45s, 5m (default: 5m)",
    )
    parser.add_argument("--agents", type=whole(1, 100), default=5, help="real agent processes (default: 5)")
    parser.add_argument("--fleet", type=whole(0, 1000), default=20, help="simulated agents (default: 20)")
    parser.add_argument(
        "--pace", type=duration, default=Duration.parse("2s"), help="a fault so often (default: 2s)"
    )
    parser.add_argument(
        "--longest", type=duration, default=Duration.parse("6s"), help="of a fault (default: 6s)"
    )
    parser.add_argument("--plan", action="store_true", help="only say what would happen when")
    parser.add_argument("--keep", action="store_true", help="keep logs, capture and databases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the result as JSON as well")
    return parser.parse_args(argv)


def _clean_up_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process by the way that cleans up, and none that is forked from it."""
    owner = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(OSError):
            signal.signal(number, leave)


if __name__ == "__main__":
    sys.exit(main())
