"""This host's /proc in, totals that grow as they should out."""

from __future__ import annotations

import threading
import time

import pytest

from probe.host import processors
from probe.host.processors import Load, load


def test_totals_grow_with_what_they_count() -> None:
    before = load()
    deadline = time.monotonic() + 10
    while load().since(before).busy == 0 or load().since(before).used < 50_000_000:
        assert time.monotonic() < deadline
    part = load().since(before)
    assert part.used >= 50_000_000
    assert part.busy > 0
    assert part.idle >= 0
    assert part.waited >= 0
    assert part.stolen >= 0


def test_the_wait_is_of_the_calling_thread() -> None:
    # A thread that was just made has not waited for as long as this process has.
    found: list[Load] = []
    thread = threading.Thread(target=lambda: found.append(load()))
    thread.start()
    thread.join()
    assert found[0].waited < 10_000_000_000
    assert found[0].used > 0


def test_a_hidden_proc_is_all_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_numbers", lambda _path: [])
    reading = load()
    assert (reading.waited, reading.busy, reading.idle, reading.stolen) == (0, 0, 0, 0)


def test_a_file_that_is_not_there_has_no_numbers() -> None:
    assert processors._numbers("/proc/self/no-such-file") == []
