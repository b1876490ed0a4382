"""A feed in, the page of one viewer out: the NiceGUI elements, and what is pushed to them once a second.

Nothing is pushed that the viewer has already; the numbers come from `feed` and its pure neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from urllib.parse import urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments, ValueChangeEventArguments

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
        self._log = True  # one outlier must not flatten everything else
        self._worst_first, self._filter = False, ""
        self._picked: int | None = None
        self._seen: View | None = None
        self._chart: Chart | None = None  # what the browser draws now
        self._body_built = self._plot_ready = False

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
            self._body = ui.element("div").classes("body")
            self._agents = ui.html("", sanitize=False)
        self._show(self._feed.view)
        ui.timer(1.0, self._tick)

    def _build_head(self) -> None:
        with ui.element("div").classes("head"):
            ui.label("coloprobe").classes("brand")
            self._chips = ui.html("", sanitize=False)
            ui.element("div").classes("grow")
            worst = ui.switch("worst first", on_change=lambda event: self._arrange(worst=bool(event.value)))
            worst.props("dense")
            search = ui.input(
                placeholder="filter", on_change=lambda event: self._arrange(words=event.value or "")
            )
            search.props('dense outlined clearable dark debounce="200" aria-label="filter targets"')
            ui.label().classes("clock")

    def _build_body(self) -> None:
        """Table, chart and events: once there is a row, because a table that was hidden draws none."""
        self._body_built = True
        with self._body:
            self._table = ui.table(rows=[], columns=markup.COLUMNS, row_key="id", pagination=0)
            self._table.classes("targets").props("flat dense dark hide-bottom virtual-scroll")
            self._table.props('no-data-label="" no-results-label=""')
            self._table.add_slot("body", markup.BODY)
            self._table.on("pick", self._on_pick)
            self._arrange()
            with ui.element("div").classes("lower"):
                self._build_chart()
                self._flows_panel = ui.element("div").classes("panel flows-panel")
                with self._flows_panel:
                    ui.html('<div class="title"><span class="what">Flows</span></div>', sanitize=False)
                    self._flows = ui.html("", sanitize=False).classes("list")
                self._flows_panel.set_visibility(False)
                with ui.element("div").classes("panel events"):
                    ui.html('<div class="title"><span class="what">Events</span></div>', sanitize=False)
                    self._events = ui.html("", sanitize=False).classes("list")

    def _build_chart(self) -> None:
        with ui.element("div").classes("panel chart"):
            with ui.element("div").classes("title"):
                self._title = ui.html("", sanitize=False).classes("what")
                ui.html(markup.LEGEND, sanitize=False)
                ui.element("div").classes("grow")
                ui.switch("log", value=self._log, on_change=self._on_log).props("dense size=xs")
                spans = ui.toggle(list(charts.SPANS), value=self._span, on_change=self._on_span)
                spans.props("dense unelevated no-caps color=dark")
                spans.props("toggle-color=primary toggle-text-color=dark")
            self._plot = ui.echart(options.initial()).classes("plot")

    async def _tick(self) -> None:
        if self._seen is None or self._feed.view.version != self._seen.version:
            self._show(self._feed.view)
        await self._draw()

    def _show(self, view: View) -> None:
        """Push what differs from what this viewer has."""
        before, self._seen = self._seen or View(version=-1), view
        if view.rows and not self._body_built:
            self._build_body()
            before = View(version=-1)
        first = before.version < 0
        if first or view.rows != before.rows:
            self._chips.set_content(markup.chips(view.rows))
            self._empty.set_visibility(not view.rows)
            self._body.set_visibility(bool(view.rows))
        if self._body_built and (first or view.rows != before.rows):
            self._table.rows = [dict(row) for row in view.rows]
            if view.rows and self._row() is None:
                self._pick(_first(view.rows, *self._wanted))
            self._name()
        if self._body_built and (first or view.events != before.events):
            self._events.set_content(markup.events(view.events))
        if first or view.agents != before.agents:
            self._agents.set_content(markup.agents(view.agents))
        if first or view.problem != before.problem:
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
        self._picked, self._chart = series, None
        self._name()
        ui.run_javascript(f"coloprobe.pick({series})")

    async def _on_pick(self, event: GenericEventArguments) -> None:
        self._pick(int(event.args))
        self._address()
        await self._draw()

    async def _on_span(self, event: ValueChangeEventArguments[str]) -> None:
        self._span, self._chart = event.value, None
        self._address()
        await self._draw()

    async def _on_log(self, event: ValueChangeEventArguments[bool | None]) -> None:
        self._log, self._chart = bool(event.value), None
        await self._draw()

    def _arrange(self, worst: bool | None = None, words: str | None = None) -> None:
        """Sort and filter the table, now or once there is one."""
        self._worst_first = self._worst_first if worst is None else worst
        self._filter = self._filter if words is None else words
        if self._body_built:
            self._table.set_filter(self._filter)
            by = "state" if self._worst_first else "target"
            self._table.pagination = {"rowsPerPage": 0, "sortBy": by, "descending": self._worst_first}

    def _address(self) -> None:
        """Keep the browser's address a direct link to what it shows."""
        row = self._row()
        if row is not None:
            asked = {"target": row["target"], "agent": row["agent"], "span": self._span}
            ui.run_javascript(f"history.replaceState(null, '', {json.dumps('?' + urlencode(asked))})")

    async def _draw(self) -> None:
        if self._picked is None:
            return
        span = charts.SPANS[self._span]
        before, chart = self._chart, await self._feed.chart(self._picked, span)
        self._chart = chart
        if before is None or chart.flows != before.flows:
            self._flows.set_content(markup.flows(chart.flows))
            self._flows_panel.set_visibility(bool(chart.flows))
        new = options.update(
            chart.boxes if before is None or chart.boxes != before.boxes else None,
            chart.cells if before is None or chart.cells != before.cells else None,
            self._feed.now_ns // MILLISECOND,
            charts.shown_span(span, self._feed.now_ns - chart.first_ns) // MILLISECOND,
            log=self._log,
        )
        if not self._plot_ready:
            # Until the browser has the chart it takes no method calls, but it does start from the options.
            options.merge(self._plot.options, new)
            self._plot.update()
            self._plot_ready = bool(await self._ask(f"!!getElement({self._plot.id})?.chart"))
        else:
            self._plot.run_chart_method("setOption", new)

    async def _ask(self, script: str) -> object:
        """The value of a JavaScript expression; None where the browser does not answer soon."""
        with suppress(TimeoutError):
            return await ui.run_javascript(f"return {script}", timeout=1.0)
        return None


def _first(rows: Sequence[Shown], target: str, agent: str) -> int:
    """The row that the address asks for, or the first by name."""
    fits = [row for row in rows if row["target"] == target and agent in ("", row["agent"])]
    first = min(fits or rows, key=lambda row: str(row["target"]))
    return int(str(first["id"]))
