"""What the page shows in, its table's columns and its panels' HTML out: pure; texts are escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from collectors.board import text
from collectors.board.flows import Flow
from collectors.board.panels import Event, Health
from collectors.board.rows import SEVERITY, loss_level
from probe.clock import MILLISECOND

_RIGHT = {"align": "right", "sortable": True}
_LEFT = {"align": "left", "sortable": True}
COLUMNS: list[dict[str, Any]] = [
    # The word is the column's value, so that the filter finds it; it sorts by how bad it is.
    {
        "name": "state",
        "label": "state",
        "field": "state",
        **_LEFT,
        ":sort": "(a, b, x, y) => x.severity - y.severity",
    },
    {"name": "target", "label": "target", "field": "target", **_LEFT},
    {"name": "venue", "label": "venue", "field": "venue", **_LEFT},
    {"name": "line", "label": "line", "field": "line", **_LEFT},
    {"name": "agent", "label": "agent", "field": "agent", **_LEFT},
    {"name": "kind", "label": "kind", "field": "kind", **_LEFT},
    {"name": "loss", "label": "loss", "field": "loss", **_RIGHT},
    {"name": "history", "label": "loss 5 min", "field": "history", **_RIGHT},
    {"name": "jitter", "label": "jitter", "field": "jitter", **_RIGHT},
    {"name": "p50", "label": "p50", "field": "p50", **_RIGHT},
    {"name": "p99", "label": "p99", "field": "p99", **_RIGHT},
    {"name": "max", "label": "max", "field": "max", **_RIGHT},
    {"name": "sent", "label": "sent", "field": "sent", **_RIGHT},
    {"name": "spark", "label": "p50, p99 and loss, 5 min", "field": "id", "align": "left"},
    {"name": "age", "label": "age", "field": "end", **_RIGHT},
]
# The table's events are heard where they are emitted on the table, which a virtual scroll stands in between.
BODY = """
<q-tr :props="props" :data-id="props.row.id" tabindex="0"
      @click="() => $parent.$parent.$emit('pick', props.row.id)"
      @keydown.enter="() => $parent.$parent.$emit('pick', props.row.id)">
  <q-td><span class="state" :class="props.row.state.replace(' ', '-')">{{ props.row.state }}</span></q-td>
  <q-td class="name" :title="props.row.target">{{ props.row.target }}</q-td>
  <q-td class="tag">{{ props.row.venue }}</q-td>
  <q-td class="tag">{{ props.row.line }}</q-td>
  <q-td class="tag" :title="props.row.site">{{ props.row.agent }}</q-td>
  <q-td class="tag kind" :title="props.row.more">{{ props.row.kind }} <b>{{ props.row.more }}</b></q-td>
  <q-td class="num" :class="props.row.loss_level || 'quiet'">{{ props.row.loss_text }}</q-td>
  <q-td class="num" :class="props.row.history_level || 'quiet'">{{ props.row.history_text }}</q-td>
  <q-td class="num">{{ props.row.jitter_text }}</q-td>
  <q-td class="num">{{ props.row.p50_text }}</q-td>
  <q-td class="num">{{ props.row.p99_text }}</q-td>
  <q-td class="num">{{ props.row.max_text }}</q-td>
  <q-td class="num tag">{{ props.row.sent_text }}</q-td>
  <q-td><svg class="spark" viewBox="0 0 132 22" preserveAspectRatio="none">
    <path class="lost" :d="props.row.sparkloss"/><path class="p99" :d="props.row.spark99"/>
    <path class="p50" :d="props.row.spark50"/></svg></q-td>
  <q-td class="num tag"><span :data-end="props.row.end"></span></q-td>
</q-tr>
"""
LEGEND = (
    '<div class="legend"><span><i class="band"></i>min to p99</span><span><i class="p50"></i>p50</span>'
    '<span><i class="max"></i>max</span><span><i class="lost"></i>loss</span></div>'
)


def chips(rows: Sequence[Mapping[str, object]]) -> str:
    """How many targets are in which state, worst first."""
    counts = Counter(str(row["state"]) for row in rows)
    chips = "".join(
        f'<span class="chip state {state.replace(" ", "-")}">{counts[state]} {state}</span>'
        for state in SEVERITY
        if counts[state]
    )
    return f'<div class="chips">{chips}</div>'


def flows(found: Sequence[Flow]) -> str:
    """A line a flow of one target, the odd ones marked; empty where it has no flows of its own."""
    longest = max((flow.p50_ns for flow in found if flow.p50_ns is not None), default=None)

    def one(flow: Flow) -> str:
        share = flow.p50_ns / longest if flow.p50_ns is not None and longest else 0
        cells = (
            ("", escape(flow.name)),
            (loss_level(flow.loss) or "quiet", text.percent(flow.loss)),
            ("warn" if flow.odd else "", text.duration(flow.p50_ns)),
            ("", text.duration(flow.p99_ns)),
        )
        shown = "".join(f'<td class="{level}">{value}</td>' for level, value in cells)
        return f'<tr>{shown}<td class="bar"><i style="width:{max(share, 0):.1%}"></i></td></tr>'

    if not found:
        return ""
    head = "<tr><th>flow</th><th>loss 1 min</th><th>p50</th><th>p99</th><th></th></tr>"
    return f'<table class="flows">{head}{"".join(map(one, found))}</table>'


def events(found: Sequence[Event]) -> str:
    """The list of events, newest first."""
    if not found:
        return '<div class="none">none in the last 24 hours</div>'
    return "".join(
        f'<div class="event{" alarm" if event.alarm else ""}"><time>{event.when}</time>'
        f'<span class="subject">{escape(event.kind)} · {escape(event.subject)}</span>'
        f'<span class="words">{escape(event.words)}</span></div>'
        for event in found
    )


def agents(found: Sequence[Health]) -> str:
    """One line of health an agent."""

    def one(health: Health) -> str:
        facts = "".join(
            f"<span{_alarm(name in health.alarms)}><span>{name}</span>{escape(value)}</span>"
            for name, value in health.facts
        )
        state, word = ("ok", "live") if health.live else ("stale", "silent")
        site = f' <span class="dim">{escape(health.site)}</span>' if health.site else ""
        heard = f'<span><span>heard</span><span data-end="{health.end_ns // MILLISECOND}"></span></span>'
        name = f"<b>{escape(health.agent)}{site}</b>"
        return f'<div class="agent"><span class="state {state}">{word}</span>{name}{facts}{heard}</div>'

    return f'<div class="foot">{"".join(map(one, found))}</div>'


def _alarm(alarm: bool) -> str:
    return ' class="bad"' if alarm else ""
