"""Lines in, batches in the spool out, each opened by the agent's line about itself; and what became of it.

Everything here may block on the disk: call it in a thread, one call at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from probe import __version__
from probe.clock import SECOND, Clock
from probe.errors import SpoolError
from probe.host.clock import clock_state
from probe.host.process import cpu_ns, rss_bytes
from probe.telemetry.batches import Batcher
from probe.telemetry.episodes import Episodes, Told
from probe.telemetry.lines import Value, encode
from probe.telemetry.spool import Spool

# A clock set back by less could give two `agent` lines one time; by more, only by a miracle.
SAME_HEAD = SECOND

log = logging.getLogger(__name__)


class Outgoing:
    """What leaves the agent, as far as the disk.

    Args:
        series: measurement and tags of the agent's own line.
        measured: the fields of that line that only the agent knows, asked for with every batch.
    """

    def __init__(
        self, spool: Spool, series: str, clock: Clock, measured: Callable[[], Mapping[str, Value]]
    ) -> None:
        self.batcher = Batcher(self.head)
        self.trouble: SpoolError | None = None  # why the last lines could not be spooled
        self.spool = spool
        self._series = series
        self._clock = clock
        self._measured = measured
        self._episodes = Episodes(spool, self.batcher)
        self._last_head = 0

    def store(self, lines: Iterable[str]) -> list[Told]:
        """Spool these lines and those held back before; what is to be told of the spool goes with the next.

        What cannot be spooled is held, up to a limit, and tried again with the next lines.
        """
        self.batcher.add(lines)
        try:
            self.batcher.flush(self.spool.append)
        except SpoolError as problem:
            self.trouble = problem
        else:
            self.trouble = None
        return self.look()

    @property
    def newest_ns(self) -> int:
        """When the newest batch was made (wall clock); 0: none was."""
        return self._last_head

    def look(self) -> list[Told]:
        """What began or ended with the spool since the last look."""
        told = self._episodes.look(self._clock.mono(), self.trouble)
        for one in told:
            log.log(logging.ERROR if one.detail["phase"] == "begun" else logging.INFO, "%s", one.text)
        return told

    def head(self, number: int) -> str:
        """The `agent` line that batch `number` begins with."""
        clock = clock_state()
        # Two batches of one instant would be one point in the database, and a number would seem lost.
        now = self._clock.wall()
        self._last_head = self._last_head + 1 if 0 <= self._last_head - now < SAME_HEAD else now
        fields: dict[str, Value] = {
            "batch": number,
            "spool": self.spool.id,
            "spool_batches": self.spool.depth,
            "spool_bytes": self.spool.bytes,
            "spool_dropped": self.spool.dropped,
            "lines_dropped": self.batcher.dropped,
            "lines_oversized": self.batcher.oversized,
            "cpu_ns": cpu_ns(),
            "rss_bytes": rss_bytes(),
            "clock_synchronised": clock.synchronised,
            "clock_error_ns": clock.error_ns,
            "version": __version__,
            **self._measured(),
        }
        return encode(self._series, fields, self._last_head)
