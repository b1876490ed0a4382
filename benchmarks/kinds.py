"""Kinds of probe in, processor time per probe of each beside icmp's out: part [6].

All kinds run at the same time, each through a veth pair of its own, as the sizes of part [4] do. What answers
is the kernel itself for icmp and tcp, and a process of its own for stamp (our reflector) and connect (whoever
accepts), which is not counted.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

from benchmarks.measure import BenchmarkError
from benchmarks.parts import Bench
from benchmarks.report import Bar
from benchmarks.scale import RATE, Job, Scaled, ready_pair, run_together
from tests.lab.netlab import Namespace
from tests.lab.peers import ROOT

TARGETS = 200
KINDS = ("icmp", "stamp", "tcp", "connect")
_PORT = 9000
_MOST = 1.5  # of icmp's
_ACCEPTING = f"""
import socket
server = socket.create_server(("0.0.0.0", {_PORT}), backlog=4096)
print("ready", flush=True)
while True:
    server.accept()[0].close()
"""


def kinds(bench: Bench) -> None:
    """Cost per probe of every kind."""
    report, size = bench.report, bench.size
    windows, window_s = size.scale_windows, size.scale_window_s
    report.say(
        f"\n[6] {TARGETS} targets x {RATE // TARGETS}/s of each kind, all at the same time: processor time a "
        f"probe, {windows} windows of {window_s} s"
    )
    report.progress(f"  {windows} windows of {window_s} s")
    try:
        found = {scaled.name: scaled for scaled in _measure(bench, windows, window_s)}
    except BenchmarkError as problem:
        report.say(f"  not measured: {str(problem).splitlines()[-1]}")
        report.bars += [Bar(_what(kind), [], _MOST) for kind in KINDS[1:]]
        return
    echo = found["icmp"]
    rows = []
    for kind in KINDS:
        values = sorted(cost * 1e6 for cost in found[kind].cpu_per_probe_s)
        cells = (
            *(f"{value:.1f}" for value in (statistics.median(values), values[0], values[-1])),
            f"{statistics.median(_ratios(found[kind], echo)):.2f}",
            f"{found[kind].rss_bytes / 1e6:.1f}",
        )
        rows.append((kind, cells))
    report.table(("kind", "us/probe", "min", "max", "of icmp's", "RSS MB"), rows)
    report.data["kinds"] = [asdict(scaled) for scaled in found.values()]
    report.bars += [Bar(_what(kind), _ratios(found[kind], echo), _MOST) for kind in KINDS[1:]]


def _what(kind: str) -> str:
    return f"[6] processor time per probe of {kind}, of icmp's"


def _ratios(one: Scaled, other: Scaled) -> list[float]:
    return [a / b for a, b in zip(one.cpu_per_probe_s, other.cpu_per_probe_s, strict=True)]


def _measure(bench: Bench, windows: int, window_s: int) -> list[Scaled]:
    jobs = []
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            near, far = ready_pair(bench)
            more = ["--kind", kind]
            if kind in ("tcp", "connect"):
                stack.enter_context(_answering(far, ["-c", _ACCEPTING], "ready"))
                more += ["--port", str(_PORT)]
            elif kind == "stamp":
                reflect = ["-m", "probe.cli", "reflect", "--bind", "0.0.0.0:862", "--rate", str(10 * RATE)]
                stack.enter_context(_answering(far, reflect, ""))
            jobs.append(Job(kind, TARGETS, near, tuple(more)))
        return run_together(bench, jobs, windows, window_s)


@contextlib.contextmanager
def _answering(far: Namespace, argv: list[str], ready: str) -> Iterator[None]:
    """A Python process in `far` for the length of the block, which says `ready` on stdout if anything."""
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, *argv]
    child = far.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if ready and (child.stdout is None or child.stdout.readline().strip() != ready):
            raise BenchmarkError(f"{argv[:3]} does not start")
        yield
    finally:
        child.kill()
        child.wait()
