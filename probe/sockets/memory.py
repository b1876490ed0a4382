"""Prepared rows in, replies by a rule of the test's out: the twin of `PacketSocket`, on an injected clock."""

from __future__ import annotations

import errno
import heapq
import itertools
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probe.clock import MICROSECOND, Clock
from probe.sockets.packet_socket import (
    BLOCK,
    PITCH,
    ROWS,
    SEND_BUFFER,
    Pressure,
    QuotedError,
    Replies,
    Stamps,
)


@dataclass(frozen=True)
class Fate:
    """What the network does to one probe.

    replies: delays in ns after the TX stamp, one a reply; none: lost.
    refused: errno with which the kernel refuses to send it; 0: it leaves.
    stamped: whether the TX stamp comes.
    raw: packets to deliver as they are, as (delay in ns, bytes).
    """

    replies: tuple[int, ...] = ()
    refused: int = 0
    stamped: bool = True
    raw: tuple[tuple[int, bytes], ...] = ()


Rule = Callable[[int, bytes], Fate]


@dataclass
class MemorySocket:
    """A ping socket (no IP header) of `family`; `rule(n, packet)` is the fate of the n-th probe, from 0."""

    clock: Clock
    rule: Rule
    family: int = int(socket.AF_INET)
    raw: bool = False
    header: bool = False
    row_offset: int = 0
    burst: int = 256
    crowded: str = SEND_BUFFER
    hurried: bool = False
    pseudo_sums: NDArray[np.int64] | None = None
    patience: int = 256
    receive_stamps: bool = True
    room: int = 1 << 30  # replies and TX stamps that fit in unread; what is beyond is lost, stamps uncounted
    kept: int = PITCH  # bytes of each packet received
    hard_ahead: int | None = None  # ns that the interface's own clock is ahead of ours; None: it has none
    nearer: int = 300  # ns that it stamps later than the kernel what is sent, and sooner what comes
    dropped: int = 0
    closed: bool = False
    rows: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((ROWS, 128), np.uint8))
    sent: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batch = min(BLOCK, self.patience)
        self.checksums = self.raw and self.family == socket.AF_INET
        self._sizes = np.zeros(ROWS, np.int64)
        self._ids = np.zeros(ROWS, np.uint32)
        self._arriving: list[tuple[int, int, int, bytes]] = []  # when, order, stamp or 0, packet
        self._order = itertools.count()
        self._arrived: list[tuple[int, bytes]] = []  # stamp, packet
        self._stamps: list[tuple[int, int]] = []
        self._hard: list[tuple[int, int]] = []
        self.admitted: tuple[int, int] | None = None
        self.dismissed: tuple[int, int] | None = None
        self._tried = 0
        self.errors: list[QuotedError] = []

    def set_destinations(self, addresses: list[bytes]) -> None:
        """Every address leads to `rule`."""

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],  # noqa: ARG002 - part of the interface
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        self._sizes[where] = sizes
        self._ids[where] = ids

    def send(self, start: int, stop: int) -> tuple[int, int]:
        for row in range(start, stop):
            packet = self.rows[row, : self._sizes[row]].tobytes()
            fate = self.rule(self._tried, packet)
            if fate.refused == errno.EAGAIN:
                return row - start, errno.EAGAIN
            self._tried += 1
            if fate.refused:
                return row - start, fate.refused
            self.sent.append(packet)
            left = self.clock.mono() + MICROSECOND
            self._arrive()
            if fate.stamped and self._waiting() < self.room:
                stamp = self.clock.wall() + MICROSECOND
                self._stamps.append((int(self._ids[row]), stamp))
                if self.hard_ahead is not None:
                    self._hard.append((int(self._ids[row]), stamp + self.nearer + self.hard_ahead))
            reply = bytes([packet[0] - 8 if packet[0] == 8 else 129]) + packet[1:]
            self.deliver(*((left + delay, reply) for delay in fate.replies))
            self.deliver(*((left + delay, raw) for delay, raw in fate.raw))
        return stop - start, 0

    def deliver(self, *packets: tuple[int, bytes]) -> None:
        """Let packets arrive at monotonic times (ns); each is stamped with the wall time of that moment."""
        for when, data in packets:
            heapq.heappush(self._arriving, (when, next(self._order), 0, data))

    def about_to_step(self) -> None:
        """Call it before the wall clock is stepped: what has arrived unread keeps the stamp it was given."""
        now, offset = self.clock.mono(), self.clock.wall() - self.clock.mono()
        self._arriving = [
            (when, n, stamp or (when + offset if when <= now else 0), data)
            for when, n, stamp, data in self._arriving
        ]

    def gather(self) -> None:
        """There is no other queue."""

    def _waiting(self) -> int:
        return len(self._arrived) + len(self._stamps)

    def _arrive(self) -> None:
        """What is on its way and due goes into the receive buffer, or is dropped."""
        offset = self.clock.wall() - self.clock.mono()
        while self._arriving and self._arriving[0][0] <= self.clock.mono():
            when, _, stamp, data = heapq.heappop(self._arriving)
            if self._waiting() < self.room:
                self._arrived.append((stamp or when + offset, data))
            else:
                self.dropped += 1

    def waits(self) -> bool:
        """It is never hurried."""
        return False

    def receive(self) -> Replies | None:
        self._arrive()
        arrived, self._arrived = self._arrived[:BLOCK], self._arrived[BLOCK:]
        if not arrived:
            return None
        rows = np.zeros((len(arrived), self.kept), np.uint8)
        for i, (_, data) in enumerate(arrived):
            cut = data[: self.kept]
            rows[i, : len(cut)] = np.frombuffer(cut, np.uint8)
        stamps = np.array([when if self.receive_stamps else 0 for when, _ in arrived], np.int64)
        lengths = np.array([len(data) for _, data in arrived], np.uint32)
        hard = None
        if self.hard_ahead is not None:
            hard = np.array([when - self.nearer + self.hard_ahead for when, _ in arrived], np.int64)
        sources = np.zeros((len(arrived), 28), np.uint8)
        return Replies(rows, lengths, stamps, sources, len(arrived) == BLOCK, hard)

    def stamps(self) -> Stamps | None:
        if not self._stamps and not self.errors:
            return None
        taken, self._stamps = self._stamps, []
        errors, self.errors = tuple(self.errors), []
        ids, stamp = _columns(taken)
        if self.hard_ahead is None:
            return Stamps(ids, stamp, errors, False)
        hard, self._hard = self._hard, []
        return Stamps(ids, stamp, errors, False, *_columns(hard))

    def pressure(self) -> Pressure:
        self._arrive()
        return Pressure(self.dropped, self._waiting() >= self.room)

    def admit(self, first_id: int, ids: int) -> None:
        self.admitted = first_id, ids

    def dismiss(self, first_id: int, ids: int) -> None:
        self.dismissed = first_id, ids

    def close(self) -> None:
        self.closed = True


def _columns(stamps: list[tuple[int, int]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    return np.array([i for i, _ in stamps], np.uint32), np.array([when for _, when in stamps], np.int64)


def lossless(delay: int) -> Rule:
    """A rule: every probe is answered after `delay` ns."""
    return lambda _n, _packet: Fate((delay,))


def fates(sequence: Iterable[Fate]) -> Rule:
    """A rule: the n-th probe meets the n-th fate."""
    given = list(sequence)
    return lambda n, _packet: given[n]
