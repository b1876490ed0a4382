"""A feed in, the page of one viewer out: the NiceGUI elements, and what is pushed to them once a second.

Nothing is pushed that the viewer has already; the numbers come from `feed` and its pure neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from urllib.parse import urlencode

from nicegui import ui

from collectors.board import charts, markup, options
from collectors.board.feed import Chart, Feed, Shown, View
from probe.clock import MILLISECOND

DEFAULT_SPAN = "15 min"
HEAD = """
<link rel="stylesheet" href="/board/board.css"><style id="picked"></style>
<script src="/board/board.js"></script>
"""


class Page:
    """What one viewer sees. `target`, `agent` and `span` are what the address asks for."""

    def __init__(self, feed: Feed, mqtt_url: str, target: str = "", agent: str = "", span: str = "") -> None:
        self._feed, self._mqtt_url = feed, mqtt_url
        self._wanted = target, agent
        self._span = span if span in charts.SPANS else DEFAULT_SPAN
        self._log = False
        self._picked: int | None = None
        self._seen: View | None = None
        self._chart: Chart | None = None  # what the browser draws now

    def build(self) -> None:
        """Make the elements; call it once, in the page's function."""
        ui.add_head_html(HEAD)
        ui.colors(primary="#4cc2ff", dark="#10161d")
        with ui.element("div").classes("board"):
            self._build_head()
            self._trouble = ui.label().classes("trouble")
            self._empty = ui.element("div").classes("empty")
            with self._empty:
                ui.element("div").classes("pulse")
                ui.label("Waiting for the first window").classes("big")
                ui.label("It closes within a few seconds of an agent's start.")
                ui.html(f"Other hosts' agents send to <code>{escape(self._mqtt_url)}</code>", sanitize=False)
            self._table = ui.table(
                rows=[],
                columns=markup.COLUMNS,
                row_key="id",
                pagination={"rowsPerPage": 0, "sortBy": "target"},
            )
            self._table.classes("targets").props("flat dense dark hide-bottom virtual-scroll")
            self._table.props('no-data-label="" no-results-label=""')
            self._table.add_slot("body", markup.BODY)
            self._table.on("pick", lambda event: self._pick(int(event.args)))
            self._lower = ui.element("div").classes("lower")
            with self._lower:
                self._build_chart()
                with ui.element("div").classes("panel events"):
                    ui.html('<div class="title"><span class="what">Events</span></div>', sanitize=False)
                    self._events = ui.html("", sanitize=False).classes("list")
            self._agents = ui.html("", sanitize=False)
        self._show(self._feed.view)
        ui.timer(1.0, self._tick)

    def _build_head(self) -> None:
        with ui.element("div").classes("head"):
            ui.label("coloprobe").classes("brand")
            self._chips = ui.html("", sanitize=False)
            ui.element("div").classes("grow")
            ui.switch("worst first", on_change=lambda event: self._sort(worst_first=bool(event.value))).props(
                "dense"
            )
            search = ui.input(
                placeholder="filter", on_change=lambda event: self._table.set_filter(event.value)
            )
            search.props('dense outlined clearable dark debounce="200" aria-label="filter targets"')
            ui.label().classes("clock")

    def _build_chart(self) -> None:
        with ui.element("div").classes("panel chart"):
            with ui.element("div").classes("title"):
                self._title = ui.html("", sanitize=False).classes("what")
                ui.html(markup.LEGEND, sanitize=False)
                ui.element("div").classes("grow")
                ui.switch("log", on_change=lambda event: self._redraw(log=bool(event.value))).props(
                    "dense size=xs"
                )
                spans = ui.toggle(
                    list(charts.SPANS), value=self._span, on_change=lambda e: self._redraw(span=e.value)
                )
                spans.props(
                    'dense unelevated no-caps toggle-color="primary" toggle-text-color="dark" color="dark"'
                )
            self._plot = ui.echart(options.initial()).classes("plot")

    async def _tick(self) -> None:
        if self._seen is None or self._feed.view.version != self._seen.version:
            self._show(self._feed.view)
        await self._draw()

    def _show(self, view: View) -> None:
        """Push what differs from what this viewer has."""
        before, self._seen = self._seen, view
        if before is None or view.rows != before.rows:
            self._table.rows = [dict(row) for row in view.rows]
            self._chips.set_content(markup.chips(view.rows))
            for element in (self._table, self._lower):
                element.set_visibility(bool(view.rows))
            self._empty.set_visibility(not view.rows)
            if self._picked is None and view.rows:
                self._pick(_first(view.rows, *self._wanted))
            self._name()
        if before is None or view.events != before.events:
            self._events.set_content(markup.events(view.events))
        if before is None or view.agents != before.agents:
            self._agents.set_content(markup.agents(view.agents))
        if before is None or view.problem != before.problem:
            self._trouble.set_text(view.problem)
            self._trouble.set_visibility(bool(view.problem))
        ui.run_javascript(f"coloprobe.sync({self._feed.now_ns // MILLISECOND})")

    def _row(self) -> Shown | None:
        rows = self._seen.rows if self._seen else ()
        return next((row for row in rows if row["id"] == self._picked), None)

    def _name(self) -> None:
        row = self._row()
        if row is not None:
            words = [str(row[key]) for key in ("venue", "line", "kind") if row[key]]
            rest = f' <span class="dim">{escape(" · ".join([*words, "from " + str(row["agent"])]))}</span>'
            self._title.set_content(escape(str(row["target"])) + rest)

    def _pick(self, series: int) -> None:
        known = self._picked is not None
        self._picked, self._chart = series, None
        self._name()
        ui.run_javascript(f"coloprobe.pick({series})")
        if known:
            ui.timer(0, self._draw, once=True)
            self._address()

    def _redraw(self, span: str | None = None, log: bool | None = None) -> None:
        self._span = span or self._span
        self._log = self._log if log is None else log
        self._chart = None
        ui.timer(0, self._draw, once=True)
        self._address()

    def _address(self) -> None:
        """Keep the browser's address a direct link to what it shows."""
        row = self._row()
        if row is not None:
            asked = {"target": row["target"], "agent": row["agent"], "span": self._span}
            ui.run_javascript(f"history.replaceState(null, '', {json.dumps('?' + urlencode(asked))})")

    def _sort(self, *, worst_first: bool) -> None:
        self._table.pagination = {
            "rowsPerPage": 0,
            "sortBy": "state" if worst_first else "target",
            "descending": worst_first,
        }

    async def _draw(self) -> None:
        if self._picked is None:
            return
        span = charts.SPANS[self._span]
        before, chart = self._chart, await self._feed.chart(self._picked, span)
        self._chart = chart
        new = options.update(
            chart.boxes if before is None or chart.boxes != before.boxes else None,
            chart.cells if before is None or chart.cells != before.cells else None,
            self._feed.now_ns // MILLISECOND,
            span // MILLISECOND,
            log=self._log,
        )
        self._plot.run_chart_method("setOption", new)


def _first(rows: Sequence[Shown], target: str, agent: str) -> int:
    """The row that the address asks for, or the first by name."""
    fits = [row for row in rows if row["target"] == target and agent in ("", row["agent"])]
    first = min(fits or rows, key=lambda row: str(row["target"]))
    return int(str(first["id"]))
