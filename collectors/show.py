"""A store in, text out: `coloprobe show`, every point as a JSON line or the targets as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from collectors.board import text
from collectors.board.rows import SEVERITY, Row, Summary, Window, row_of
from collectors.sinks.store import Reader, path_in
from probe.clock import Clock, SystemClock
from probe.telemetry.lines import Point

MAX_WINDOWS = 100_000  # of one target that the table sums up
_HEAD = (
    ("target", False),
    ("venue", False),
    ("line", False),
    ("agent", False),
    ("kind", False),
    ("state", False),
    ("windows", True),
    ("sent", True),
    ("lost", True),
    ("loss", True),
    ("jitter", True),
    ("p50", True),
    ("p99", True),
    ("max", True),
    ("forward", True),
    ("backward", True),
    ("open", True),
    ("closed", True),
    ("age", True),
)
_MAY_LACK = {
    "venue",
    "line",
    "forward",
    "backward",
    "open",
    "closed",
}  # columns left out where nobody has any
_encode = msgspec.json.Encoder().encode


def show(
    state_dir: str | Path,
    last_ns: int,
    json: bool,
    out: TextIO,
    clock: Clock | None = None,
) -> None:
    """Print what the store of `state_dir` holds of the last `last_ns`.

    With `json`, one object a point, oldest first; else a table of targets, each with all its flows: counts,
    loss and max over that time, jitter, quantiles and one-way medians of the newest window.
    Raises: SinkRefused (no store there), SinkUnavailable.
    """
    now = (clock or SystemClock()).wall()
    with Reader(path_in(state_dir)) as reader:
        if json:
            for point in reader.points(now - last_ns):
                out.write(_encode(as_object(point)).decode() + "\n")
            return
        rows = []
        for series in reader.series("probe"):
            if "flow" in series.tags:
                continue
            points = reader.tail(series.id, MAX_WINDOWS, now - last_ns)
            windows = [Summary.of(Window(point.time_ns, point.fields)) for point in points]
            if windows:
                rows.append((row_of(series.id, series.tags, windows, now), windows))
    if not rows:
        out.write(f"no target has data of the last {text.age(last_ns)} in {path_in(state_dir)}\n")
        return
    out.write(table(rows, now))


def as_object(point: Point) -> dict[str, object]:
    """`{"time", "measurement", tags..., fields...}`; a field whose name is taken has 'field.' before it."""
    found: dict[str, object] = {"time": point.time_ns, "measurement": point.measurement}
    for prefix, values in (("tag.", point.tags), ("field.", point.fields)):
        for name, value in values.items():
            key = name
            while key in found:
                key = prefix + key
            found[key] = value
    return found


def table(rows: Sequence[tuple[Row, Sequence[Summary]]], now_ns: int) -> str:
    """One line a target, worst state first, in columns."""
    ordered = sorted(rows, key=lambda one: (-SEVERITY[one[0].state], one[0].tags.get("target", "")))
    lines = [[name for name, _ in _HEAD]] + [_cells(row, windows, now_ns) for row, windows in ordered]
    shown = [
        i for i, (name, _) in enumerate(_HEAD) if name not in _MAY_LACK or any(line[i] for line in lines[1:])
    ]
    widths = {i: max(len(line[i]) for line in lines) for i in shown}
    return "".join(
        "  ".join(
            line[i].rjust(widths[i]) if _HEAD[i][1] else line[i].ljust(widths[i]) for i in shown
        ).rstrip()
        + "\n"
        for line in lines
    )


def _cells(row: Row, windows: Sequence[Summary], now_ns: int) -> list[str]:
    sent, lost = sum(w.sent for w in windows), sum(w.lost for w in windows)
    most = max((w.max_ns for w in windows if w.max_ns is not None), default=None)
    tags: Mapping[str, str] = row.tags
    return [
        *(_printable(tags.get(name, "")) for name in ("target", "venue", "line", "agent", "kind")),
        row.state,
        text.count(len(windows)),
        text.count(sent),
        text.count(lost),
        text.percent(lost / sent if sent else None),
        text.duration(row.jitter_ns),
        text.duration(row.p50_ns),
        text.duration(row.p99_ns),
        text.duration(most),
        *(
            "" if ns is None else text.duration(ns)
            for ns in (windows[-1].forward_ns, windows[-1].backward_ns)
        ),
        *(_sum(counts) for counts in ([w.open for w in windows], [w.closed for w in windows])),
        text.age(now_ns - row.end_ns),
    ]


def _sum(counts: Sequence[float | None]) -> str:
    there = [count for count in counts if count is not None]
    return text.count(sum(there)) if there else ""


def _printable(words: str) -> str:
    """A tag from the network without anything that would move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in words)
