"""Commands in, what their whole processes cost out: processor time, wall time, memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.lab.netlab import Namespace

_ATTEMPTS = 3
_TIMEOUT_S = 120
_PROCESS_CPU_CLOCK = 2  # with a pid above it, a clock id: all threads of that process, in ns


ECHO_REQUESTS = "Icmp", "InEchos"
DATAGRAMS = "Udp", "InDatagrams"


class BenchmarkError(Exception):
    """A program that was to be measured did not do its work; the message holds its last words."""


@dataclass(frozen=True)
class Work:
    """What a program says that it did."""

    probes: int
    received: int


@dataclass(frozen=True)
class Mark:
    """What a process had used when its responder had got `probes` probes; `at_s`: monotonic."""

    probes: int
    cpu_s: float
    at_s: float


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
    def probes_per_s(self) -> float:
        """The pace between the marks, by the clock on the wall."""
        return (self.last.probes - self.first.probes) / (self.last.at_s - self.first.at_s)

    @property
    def around_s(self) -> float:
        """What the process used besides its probes: to start, and to end."""
        return self.cpu_s - self.work.probes * self.cpu_per_probe_s


@dataclass(frozen=True)
class Program:
    """How to run a program, and how to read what it did.

    `between`: it is measured from when the responder has got so many probes until it has got so many.
    `stop_after_s`: send it `last_word` then, as it loops for ever. `ask`: called in its namespace just before
    that; what it returns is read instead of what the program printed. `counter`: of the responder, what
    the program's probes are. `needs`: the command that brings the program, where it is missing.
    `rounds`: fewer of them than the others get.
    """

    name: str
    argv: Sequence[str | Path]
    read: Callable[[str], Work]
    between: tuple[int, int]
    stop_after_s: float | None = None
    last_word: signal.Signals = signal.SIGINT
    ask: Callable[[], str] | None = None
    counter: tuple[str, str] = ECHO_REQUESTS
    needs: str = ""
    rounds: int | None = None


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
    def probes_per_s(self) -> float:
        """The median."""
        return statistics.median(run.probes_per_s for run in self.runs)

    @property
    def answered(self) -> float:
        """The smallest share of probes that were answered in any run."""
        return min(run.work.received / run.work.probes for run in self.runs)


class _Watch(threading.Thread):
    """Marks what a process has used when its responder has got certain numbers of probes."""

    def __init__(
        self, responder: Namespace, pid: int, probes: Sequence[int], counter: tuple[str, str]
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._responder, self._pid, self._probes, self._counter = responder, pid, probes, counter
        self._over = threading.Event()
        self._base = responder.call(partial(received, *counter))
        self.marks: list[Mark] = []

    def run(self) -> None:
        self._responder.enter()
        clock = ~self._pid << 3 | _PROCESS_CPU_CLOCK
        while len(self.marks) < len(self._probes) and not self._over.wait(0.002):
            seen = received(*self._counter) - self._base
            if seen >= self._probes[len(self.marks)]:
                try:
                    self.marks.append(Mark(seen, time.clock_gettime(clock), time.monotonic()))
                except OSError:  # it has ended already
                    return

    def end(self) -> None:
        self._over.set()
        self.join()


def received(protocol: str, counter: str) -> int:
    """What the calling thread's namespace has counted so far, by the names of /proc/net/snmp."""
    names, values = (
        line.split()
        for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
        if line.startswith(f"{protocol}:")
    )
    return int(values[names.index(counter)])


def measure(prober: Namespace, responder: Namespace, program: Program) -> Run:
    """Run a program from start to end. Raises: BenchmarkError (it fails, does not end, sends too little)."""
    answer: list[str] = []

    def last_word() -> None:
        if program.ask is not None:
            with contextlib.suppress(OSError):
                answer.append(prober.call(program.ask))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, program.last_word if program.stop_after_s else signal.SIGKILL)

    with tempfile.TemporaryFile("w+") as output:
        start = time.monotonic()
        child = subprocess.Popen(prober.command(program.argv), stdout=output, stderr=subprocess.STDOUT)
        watch = _Watch(responder, child.pid, program.between, program.counter)
        watch.start()
        # os.kill and os.wait4, not Popen's methods: those reap the process, and its usage is gone.
        timer = threading.Timer(program.stop_after_s or _TIMEOUT_S, last_word)
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        watch.end()
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode != 0 and not (program.stop_after_s and child.returncode == -program.last_word):
        name = Path(program.argv[0]).name
        raise BenchmarkError(f"{name} ended with {child.returncode}: {text[-500:].strip()}")
    work = program.read(answer[0] if answer else text)
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
    in a row is given up, and its row says why. One that is missing is not tried.
    """
    rows = [Row(program.name, problem=_missing(program)) for program in programs]
    for number in range(rounds):
        for program, row in zip(programs, rows, strict=True):
            if row.problem or number >= (rounds if program.rounds is None else program.rounds):
                continue
            say(f"  {program.name}, run {number + 1} of {rounds}")
            for attempt in range(_ATTEMPTS):
                try:
                    row.runs.append(measure(prober, responder, program))
                    break
                except BenchmarkError as problem:
                    row.problem = str(problem) if attempt == _ATTEMPTS - 1 else ""
    return rows


def _missing(program: Program) -> str:
    if shutil.which(program.argv[0]) is not None:
        return ""
    return f"{program.argv[0]} is missing; it comes with: {program.needs or 'the system'}"
