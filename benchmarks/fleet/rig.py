"""A folder in, a broker, collectors and what they write to out: real processes, and their meters."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import BenchmarkError
from benchmarks.processes import Usage, memory_bytes, usage
from benchmarks.programs import APT
from tests.lab.peers import ROOT
from tests.system.servers import Influx, Server, influxdb, mosquitto

DATABASE = "fleet"
START_S = 30.0
_COLLECTOR = """
[collector]
id = "{name}"
state_dir = "{state}"
[mqtt]
url = "mqtt://127.0.0.1:{mqtt}"
share_group = "collectors"
[influx]
url = "http://127.0.0.1:{influx}"
api = "v1"
database = "{database}"
"""
# One connection takes the whole fleet's batches, all of them at once in the worst case; the broker that is
# shipped in config/mosquitto has room for as many.
_BROKER = "max_queued_messages 20000\nmax_queued_bytes 1073741824\nset_tcp_nodelay true\n"


# By default InfluxDB writes its cache away every 25 MB. With a hundred thousand series that is a point or two
# of each, and takes three times as long as all the rest of a write.
INFLUX = {
    "INFLUXDB_DATA_CACHE_SNAPSHOT_MEMORY_SIZE": str(2 << 30),
    "INFLUXDB_DATA_CACHE_MAX_MEMORY_SIZE": str(8 << 30),
}
INFLUX_SETTINGS = 'cache-snapshot-memory-size = "2g"', 'cache-max-memory-size = "8g"'  # the same, in its file


@dataclass
class Sink:
    """A discarding server (`benchmarks.discard`)."""

    process: subprocess.Popen[str]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass
class Rig:
    """What runs. `influx` where the collectors write into it, `sinks` (one each) where they do not."""

    scratch: Path
    broker: Server
    collectors: list[subprocess.Popen[bytes]] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    influx: Influx | None = None

    def check(self) -> None:
        """Raises: BenchmarkError where a collector has ended or complains."""
        for number, process in enumerate(self.collectors):
            if process.poll() is not None:
                said = log_of(self.scratch, number).read_text(errors="replace")
                raise BenchmarkError(f"a collector ended with {process.returncode}: {said[-500:].strip()}")
        if trouble := self.complaints():
            raise BenchmarkError(f"a collector complains: {trouble[0][:300]}")

    def complaints(self) -> list[str]:
        """Errors that the collectors logged."""
        logs = (log_of(self.scratch, n).read_text(errors="replace") for n in range(len(self.collectors)))
        return [line for log in logs for line in log.splitlines() if "ERROR" in line or "Traceback" in line]

    @property
    def others(self) -> dict[str, int]:
        """Process ids of all that is not measured, by name."""
        found = {"broker": self.broker.pid}
        found |= {f"sink {n}": sink.pid for n, sink in enumerate(self.sinks, 1)}
        return found | ({"InfluxDB": self.influx.pid} if self.influx else {})


@contextlib.contextmanager
def rig(
    scratch: Path,
    *,
    collectors: int = 1,
    into: Influx | None = None,
    count: bool = False,
    profile: Path | None = None,
) -> Iterator[Rig]:
    """Start a broker and collectors, and stop them.

    into: what they write to; else each gets a discarding server. count: these count lines, which costs time.
    profile: where the first collector leaves its profile; it is slower then.
    Raises: BenchmarkError where a program is missing or does not start.
    """
    need("mosquitto", "mosquitto")
    scratch.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        made = Rig(scratch, stack.enter_context(mosquitto(scratch, extra_conf=_BROKER)), influx=into)
        for number in range(collectors):
            if made.influx:
                port = made.influx.port
            else:
                made.sinks.append(stack.enter_context(sink(count=count)))
                port = made.sinks[-1].port
            made.collectors.append(
                stack.enter_context(_collector(made, number, port, None if number else profile))
            )
        yield made


@contextlib.contextmanager
def database(scratch: Path) -> Iterator[Influx]:
    """An InfluxDB with an empty database. Raises: BenchmarkError where it is missing."""
    need("influxd", "influxdb")
    scratch.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _environment(INFLUX):
            server = stack.enter_context(influxdb(scratch))
        server.create_database(DATABASE)
        yield server


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    """What is started inside has these variables, too."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def need(program: str, package: str) -> None:
    """Raises: BenchmarkError where the program is not there, with the command that brings it."""
    if shutil.which(program) is None:
        raise BenchmarkError(f"{program} is missing; it comes with: {APT}{package}")


@contextlib.contextmanager
def sink(*, count: bool = False) -> Iterator[Sink]:
    """A discarding server."""
    argv = [sys.executable, "-m", "benchmarks.discard", *(["--count"] if count else [])]
    with process_of(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Sink(process, int(process.stdout.readline() or 0))


def log_of(scratch: Path, number: int) -> Path:
    """Where the collector `number` says what it says."""
    return scratch / f"fanin-{number + 1}.log"


@contextlib.contextmanager
def _collector(made: Rig, number: int, port: int, profile: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    name = f"fanin-{number + 1}"
    state, file, log = (
        made.scratch / f"state-{name}",
        made.scratch / f"{name}.toml",
        log_of(made.scratch, number),
    )
    state.mkdir()
    file.write_text(
        _COLLECTOR.format(name=name, state=state, mqtt=made.broker.port, influx=port, database=DATABASE),
        encoding="utf-8",
    )
    argv = [sys.executable, "-m", "probe.cli", "collect", "-c", str(file)]
    if profile:
        argv = [sys.executable, "-m", "benchmarks.fleet.profiled", str(file), str(profile)]
    with log.open("wb") as output, process_of(argv, stdout=output, stderr=output) as process:
        until = time.monotonic() + START_S
        while "connected" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchmarkError(
                    f"{name} does not start: {log.read_text(errors='replace')[-500:].strip()}"
                )
            time.sleep(0.02)
        yield process


@contextlib.contextmanager
def process_of(argv: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[Any]]:
    """A program of this project for the length of the block, then SIGTERM, then SIGKILL."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(argv, env=environment, cwd=ROOT, **{"stdin": subprocess.DEVNULL, **more})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """What is started inside runs on these cores only, and so does this process, until it ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Meter:
    """Reads processes again and again, in a thread, while the block lasts."""

    def __init__(self, pids: dict[str, int], every_s: float = 0.25) -> None:
        self.readings: dict[str, list[Usage]] = {name: [] for name in pids}
        self._pids = pids
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meter:
        self.read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.read()

    def read(self) -> None:
        for name, pid in self._pids.items():
            with contextlib.suppress(OSError, KeyError):  # it has ended, and `Rig.check` says so
                self.readings[name].append(usage(pid))

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.read()

    def share(self, name: str) -> float:
        """Cores that a process used, on average."""
        first, last = self.readings[name][0], self.readings[name][-1]
        return (last.cpu_s - first.cpu_s) / max(1e-9, last.at_s - first.at_s)


def peak_bytes(pid: int) -> int:
    """The most that a process ever had resident."""
    return memory_bytes(pid)["VmHWM"]
