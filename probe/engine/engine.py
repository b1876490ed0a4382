"""Channels and a clock in, closed windows out: one thread that wakes on a tick, sends what is due and drains
lazily.

`turn` does all the work and returns when it wants to be called again, so a test drives it with a clock of
its own;
`run` is the thread's loop around it. Windows are aligned to the wall clock. A window is cut when no reply to
one of its probes can
be in time any more, and only after both queues have been emptied: a stalled host makes a window late, not
lossy.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.clock import MILLISECOND, Clock
from probe.engine.channel import CATCH_UP, FAR, STALL, Channel
from probe.engine.samples import Cut, Strays
from probe.engine.stamps import WallToMono
from probe.engine.trouble import Trouble
from probe.host.processors import Load
from probe.sockets.packet_socket import BLOCK

DRAIN_EVERY = 250 * MILLISECOND  # replies are not left unread for longer than this
LEAD = 20 * MILLISECOND  # from the first turn to the first probe: first calls of anything are slow
FAREWELL = 10_000 * MILLISECOND  # longest wait for outstanding replies at the end
MARGIN = 2 * MILLISECOND  # between our clock before a send and the kernel's TX stamp


@dataclass
class EngineCounters:
    """The engine about itself, since start."""

    late_ticks: int = 0
    stalls: int = 0
    clock_steps: int = 0


@dataclass(frozen=True)
class Notice:
    """Something about this host that explains numbers: `kind` is an event's kind, `wall_ns` its instant."""

    kind: str
    text: str
    wall_ns: int


@dataclass(frozen=True)
class _Window:
    start_ns: int  # wall
    end_ns: int  # wall
    mono_end: int


