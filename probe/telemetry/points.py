"""Summaries, histograms and events in, lines of the published schema out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probe.telemetry.lines import Value, encode, series_text
from probe.windows.summary import Summaries

COUNTS = ("sent", "received", "lost", "late", "duplicates", "reordered", "errors")
ALWAYS = ("loss_burst_max", "send_lag_max_ns", "unstamped")
RTT = (
    "rtt_min_ns",
    "rtt_mean_ns",
    "rtt_stddev_ns",
    "rtt_p50_ns",
    "rtt_p90_ns",
    "rtt_p99_ns",
    "rtt_p999_ns",
    "rtt_max_ns",
)
IPDV = ("ipdv_mean_ns", "ipdv_p99_ns")

_COUNT_TEXT = ",".join(f"{name}=%di" for name in COUNTS)
_ALWAYS_TEXT, _RTT_TEXT, _IPDV_TEXT = (
    "".join(f",{name}=%di" for name in names) for names in (ALWAYS, RTT, IPDV)
)
# A line with every field, as nearly all are: one formatting operation.
_WHOLE_TEXT = (
    "%s " + _COUNT_TEXT + ",loss=%r" + _ALWAYS_TEXT + _RTT_TEXT + ",jitter_ns=%di" + _IPDV_TEXT + " %d"
)


def probe_fields(summaries: Summaries, flow: int) -> dict[str, Value]:
    """The fields of one flow's `probe` point; empty where nothing at all happened. What has no value is
    absent."""
    values = {name: int(column[flow]) for name, column in summaries.values.items()}
    if not any(values[name] for name in COUNTS):
        return {}
    fields: dict[str, Value] = {name: values[name] for name in COUNTS}
    if values["sent"]:
        fields["loss"] = values["lost"] / values["sent"]
    fields |= {name: values[name] for name in ALWAYS}
    timed = int(summaries.timed[flow])
    if timed:
        fields |= {name: values[name] for name in RTT}
    if timed > 1:
        fields["jitter_ns"] = values["jitter_ns"]
    if summaries.pairs[flow]:
        fields |= {name: values[name] for name in IPDV}
    return fields


def probe_lines(summaries: Summaries, series: Sequence[str]) -> list[str]:
    """One `probe` line for every flow to which anything happened; `series[flow]` is its measurement and tags.

    Says what `probe_fields` says, written column by column: with a thousand targets it runs every window.
    """
    values = {name: column.tolist() for name, column in summaries.values.items()}
    whole = ((summaries.timed > 1) & (summaries.pairs > 0)).tolist()
    sent = summaries.values["sent"]
    values["loss"] = (summaries.values["lost"] / np.maximum(sent, 1)).tolist()
    order = (*COUNTS, "loss", *ALWAYS, *RTT, "jitter_ns", *IPDV)
    times = itertools.repeat(summaries.start_ns)
    rows = zip(series, *(values[name] for name in order), times, strict=False)
    if all(whole):
        return [_WHOLE_TEXT % row for row in rows]
    timed, pairs = summaries.timed.tolist(), summaries.pairs.tolist()
    made = []
    for flow, row in enumerate(rows):
        if whole[flow]:
            made.append(_WHOLE_TEXT % row)
        elif any(row[1 : 1 + len(COUNTS)]):
            made.append(_part_of(row, timed[flow], pairs[flow]))
    return made


def _part_of(row: tuple[Any, ...], timed: int, pairs: int) -> str:
    """The line of a flow that lacks some fields; `row` is in the order of a whole line."""
    head, *values, time_ns = row
    counts, values = values[: len(COUNTS)], values[len(COUNTS) :]
    (loss, *values), text = values, _COUNT_TEXT % tuple(counts)
    always, values = values[: len(ALWAYS)], values[len(ALWAYS) :]
    rtt, (jitter, *ipdv) = values[: len(RTT)], values[len(RTT) :]
    text += f",loss={loss!r}" if counts[0] else ""
    text += _ALWAYS_TEXT % tuple(always)
    text += _RTT_TEXT % tuple(rtt) if timed else ""
    text += f",jitter_ns={jitter}i" if timed > 1 else ""
    text += _IPDV_TEXT % tuple(ipdv) if pairs else ""
    return f"{head} {text} {time_ns}"


def histogram_lines(
    buckets: Sequence[tuple[int, str, int]], tags: Sequence[Mapping[str, str]], start_ns: int
) -> list[str]:
    """One `probe_histogram` line a bucket; `buckets` are (flow, le, count), `tags[flow]` the flow's tags."""
    return [
        encode(series_text("probe_histogram", {**tags[flow], "le": le}), {"count": count}, start_ns)
        for flow, le, count in buckets
    ]


def event_line(
    tags: Mapping[str, str], kind: str, text: str, detail: Mapping[str, object], time_ns: int
) -> str:
    """One `event` line; `detail` becomes JSON."""
    fields: dict[str, Value] = {
        "text": text,
        "detail": json.dumps(detail, separators=(",", ":"), default=str),
    }
    return encode(series_text("event", {**tags, "kind": kind}), fields, time_ns)
