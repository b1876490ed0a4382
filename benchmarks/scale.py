"""Numbers of targets in, processor time per probe and memory at one total rate out: part [4].

All sizes run at the same time, each through a veth pair of its own, so that what the machine does meanwhile
happens to all of them: what is compared is one and the same minute. Processor time is read by the process
itself, each time that it has closed a window: from one closing to the next is one window's sending,
receiving, statistics and lines.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import BenchmarkError
from benchmarks.parts import Bench
from benchmarks.programs import FIRST_TARGET, TARGET_NETWORK
from benchmarks.report import Bar
from tests.lab.netlab import Namespace
from tests.lab.peers import ROOT

RATE = 2000  # probes/s of all targets together
SIZES = (10, 100, 1000, 10_000)
FLAT = SIZES[1], SIZES[-1]
_HISTOGRAM_S = 60  # how often an agent closes the histograms' windows
_START_S = 10
_MOST = 1.2  # "flat"


@dataclass(frozen=True)
class Scaled:
    """One run. `windows_s`: processor time of each window; `probes` in each; `histogram_s`: closing that of
    the run."""

    name: str
    targets: int
    windows_s: list[float]
    probes: list[int]
    histogram_s: float
    histogram_lines: int
    rss_bytes: int

    @property
    def cpu_per_probe_s(self) -> list[float]:
        """Window by window, with each probe's share of the histograms' minute."""
        histogram = self.histogram_s / (RATE * _HISTOGRAM_S)
        return [cpu / sent + histogram for cpu, sent in zip(self.windows_s, self.probes, strict=True)]


def scale(bench: Bench) -> None:
    """Cost per probe from 10 to 10,000 targets."""
    report, size = bench.report, bench.size
    windows, window_s = size.scale_windows, size.scale_window_s
    report.say(
        f"\n[4] {RATE} probes/s to 10 ... 10,000 targets, all at the same time: processor time per probe, "
        f"{windows} windows of {window_s} s"
    )
    report.progress(f"  {windows} windows of {window_s} s")
    try:
        found = _measure(bench, windows, window_s)
    except BenchmarkError as problem:
        report.say(f"  not measured: {str(problem).splitlines()[-1]}")
        report.bars.append(Bar(_WHAT, [], _MOST))
        return
    few = next(scaled for scaled in found if scaled.targets == FLAT[0])
    rows = []
    for scaled in found:
        values = sorted(cost * 1e6 for cost in scaled.cpu_per_probe_s)
        cells = (
            f"{RATE / scaled.targets:g}/s",
            *(f"{value:.1f}" for value in (statistics.median(values), values[0], values[-1])),
            f"{statistics.median(_ratios(scaled, few)):.2f}",
            f"{scaled.histogram_s * 1000:.0f}",
            f"{scaled.rss_bytes / 1e6:.1f}",
        )
        rows.append((f"{scaled.targets:,}", cells))
    heads = ("targets", "each", "us/probe", "min", "max", f"of {FLAT[0]}'s", "histograms ms", "RSS MB")
    report.table(heads, rows)
    report.data["scale"] = [asdict(scaled) for scaled in found]
    many = next(scaled for scaled in found if scaled.targets == FLAT[1])
    report.bars.append(Bar(_WHAT, _ratios(many, few), _MOST))


_WHAT = f"[4] processor time per probe, {FLAT[1]:,} targets of {FLAT[0]}'s"


def _ratios(one: Scaled, other: Scaled) -> list[float]:
    return [a / b for a, b in zip(one.cpu_per_probe_s, other.cpu_per_probe_s, strict=True)]


@dataclass(frozen=True)
class Job:
    """A run of the engine in `near`, beside others: `more` are further arguments of `benchmarks.paced`."""

    name: str
    targets: int
    near: Namespace
    more: tuple[str, ...] = ()


def _measure(bench: Bench, windows: int, window_s: int) -> list[Scaled]:
    jobs = []
    for count in SIZES:
        near, _ = ready_pair(bench)
        jobs.append(Job(f"{count} targets", count, near))
    return run_together(bench, jobs, windows, window_s)


def ready_pair(bench: Bench) -> tuple[Namespace, Namespace]:
    """Two namespaces of their own, the second of which answers for every address of the target network."""
    near, far = bench.lab.pair()
    far.answer_for(TARGET_NETWORK)
    near.route(TARGET_NETWORK, far.ipv4)
    return near, far


def run_together(bench: Bench, jobs: Sequence[Job], windows: int, window_s: int) -> list[Scaled]:
    """Run them at the same time, each with RATE probes/s in all. Raises: BenchmarkError."""
    with contextlib.ExitStack() as stack:
        running = []
        for job in jobs:
            marks = bench.scratch / f"windows-{job.name}.json"
            argv = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "benchmarks.paced"]
            argv += ["--first", str(FIRST_TARGET), "--targets", str(job.targets), "--window", f"{window_s}s"]
            # One more window than is measured: the last one is cut short by the end.
            interval = f"{job.targets * 1000 / RATE:g}ms"
            argv += ["--interval", interval, "--seconds", str(window_s * (windows + 1))]
            argv += ["--windows", str(marks), *job.more]
            child = job.near.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            stack.callback(child.wait)
            stack.callback(child.kill)
            running.append((job, child, marks))
        return [
            _read(job, child, marks, windows, window_s * (windows + 3) + _START_S * 3)
            for job, child, marks in running
        ]


def _read(job: Job, child: subprocess.Popen[str], file: Path, windows: int, patience_s: float) -> Scaled:
    try:
        output, errors = child.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{job.name}: it does not end") from None
    if child.returncode:
        raise BenchmarkError(f"{job.name}: it ended with {child.returncode}: {errors[-300:].strip()}")
    record = json.loads(output.splitlines()[-1])
    marks = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
    if len(marks) < windows + 2:
        raise BenchmarkError(f"{job.name}: {len(marks)} windows were closed, {windows + 2} were expected")
    if record["received"] < record["probes"] * 0.9:
        raise BenchmarkError(f"{job.name}: {record['received']} of {record['probes']} were answered")
    # The first one began half a second before its end, and what stands before it is the start.
    cpu = [mark["cpu_ns"] / 1e9 for mark in marks[: windows + 1]]
    return Scaled(
        job.name,
        job.targets,
        [b - a for a, b in itertools.pairwise(cpu)],
        [mark["sent"] for mark in marks[1 : windows + 1]],
        record["histogram_s"],
        record["histogram_lines"],
        marks[windows]["rss_bytes"],
    )