class Engine:
    """Drives channels.

    Args:
        channels: each with its socket; may be empty.
        clock: wall and monotonic time.
        window, timeout, tick: ns.
        flows: number of flows of all channels.
        on_cut: gets every closed window, in this thread.
        on_notice: gets what the operator should know, in this thread.
        drain_every: how long replies may wait unread, ns; a live display wants it short.
        load: how busy the host is, for the reasons of its trouble; called in this thread.
        linger: how much later than it might be a window is closed, ns, for late replies to count in it.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        clock: Clock,
        *,
        window: int,
        timeout: int,
        tick: int,
        flows: int,
        on_cut: Callable[[Cut], None],
        on_notice: Callable[[Notice], None] = lambda _: None,
        drain_every: int = DRAIN_EVERY,
        load: Callable[[], Load] = Load,
        linger: int = 0,
    ) -> None:
        self.channels = list(channels)
        told: dict[str, int] = {}
        for channel in self.channels:
            channel.told = told  # what keeps all of them from sending is told once
        self.counters = EngineCounters()
        self._clock = clock
        self._length, self._timeout, self._tick = window, timeout, tick
        self._linger = linger
        self._flows = flows
        self._on_cut, self._on_notice = on_cut, on_notice
        self._drain_every = drain_every
        self._stopping = threading.Event()
        self.to_mono = WallToMono(clock)
        self.trouble = Trouble(load)
        self._last_drain = clock.mono()
        self.drained = self._last_drain  # what had arrived by then has been read, monotonic ns
        self._drain_after = min((channel.socket.batch for channel in channels), default=BLOCK)
        # Probes of all channels since the last drain: a raw socket gets the replies to every one of them.
        self._unread = 0
        self._wake_limit = FAR  # later than this a turn is late
        self._hurried = [channel for channel in self.channels if channel.socket.hurried]
        self._housekeeping = 0
        self._held = 0  # no window is closed before what left then has had its timeout
        self._newest = 0  # start of the newest window ever opened, wall ns
        self._windows: deque[_Window] = deque()

    # -- windows ---------------------------------------------------------------------------------------------

    def _open_window(self, start: int) -> None:
        end = (start // self._length + 1) * self._length
        self._windows.append(_Window(self._unused(start), end, end - self.to_mono.offset))

    def _unused(self, start: int) -> int:
        """This start of a window, or one that was not used before.

        Where the wall clock was set back, a second point of the same time would overwrite the first. The
        step's number keeps them apart.
        """
        if start <= self._newest:
            start += self.counters.clock_steps
        self._newest = max(self._newest, start)
        return start

    def _roll(self, now: int) -> None:
        """Open the windows that have begun."""
        while now >= self._windows[-1].mono_end:
            last = self._windows[-1]
            # After a long stall nothing was sent in between: begin again where the oldest probe is due that
            # may still leave.
            ahead = self.to_mono.wall(now - CATCH_UP) // self._length * self._length
            self._open_window(max(last.end_ns, ahead))

    def _step(self, now: int) -> None:
        """The wall clock was set: end the open window here, and begin another on the new time."""
        self.counters.clock_steps += 1
        self._roll_on_the_old_time(now)
        last = self._windows.pop()
        self._windows.append(replace(last, mono_end=min(now, last.mono_end)))
        wall = self.to_mono.wall(now)
        self._open_window(wall)
        by = self.to_mono.stepped_by / 1e6
        self._on_notice(
            Notice("clock", f"wall clock stepped by {by:+.3f} ms; a shortened window marks it", wall)
        )

    def _roll_on_the_old_time(self, now: int) -> None:
        """Open what began before the clock was set, which nobody had looked at since."""
        length = self._length
        while now >= (last := self._windows[-1]).mono_end:
            idle = max(0, now - CATCH_UP - last.mono_end) // length  # windows in which nothing was sent
            start = last.end_ns + idle * length
            mono_end = last.mono_end + (idle + 1) * length
            self._windows.append(_Window(self._unused(start), start + length, mono_end))

    def _cut(self, window: _Window) -> None:
        samples = tuple(channel.cut(window.mono_end, self._timeout) for channel in self.channels)
        self._on_cut(Cut(window.start_ns, window.end_ns, samples, self._strays()))

    def _strays(self) -> Strays:
        totals = np.zeros((3, self._flows), np.int64)
        for channel in self.channels:
            ledger = channel.ledger
            for total, column in zip(
                totals, (ledger.late, ledger.late_duplicates, ledger.late_errors), strict=True
            ):
                total += column
                column[:] = 0
        return Strays(totals[0], totals[1], totals[2])

    def _begin(self, now: int) -> None:
        """The first turn: windows and schedules start here, however long ago the sockets were opened."""
        self.to_mono.refresh()
        self.trouble.begin(now)
        self._open_window(self.to_mono.wall(now))
        self._last_drain = self.drained = now
        for channel in self.channels:
            channel.schedule.begin(now + LEAD)
            channel.plan(now)

    # -- the tick --------------------------------------------------------------------------------------------

    def turn(self) -> int:
        """Send what is due, drain and cut if it is time. Returns when to call again (monotonic ns)."""
        now = self._clock.mono()
        if now > self._wake_limit:
            self._overslept(now - self._wake_limit + self._tick, now)
            now = self._drain_between(now)  # what came may have filled the buffer that TX stamps need, too
        elif not self._windows:
            self._begin(now)
        if self.to_mono.moved(now):
            self._drain()  # the sooner a step is seen, the fewer stamps may be from either side of it
        wake, until = self._housekeeping, now
        for channel in self.channels:
            while channel.due <= until and (taken := channel.send(self._clock, now, self._drain_after)):
                self._unread += taken
                if channel.left_at > now:
                    self._interrupted(channel.left_at, now)
                    now = channel.left_at
                if self._unread >= self._drain_after:
                    now = self._drain_between(now)
            if channel.due < wake:
                wake = channel.due
        if now >= self._housekeeping:
            self._keep_house(now)
            wake = min([self._housekeeping, *(channel.due for channel in self.channels)])
        for channel in self._hurried:
            channel.socket.gather()
            if channel.socket.waits():
                wake = now
        # Wake on the tick's grid: what is due within one tick leaves together. What is due still stays due
        # because the send buffer is full: the next tick tries again.
        tick = self._tick
        wake = (max(wake, now + 1) + tick - 1) // tick * tick
        self._wake_limit = wake + tick
        return wake

    def _keep_house(self, now: int) -> None:
        """What need not be done at every tick: drain, open and cut windows, plan for idle channels."""
        for channel in self.channels:
            channel.plan(now)
            for complaint in channel.complaints(now):
                self._tell(complaint, now)
        if now >= self._last_drain + self._drain_every:
            self._drain()
        for text in self.trouble.look(now):
            self._tell(text, now)
        self._roll(now)
        # A probe leaves up to CATCH_UP late, and has its whole timeout even then.
        while now >= (closing := self._closing(self._windows[0])):
            self._drain()
            self._cut(self._windows.popleft())
        self._housekeeping = min(closing, now + self._drain_every)

    def _closing(self, window: _Window) -> int:
        """When every probe of a window has had its whole timeout, however late it left."""
        return max(window.mono_end + CATCH_UP, self._held) + self._timeout + self._linger + MARGIN

    def _overslept(self, late: int, now: int) -> None:
        """The thread got the processor more than a tick late."""
        self._roll(now - late)  # what had begun before that holds probes that left in it
        self.counters.late_ticks += 1
        if late > STALL:
            self.counters.stalls += 1
            self._tell(self.trouble.stalled(late, now), now)

    def _interrupted(self, now: int, before: int) -> None:
        """The host stopped us within a turn: what was just sent may have left as late as that."""
        self._overslept(now - before, now)
        self._held = max(self._held, now)

    def _drain_between(self, now: int) -> int:
        """Drain within a turn. Returns what time it is then."""
        self._drain()
        if self._last_drain - now > STALL:
            self._overslept(self._last_drain - now, self._last_drain)
        return self._last_drain

    def _tell(self, text: str | None, now: int) -> None:
        if text is not None:
            self._on_notice(Notice("host", text, self.to_mono.wall(now)))

    def _drain(self) -> None:
        self._unread = 0
        self.to_mono.refresh()
        drops, begun = 0, self._clock.mono()
        for channel in self.channels:
            drops += channel.drain(self._clock, self.to_mono)
        self.drained = begun
        self._last_drain = self._clock.mono()
        self._tell(self.trouble.dropped(drops, self._last_drain), self._last_drain)
        if self.to_mono.stepped_by:
            self._step(self._last_drain)

    # -- the thread ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until `stop`, then wait for outstanding replies and cut what is open."""
        while not self._stopping.is_set():
            wake = self.turn()
            pause = wake - self._clock.mono()
            if pause > 0:
                time.sleep(pause / 1e9)
        self.finish(time.sleep)

    def stop(self) -> None:
        """Ask `run` to end; may be called from any thread or signal handler."""
        self._stopping.set()

    def finish(self, sleep: Callable[[float], None]) -> None:
        """Send nothing more, give replies their time, and cut every window that is open."""
        deadline = self._clock.mono() + min(self._timeout, FAREWELL) + MARGIN
        if not self._windows:
            self._begin(self._clock.mono())
        self._drain()
        while self._clock.mono() < deadline and any(self._outstanding(channel) for channel in self.channels):
            sleep(0.005)
            self._drain()
        now = self._clock.mono()
        self._drain()  # what has come since the last time; what comes after `now` is awaited no longer
        for text in self.trouble.rest():
            self._tell(text, now)
        for channel in self.channels:
            # With a longer timeout than anybody waits for, these are neither answered nor lost.
            channel.ledger.give_up(now - self._timeout)
        self._roll(now)
        while self._windows:
            window = self._windows.popleft()
            if not self._windows:
                window = replace(window, end_ns=self.to_mono.wall(now), mono_end=1 << 62)
            self._cut(window)

    @staticmethod
    def _outstanding(channel: Channel) -> bool:
        ledger = channel.ledger
        rows = ledger.row(np.arange(ledger.floor, ledger.head))
        return bool(((ledger.rx[rows] == 0) & (ledger.state[rows] == 1)).any())

    def close(self) -> None:
        """Close every socket and let go of the channels.

        They are megabytes, and we stand in a circle with whoever takes our windows, collected who knows when.
        """
        for channel in self.channels:
            channel.socket.close()
        self.channels.clear()
        self._hurried.clear()
