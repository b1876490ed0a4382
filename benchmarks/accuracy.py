"""A pair of namespaces in, how far every tool's round-trip times are from the wire's out: part [1].

The wire is an AF_PACKET capture of the very packets on the prober's interface, which nobody reads until the
run is over. `error` is a tool's RTT minus the capture's, probe by probe.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.measure import BenchmarkError
from benchmarks.meters import METERS, Meter, Readings
from benchmarks.parts import Bench
from benchmarks.report import Bar
from tests.lab.netlab import Namespace

_ATTEMPTS = 2
CONDITIONS = ("idle", "hogged")


@dataclass(frozen=True)
class Errors:
    """One run, us; `unmatched`: probes that only the tool or only the capture has a time of.

    Where only means can be compared, the other figures are None.
    """

    probes: int
    unmatched: int
    mean: float
    median: float | None = None  # signed
    absolute_median: float | None = None
    p99: float | None = None  # of the absolute error: the smallest value that 99 % do not exceed
    largest: float | None = None
    first: float | None = None  # the first probe's


def errors(readings: Readings) -> Errors:
    """Raises: BenchmarkError where nothing can be compared."""
    tool, wire = readings.tool, readings.wire
    if readings.means is not None:
        said, true = readings.means
        return Errors(readings.answered, abs(len(wire) - readings.answered), (said - true) / 1e3)
    both = sorted(tool.keys() & wire.keys())
    if not both:
        raise BenchmarkError(f"of {len(tool)} probes none is among the {len(wire)} that the capture saw")
    signed = np.array([tool[key] - wire[key] for key in both]) / 1e3
    absolute = np.sort(np.abs(signed))
    return Errors(
        probes=len(both),
        unmatched=len(tool.keys() ^ wire.keys()),
        mean=float(signed.mean()),
        median=float(np.median(signed)),
        absolute_median=float(np.median(absolute)),
        p99=float(absolute[-(-len(absolute) * 99 // 100) - 1]),
        largest=float(absolute[-1]),
        first=float(signed[0]),
    )


@contextlib.contextmanager
def hogs(namespace: Namespace) -> Iterator[None]:
    """Every core is busy for the length of the block. Raises: BenchmarkError (no stress-ng)."""
    argv = ["stress-ng", "--cpu", str(os.cpu_count() or 1), "--quiet"]
    try:
        child = namespace.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    except FileNotFoundError:
        raise BenchmarkError("stress-ng is missing; it comes with: apt-get install stress-ng") from None
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.5)
            raise BenchmarkError(f"stress-ng ended with {child.returncode}")
        yield
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def accuracy(bench: Bench) -> None:
    """Every tool idle and with every core hogged, in turn; a figure is the median of its rounds."""
    report, size = bench.report, bench.size
    runs: dict[str, dict[str, list[Errors]]] = {c: defaultdict(list) for c in CONDITIONS}
    problems = {meter.name: problem for meter in METERS if (problem := meter.missing())}
    for number in range(size.accuracy_rounds):
        for condition in CONDITIONS:
            with hogs(bench.near) if condition == "hogged" else contextlib.nullcontext():
                for meter in METERS:
                    if meter.name not in problems:
                        report.progress(
                            f"  {meter.name}, {condition}, run {number + 1} of {size.accuracy_rounds}"
                        )
                        try:
                            runs[condition][meter.name].append(_run(bench, meter))
                        except BenchmarkError as problem:
                            problems[meter.name] = str(problem)
    for condition in CONDITIONS:
        report.say(
            f"\n[1] accuracy, {_TITLES[condition]}: RTT minus the wire's, us; the nearer to 0 the better"
        )
        rows = [
            (meter.name, _cells(runs[condition][meter.name], problems.get(meter.name, "")))
            for meter in METERS
        ]
        report.table(_HEADS, rows)
        for meter in METERS[:2]:
            p99 = [run.p99 for run in runs[condition][meter.name] if run.p99 is not None]
            report.bars.append(Bar(f"[1] {meter.name}, {condition}, p99 of |error|, us", p99, 10))
    report.data["accuracy"] = {
        condition: {name: [asdict(run) for run in found] for name, found in by_name.items()}
        for condition, by_name in runs.items()
    }


_TITLES = {"idle": "idle", "hogged": "every core hogged by stress-ng"}
_HEADS = (
    "tool",
    "|median|",
    "|p99|",
    "(min to max)",
    "|max|",
    "median",
    "mean",
    "first",
    "probes",
    "unmatched",
    "runs",
)


def _run(bench: Bench, meter: Meter) -> Errors:
    for attempt in range(_ATTEMPTS):
        try:
            return errors(meter.run(bench, bench.size.accuracy_probes))
        except (AssertionError, subprocess.SubprocessError, BenchmarkError, ValueError) as problem:
            if attempt == _ATTEMPTS - 1:
                raise BenchmarkError(f"{problem!r}"[:300]) from None
    raise AssertionError("not reached")


def _cells(runs: list[Errors], problem: str) -> tuple[str, ...]:
    if problem or not runs:
        return (f"not measured: {problem}",)

    def middle(name: str, sign: str = "") -> str:
        values = [value for run in runs if (value := getattr(run, name)) is not None]
        return format(statistics.median(values), f"{sign}.1f") if values else "-"

    p99 = [run.p99 for run in runs if run.p99 is not None]
    return (
        middle("absolute_median"),
        middle("p99"),
        f"({min(p99):.1f} to {max(p99):.1f})" if p99 else "-",
        middle("largest"),
        middle("median", "+"),
        middle("mean", "+"),
        middle("first", "+"),
        str(sum(run.probes for run in runs)),
        str(sum(run.unmatched for run in runs)),
        str(len(runs)),
    )
