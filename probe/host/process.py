"""Nothing in, what this process costs its host out: processor time and resident memory."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def cpu_ns() -> int:
    """Processor time of all threads since the start, user and system, ns."""
    return time.process_time_ns()


def rss_bytes() -> int:
    """Resident memory in bytes (/proc/self/statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_memory_back() -> None:
    """Let glibc return large arrays to the system when they are freed, and use one heap for all threads.

    A closed window is megabytes for some milliseconds every few seconds. By default the allocator learns from
    that to keep them. Call it before threads are started; elsewhere than on glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 256 << 10)
        mallopt(_M_TRIM_THRESHOLD, 1 << 20)
