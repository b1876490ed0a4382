"""Nothing in, figures out: how exact, how fast and how dear coloprobe is beside its peers, from whole
processes.

    make bench                          all of it, about 15 minutes
    make bench ARGS="--quick"           2 minutes: for a look, not for a claim
    make bench ARGS="--only PART"       accuracy, saturated, paced, scale, memory or kinds
    make bench ARGS="--json FILE"       every run as JSON as well
    make bench ARGS="--write"           put what it prints into docs/benchmarks.md

docs/benchmarks.md says what is measured, and how. Exit status: 0 all bars are met, 1 one is not or a program
failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks import programs
from benchmarks.accuracy import accuracy
from benchmarks.kinds import kinds
from benchmarks.measure import BenchmarkError
from benchmarks.memory import memory
from benchmarks.parts import FULL, QUICK, Bench
from benchmarks.rates import paced, saturated
from benchmarks.report import Report, machine
from benchmarks.scale import scale
from tests.lab.netlab import Lab

PARTS: dict[str, Callable[[Bench], None]] = {
    "accuracy": accuracy,
    "saturated": saturated,
    "paced": paced,
    "scale": scale,
    "memory": memory,
    "kinds": kinds,
}
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--quick", action="store_true", help="short runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    parser.add_argument("--only", choices=tuple(PARTS), help="one of the parts")
    parser.add_argument("--write", action="store_true", help="put the output into docs/benchmarks.md")
    options = parser.parse_args(argv)
    if options.write and (options.quick or options.only):
        parser.error("--write: what the page shows is the whole benchmark; leave --quick and --only out")
    size = QUICK if options.quick else FULL
    report = Report()
    start, complete = time.monotonic(), True
    report.data = {"machine": machine(), "size": asdict(size)}
    report.say(", ".join(f"{key} {value}" for key, value in report.data["machine"].items()))
    try:
        with Lab() as lab, tempfile.TemporaryDirectory() as scratch:
            near, far = lab.pair()
            far.answer_for(programs.TARGET_NETWORK)
            near.route(programs.TARGET_NETWORK, far.ipv4)
            folder = Path(scratch)
            bench = Bench(lab, near, far, programs.build_c_loop(folder), folder, size, report)
            for name, part in PARTS.items():
                if options.only in (None, name):
                    complete &= _run(name, part, bench)
    except (BenchmarkError, PermissionError) as problem:
        print(f"make bench: {problem}", file=sys.stderr)
        return 1
    report.tell_bars(time.monotonic() - start)
    if options.json:
        report.write_json(options.json)
    if options.write:
        report.write_into(PAGE)
    return 0 if complete and all(bar.met for bar in report.bars) else 1


def _run(name: str, part: Callable[[Bench], None], bench: Bench) -> bool:
    """One part; what goes wrong in it does not cost the others their minutes. Returns whether it came to its
    end."""
    try:
        part(bench)
    except (BenchmarkError, AssertionError) as problem:
        bench.report.say(f"  {name} is not measured: {(str(problem).splitlines() or ['?'])[-1]}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
