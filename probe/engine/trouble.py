"""What the host did to the engine in, words for the operator out: stalls, busy processors, full buffers, with
their reason. Pure.

A stall is told of when it is over, each by itself. What lasts is told of when it begins and when it is over,
so
that a host that is busy for a day says so twice.
"""

from __future__ import annotations

from collections.abc import Callable

from probe.clock import MILLISECOND, SECOND
from probe.host.processors import Load

STALL = 100 * MILLISECOND  # a tick this late is worth an event
LOOK_EVERY = SECOND
BUSY, CALM = 0.97, 0.90  # shares of all processors' time: trouble begins above the one, ends below the other
WAITING, PROMPT = 0.05, 0.02  # the same of the time the engine waited for a processor
BUSY_FOR, CALM_FOR = 2, 10  # looks in a row
DROPS_EVERY = 10 * SECOND  # drops go on for as long as somebody floods: told of no oftener


class Trouble:
    """Watches this host for the engine; every method returns what the operator should be told, or None.

    Args:
        load: reads the totals; called by the engine's thread only.
    """

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load
        self._last = self._first = Load()
        self._looked = 0  # monotonic ns
        self._in_a_row = 0
        self._busy = False
        self._dropped = 0
        self._told_drops = -DROPS_EVERY
        self.waited = 0  # ns since start
        self.share = 0.0  # of all processors' time that anybody used between the last two looks

    def begin(self, now: int) -> None:
        """The engine starts (monotonic ns, as everywhere): what was before is not its trouble."""
        self._last = self._first = self._load()
        self._looked = now

    def stalled(self, late: int, now: int) -> str | None:
        """The engine ran `late` ns after it wanted to."""
        if late <= STALL:
            return None
        reason = self._why(late)
        self._looked = now  # a share over the stall would only say it again
        return (
            f"this host did not run the agent for {late / 1e6:.0f} ms: {reason}; "
            "probes left late or were skipped"
        )

    def _why(self, late: int) -> str:
        load = self._load()
        part, self._last = load.since(self._last), load
        self.waited = load.waited - self._first.waited
        cores = max(1, round((part.busy + part.idle) / late)) if late else 1
        if part.used >= late / 2:
            return "the agent itself was busy"
        if part.waited >= late / 2:
            return "other programs held the processors"
        if part.stolen >= cores * late / 2:
            return "the hypervisor gave the machine no processor"
        return "it was stopped, or waited for memory or a disk, or the machine was paused"

    def look(self, now: int) -> str | None:
        """Now and then: are there processors to spare?"""
        if now < self._looked + LOOK_EVERY:
            return None
        load = self._load()
        part, elapsed = load.since(self._last), now - self._looked
        self._last, self._looked = load, now
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
        figures = f"{self.share:.0%} in use, the agent waited {waiting:.1%} of the last {elapsed / 1e9:.1f} s"
        if not self._busy:
            return f"this host has processors to spare again: {figures}"
        stolen = (
            f", {part.stolen / total:.0%} taken by the hypervisor"
            if total > 0 and part.stolen > total / 100
            else ""
        )
        return (
            f"this host has no processor to spare: {figures}{stolen}; probes may leave late, "
            "times are the kernel's and stay right"
        )

    def dropped(self, drops: int, now: int) -> str | None:
        """`drops` more packets found the receive buffer full; 0: is it time to tell of earlier ones?"""
        self._dropped += drops
        if not self._dropped or now < self._told_drops + DROPS_EVERY:
            return None
        drops, self._dropped, self._told_drops = self._dropped, 0, now
        return (
            f"the agent's receive buffer was full: this host dropped {drops} packets; probes that they may "
            "have answered are in errors, not in lost (engine.receive_buffer is its size)"
        )
