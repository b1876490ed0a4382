"""Acknowledgements, losses and the time in, the next batch to publish out: pure, it holds numbers only.

    numbers     1 ...... cursor ...... live ...... last
                in flight  backlog, to   new: one by
                or gone    be read       one, first

- At most `window` batches are in flight: taken, and neither acknowledged nor given up. How many of them
  may be on their way at a time is `room`'s.
- New batches go first, and beyond the room one a second: they are few, and one that was lost must not hold
  up the next. The backlog follows oldest first, gets every second turn, and leaves a quarter of the slots,
  and at least one, to new batches, so that neither starves the other.
- A batch that is not acknowledged within `ack_timeout` is published again, after twice, then four times as
  long once more; then it makes room for others and comes again when the backlog has been gone through.
- Where nothing at all is acknowledged for `ack_timeout`, one batch at a time goes out, a new one and an old
  one in turn, with doubling pauses up to a minute; a hint that acknowledgements are coming again ends the
  pause. The first acknowledgement opens the room again.
- Batches that were on their way to the broker when the connection was lost, three times in a row, may be why:
  a broker hangs up on what is too large for it. Each of them goes alone, when nothing else is left to do.

The backlog's numbers are read from the spool page by page (`wanted`, `supply`), so that a million of them
costs no memory. Times are monotonic ns. Nothing here blocks, and nobody but the caller touches it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from probe.clock import SECOND
from probe.telemetry import acks
from probe.telemetry.room import Room

PAGE = 256  # numbers of the backlog that are known at a time
FIRST_PAUSE_NS = 1 * SECOND
LAST_PAUSE_NS = 60 * SECOND
ATTEMPTS = 3  # in a row, before a batch waits for its next turn
NEW_EVERY_NS = 1 * SECOND  # new batches beyond the room
FATAL = 3  # connections in a row that end with a batch on its way, before it goes alone
FIRST_ROOM = 4  # on a new connection: batches on their way at a time


@dataclass
class _Flight:
    live: bool  # taken as a new one, and on its way for the first time
    attempts: int = 1
    since: int | None = None  # when the broker had it; None while it is on its way there


class Outbox:
    """What goes out next: every waiting batch is in flight, ahead of the cursor, or due for the next lap."""

    def __init__(self, window: int, ack_timeout_ns: int, last: int) -> None:
        """`last`: the highest number that the spool has given; all before it is backlog."""
        self.republished = 0  # batches that were taken and have to be taken again, so far
        self.last = last
        self._window = window
        self._timeout = ack_timeout_ns
        self._room = Room(window, ack_timeout_ns)
        self._flights: dict[int, _Flight] = {}
        self._retry: dict[int, None] = {}  # timed out, to be taken again in this order; all are in flight
        self._ahead: deque[int] = deque()  # the next of the backlog
        self._cursor = 1  # nothing below it is waiting, but for what is in flight or due for the next lap
        self._live = last + 1  # the next new number
        self._lap = False  # something below the cursor was given up and comes again
        self._turn_live = True
        self._took_new: int | None = None  # when the last new one was taken
        self._silent_since: int | None = None  # the broker has had a batch since then and nothing came back
        self._expiry: int | None = None  # no flight times out before this
        self._ended_with: dict[int, int] = {}  # on their way when a connection ended; how many in a row
        self._alone: dict[int, None] = {}  # those that it has happened to too often, the next one first
        self._alone_at = 0  # when one of them may go
        self._pause: int | None = None  # not None: acknowledgements have stopped
        self._resume = 0  # when the next single batch may go
        self._tried = 0  # when the last one went
        self._tried_at = 0  # and what was the newest one then

    @property
    def in_flight(self) -> int:
        """Batches that were taken and neither acknowledged nor given up; at most the window."""
        return len(self._flights)

    @property
    def room(self) -> int:
        """Batches that may be on their way at a time; new ones may be more."""
        return self._room.size

    @property
    def narrow(self) -> bool:
        """Whether acknowledgements have stopped, so that one batch at a time tries."""
        return self._pause is not None

    def appended(self, last: int) -> None:
        """The spool has given numbers up to `last`."""
        self.last = max(self.last, last)

    def restart(self, now: int) -> list[int]:
        """A connection begins: whatever was in flight is due again, the newest batch first.

        Returns the batches that from now on go alone, because connections end with them.
        """
        newest = [number for number, flight in self._flights.items() if flight.live]
        suspects = self._suspect()
        self._give_up_all()
        self._rewind(min(newest, default=self._live))
        self._room.begin(FIRST_ROOM)
        self._resume = now
        return suspects

    def hinted(self, now: int) -> None:
        """Acknowledgements are said to be coming again: try it, with the newest batch, once a second."""
        if self.narrow:
            self._pause = 0
            self._resume = min(self._resume, max(now, self._tried + FIRST_PAUSE_NS))
            self._turn_live = True

    def wanted(self) -> int | None:
        """Read `PAGE` numbers of the spool above this one, for `supply`; None: not now."""
        if self._ahead:
            return None
        if self._cursor >= self._live and self._lap:
            self._cursor = 1
            self._lap = False
        return self._cursor - 1 if self._cursor < self._live else None

    def supply(self, after: int, numbers: list[int]) -> None:
        """The spool's answer to `wanted`; ignored where it comes too late."""
        if self._ahead or after != self._cursor - 1:
            return
        for number in numbers:
            if number >= self._live:
                break
            self._cursor = number + 1
            if number not in self._flights and number not in self._alone:
                self._ahead.append(number)
        else:
            if numbers:
                return
        self._cursor = self._live

    def take(self, now: int) -> int | None:
        """The number to publish now, in flight from here on; None: not before `due`, `wanted` or news."""
        if not self.narrow:
            self._expire(now)
        if self.narrow:
            return self._take_single(now)
        number = self._choose(now)
        return self._take_alone(now) if number is None else number

    def due(self) -> int | None:
        """When to call `take` again although nothing else has happened; None: only then."""
        if self.narrow:
            waiting = self._flights or self._ahead or self._live <= self.last
            return self._resume if waiting else None
        alone = self._alone_at if self._alone and not self._flights else None
        new = None  # soon is soon enough: nobody knows the time here
        if self._took_new is not None and self._live <= self.last and len(self._flights) < self._window:
            new = self._took_new + NEW_EVERY_NS
        times = (self._expiry, self._deadline(), alone, new)
        return min((time for time in times if time is not None), default=None)

    def delivered(self, number: int, now: int) -> None:
        """The broker has it: the time for its acknowledgement runs."""
        flight = self._flights.get(number)
        if flight is None:
            return
        flight.since = now
        self._ended_with.pop(number, None)
        self._alone.pop(number, None)
        if self._silent_since is None:
            self._silent_since = now
        expiry = now + self._patience(flight)
        self._expiry = expiry if self._expiry is None else min(self._expiry, expiry)

    def missing(self, number: int) -> None:
        """The spool does not have it any more."""
        self._alone.pop(number, None)
        self._retry.pop(number, None)
        if self._flights.pop(number, None) and self.narrow:
            self._resume = 0  # that was no attempt

    def acknowledged(self, ranges: list[tuple[int, int]], forgotten: int, now: int) -> None:
        """Sorted `ranges` are held by the sink; `forgotten`: how many of them the spool still had."""
        gone = [number for number in self._flights if acks.covers(ranges, number)]
        self._room.acknowledged(len(gone), len(self._flights) - len(self._retry))
        for number in gone:
            del self._flights[number]
            self._retry.pop(number, None)
        if not gone and not forgotten:
            return  # an old one, said twice: no sign that anything moves
        if self.narrow:
            self._pause = None
            self._give_up_all()  # a try that nobody answered: perhaps there was no room for it
            self._rewind(self._tried_at)
            self._room.begin(1)
        waiting = any(flight.since is not None for flight in self._flights.values())
        self._silent_since = now if waiting else None

    def _choose(self, now: int) -> int | None:
        """A new batch or one of the backlog, in turn where there are both."""
        while self._live in self._alone:
            self._live += 1
        live = self._live <= self.last and self._may_fly(live=True, now=now)
        backlog = bool(self._retry or self._ahead) and self._may_fly(live=False, now=now)
        if live and (self._turn_live or not backlog):
            if self.narrow or self.last - self._live >= self._window:
                self._live = self.last  # too far behind: what is skipped has become backlog
            elif self._cursor == self._live:
                self._cursor += 1
            number = self._live
            self._live += 1
            self._turn_live = False
            self._took_new = now
        elif backlog:
            self._turn_live = True
            if self._retry:
                number = next(iter(self._retry))
                del self._retry[number]
                self._flights[number].attempts += 1
                return number
            number = self._ahead.popleft()
            live = False
        else:
            return None
        self._flights[number] = _Flight(live)
        return number

    def _take_alone(self, now: int) -> int | None:
        """One that connections end with, once a minute and when there is nothing else to do."""
        busy = self._flights or self._ahead or self._cursor < self._live
        if not self._alone or busy or now < self._alone_at:
            return None
        self._alone_at = now + LAST_PAUSE_NS
        number = next(iter(self._alone))
        self._alone[number] = self._alone.pop(number)  # the others have their turn before it comes again
        self._flights[number] = _Flight(live=False)
        return number

    def _suspect(self) -> list[int]:
        """A connection has ended: who was on the way to the broker? Returns who goes alone from now on."""
        unfinished = [
            n for n, flight in self._flights.items() if flight.since is None and n not in self._retry
        ]
        self._ended_with = {number: self._ended_with.get(number, 0) + 1 for number in unfinished}
        found = [n for n, times in self._ended_with.items() if times >= FATAL and n not in self._alone]
        self._alone.update(dict.fromkeys(found))
        return found

    def _may_fly(self, *, live: bool, now: int) -> bool:
        """Whether one more may be on its way; the backlog leaves a quarter, and at least one, to new ones."""
        new = sum(flight.live for flight in self._flights.values())
        flying = len(self._flights) - len(self._retry)
        if live:
            due = not new or self._took_new is None or now - self._took_new >= NEW_EVERY_NS
            return len(self._flights) < self._window and (flying < self.room or due)
        if not self._retry and len(self._flights) - new >= _for_backlog(self._window):
            return False
        return flying < self.room and flying - new < _for_backlog(self.room)

    def _take_single(self, now: int) -> int | None:
        assert self._pause is not None
        if now < self._resume:
            return None
        if self._flights:
            if newest := [number for number, flight in self._flights.items() if flight.live]:
                self._live = newest[0]  # where there is no newer one by now it is tried again
            self._give_up_all()
            self._lap = True
            self._pause = min(self._pause * 2, LAST_PAUSE_NS)
        self._pause = max(self._pause, FIRST_PAUSE_NS)
        number = self._choose(now)
        if number is not None:
            self._tried, self._tried_at = now, self.last
            self._resume = now + self._pause
        return number

    def _expire(self, now: int) -> None:
        """Find what was not acknowledged in time, and notice when nothing is acknowledged at all."""
        deadline = self._deadline()
        if deadline is not None and now >= deadline:
            self._give_up_all()
            self._rewind(self.last)
            self._pause = FIRST_PAUSE_NS
            self._resume = now
        if self._expiry is None or now < self._expiry:
            return
        self._expiry = None
        old = sum(not flight.live for flight in self._flights.values())
        for number, flight in list(self._flights.items()):
            if flight.since is None:
                continue
            expiry = flight.since + self._patience(flight)
            if expiry > now:
                self._expiry = expiry if self._expiry is None else min(self._expiry, expiry)
                continue
            self.republished += 1
            self._room.lost(now)
            old += flight.live
            if flight.attempts < ATTEMPTS and old <= _for_backlog(self._window):
                self._retry[number] = None
                flight.live, flight.since = False, None
            else:
                del self._flights[number]
                self._lap = True
                old -= 1

    def _patience(self, flight: _Flight) -> int:
        return self._timeout << (flight.attempts - 1)

    def _deadline(self) -> int | None:
        return None if self._silent_since is None else self._silent_since + self._timeout

    def _give_up_all(self) -> None:
        self.republished += len(self._flights)
        self._flights.clear()
        self._retry.clear()
        self._silent_since = None
        self._expiry = None

    def _rewind(self, new: int) -> None:
        """Go through the backlog from its beginning. As new counts what has `new` or a higher number: the
        newest one at least, and as many at most as have slots of their own."""
        self._ahead.clear()
        self._cursor = 1
        self._lap = False
        own = self._window - _for_backlog(self._window)
        self._live = max(1, min(new, self.last), self.last + 1 - max(1, own))
        self._turn_live = True


def _for_backlog(slots: int) -> int:
    """How many of `slots` the backlog may have."""
    return max(1, slots - max(1, slots // 4))
