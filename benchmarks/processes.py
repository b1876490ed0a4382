"""Commands in, processes that run in the background out, and what /proc says of them: memory, files,
threads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import BenchmarkError
from tests.lab.netlab import Namespace

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """A process at one instant; `cpu_s`: user + system since its start."""

    at_s: float
    rss_bytes: int
    cpu_s: float
    files: int
    threads: int


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


def usage(pid: int) -> Usage:
    """What a process holds now. Raises: OSError where it has ended."""
    folder = Path("/proc", str(pid))
    fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return Usage(
        at_s=time.monotonic(),
        rss_bytes=memory_bytes(pid)["VmRSS"],
        cpu_s=(int(fields[11]) + int(fields[12])) / _CLOCK_TICKS,
        files=len(list((folder / "fd").iterdir())),
        threads=int(fields[17]),
    )
