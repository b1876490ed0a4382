"""Arguments in, a running `coloprobe` command out: what end-to-end tests start, signal and read."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from probe.telemetry.lines import Point, parse_many
from probe.telemetry.spool import Spool

T = TypeVar("T")

DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]


def wait_for(what: Callable[[], T], why: str = "", deadline_s: float = DEADLINE_S) -> T:
    """The first value of `what()` that is true. Fails at the deadline, with the last one."""
    end = time.monotonic() + deadline_s
    while not (value := what()):
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {why or what}; last: {value!r}"
        time.sleep(0.05)
    return value


def coloprobe(*arguments: str | Path) -> list[str]:
    """The command line of a command; Python's warnings are errors in it."""
    return [sys.executable, "-W", "error", "-m", "probe.cli", *map(str, arguments)]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Fails where it prints a traceback."""
    done = subprocess.run(
        coloprobe(*arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=DEADLINE_S,
        env={**os.environ, **environment},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def spooled(state_dir: Path) -> list[Point]:
    """Every point that waits in the spool of an agent that has ended."""
    spool = Spool(state_dir / "spool.sqlite3", 1 << 30)
    try:
        batches = [spool.get(number) or b"" for number in spool.numbers(0, 1_000_000)]
    finally:
        spool.close()
    texts = [gzip.decompress(batch) if batch[:2] == b"\x1f\x8b" else batch for batch in batches]
    return [point for text in texts for point in parse_many(text.decode())]


class Command:
    """One `coloprobe` process with its output in a file; warnings of Python are errors in it."""

    def __init__(self, directory: Path, name: str, *arguments: str | Path) -> None:
        self.log = directory / f"{name}.log"
        self._argv = coloprobe(*arguments)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Command:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def text(self) -> str:
        """What it printed so far, all runs together."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)
