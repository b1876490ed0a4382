"""Nothing in, how busy this host's processors are and how long the calling thread waited for one out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # ns in a unit of /proc/stat


@dataclass(frozen=True)
class Load:
    """Running totals in ns of time; their differences mean something.

    waited: how long the engine's thread was ready to run while no processor was free.
    used: processor time of this process.
    busy, idle, stolen: of all processors together; `stolen` (by a hypervisor) is part of `busy`.
    """

    waited: int = 0
    used: int = 0
    busy: int = 0
    idle: int = 0
    stolen: int = 0

    def since(self, other: Load) -> Load:
        """What came about between `other` and this."""
        return Load(
            self.waited - other.waited,
            self.used - other.used,
            self.busy - other.busy,
            self.idle - other.idle,
            self.stolen - other.stolen,
        )


def load() -> Load:
    """Totals since boot, and of the calling thread. What a kernel does not tell stays 0.

    See proc(5): /proc/stat has user nice system idle iowait irq softirq steal, schedstat has ran, waited,
    slices.
    """
    columns = _numbers("/proc/stat")[:8]
    waited = _numbers("/proc/thread-self/schedstat")
    idle = busy = stolen = 0
    if len(columns) == 8:
        idle = columns[3] + columns[4]
        busy, stolen = sum(columns) - idle, columns[7]
    return Load(
        waited=waited[1] if len(waited) > 1 else 0,
        used=time.process_time_ns(),
        busy=busy * _TICK,
        idle=idle * _TICK,
        stolen=stolen * _TICK,
    )


def _numbers(path: str) -> list[int]:
    """The whole numbers of a file's first line; none where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        line = os.read(fd, 256).partition(b"\n")[0]
    except OSError:
        return []
    finally:
        os.close(fd)
    return [int(word) for word in line.split() if word.isdigit()]
