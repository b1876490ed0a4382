"""A store in, what every viewer sees out: read once a second for all of them, with bounded queries.

A tick asks SQLite whether anybody committed; only then the newest points are read. Whatever an agent sends
late (after an outage) is found by the longer look back that happens once a minute. `View.version` grows
when something changed; a viewer that has seen it has nothing to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from collectors.board import charts
from collectors.board.flows import Flow, flows_of
from collectors.board.panels import Event, Health, event_of, health_of
from collectors.board.rows import HISTORY, Row, Summary, Window, row_of, shown, state_of
from collectors.sinks.store import Reader, Stored
from probe.clock import SECOND, Clock, SystemClock
from probe.errors import ColoprobeError

log = logging.getLogger("coloprobe.board")

TICK_S = 1.0
WHOLE_EVERY = 60 * SECOND  # how often all of HISTORY is read again, for what came late
SHOWN_FOR = 86_400 * SECOND  # a target without data for longer leaves the table
AHEAD = 60 * SECOND  # points further ahead of this host's clock than this are not shown
WINDOWS = 600  # kept a target: HISTORY of windows of half a second
AGENT_POINTS = 8  # what an agent's CPU share is told from
CHART_POINTS = 50_000  # read for one chart: 6 h of windows of half a second
FLOW_POINTS = 60  # read of each flow of the target that is drawn: a minute of windows of a second
REDRAWS = 720  # of a chart while its span passes: 6 h is read again every 30 s, 5 min as often as it changes
MAX_ROWS, MAX_EVENTS, MAX_AGENTS, MAX_BUCKETS, MAX_CHARTS = 2_000, 100, 200, 400, 64
MAX_FLOWS = 64  # of a target: as many as an agent allows

Shown = Mapping[str, object]


@dataclass(frozen=True)
class View:
    """What a page shows, whoever looks. Never changed once made."""

    version: int = 0
    rows: tuple[Shown, ...] = ()
    agents: tuple[Health, ...] = ()
    events: tuple[Event, ...] = ()
    problem: str = ""  # why the store cannot be read now


@dataclass(frozen=True)
class Chart:
    """What one target's chart shows over a span."""

    boxes: list[charts.Box] = field(default_factory=list)
    cells: list[charts.Cell] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    first_ns: int = 0  # the oldest point there is, also beyond the span


@dataclass(frozen=True)
class _Made:
    """A chart, and which data it was made of when."""

    version: int = -1
    mono_ns: int = 0
    chart: Chart = field(default_factory=Chart)


