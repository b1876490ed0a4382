"""Nothing in, ratios out: what the engine costs beside a C loop and fping, from whole processes in one run.

    make bench                      under 4 minutes
    make bench ARGS="--quick"       under 1 minute: for a look, not for a claim
    make bench ARGS="--json FILE"   every run as JSON as well

All programs probe through one veth pair into a second namespace whose kernel answers. The answer is made
inside the sender's own system call and billed to it, to all of them alike. What a probe costs is what the
whole process used between two moments: when a tenth of its probes (or a second of them) had come to the
responder, and when nearly all had. What it used besides, to start and to end, stands in a column of its own.
Runs are interleaved (A B C A B C ...); a figure is the median of its runs, a ratio the median of the rounds'
ratios, and the smallest and largest stand beside them.
Exit status: 0 all bars are met, 1 one is not or a program failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.measure import BenchmarkError, Row, interleave, machine
from benchmarks.memory import agent_memory
from tests.lab.netlab import Lab, Namespace

TARGETS = 200
RATE = 10
AGENT_TARGETS = 1000


@dataclass(frozen=True)
class Size:
    """How much is run: probes a saturated run, seconds a paced one, runs of each, the agent's windows."""

    probes: int
    paced_s: int
    saturated_rounds: int
    paced_rounds: int
    window: str


FULL = Size(probes=100_000, paced_s=15, saturated_rounds=15, paced_rounds=3, window="10s")
QUICK = Size(probes=65_000, paced_s=5, saturated_rounds=3, paced_rounds=1, window="2s")


@dataclass(frozen=True)
class Bar:
    """A claim: `values`, one a round, whose median is at least or at most `limit`."""

    what: str
    values: list[float]
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        if not self.values:
            return False
        median = statistics.median(self.values)
        return median >= self.limit if self.at_least else median <= self.limit

    def __str__(self) -> str:
        shown = "not measured"
        if self.values:
            shown = f"{statistics.median(self.values):.2f} ({min(self.values):.2f} to {max(self.values):.2f})"
        word = "at least" if self.at_least else "at most"
        return f"  {self.what}: {shown}; bar: {word} {self.limit:g}, {'met' if self.met else 'NOT MET'}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--quick", action="store_true", help="short runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    parser.add_argument("--only", choices=("saturated", "paced", "memory"), help="one of the three parts")
    options = parser.parse_args(argv)
    size = QUICK if options.quick else FULL
    start = time.monotonic()
    report: dict[str, Any] = {"machine": machine(), "size": asdict(size)}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()), flush=True)
    bars: list[Bar] = []
    try:
        with Lab() as lab, tempfile.TemporaryDirectory() as scratch:
            near, far = lab.pair()
            far.answer_for(programs.TARGET_NETWORK)
            near.route(programs.TARGET_NETWORK, far.ipv4)
            c_loop = programs.build_c_loop(Path(scratch))
            if options.only in (None, "saturated"):
                bars += _saturated(near, far, c_loop, size, report)
            if options.only in (None, "paced"):
                bars += _paced(near, far, c_loop, size, report)
            if options.only in (None, "memory"):
                bars += _memory(near, Path(scratch), size, report)
    except (BenchmarkError, PermissionError) as problem:
        print(f"make bench: {problem}", file=sys.stderr)
        return 1
    print(f"\nbars ({time.monotonic() - start:.0f} s in all)")
    for bar in bars:
        print(bar)
    if options.json:
        report["bars"] = [{**asdict(bar), "met": bar.met} for bar in bars]
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if all(bar.met for bar in bars) else 1


def _saturated(
    near: Namespace, far: Namespace, c_loop: Path, size: Size, report: dict[str, Any]
) -> list[Bar]:
    _say("\n[1] saturated: probes per second of processor time; more is better")
    rows = interleave(near, far, programs.saturated(c_loop, size.probes), size.saturated_rounds, _progress)
    _table(rows, "probes/s", lambda cost: 1 / cost, ".0f")
    report["saturated"] = [asdict(row) for row in rows]
    ours, loop, fping = rows
    return [
        Bar("[1] saturated, of the C loop", _ratios(loop, ours), 0.90, True),
        Bar("[1] saturated, of fping", _ratios(fping, ours), 1.0, True),
    ]


def _paced(near: Namespace, far: Namespace, c_loop: Path, size: Size, report: dict[str, Any]) -> list[Bar]:
    _say(
        f"\n[2] {TARGETS} targets x {RATE} probes/s, evenly spaced: processor time per probe; less is better"
    )
    rows = interleave(
        near, far, programs.paced(c_loop, TARGETS, RATE, size.paced_s), size.paced_rounds, _progress
    )
    _table(rows, "us/probe", lambda cost: cost * 1e6, ".1f")
    report["paced"] = [asdict(row) for row in rows]
    ours, _, fping = rows
    return [Bar("[2] processor time per probe, of fping's", _ratios(ours, fping), 0.7, False)]


def _memory(near: Namespace, scratch: Path, size: Size, report: dict[str, Any]) -> list[Bar]:
    _say(f"\n[3] memory of `coloprobe agent` with {AGENT_TARGETS} targets x {RATE} probes/s after 3 windows")
    resident: list[float] = []
    try:
        memory = agent_memory(near, scratch, targets=AGENT_TARGETS, rate=RATE, window=size.window)
        resident, peak = [memory["VmRSS"] / 1e6], memory["VmHWM"] / 1e6
        print(f"  resident {resident[0]:.1f} MB, at its peak {peak:.1f} MB (windows of {size.window})")
        report["memory"] = memory
    except BenchmarkError as problem:
        print(f"  not measured: {problem}")
    return [Bar("[3] resident MB", resident, 80, False)]


def _ratios(numerator: Row, denominator: Row) -> list[float]:
    """What a probe costs the one, as a ratio of what it costs the other, round by round."""
    if numerator.problem or denominator.problem:
        return []
    return [a / b for a, b in zip(numerator.cpu_per_probe_s, denominator.cpu_per_probe_s, strict=True)]


def _table(rows: list[Row], unit: str, convert: Callable[[float], float], spec: str) -> None:
    heads = (unit, "min", "max", "answered", "start+end", "of C", "runs")
    print(f"  {'program':<26}" + "".join(f"{head:>10}" for head in heads))
    loop = next(row for row in rows if row.name.startswith("C loop"))
    for row in rows:
        if row.problem:
            print(f"  {row.name:<26} not measured: {row.problem.splitlines()[-1]}")
            continue
        values = sorted(map(convert, row.cpu_per_probe_s))
        shares = [
            convert(a) / convert(b) for a, b in zip(row.cpu_per_probe_s, loop.cpu_per_probe_s, strict=True)
        ]
        cells = (
            *(format(value, spec) for value in (statistics.median(values), values[0], values[-1])),
            f"{row.answered:.2%}",
            f"{row.around_s * 1000:.0f} ms",
            f"{statistics.median(shares):.2f}",
            str(len(values)),
        )
        print(f"  {row.name:<26}" + "".join(f"{cell:>10}" for cell in cells))


def _say(text: str) -> None:
    print(text, flush=True)


def _progress(text: str) -> None:
    """Only somebody who waits wants to see it."""
    if sys.stderr.isatty():
        print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
