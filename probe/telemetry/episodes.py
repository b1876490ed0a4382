"""A spool and a batcher in, sentences out: what they went through, told when it begins and when it is over.

What goes on for a while, as a spool that drops a batch with every window, is told twice and not every time:
at once, and when it has been quiet for a minute, with the count. Nothing here blocks; time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe.clock import SECOND
from probe.errors import SpoolError
from probe.telemetry.batches import Batcher
from probe.telemetry.spool import Spool
from probe.units import ByteSize

QUIET_NS = 60 * SECOND


@dataclass(frozen=True)
class Told:
    """One event: in words, and the same as values."""

    text: str
    detail: dict[str, object]


class Episode:
    """Growth of a counter, from when it begins until it has been quiet for long enough.

    count, seconds: of the episode that goes on, or that was just over.
    """

    def __init__(self, known: int = 0) -> None:
        self.count = 0
        self.seconds = 0.0
        self._known = known
        self._begun: int | None = None
        self._last = 0  # when it grew

    def look(self, counter: int, now: int, *, lasts: bool = False) -> Literal["begun", "over"] | None:
        """What there is to tell; `lasts`: it is not over, although the counter may stand still."""
        grown, self._known = counter - self._known, counter
        if grown > 0 or lasts:
            self._last = now
            if self._begun is None:
                self._begun, self.count = now, grown
                return "begun"
            self.count += grown
        elif self._begun is not None and now - self._last >= QUIET_NS:
            self.seconds = (self._last - self._begun) / SECOND
            self._begun = None
            return "over"
        return None


class Episodes:
    """Of one spool and what fills it; `look` after every attempt to store something."""

    def __init__(self, spool: Spool, batcher: Batcher) -> None:
        self._spool, self._batcher = spool, batcher
        self._dropped = spool.dropped
        self._disk_full = False
        self._by_limit = self._by_disk = 0
        self._limit, self._disk, self._damage, self._oversized = (Episode() for _ in range(4))
        self._trouble = Episode(batcher.dropped)

    def look(self, now: int, trouble: SpoolError | None = None) -> list[Told]:
        """What began or ended since the last look; `trouble`: why nothing can be stored, if so."""
        spool, batcher = self._spool, self._batcher
        damaged = ", ".join(path.name for path in spool.set_aside)
        lost = f"; {spool.abandoned} batches waited in it" if spool.abandoned else ""
        gone, self._dropped = max(0, spool.dropped - self._dropped), spool.dropped
        was_full, self._disk_full = self._disk_full, spool.disk_full
        if was_full or spool.disk_full:
            self._by_disk += gone
        else:
            self._by_limit += gone
        told = [
            self._tell(
                "spool_limit",
                self._limit,
                self._limit.look(self._by_limit, now),
                f"the spool has reached its limit of {ByteSize(spool.max_bytes)}: "
                "its oldest batches are dropped",
                "the spool has room again: {count} batches were dropped in {seconds:.0f} s",
            ),
            self._tell(
                "disk_full",
                self._disk,
                self._disk.look(self._by_disk, now, lasts=spool.disk_full),
                f"the disk of {spool.path.parent} is full: the spool makes do with what it has, "
                "and its oldest batches are dropped",
                "the disk has room again: {count} batches were dropped in {seconds:.0f} s",
            ),
            self._tell(
                "spool_failed",
                self._trouble,
                self._trouble.look(batcher.dropped, now, lasts=trouble is not None),
                f"cannot spool, holding lines in memory: {trouble or 'they were too many'}",
                "spooling again: it failed for {seconds:.0f} s, and {count} lines were dropped",
            ),
            self._tell(
                "spool_damaged",
                self._damage,
                self._damage.look(spool.replaced, now),
                f"the spool was damaged and was set aside as {damaged}{lost}",
                "the spool was damaged {count} times in {seconds:.0f} s" + lost,
                once=True,
            ),
            self._tell(
                "line_oversized",
                self._oversized,
                self._oversized.look(batcher.oversized, now),
                f"a line of {batcher.longest} bytes fits into no batch and is lost",
                "{count} lines fitted into no batch and were lost in {seconds:.0f} s",
                once=True,
            ),
        ]
        return [one for one in told if one is not None]

    def _tell(
        self,
        what: str,
        episode: Episode,
        phase: Literal["begun", "over"] | None,
        begun: str,
        over: str,
        *,
        once: bool = False,
    ) -> Told | None:
        """`once`: the first sentence says it all where it happened only once."""
        if phase is None or (once and phase == "over" and episode.count == 1):
            return None
        detail: dict[str, object] = {"what": what, "phase": phase, "count": episode.count}
        if phase == "begun":
            return Told(begun, detail)
        seconds = episode.seconds
        return Told(
            over.format(count=episode.count, seconds=seconds), {**detail, "seconds": round(seconds, 3)}
        )
