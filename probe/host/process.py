"""Nothing in, what this process costs its host out: processor time and resident memory."""

from __future__ import annotations

import os
import time
from pathlib import Path


def cpu_ns() -> int:
    """Processor time of all threads since the start, user and system, ns."""
    return time.process_time_ns()


def rss_bytes() -> int:
    """Resident memory in bytes (/proc/self/statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
