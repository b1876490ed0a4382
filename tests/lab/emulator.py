"""Two TUN or TAP devices and what the link between them should do in, packets carried from one to the other
and a log of the truth out.

The emulator's own process: `tests.lab.emulated` starts it, hands over the devices and ends it by closing its
standard input. It runs with real-time priority and spins for the last 150 us before a packet is due, because
a sleeping process wakes 50 to 300 us late. It imports nothing heavy, so that it starts in no time. What it
logs it keeps in memory, and writes in small pieces while nothing is due.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import heapq
import json
import mmap
import os
import pickle
import select
import signal
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.lab.link import Impairments, Link
from tests.lab.truthlog import BACKWARD, FORWARD, HEAD, encode

PRIORITY = 20  # SCHED_FIFO
SPIN = 150_000  # ns
_IDLE = 2_000_000  # ns without anything due in which there is time for the log
_PIECE = 4  # records written in one go
_MOST_KEPT = 100_000  # records kept; beyond them the log is written even if it costs time
_READ_AT_ONCE = 16  # packets, before what is due is looked at again
_MTU = 65_536
_MCL_CURRENT_AND_FUTURE = 3

# The counters of one direction, int64 each, in memory that the parent sees.
COUNTERS = ("arrived", "lost", "delivered", "duplicated", "held", "in_flight", "ignored", "refused")
COUNTERS_SIZE = 2 * 8 * len(COUNTERS)
DIRECTIONS = (FORWARD, BACKWARD)


@dataclass(frozen=True)
class Orders:
    """What the parent asks for; file descriptors are inherited."""

    near: int
    far: int
    counters: int
    forward: Impairments
    backward: Impairments
    seed: int | str
    settings: dict[str, Any]
    log: str = ""
    header: int = 0  # bytes before the IP header: 14 on Ethernet


class _Log:
    """Records of packets, in memory until there is time to write them."""

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        # Open until the process ends.
        self._file: IO[str] | None = Path(path).open("w", encoding="utf-8") if path else None  # noqa: SIM115
        self._waiting: deque[tuple[Any, ...]] = deque()
        if self._file:
            self._file.write(json.dumps(settings) + "\n")

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, record: tuple[Any, ...]) -> None:
        if self._file:
            self._waiting.append(record)
            if len(self._waiting) > _MOST_KEPT:
                self.write(_PIECE)

    def write(self, most: int) -> None:
        if self._file:
            for _ in range(min(most, len(self._waiting))):
                self._file.write(encode(*self._waiting.popleft()))

    def close(self) -> None:
        self.write(len(self._waiting))
        if self._file:
            self._file.close()


class Direction:
    """Packets read here come out at the other device, as the link decides."""

    def __init__(self, name: str, link: Link, source: int, sink: int, counters: memoryview) -> None:
        self.name, self.link, self.source, self.sink, self.counters = name, link, source, sink, counters


class Flight:
    """A packet under way: what its record will say."""

    __slots__ = ("arrived", "copies", "direction", "frame", "header", "lengths", "number", "to_go")

    def __init__(
        self,
        direction: Direction,
        number: int,
        arrived: int,
        frame: bytes,
        header: int,
        lengths: tuple[int, int, int, int],
        due: tuple[int, ...],
    ) -> None:
        self.direction, self.number, self.arrived = direction, number, arrived
        self.frame, self.header, self.lengths = frame, header, lengths
        self.copies: list[tuple[int, int | None, str]] = [(when, None, "") for when in due]
        self.to_go = len(due)

    def record(self) -> tuple[Any, ...]:
        return (
            self.direction.name,
            self.number,
            self.arrived,
            len(self.frame) - self.header,
            "",
            self.lengths,
            self.copies,
            self.frame[self.header : self.header + HEAD],
        )


class Emulator:
    """Carries packets until its control descriptor has something to read, or its end.

    `due` in the heap is monotonic; what goes into the log is wall clock, read at the same moment.
    """

    def __init__(self, directions: tuple[Direction, Direction], log: _Log, header: int = 0) -> None:
        self._directions = directions
        self._header = header
        self._log = log
        self._heap: list[tuple[int, int, int, Flight]] = []
        self._order = 0

    def run(self, control: int) -> None:
        heap, log = self._heap, self._log
        forward, backward = self._directions
        watched = forward.source, backward.source, control
        clock = time.monotonic_ns
        while True:
            while heap and heap[0][0] <= clock():
                self._write()
            if self._read(forward) | self._read(backward):  # both, also where the first has something
                continue
            ahead = heap[0][0] - clock() - SPIN if heap else None
            if ahead is not None and ahead <= 0:
                continue  # spin: what arrives meanwhile is seen as well
            if log and (ahead is None or ahead > _IDLE):
                log.write(_PIECE)
                ahead = 0
            ready, _, _ = select.select(watched, (), (), None if ahead is None else ahead / 1e9)
            if control in ready:
                return

    def _read(self, direction: Direction) -> bool:
        """Take what is there; returns whether there was anything."""
        any_at_all = False
        counters, log = direction.counters, self._log
        for _ in range(_READ_AT_ONCE):
            try:
                frame = os.read(direction.source, _MTU)
            except BlockingIOError:
                break
            now, arrived = time.monotonic_ns(), time.time_ns()
            any_at_all = True
            packet = frame[self._header :]
            if not _is_carried(packet):
                counters[6] += 1
                continue
            counters[0] += 1
            verdict = direction.link.packet(now, len(packet))
            if verdict.lost:
                counters[1] += 1
                record = (direction.name, verdict.number, arrived, len(packet), verdict.lost)
                log.add((*record, (0, 0, 0, 0), (), packet[:HEAD]))
                continue
            lengths = verdict.queued, verdict.delay, verdict.behind, verdict.held
            due = tuple(arrived + when - now for when in verdict.due)
            flight = Flight(direction, verdict.number, arrived, frame, self._header, lengths, due)
            counters[3] += len(due) - 1
            counters[4] += verdict.held > 0
            counters[5] += len(due)
            for which, when in enumerate(verdict.due):
                self._order += 1
                heapq.heappush(self._heap, (when, self._order, which, flight))
        return any_at_all

    def _write(self) -> None:
        """Let the next copy out."""
        _, _, which, flight = heapq.heappop(self._heap)
        direction, problem = flight.direction, ""
        written: int | None = time.time_ns()
        try:
            os.write(direction.sink, flight.frame)
            direction.counters[2] += 1
        except OSError as refusal:
            written, problem = None, str(refusal)
            direction.counters[7] += 1
        direction.counters[5] -= 1
        flight.copies[which] = (flight.copies[which][0], written, problem)
        flight.to_go -= 1
        if not flight.to_go:
            self._log.add(flight.record())

    def close(self) -> None:
        """Log what is still under way, and write the rest of the log."""
        for flight in {id(entry[3]): entry[3] for entry in self._heap}.values():
            self._log.add(flight.record())
        self._log.close()


def _is_carried(packet: bytes) -> bool:
    """Unicast IP. Neighbours need not be asked for, and multicast is the kernels' own talk."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return len(packet) >= 20 and packet[16] < 224
    return version == 6 and len(packet) >= 40 and packet[24] != 0xFF


