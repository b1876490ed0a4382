"""What the host did to the engine in, words for the operator out: stalls, busy processors, full buffers, with
their reason. Pure.

A stall is told of when it is over, each by itself. What lasts is told of when it begins and when it is over,
so
that a host that is busy for a day says so twice.
"""

from __future__ import annotations

from collections.abc import Callable

from probe.clock import SECOND
from probe.host.processors import Load

LOOK_EVERY = SECOND
BUSY, CALM = 0.97, 0.90  # shares of all processors' time: trouble begins above the one, ends below the other
WAITING, PROMPT = 0.05, 0.02  # the same of the time the engine waited for a processor
BUSY_FOR, CALM_FOR = 2, 10  # looks in a row
TELL_EVERY = 10 * SECOND  # what comes again and again is summed up for so long
_ENDING = 1 << 62  # a time at which everything is told


class Trouble:
    """Watches this host for the engine; every method returns what the operator should be told, or None.

    Args:
        load: reads the totals; called by the engine's thread only.
    """

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load
        self._first = self._last = Load()  # at the start, at the last look
        self._looked = 0  # when that was (monotonic ns)
        self._usual = Load()  # what the last look found, in parts per `_usual_ns`
        self._usual_ns = 1
        self._seen, self._seen_at = Load(), 0  # the last reading of all
        self._in_a_row = 0
        self._busy = False
        self._dropped = 0
        self._stalls = self._stalled_ns = self._worst_ns = 0
        self._reason = ""
        self._told_drops = self._told_stalls = -TELL_EVERY
        self.waited = 0  # ns since start
        self.share = 0.0  # of all processors' time that anybody used between the last two looks

    def begin(self, now: int) -> None:
        """The engine starts (monotonic ns, as everywhere): what was before is not its trouble."""
        self._last = self._first = self._seen = self._load()
        self._looked = self._seen_at = now

    def stalled(self, late: int, now: int) -> str | None:
        """The engine ran `late` ns after it wanted to."""
        reason = self._why(late, now)
        self._stalls += 1
        self._stalled_ns += late
        if late > self._worst_ns:
            self._worst_ns, self._reason = late, reason
        return self._stalls_text(now)

    def _stalls_text(self, now: int) -> str | None:
        if not self._stalls or now < self._told_stalls + TELL_EVERY:
            return None
        worst = f"{self._worst_ns / 1e6:.0f} ms"
        if self._stalls > 1:
            worst = f"{self._stalls} times, {self._stalled_ns / 1e6:.0f} ms in all and at most {worst}"
        text = (
            f"this host did not run the agent for {worst}: {self._reason}; probes left late or were skipped"
        )
        self._stalls = self._stalled_ns = self._worst_ns = 0
        self._told_stalls = now
        return text

    def _why(self, late: int, now: int) -> str:
        load, elapsed = self._load(), max(now - self._seen_at, late)
        part, self._seen, self._seen_at = load.since(self._seen), load, now
        self.waited = load.waited - self._first.waited
        # What is usual in the time before the stall is no reason for it.
        before = (elapsed - late) / self._usual_ns
        cores = max(1, round((part.busy + part.idle) / elapsed))
        if part.used - self._usual.used * before >= late / 2:
            return "the agent itself was busy"
        if part.waited - self._usual.waited * before >= late / 2:
            return "other programs held the processors"
        if part.stolen - self._usual.stolen * before >= cores * late / 2:
            return "the hypervisor gave the machine no processor"
        return "it was stopped, or waited for memory or a disk, or the machine was paused"

    def look(self, now: int) -> list[str]:
        """Now and then: are there processors to spare? And what was summed up meanwhile?"""
        if now < self._looked + LOOK_EVERY:
            return []
        summed = [self._stalls_text(now), self.dropped(0, now)]
        return [text for text in (*summed, self._processors(now)) if text is not None]

    def _processors(self, now: int) -> str | None:
        load = self._load()
        part, elapsed = load.since(self._last), now - self._looked
        self._last, self._looked = load, now
        self._seen, self._seen_at = load, now
        self._usual, self._usual_ns = part, elapsed
        self.waited = load.waited - self._first.waited
        total = part.busy + part.idle
        self.share = part.busy / total if total > 0 else 0.0
        waiting = part.waited / elapsed
        if self._busy:
            changes = self.share < CALM and waiting < PROMPT
        else:
            changes = self.share >= BUSY or waiting >= WAITING
        self._in_a_row = self._in_a_row + 1 if changes else 0
        if self._in_a_row < (CALM_FOR if self._busy else BUSY_FOR):
            return None
        self._busy, self._in_a_row = not self._busy, 0
        figures = (
            f"{self.share:.0%} of its processors in use, the agent waited {waiting:.1%} of the last "
            f"{elapsed / 1e9:.1f} s for one"
        )
        if not self._busy:
            return f"this host has processors to spare again: {figures}"
        what = (
            "this host has no processor to spare" if self.share >= BUSY else "the agent waits for a processor"
        )
        stolen = f", {part.stolen / total:.0%} went to the hypervisor" if part.stolen > total / 100 else ""
        return f"{what}: {figures}{stolen}; probes may leave late, times are the kernel's and stay right"

    def dropped(self, drops: int, now: int) -> str | None:
        """`drops` more packets found the receive buffer full; 0: is it time to tell of earlier ones?"""
        self._dropped += drops
        if not self._dropped or now < self._told_drops + TELL_EVERY:
            return None
        drops, self._dropped, self._told_drops = self._dropped, 0, now
        return (
            f"the agent's receive buffer was full: this host dropped {drops} packets; probes that they may "
            "have answered are in errors, not in lost (engine.receive_buffer is its size)"
        )

    def rest(self) -> list[str]:
        """What is left to tell at the end."""
        return [text for text in (self._stalls_text(_ENDING), self.dropped(0, _ENDING)) if text is not None]
