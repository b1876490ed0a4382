"""Events and lines of an agent's parts in, one list of lines for the spool out: none told twice, none for
ever."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from probe.clock import Clock
from probe.telemetry.lines import series_text
from probe.telemetry.points import event_line

MOST = 8192  # lines that wait for the disk; what is beyond is dropped and counted
_REMEMBERED = 4096  # times of events, so that no two of a series have the same one

log = logging.getLogger(__name__)


class Teller:
    """What the parts of an agent say besides windows. In the event loop, and nowhere else.

    Args:
        tags: `agent` and `site` of every line.
        soon: called when an event waits; other lines can wait until a window closes.
    """

    def __init__(self, tags: Mapping[str, str], clock: Clock, soon: Callable[[], None]) -> None:
        self.tags = tags
        self.dropped = 0
        self._clock = clock
        self._soon = soon
        self._lines: list[str] = []
        self._told: OrderedDict[tuple[str, int], None] = OrderedDict()

    def event(
        self,
        kind: str,
        text: str,
        *,
        tags: Mapping[str, str] | None = None,
        detail: Mapping[str, object] | None = None,
        wall_ns: int | None = None,
    ) -> None:
        """Something happened: at `wall_ns` (wall clock), or now. `tags`: `target` or `interface`."""
        when = self._clock.wall() if wall_ns is None else wall_ns
        every = {**self.tags, **(tags or {})}
        # Two events of one series at one instant would be one point.
        series = series_text("event", {**every, "kind": kind})
        while (series, when) in self._told:
            when += 1
        self._told[series, when] = None
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self.lines([event_line(every, kind, text, detail or {}, when)])
        self._soon()

    def lines(self, lines: Sequence[str]) -> None:
        """Whole lines of line protocol, of any measurement."""
        room = MOST - len(self._lines)
        self._lines += lines[:room]
        if len(lines) > room:
            self.dropped += len(lines) - room
            log.error("the disk does not keep up: %d lines dropped so far", self.dropped)

    def take(self) -> list[str]:
        """What was said since the last call."""
        taken, self._lines = self._lines, []
        return taken
