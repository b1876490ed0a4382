"""Windows of `probe` points in, one table row a target out: pure, time is an argument.

no reply    probes went out in the newest window and nothing came back
stale       no window for three window lengths (at least 10 s): the agent, its uplink or this board is behind
not sent    the newest window has no probe: the host refuses them, the network is not to blame
loss        a probe was lost within the last minute of data
ok          none of these
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from collectors.board import text
from probe.clock import SECOND
from probe.telemetry.lines import Value

State = Literal["no reply", "stale", "not sent", "loss", "ok"]

SEVERITY: dict[State, int] = {"no reply": 4, "stale": 3, "not sent": 2, "loss": 1, "ok": 0}
HISTORY = 300 * SECOND  # what the sparkline and the longer loss column span
RECENT = 60 * SECOND  # how long a lost probe keeps a target from being called ok
LOSS_IS_BAD = 0.01  # from here on loss is shown as an alarm, below as a warning
DEFAULT_LENGTH = 10 * SECOND  # of a window, until two of them tell
SPARK_WIDTH, SPARK_HEIGHT = 132, 22


@dataclass(frozen=True)
class Window:
    """One `probe` point: `start_ns` is the window's start, integer ns since the epoch."""

    start_ns: int
    fields: Mapping[str, Value]

    def number(self, name: str) -> float | None:
        """A numeric field; None where it is absent or, from a stranger, not a number."""
        value = self.fields.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def integer(self, name: str) -> int:
        """A count; 0 where it is absent."""
        return int(self.number(name) or 0)


KEPT = ("sent", "received", "lost", "loss", "jitter_ns", "rtt_p50_ns", "rtt_p99_ns", "rtt_max_ns")


def slim(window: Window) -> Window:
    """The same window with the fields that a row needs: hundreds of targets are kept in memory."""
    return Window(window.start_ns, {name: window.fields[name] for name in KEPT if name in window.fields})


@dataclass(frozen=True)
class Row:
    """What the table shows of a target. Times are ns; None is nothing to show."""

    id: int
    tags: Mapping[str, str]
    state: State
    end_ns: int  # of the newest window: the age of the data counts from here
    length_ns: int  # of a window
    sent: int
    loss: float | None  # of the newest window
    loss_history: float | None  # of all windows in HISTORY
    jitter_ns: float | None
    p50_ns: float | None
    p99_ns: float | None
    max_ns: float | None
    spark: Spark


@dataclass(frozen=True)
class Spark:
    """SVG paths within SPARK_WIDTH x SPARK_HEIGHT: median, 99th percentile, ticks where probes were lost."""

    p50: str
    p99: str
    loss: str


def window_length(windows: Sequence[Window]) -> int:
    """The windows' length in ns, told from their starts; an agent's restart begins one off the grid."""
    steps = [b.start_ns - a.start_ns for a, b in pairwise(windows)]
    return int(statistics.median_low(steps)) if steps else DEFAULT_LENGTH


def state_of(windows: Sequence[Window], length_ns: int, now_ns: int) -> State:
    """The state of a target whose newest windows, oldest first and at least one, are these."""
    newest = windows[-1]
    end = newest.start_ns + length_ns
    if now_ns - end > max(3 * length_ns, 10 * SECOND):
        return "stale"
    if newest.integer("sent") == 0:
        return "not sent"
    if newest.integer("received") == 0:
        return "no reply"
    if any(w.integer("lost") for w in windows if w.start_ns + length_ns > end - RECENT):
        return "loss"
    return "ok"


def row_of(series: int, tags: Mapping[str, str], windows: Sequence[Window], now_ns: int) -> Row:
    """The row of one series; `windows` are oldest first and at least one."""
    length = window_length(windows)
    newest = windows[-1]
    recent = [w for w in windows if w.start_ns > newest.start_ns - HISTORY]
    sent, lost = (sum(w.integer(name) for w in recent) for name in ("sent", "lost"))
    return Row(
        id=series,
        tags=tags,
        state=state_of(windows, length, now_ns),
        end_ns=newest.start_ns + length,
        length_ns=length,
        sent=newest.integer("sent"),
        loss=newest.number("loss"),
        loss_history=lost / sent if sent else None,
        jitter_ns=newest.number("jitter_ns"),
        p50_ns=newest.number("rtt_p50_ns"),
        p99_ns=newest.number("rtt_p99_ns"),
        max_ns=newest.number("rtt_max_ns"),
        spark=spark_of(recent, length),
    )


def spark_of(windows: Sequence[Window], length_ns: int) -> Spark:
    """The last HISTORY as paths; the scale is from the smallest median to the largest 99th percentile."""
    if not windows:
        return Spark("", "", "")
    end = windows[-1].start_ns + length_ns
    values = [v for w in windows for v in (w.number("rtt_p50_ns"), w.number("rtt_p99_ns")) if v is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    # A line that is flat to 5 % is drawn flat: noise is not blown up into mountains.
    scale = (SPARK_HEIGHT - 4) / max(high - low, high * 0.05, 1.0)

    def x(window: Window) -> float:
        return SPARK_WIDTH * (1 - (end - window.start_ns - length_ns / 2) / HISTORY)

    def path(name: str) -> str:
        parts: list[str] = []
        previous: int | None = None
        for window in windows:
            value = window.number(name)
            if value is None:
                previous = None
                continue
            # A gap in the data is a gap in the line.
            joined = previous is not None and window.start_ns - previous <= 2 * length_ns
            y = SPARK_HEIGHT - 2 - (value - low) * scale
            parts.append(f"{'L' if joined else 'M'}{x(window):.1f} {y:.1f}")
            if not joined:
                parts.append("h.5")  # a lone window is a dot
            previous = window.start_ns
        return "".join(parts)

    lost = "".join(f"M{x(w):.1f} 0v{SPARK_HEIGHT}" for w in windows if w.integer("lost"))
    return Spark(path("rtt_p50_ns"), path("rtt_p99_ns"), lost)


def shown(row: Row) -> dict[str, object]:
    """A row as the page's table takes it: numbers to sort by, and beside them the text to show."""
    tags = row.tags
    return {
        "id": row.id,
        "target": tags.get("target", ""),
        "venue": tags.get("venue", ""),
        "line": tags.get("line", ""),
        "agent": tags.get("agent", ""),
        "site": tags.get("site", ""),
        "kind": tags.get("kind", "") + (f" dscp {tags['dscp']}" if tags.get("dscp", "0") != "0" else ""),
        "state": row.state,
        "severity": SEVERITY[row.state] + min(row.loss_history or 0.0, 0.999),
        "loss": row.loss,
        "loss_text": text.percent(row.loss),
        "loss_level": loss_level(row.loss),
        "history": row.loss_history,
        "history_text": text.percent(row.loss_history),
        "history_level": loss_level(row.loss_history),
        "jitter": row.jitter_ns,
        "jitter_text": text.duration(row.jitter_ns),
        "p50": row.p50_ns,
        "p50_text": text.duration(row.p50_ns),
        "p99": row.p99_ns,
        "p99_text": text.duration(row.p99_ns),
        "max": row.max_ns,
        "max_text": text.duration(row.max_ns),
        "sent": row.sent,
        "sent_text": text.count(row.sent),
        "spark50": row.spark.p50,
        "spark99": row.spark.p99,
        "sparkloss": row.spark.loss,
        "end": row.end_ns // 1_000_000,
    }


def loss_level(loss: float | None) -> str:
    """How loud a loss is shown: '', 'warn' or 'bad'."""
    if not loss:
        return ""
    return "bad" if loss >= LOSS_IS_BAD else "warn"