def _hurry() -> str:
    """Real-time priority and memory that is never paged out. Returns what could not be had."""
    gc.disable()  # nothing here goes in circles
    problems = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as problem:
        problems.append(f"no real-time priority ({problem.strerror}): delays are off by some 100 us")
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).mlockall(_MCL_CURRENT_AND_FUTURE)
    return "; ".join(problems)


def main() -> None:
    """Orders on standard input, "ready" on standard output, packets until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends us when all is done
    control = sys.stdin.fileno()
    (size,) = struct.unpack("!I", _read_exactly(control, 4))
    orders: Orders = pickle.loads(_read_exactly(control, size))
    shared = mmap.mmap(orders.counters, COUNTERS_SIZE)
    counters = memoryview(shared).cast("q")
    half = len(COUNTERS)
    directions = (
        Direction(
            FORWARD, Link(orders.forward, orders.seed, FORWARD), orders.near, orders.far, counters[:half]
        ),
        Direction(
            BACKWARD, Link(orders.backward, orders.seed, BACKWARD), orders.far, orders.near, counters[half:]
        ),
    )
    emulator = Emulator(directions, _Log(orders.log, orders.settings), orders.header)
    print("ready", _hurry(), flush=True)
    try:
        emulator.run(control)
    finally:
        emulator.close()


def _read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(descriptor, size - len(data))
        if not part:
            raise SystemExit("the emulator got no orders")
        data += part
    return data


if __name__ == "__main__":
    main()
