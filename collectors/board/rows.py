"""Windows of `probe` points in, one table row a target out: pure, time is an argument.

no reply    probes went out in the newest window and nothing came back
stale       no window for three window lengths (at least 10 s): the agent, its uplink or this board is behind
not sent    the newest window has no probe: the host refuses them, the network is not to blame
closed      every answer of the newest window was a refusal: the target is there, nobody listens on its port
loss        a probe was lost within the last minute of data
ok          none of these
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, Self

from collectors.board import text
from probe.clock import SECOND
from probe.telemetry.lines import Value

State = Literal["no reply", "stale", "not sent", "closed", "loss", "ok"]

SEVERITY: dict[State, int] = {"no reply": 5, "stale": 4, "not sent": 3, "closed": 2, "loss": 1, "ok": 0}
HISTORY = 300 * SECOND  # what the sparkline and the longer loss column span
RECENT = 60 * SECOND  # how long a lost probe keeps a target from being called ok
LOSS_IS_BAD = 0.01  # from here on loss is shown as an alarm, below as a warning
DEFAULT_LENGTH = 10 * SECOND  # of a window, until two of them tell
SPARK_WIDTH, SPARK_HEIGHT = 132, 22
SPARK_STEP = HISTORY // 60


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


class _Started(Protocol):
    @property
    def start_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What a row needs of a window: small, because those of hundreds of targets are kept. None is absent."""

    start_ns: int
    sent: int
    received: int
    lost: int
    loss: float | None
    jitter_ns: float | None
    p50_ns: float | None
    p99_ns: float | None
    max_ns: float | None
    open: float | None  # of kinds that ask for a port
    closed: float | None
    forward_ns: float | None  # medians, of kinds that tell the ways apart
    backward_ns: float | None
    forward_lost: float | None
    backward_lost: float | None

    @classmethod
    def of(cls, window: Window) -> Self:
        return cls(
            window.start_ns,
            *(window.integer(name) for name in ("sent", "received", "lost")),
            *(
                window.number(name)
                for name in (
                    *("loss", "jitter_ns", "rtt_p50_ns", "rtt_p99_ns", "rtt_max_ns"),
                    *("open", "closed", "forward_p50_ns", "backward_p50_ns"),
                    *("forward_lost", "backward_lost"),
                )
            ),
        )


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
    more: str  # what only its kind has, of the newest window
    spark: Spark


@dataclass(frozen=True)
class Spark:
    """SVG paths within SPARK_WIDTH x SPARK_HEIGHT: median, 99th percentile, ticks where probes were lost."""

    p50: str
    p99: str
    loss: str


def window_length(windows: Sequence[_Started]) -> int:
    """The windows' length in ns, told from their starts; an agent's restart begins one off the grid."""
    steps = [b.start_ns - a.start_ns for a, b in pairwise(windows)]
    return int(statistics.median_low(steps)) if steps else DEFAULT_LENGTH


def state_of(windows: Sequence[Summary], length_ns: int, now_ns: int) -> State:
    """The state of a target whose newest windows, oldest first and at least one, are these."""
    newest = windows[-1]
    end = newest.start_ns + length_ns
    if now_ns - end > max(3 * length_ns, 10 * SECOND):
        return "stale"
    if newest.sent == 0:
        return "not sent"
    if newest.received == 0:
        return "no reply"
    if newest.closed and newest.closed == newest.received:
        return "closed"
    if any(w.lost for w in windows if w.start_ns + length_ns > end - RECENT):
        return "loss"
    return "ok"


def row_of(series: int, tags: Mapping[str, str], windows: Sequence[Summary], now_ns: int) -> Row:
    """The row of one series; `windows` are oldest first and at least one."""
    length = window_length(windows)
    newest = windows[-1]
    recent = [w for w in windows if w.start_ns > newest.start_ns - HISTORY]
    sent, lost = sum(w.sent for w in recent), sum(w.lost for w in recent)
    return Row(
        id=series,
        tags=tags,
        state=state_of(windows, length, now_ns),
        end_ns=newest.start_ns + length,
        length_ns=length,
        sent=newest.sent,
        loss=newest.loss,
        loss_history=lost / sent if sent else None,
        jitter_ns=newest.jitter_ns,
        p50_ns=newest.p50_ns,
        p99_ns=newest.p99_ns,
        max_ns=newest.max_ns,
        more=more_of(newest),
        spark=spark_of(recent, length),
    )


def more_of(window: Summary) -> str:
    """What is worth a word beside the kind: one-way medians and losses, or how a port answers."""
    timed = window.forward_ns is not None or window.backward_ns is not None
    ways = []
    for arrow, delay, lost in (
        ("→", window.forward_ns, window.forward_lost),
        ("←", window.backward_ns, window.backward_lost),
    ):
        told = [text.duration(delay)] * timed + [f"{text.count(lost)} lost"] * bool(lost)
        ways += [f"{arrow} {', '.join(told)}"] * bool(told)
    if ways:
        return " ".join(ways)
    if not window.closed:
        return "open" if window.open else ""
    return f"{window.closed:.0f} of {window.received} closed" if window.open else "closed"


def spark_of(windows: Sequence[Summary], length_ns: int) -> Spark:
    """The last HISTORY as paths; the scale is from the smallest median to the largest 99th percentile.

    Where windows are shorter than a step, a step shows the largest of them, and whether any lost a probe.
    """
    if not windows:
        return Spark("", "", "")
    end = windows[-1].start_ns + length_ns
    middle = max(length_ns, SPARK_STEP) / 2
    p50: dict[int, float] = {}
    p99: dict[int, float] = {}
    lost: dict[int, bool] = {}
    for window in windows:
        step = window.start_ns // SPARK_STEP
        for values, value in ((p50, window.p50_ns), (p99, window.p99_ns)):
            if value is not None and value > values.get(step, -1.0):
                values[step] = value
        if window.lost:
            lost[step] = True
    low = min((*p50.values(), *p99.values()), default=0.0)
    high = max((*p50.values(), *p99.values()), default=1.0)
    # A line that is flat to 5 % is drawn flat: noise is not blown up into mountains.
    scale = (SPARK_HEIGHT - 4) / max(high - low, high * 0.05, 1.0)
    near = (
        2 * max(length_ns, SPARK_STEP) // SPARK_STEP
    )  # steps further apart are a gap in the data, and the line

    def x(step: int) -> str:
        return f"{SPARK_WIDTH * (1 - (end - step * SPARK_STEP - middle) / HISTORY):.1f}"

    def path(values: Mapping[int, float]) -> str:
        parts: list[str] = []
        previous: int | None = None
        for step, value in values.items():
            y = f"{SPARK_HEIGHT - 2 - (value - low) * scale:.1f}"
            joined = (
                previous is not None and step - previous <= near and not _lost_between(lost, previous, step)
            )
            parts.append(f"L{x(step)} {y}" if joined else f"M{x(step)} {y}h.5")  # a lone step is a dot
            previous = step
        return "".join(parts)

    return Spark(path(p50), path(p99), "".join(f"M{x(step)} 0v{SPARK_HEIGHT}" for step in lost))


def _lost_between(lost: Mapping[int, bool], first: int, last: int) -> bool:
    return any(step in lost for step in range(first + 1, last))


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
        "more": row.more,
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
