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

_ATTEMPTS = 3
_TIMEOUT_S = 120
_PROCESS_CPU_CLOCK = 2  # with a pid above it, a clock id: all threads of that process, in ns


class BenchmarkError(Exception):
    """A program that was to be measured did not do its work; the message holds its last words."""


@dataclass(frozen=True)
class Work:
    """What a program says that it did."""

    probes: int
    received: int


@dataclass(frozen=True)
class Mark:
    """What a process had used when its responder had got `probes` echo requests."""

    probes: int
    cpu_s: float


@dataclass(frozen=True)
class Run:
    """One process from start to end: `cpu_s` is the whole's, user + system; `first` and `last` lie within."""

    cpu_s: float
    wall_s: float
    first: Mark
    last: Mark
    work: Work

    @property
    def cpu_per_probe_s(self) -> float:
        """Between the marks."""
        return (self.last.cpu_s - self.first.cpu_s) / (self.last.probes - self.first.probes)

    @property
    def around_s(self) -> float:
        """What the process used besides its probes: to start, and to end."""
        return self.cpu_s - self.work.probes * self.cpu_per_probe_s


@dataclass(frozen=True)
class Program:
    """How to run a program, and how to read what it did.

    `between`: it is measured from when the responder has got so many probes until it has got so many.
    `stop_after_s`: interrupt it then, as it loops for ever.
    """

    name: str
    argv: Sequence[str | Path]
    read: Callable[[str], Work]
    between: tuple[int, int]
    stop_after_s: float | None = None


@dataclass
class Row:
    """All runs of one program; `problem`: why there are none."""

    name: str
    runs: list[Run] = field(default_factory=list)
    problem: str = ""

    @property
    def cpu_per_probe_s(self) -> list[float]:
        return [run.cpu_per_probe_s for run in self.runs]

    @property
    def around_s(self) -> float:
        """The median."""
        return statistics.median(run.around_s for run in self.runs)

    @property
    def answered(self) -> float:
        """The smallest share of probes that were answered in any run."""
        return min(run.work.received / run.work.probes for run in self.runs)


class _Watch(threading.Thread):
    """Marks what a process has used when its responder has got certain numbers of echo requests."""

    def __init__(self, responder: Namespace, pid: int, probes: Sequence[int]) -> None:
        super().__init__(name="watch", daemon=True)
        self._responder, self._pid, self._probes = responder, pid, probes
        self._over = threading.Event()
        self._base = responder.call(echo_requests)
        self.marks: list[Mark] = []

    def run(self) -> None:
        self._responder.enter()
        clock = ~self._pid << 3 | _PROCESS_CPU_CLOCK
        while len(self.marks) < len(self._probes) and not self._over.wait(0.002):
            seen = echo_requests() - self._base
            if seen >= self._probes[len(self.marks)]:
                try:
                    self.marks.append(Mark(seen, time.clock_gettime(clock)))
                except OSError:  # it has ended already
                    return

    def end(self) -> None:
        self._over.set()
        self.join()


def echo_requests() -> int:
    """How many ICMP echo requests the calling thread's namespace has received so far."""
    names, values = (
        line.split()
        for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
        if line.startswith("Icmp:")
    )
    return int(values[names.index("InEchos")])


def measure(prober: Namespace, responder: Namespace, program: Program) -> Run:
    """Run a program from start to end. Raises: BenchmarkError (it fails, does not end, sends too little)."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.monotonic()
        child = subprocess.Popen(prober.command(program.argv), stdout=output, stderr=subprocess.STDOUT)
        watch = _Watch(responder, child.pid, program.between)
        watch.start()
        patience, last_word = (
            (program.stop_after_s, signal.SIGINT) if program.stop_after_s else (_TIMEOUT_S, signal.SIGKILL)
        )
        # os.kill and os.wait4, not Popen's methods: those reap the process, and its usage is gone.
        timer = threading.Timer(patience, os.kill, (child.pid, last_word))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        watch.end()
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode != 0:
        name = Path(program.argv[0]).name
        raise BenchmarkError(f"{name} ended with {child.returncode}: {text[-500:].strip()}")
    work = program.read(text)
    marks = watch.marks
    if len(marks) < 2 or marks[0].probes == marks[1].probes:
        raise BenchmarkError(f"{program.name} sent {work.probes} probes, too few to tell what one costs")
    return Run(usage.ru_utime + usage.ru_stime, wall, marks[0], marks[1], work)


def interleave(
    prober: Namespace,
    responder: Namespace,
    programs: Sequence[Program],
    rounds: int,
    say: Callable[[str], None],
) -> list[Row]:
    """A B C A B C ...: whatever the machine does meanwhile meets all of them.

    A run that fails, or that could not be watched, is repeated; a program that fails three times
    in a row is given up, and its row says why.
    """
    rows = [Row(program.name) for program in programs]
    for number in range(rounds):
        for program, row in zip(programs, rows, strict=True):
            if not row.problem:
                say(f"  {program.name}, run {number + 1} of {rounds}")
                for attempt in range(_ATTEMPTS):
                    try:
                        row.runs.append(measure(prober, responder, program))
                        break
                    except BenchmarkError as problem:
                        row.problem = str(problem) if attempt == _ATTEMPTS - 1 else ""
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
