"""Batches in, the same batches out until they are forgotten, in memory: a `Spool` without a disk.

What an agent's delivery is made of (`probe.telemetry.uplink`) works on it as on the real one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

from probe.telemetry.spool import Spool

DEFAULT_BYTES = 8 << 20


class MemorySpool(Spool):
    """What an uplink uses of `Spool`; the limit drops the oldest, as there. Nothing is on a disk."""

    def __init__(self, spool_id: str, max_bytes: int = DEFAULT_BYTES) -> None:  # no file: not Spool's own
        self.path = Path("/nonexistent/spool")
        self.id = spool_id
        self.last = 0
        self.depth = 0
        self.bytes = 0
        self.dropped = 0
        self.forgotten = 0  # batches that were acknowledged
        self.set_aside: list[Path] = []
        self._most = max_bytes
        self._batches: dict[int, bytes] = {}  # ascending
        self._turns = RLock()

    def append(self, make: Callable[[int], bytes]) -> int:
        with self._turns:
            number = self.last + 1
            payload = make(number)
            while self._batches and self.bytes + len(payload) > self._most:
                self._let_go(next(iter(self._batches)))
                self.dropped += 1
            self._batches[number] = payload
            self.last = number
            self.depth += 1
            self.bytes += len(payload)
            return number

    def get(self, number: int) -> bytes | None:
        return self._batches.get(number)

    def numbers(self, after: int, limit: int) -> list[int]:
        with self._turns:
            return [number for number in self._batches if number > after][:limit]

    def forget(self, ranges: Iterable[tuple[int, int]], of: str = "") -> int:
        gone = 0
        with self._turns:
            for first, last in ranges if of in ("", self.id) else ():
                few = last - first < len(self._batches)
                numbers = range(first, last + 1) if few else [n for n in self._batches if first <= n <= last]
                gone += sum(self._let_go(number) for number in numbers)
            self.forgotten += gone
        return gone

    def close(self) -> None:
        pass

    def _let_go(self, number: int) -> bool:
        payload = self._batches.pop(number, None)
        if payload is None:
            return False
        self.depth -= 1
        self.bytes -= len(payload)
        return True


class TimedSpool(MemorySpool):
    """Notes when each batch was spooled, first taken for publishing, and forgotten: monotonic ns."""

    def __init__(self, spool_id: str, max_bytes: int = DEFAULT_BYTES) -> None:
        super().__init__(spool_id, max_bytes)
        self.times: dict[int, list[int]] = {}  # number: spooled, taken, forgotten (0: not yet)

    def append(self, make: Callable[[int], bytes]) -> int:
        number = super().append(make)
        self.times[number] = [time.monotonic_ns(), 0, 0]
        return number

    def get(self, number: int) -> bytes | None:
        mine = self.times.get(number)
        if mine and not mine[1]:
            mine[1] = time.monotonic_ns()
        return super().get(number)

    def forget(self, ranges: Iterable[tuple[int, int]], of: str = "") -> int:
        ranges, now = list(ranges), time.monotonic_ns()
        for first, last in ranges:
            for number in range(first, min(last, self.last) + 1):
                mine = self.times.get(number)
                if mine and not mine[2]:
                    mine[2] = now
        return super().forget(ranges, of)


class InlineExecutor(ThreadPoolExecutor):
    """Runs what is asked of a `MemorySpool` at once: a thread is for disks, and costs more than it does."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # `asyncio.to_thread` hands over partial(context.run, method, *arguments).
        asked = fn.args[0] if isinstance(fn, partial) and fn.args else None
        if not isinstance(getattr(asked, "__self__", None), MemorySpool):
            return super().submit(fn, *args, **kwargs)
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as problem:  # noqa: BLE001 - it is raised where it is awaited
            done.set_exception(problem)
        return done
