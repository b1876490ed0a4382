"""Commands in, what their whole processes cost out: processor time, wall time, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.lab.netlab import Namespace

_TIMEOUT_S = 120


class BenchmarkError(Exception):
    """A program that was to be measured did not do its work; the message holds its last words."""


@dataclass(frozen=True)
class Work:
    """What a program says that it did."""

    probes: int
    received: int


@dataclass(frozen=True)
class Run:
    """One process from start to end: `cpu_s` is user + system of the process and what it waited for."""

    cpu_s: float
    wall_s: float
    work: Work


@dataclass(frozen=True)
class Program:
    """How to run one program for its full length and for next to none, and how to read what it did.

    `full` and `idle` are command lines; `stop_after_s` interrupts the full run of one that loops for ever.
    """

    name: str
    full: Sequence[str | Path]
    idle: Sequence[str | Path]
    read: Callable[[str], Work]
    stop_after_s: float | None = None


@dataclass
class Row:
    """All runs of one program. What a probe costs is what the full run costs more than the idle one."""

    name: str
    full: list[Run] = field(default_factory=list)
    idle: list[Run] = field(default_factory=list)
    problem: str = ""

    @property
    def start_up_s(self) -> float:
        """Median processor time of the idle runs."""
        return statistics.median(run.cpu_s for run in self.idle)

    @property
    def cpu_per_probe_s(self) -> list[float]:
        """Of every full run, less the median start-up."""
        base = statistics.median(run.work.probes for run in self.idle)
        return [(run.cpu_s - self.start_up_s) / (run.work.probes - base) for run in self.full]

    @property
    def answered(self) -> float:
        """The smallest share of probes that were answered in any full run."""
        return min(run.work.received / run.work.probes for run in self.full)


def run_whole(
    namespace: Namespace, argv: Sequence[str | Path], stop_after_s: float | None = None
) -> tuple[Run, str]:
    """Run a program to its end; returns what it cost (its work unread) and its output, stdout and stderr.

    Raises: BenchmarkError where it fails or does not end.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.monotonic()
        child = subprocess.Popen(namespace.command(argv), stdout=output, stderr=subprocess.STDOUT)
        patience, last_word = (stop_after_s, signal.SIGINT) if stop_after_s else (_TIMEOUT_S, signal.SIGKILL)
        # os.kill and os.wait4, not Popen's methods: those reap the process, and its usage is gone.
        timer = threading.Timer(patience, os.kill, (child.pid, last_word))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode != 0:
        raise BenchmarkError(f"{Path(argv[0]).name} ended with {child.returncode}: {text[-500:].strip()}")
    return Run(usage.ru_utime + usage.ru_stime, wall, Work(0, 0)), text


def interleave(
    namespace: Namespace, programs: Sequence[Program], rounds: int, say: Callable[[str], None]
) -> list[Row]:
    """A B C A B C ...: whatever the machine does meanwhile meets all of them.

    A program that fails is not run again, and its row says why.
    """
    rows = [Row(program.name) for program in programs]
    for number in range(rounds):
        for program, row in zip(programs, rows, strict=True):
            if row.problem:
                continue
            say(f"  {program.name}, run {number + 1} of {rounds}")
            try:
                for argv, stop, runs in (
                    (program.idle, None, row.idle),
                    (program.full, program.stop_after_s, row.full),
                ):
                    run, text = run_whole(namespace, argv, stop)
                    runs.append(Run(run.cpu_s, run.wall_s, program.read(text)))
            except BenchmarkError as problem:
                row.problem = str(problem)
    return rows


@contextlib.contextmanager
def background(
    namespace: Namespace, argv: Sequence[str | Path], log: Path
) -> Iterator[subprocess.Popen[str]]:
    """A program that runs for the length of the block, then gets SIGTERM. Raises: BenchmarkError."""
    with log.open("w+") as output:
        child = namespace.popen(argv, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield child
            child.terminate()
            status = child.wait(timeout=30)
        finally:
            child.kill()
            child.wait()
        output.seek(0)
        if status not in (0, -signal.SIGTERM):
            raise BenchmarkError(f"{Path(argv[0]).name} ended with {status}: {output.read()[-500:].strip()}")


def memory_bytes(pid: int) -> dict[str, int]:
    """VmRSS and VmHWM (its peak) of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {name: int(values[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def machine() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = next(
        (line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "?"
    )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