class Feed:
    """Reads the store at `path`. One event loop uses it; all reading happens in one thread."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.view = View()
        self.data_version = 0  # grows with every commit that a tick saw
        self._path, self._clock = path, clock or SystemClock()
        self._reader: Reader | None = None
        self._windows: dict[int, list[Summary]] = {}  # by series, oldest first
        self._drawn: dict[int, tuple[list[Summary], Row, Shown]] = {}
        self._agents: list[tuple[Mapping[str, str], list[Window]]] = []
        self._events: tuple[Event, ...] = ()
        self._whole_due = 0
        self._charts: dict[tuple[int, int], _Made] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="board")

    @property
    def now_ns(self) -> int:
        """This host's wall clock: ages count from it."""
        return self._clock.wall()

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(TICK_S)

    async def refresh(self) -> View:
        """Read what is new and make `view` anew where it changed."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._refresh)
        return self.view

    async def chart(self, series: int, span_ns: int) -> Chart:
        """A target's chart over the last `span_ns`; two viewers of the same one share the reading."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._chart, series, span_ns)

    def close(self) -> None:
        """Stop reading. Twice is harmless."""
        self._thread.shutdown()
        if self._reader is not None:
            self._reader.close()

    def _refresh(self) -> None:
        before, problem = self.view, ""
        try:
            if self._reader is None:
                self._reader = Reader(self._path)
            if self._reader.changed():
                self._read(self._reader)
                self.data_version += 1
        except ColoprobeError as error:
            problem = str(error)
            if problem != before.problem:
                log.warning("board: %s", problem)
        now = self._clock.wall()
        agents = tuple(health_of(tags, points, now) for tags, points in self._agents)
        view = View(before.version, self._rows(now), agents, self._events, problem)
        if view != before:
            self.view = replace(view, version=before.version + 1)

    def _rows(self, now: int) -> tuple[Shown, ...]:
        """The table. A row is made anew where its windows or its state changed."""
        drawn: dict[int, tuple[list[Summary], Row, Shown]] = {}
        for number, windows in self._windows.items():
            before = self._drawn.get(number)
            series = self._reader.by_id(number) if self._reader is not None else None
            if (
                before is not None
                and before[0] is windows
                and before[1].state == state_of(windows, before[1].length_ns, now)
            ):
                drawn[number] = before
            elif series is not None:
                row = row_of(number, series.tags, windows, now)
                drawn[number] = windows, row, shown(row)
        self._drawn = drawn
        return tuple(what for _, _, what in drawn.values())

    def _read(self, reader: Reader) -> None:
        now, mono = self._clock.wall(), self._clock.mono()
        whole = mono >= self._whole_due
        if whole:
            self._whole_due = mono + WHOLE_EVERY
        # Flows of a target have series of their own; the table shows targets.
        targets = [s.id for s in reader.series("probe") if "flow" not in s.tags][-MAX_ROWS:]
        for gone in self._windows.keys() - targets:
            del self._windows[gone]
        for target in targets:
            windows = self._read_windows(reader, target, now, whole)
            if windows:
                self._windows[target] = windows
            else:
                self._windows.pop(target, None)
        self._agents = _read_agents(reader, now)
        self._events = _read_events(reader, now)

    def _read_windows(self, reader: Reader, series: int, now: int, whole: bool) -> list[Summary]:
        """A target's windows of the last HISTORY, oldest first: what was read before, and what is new."""
        until = now + AHEAD
        known = self._windows.get(series, [])
        newest = known[-1].start_ns if known else None
        if newest is None or newest < now - SHOWN_FOR:
            latest = reader.tail(series, 1, now - SHOWN_FOR, until)
            if not latest:
                return []
            newest, whole = latest[0].time_ns, True
        since = newest - HISTORY if whole else newest
        read = [Summary.of(window) for window in _windows(reader.tail(series, WINDOWS, since, until))]
        if read in (known, known[-1:]):
            return known
        merged = {w.start_ns: w for w in (*known, *read)}
        newest = max(merged)
        return [merged[start] for start in sorted(merged) if start > newest - HISTORY][-WINDOWS:]

    def _chart(self, series: int, span_ns: int) -> Chart:
        key = series, span_ns
        made = self._charts.get(key, _Made())
        now, mono, chart = self._clock.wall(), self._clock.mono(), made.chart
        one = self._reader.by_id(series) if self._reader is not None else None
        if one is None or self._reader is None or made.version == self.data_version:
            return chart
        if made.version >= 0 and mono - made.mono_ns < span_ns // REDRAWS:
            return chart
        since, until = now - span_ns, now + AHEAD
        try:
            windows = _windows(self._reader.tail(series, CHART_POINTS, since, until))
            first = self._reader.first_ns(series)
            histograms = [
                (s.tags["le"], _windows(self._reader.tail(s.id, CHART_POINTS, since, until)))
                for s in self._reader.series("probe_histogram", **one.tags)[-MAX_BUCKETS:]
                if s.tags.keys() - one.tags.keys() == {"le"}
            ]
            flows = [
                (s.tags["flow"], _windows(self._reader.tail(s.id, FLOW_POINTS, now - HISTORY, until)))
                for s in self._reader.series("probe", **one.tags)
                if s.tags.keys() - one.tags.keys() == {"flow"}
            ]
        except ColoprobeError as error:  # the next tick says so on the page
            log.debug("board: %s", error)
            return chart
        chart = Chart(
            charts.boxes(windows, span_ns),
            charts.cells(histograms, span_ns),
            flows_of(flows[-MAX_FLOWS:]),
            first or 0,
        )
        if len(self._charts) >= MAX_CHARTS:
            self._charts.clear()
        self._charts[key] = _Made(self.data_version, mono, chart)
        return chart


def _windows(points: Iterable[Stored]) -> list[Window]:
    return [Window(point.time_ns, point.fields) for point in points]


def _read_agents(reader: Reader, now: int) -> list[tuple[Mapping[str, str], list[Window]]]:
    found = []
    for series in reader.series("agent")[-MAX_AGENTS:]:
        points = _windows(reader.tail(series.id, AGENT_POINTS, now - SHOWN_FOR, now + AHEAD))
        if points:
            found.append((series.tags, points))
    return sorted(found, key=lambda one: (one[0].get("agent", ""), -one[1][-1].start_ns))


def _read_events(reader: Reader, now: int) -> tuple[Event, ...]:
    found: list[Event] = []
    for series in reader.series("event")[-MAX_ROWS:]:
        points = _windows(reader.tail(series.id, 20, now - SHOWN_FOR, now + AHEAD))
        found.extend(event_of(series.tags, point) for point in points)
    return tuple(sorted(found, key=lambda e: -e.time_ns)[:MAX_EVENTS])
