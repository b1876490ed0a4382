"""Points of agents and events in, the lines of the side panels out: pure, time is an argument."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from collectors.board import text
from collectors.board.rows import Window
from probe.clock import SECOND

LIVE_FOR = 60 * SECOND  # an agent that sent nothing for so long is called silent
_ALARMS = frozenset({"unreachable", "loss"})


@dataclass(frozen=True)
class Health:
    """One agent's own numbers, as text; `alarms` are the names of those that ask for attention."""

    agent: str
    site: str
    live: bool
    end_ns: int
    facts: tuple[tuple[str, str], ...]
    alarms: frozenset[str]


@dataclass(frozen=True)
class Event:
    """One event, as text."""

    time_ns: int
    when: str
    kind: str
    subject: str
    words: str
    alarm: bool


def health_of(tags: Mapping[str, str], points: Sequence[Window], now_ns: int) -> Health:
    """An agent's health from its newest points, oldest first and at least one."""
    newest, first = points[-1], points[0]
    facts: list[tuple[str, str]] = []
    alarms = set()
    waiting = newest.number("spool_batches")
    facts.append(("spool", _spool(waiting, newest.number("spool_bytes"))))
    if dropped := newest.integer("spool_dropped"):
        facts.append(("spool dropped", text.count(dropped)))
        alarms.add("spool dropped")
    facts.append(("cpu", text.percent(_cpu(first, newest))))
    facts.append(("rss", text.size(newest.number("rss_bytes"))))
    drops = newest.number("socket_drops")
    facts.append(("socket drops", text.count(drops)))
    if drops:
        alarms.add("socket drops")
    synchronised = newest.fields.get("clock_synchronised")
    if synchronised is not None:
        error = newest.number("clock_error_ns")
        exact = f" ±{text.duration(error)}" if error is not None and synchronised else ""
        facts.append(("clock", f"synchronised{exact}" if synchronised else "not synchronised"))
        if not synchronised:
            alarms.add("clock")
    if isinstance(version := newest.fields.get("version"), str):
        facts.append(("version", version))
    return Health(
        tags.get("agent", ""),
        tags.get("site", ""),
        now_ns - newest.start_ns < LIVE_FOR,
        newest.start_ns,
        tuple(facts),
        frozenset(alarms),
    )


def event_of(tags: Mapping[str, str], point: Window) -> Event:
    """One `event` point as a line of the list."""
    kind = tags.get("kind", "")
    words = point.fields.get("text")
    subject = " ".join(tags[key] for key in ("agent", "target", "interface") if key in tags)
    bad = kind in _ALARMS or bool(re.search(r"\b(down|offline|lost|unreachable)\b", str(words or "")))
    return Event(point.start_ns, when(point.start_ns), kind, subject, str(words or ""), bad)


def when(time_ns: int) -> str:
    """UTC time of day, with the date where it is not asked for again: '14:03:22'."""
    try:
        return datetime.fromtimestamp(time_ns // SECOND, UTC).strftime("%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return text.NOTHING  # a stranger's clock


def _cpu(first: Window, newest: Window) -> float | None:
    """Share of one processor between two points; None where it cannot be told (one point, or a restart)."""
    before, after = first.number("cpu_ns"), newest.number("cpu_ns")
    elapsed = newest.start_ns - first.start_ns
    if before is None or after is None or elapsed <= 0 or after < before:
        return None
    return (after - before) / elapsed


def _spool(batches: float | None, octets: float | None) -> str:
    if batches is None:
        return text.NOTHING
    return f"{batches:,.0f} batch{'' if batches == 1 else 'es'}" + (
        f", {text.size(octets)}" if octets and batches > 1 else ""
    )
