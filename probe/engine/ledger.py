"""Probe numbers, stamps and replies in, samples out: what is known of every probe of one socket. Pure numpy,
no clock.

A ring of columns, one row a probe, indexed by probe number: filling in a batch of replies is one indexed
assignment, and
a window is a run of rows. Nothing is judged here; `probe.windows` decides what is lost or late when a window
closes.

    floor          head              planned
      |  in flight   |  planned, not sent  |          (numbers grow to the right)
    --+--------------+---------------------+--> number
      cut next       sent next
"""

from __future__ import annotations

from dataclasses import replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from probe.engine.hardware import hard_rtt
from probe.engine.overflow import Exposure, Overflows, arrivals
from probe.engine.reflected import Reflected
from probe.engine.samples import BLURRED, CLOSED, ERROR, HIDDEN, LOCAL, SENT, SKIPPED, Samples

Indices = NDArray[np.int64]
_FEW = 8  # sends that are written down one by one faster than together


class Ledger:
    """Rows for the last `capacity` probes (at least 2,048) of a socket.

    `flows` is the number of flows of the agent; rows carry indices below it. `reflecting`: what
    STAMP reflectors say is kept, too; `hardware`: and stamps by interfaces' own clocks.
    """

    def __init__(
        self, capacity: int, flows: int, *, reflecting: bool = False, hardware: bool = False
    ) -> None:
        self.size = size = max(capacity, 2048)
        self.flow = np.zeros(size, np.int32)
        self.due = np.zeros(size, np.int64)
        self.sent = np.zeros(size, np.int64)
        self.tx = np.zeros(size, np.int64)
        self.rx = np.zeros(size, np.int64)
        self.state = np.zeros(size, np.uint8)
        self.unstamped = np.zeros(size, np.bool_)
        self.duplicates = np.zeros(size, np.uint8)
        self.hard_tx = np.zeros(size if hardware else 0, np.int64)
        self.hard_rx = np.zeros(size if hardware else 0, np.int64)
        # The others are written before anybody looks.
        self._blank: tuple[NDArray[np.generic], ...] = (self.tx, self.rx, self.unstamped, self.duplicates)
        if hardware:
            self._blank += (self.hard_tx, self.hard_rx)
        self._first = np.zeros(size, np.int32)  # scratch: which row of a batch came first for a number
        self.floor = self.head = self.planned = 0
        self._leaving: list[tuple[int, int, int]] = []
        self.late = np.zeros(flows, np.int64)
        self.late_duplicates = np.zeros(flows, np.int64)
        self.late_errors = np.zeros(flows, np.int64)
        self._stamping = np.zeros(flows, np.bool_)
        self.overflows = Overflows()
        self.reflected = Reflected(size, flows) if reflecting else None
        self.forgotten = 0  # replies to probes whose rows were overwritten long ago
        self.overrun = 0  # probes whose rows were overwritten before their window closed

    def expect_stamps(self, flows: list[int]) -> None:
        """The kernel stamps probes of these flows as they leave: one without a stamp has not, from the first
        on."""
        self._stamping[flows] = True

    @overload
    def row(self, number: int) -> int: ...

    @overload
    def row(self, number: Indices) -> Indices: ...

    def row(self, number: int | Indices) -> int | Indices:
        """Where the row of a probe is, or the rows of many."""
        if isinstance(number, int):
            return number % self.size
        # Of probes that the ring holds, and in a quarter of a division's time.
        rows = number - self.planned // self.size * self.size
        return np.where(rows < 0, rows + self.size, rows)

    def plan(self, flows: Indices, dues: Indices) -> Indices:
        """Give numbers to probes that will leave next, in this order. Returns the numbers."""
        self.settle()
        count = len(flows)
        for rows, part in self._runs(self.planned, count):
            self.flow[rows] = flows[part]
            self.due[rows] = dues[part]
            for column in self._blank:
                column[rows] = 0
        numbers = np.arange(self.planned, self.planned + count)
        self.planned += count
        if self.planned - self.floor > self.size:
            self.overrun += self.planned - self.size - self.floor
            self.floor = self.planned - self.size
        return numbers

    def leave(self, count: int, now: int, state: int = SENT) -> None:
        """The next `count` planned probes were given to the kernel at `now`, or refused or skipped then."""
        # A tick has to be cheap, so that many are written down at once by `settle`.
        self._leaving.append((count, now, state))
        self.head += count

    def settle(self) -> None:
        """Write down what has left; call it before looking at `sent` or `state`."""
        if not self._leaving:
            return
        leaving = self._leaving.copy()
        self._leaving.clear()
        counts, nows, states = zip(*leaving, strict=True)
        count = sum(counts)
        if len(leaving) <= _FEW:
            number = self.head - count
            for some, now, state in leaving:
                for rows, _ in self._runs(number, some):
                    self.sent[rows] = now
                    self.state[rows] = state
                number += some
            return
        whens, whats = (
            np.repeat(np.array(nows, np.int64), counts),
            np.repeat(np.array(states, np.uint8), counts),
        )
        for rows, part in self._runs(self.head - count, count):
            self.sent[rows] = whens[part]
            self.state[rows] = whats[part]

    def _runs(self, number: int, count: int) -> tuple[tuple[slice, slice], ...]:
        """The rows of `count` consecutive probes as slices of the ring, each with its part of the probes."""
        begin = number % self.size
        first = self.size - begin
        if count <= first:
            return ((slice(begin, begin + count), slice(0, count)),)
        return ((slice(begin, self.size), slice(0, first)), (slice(0, count - first), slice(first, count)))

    def stamped(self, ids: NDArray[np.uint32], stamps: NDArray[np.int64]) -> None:
        """TX stamps, by the low 32 bits of the probe's number."""
        count = len(ids)
        furthest = (self.head - 1 - int(ids[0])) & 0xFFFFFFFF if count else 0
        if count - 1 <= furthest < self.size - (self.planned - self.head) and (ids[1:] - ids[:-1] == 1).all():
            # One after the other, as a single interface sends them.
            for run, part in self._runs(self.head - 1 - furthest, count):
                self.tx[run] = stamps[part]
            return
        rows, known = self._rows_of(ids)
        self.tx[rows] = stamps[known]

    def stamped_hard(self, ids: NDArray[np.uint32], stamps: NDArray[np.int64]) -> None:
        """TX stamps by the interface's own clock (ns), by the low 32 bits of the probe's number."""
        if len(self.hard_tx):
            rows, known = self._rows_of(ids)
            self.hard_tx[rows] = stamps[known]

    def _rows_of(self, ids: NDArray[np.uint32]) -> tuple[Indices, NDArray[np.bool_]]:
        """The rows of probes by the low 32 bits of their numbers, and which of them are still there."""
        back = (self.head - 1 - ids.astype(np.int64)) & 0xFFFFFFFF
        # Rows of planned probes are theirs already, though they have not left.
        known = back < self.size - (self.planned - self.head)
        return self.row(self.head - 1 - back[known]), known

    def answered(
        self,
        numbers: Indices,
        stamps: NDArray[np.int64],
        now: int,
        hard: NDArray[np.int64] | None = None,
    ) -> NDArray[np.bool_]:
        """Replies in order of arrival. Stamp 0 means the kernel gave none; `now` stands in.

        `hard`: when they came by the interface's own clock, 0 where that gave no stamp.
        Returns which of them belong to a probe that this ledger sent.
        """
        if hard is not None and len(self.hard_rx):
            self._answered_hard(numbers, hard)
        if self._answered_in_order(numbers, stamps):
            return np.ones(len(numbers), np.bool_)
        known = (numbers < self.head) & (numbers >= max(0, self.planned - self.size))
        all_known = bool(known.all())
        if not all_known:
            self.forgotten += int(((numbers >= 0) & (numbers < self.head) & ~known).sum())
            numbers, stamps = numbers[known], stamps[known]
        rows = self.row(numbers)
        order = np.arange(len(rows), dtype=np.int32)
        self._first[rows[::-1]] = order[::-1]
        again = (self._first[rows] != order) | (self.rx[rows] != 0)
        if again.any():
            repeated = rows[again]
            rows_again, times = np.unique(repeated, return_counts=True)
            self.duplicates[rows_again] = np.minimum(self.duplicates[rows_again] + times, 255)
            gone = numbers[again] < self.floor
            np.add.at(self.late_duplicates, self.flow[repeated[gone]], 1)
            rows, stamps, numbers = rows[~again], stamps[~again], numbers[~again]
        unstamped = stamps == 0
        if unstamped.any():
            self.unstamped[rows[unstamped]] = True
            stamps = np.where(unstamped, now, stamps)
        self.rx[rows] = stamps
        gone = numbers < self.floor
        if gone.any():
            np.add.at(self.late, self.flow[rows[gone]], 1)
        return known

    def _answered_in_order(self, numbers: Indices, stamps: NDArray[np.int64]) -> bool:
        """`answered` where nothing is special: consecutive probes of open windows, stamped, once."""
        count = len(numbers)
        if not count or not max(self.floor, self.planned - self.size) <= numbers[0] <= self.head - count:
            return False
        if not (numbers[1:] - numbers[:-1] == 1).all() or not stamps.all():
            return False
        runs = self._runs(int(numbers[0]), count)
        if any(self.rx[run].any() for run, _ in runs):
            return False
        for run, part in runs:
            self.rx[run] = stamps[part]
        return True

    def _answered_hard(self, numbers: Indices, hard: NDArray[np.int64]) -> None:
        """As `answered`, which comes next: of several replies to a probe the first one counts."""
        known = (numbers < self.head) & (numbers >= max(0, self.planned - self.size))
        rows, hard = self.row(numbers[known])[::-1], hard[known][::-1]
        fresh = self.rx[rows] == 0
        self.hard_rx[rows[fresh]] = hard[fresh]

    def refused(self, numbers: Indices) -> None:
        """Of the replies that `answered` is told of next, these are refusals (CLOSED), where they are the
        first."""
        known = (numbers < self.head) & (numbers >= max(0, self.planned - self.size))
        rows = self.row(numbers[known])
        self.settle()
        self.state[rows[self.rx[rows] == 0]] |= CLOSED

    def failed(self, number: int, local: bool) -> None:
        """An ICMP error quoted this probe; `local`: this host made it."""
        if not max(0, self.planned - self.size) <= number < self.head:
            return
        row = number % self.size
        if local:
            # After seconds this host gives a neighbour up. Then what has no stamp never left, whether it was
            # counted as an error when its window closed or is going to be.
            self._stamping[self.flow[row]] = True
        elif number < self.floor and not self.state[row] & ERROR:
            self.late_errors[self.flow[row]] += 1
        self.state[row] |= ERROR | LOCAL if local else ERROR

    def give_up(self, since: int) -> None:
        """Judge no probe that was sent after `since` and is not answered."""
        self.settle()
        rows = self.row(np.arange(self.floor, self.head))
        open_ends = rows[(self.rx[rows] == 0) & (self.state[rows] == SENT) & (self.sent[rows] > since)]
        self.state[open_ends] = SKIPPED

    def find(self, sequence: int) -> int:
        """The number of the latest sent probe whose low 16 bits are `sequence` (unwrapped from the last one
        sent)."""
        last = self.head - 1
        return last - ((last - sequence) & 0xFFFF)

    def _hide(self, rows: Indices, inside: int, end: int, timeout: int) -> None:
        """Mark the probes whose fate this host's full receive buffer hides."""
        flow, rx = self.flow[rows], self.rx[rows]
        left = np.maximum(self.sent[rows], self.tx[rows])
        earliest, latest = arrivals(flow, left, rx, len(self.late), timeout)
        open_ends = (rx == 0) & ((self.state[rows] & ~np.uint8(ERROR | BLURRED)) == SENT)
        probes = Exposure(flow, open_ends, self.sent[rows], earliest, latest)
        hidden, blurred = self.overflows.blame(probes, inside, end, timeout)
        self.state[rows[hidden]] |= HIDDEN
        self.state[rows[blurred]] |= BLURRED

    def cut(self, until: int, timeout: int) -> Samples:
        """Take off the probes due before `until`, with everything sent since behind them; `timeout` in ns."""
        self.settle()
        rows = self.row(np.arange(self.floor, self.head))
        due = self.due[rows]
        inside = int(np.searchsorted(due, until, side="left"))
        if self.overflows:
            self._hide(rows, inside, until, timeout)
        flow, tx, rx = self.flow[rows], self.tx[rows], self.rx[rows]
        # A route may come to lead through a driver that takes no stamps: then none is no sign any more.
        # One that a full buffer may have taken is none either.
        self._stamping[flow[(tx == 0) & (rx != 0) & ((self.state[rows] & BLURRED) == 0)]] = False
        self._stamping[flow[tx != 0]] = True
        samples = Samples(
            flow,
            due,
            self.sent[rows],
            tx,
            rx,
            self.state[rows],
            self.unstamped[rows],
            self.duplicates[rows],
            inside,
            self._stamping.copy(),
        )
        if self.reflected is not None:
            samples = replace(samples, reflections=self.reflected.reflections(rows, samples, self.floor))
        if len(self.hard_rx):
            hard = hard_rtt(samples.tx, samples.rx, self.hard_tx[rows], self.hard_rx[rows])
            samples = replace(samples, hard_rtt=hard)
        self.floor += inside
        return samples
