"""Summaries, histograms and events in, lines of the published schema out."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from probe.telemetry.lines import Value, encode, series_text
from probe.telemetry.schema import PROBE, PROBE_HISTOGRAM
from probe.windows.histogram import LABELS, Counts
from probe.windows.statistics import SPREAD
from probe.windows.summary import OPTIONAL, Summaries

COUNTS = ("sent", "received", "lost", "late", "duplicates", "reordered", "errors")
_LAST = ("send_lag_max_ns", "unstamped")
ALWAYS = ("loss_burst_max", *_LAST)
RTT = tuple(f"rtt_{name}_ns" for name in SPREAD)
IPDV = ("ipdv_mean_ns", "ipdv_p99_ns")

_COUNT_TEXT = ",".join(f"{name}=%di" for name in COUNTS)
_LAST_TEXT, _RTT_TEXT, _IPDV_TEXT = (
    "".join(f",{name}=%di" for name in names) for names in (_LAST, RTT, IPDV)
)
_OPTIONAL_TEXT = {block: "".join(f",{name}=%di" for name in names) for block, names in OPTIONAL.items()}
# A line with every field that an echo probe has, as nearly all are, takes two operations: what it begins
# with, which is the same in most of them (so many sent, as many received, nothing else) and is remembered;
# then all the rest at once.
_WHOLE_TEXT = "%s %s" + _LAST_TEXT + _RTT_TEXT + ",jitter_ns=%di" + _IPDV_TEXT
_REMEMBERED = 1 << 10
_AFTER_PROBE = len(PROBE.name)
# InfluxDB refuses a text of more than 64 KiB; a thousand targets behind one route are named in less.
DETAIL_MOST, TEXT_MOST = 32 << 10, 4 << 10  # characters; those of a detail are ASCII


def probe_fields(summaries: Summaries, flow: int) -> dict[str, Value]:
    """The fields of the `probe` point of one flow or group; empty where nothing at all happened. What has no
    value is absent."""
    values = {name: int(column[flow]) for name, column in summaries.values.items()}
    if not any(values[name] for name in COUNTS):
        return {}
    fields: dict[str, Value] = {name: values[name] for name in COUNTS}
    if values["sent"]:
        fields["loss"] = values["lost"] / values["sent"]
    fields |= {name: values[name] for name in ALWAYS}
    if summaries.timed[flow]:
        fields |= {name: values[name] for name in RTT}
    if summaries.steps[flow]:
        fields["jitter_ns"] = values["jitter_ns"]
    if summaries.pairs[flow]:
        fields |= {name: values[name] for name in IPDV}
    for block, names in OPTIONAL.items():
        if block in summaries.present and summaries.present[block][flow]:
            fields |= {name: values[name] for name in names}
    return fields


def probe_lines(summaries: Summaries, series: Sequence[str]) -> list[str]:
    """One `probe` line for every flow and group to which anything happened; `series[row]` is its measurement
    and tags.

    Says what `probe_fields` says, written column by column: with ten thousand targets it runs every window.
    """
    columns = summaries.values
    counts = zip(*(columns[name].tolist() for name in (*COUNTS, "loss_burst_max")), strict=True)
    begun = itertools.starmap(_beginning, counts)
    rest = (columns[name].tolist() for name in (*_LAST, *RTT, "jitter_ns", *IPDV))
    rows = zip(series, begun, *rest, strict=False)
    whole = summaries.steps & (summaries.pairs > 0)
    time = f" {summaries.start_ns}"
    if summaries.present:
        ends: Iterator[str] = (more + time for more in _optional(summaries))
    elif whole.all():
        form = _WHOLE_TEXT + time
        return [form % row for row in rows]
    else:
        ends = itertools.repeat(time)
    made = []
    states = zip(
        whole.tolist(),
        summaries.timed.tolist(),
        summaries.steps.tolist(),
        summaries.pairs.tolist(),
        strict=True,
    )
    for row, (complete, timed, steps, pairs), end in zip(rows, states, ends, strict=False):
        if complete:
            made.append(_WHOLE_TEXT % row + end)
        elif row[1]:
            made.append(_part_of(row, timed, steps, pairs) + end)
    return made


def _optional(summaries: Summaries) -> Iterator[str]:
    """The OPTIONAL fields of each row, each with a comma before it."""
    texts = []
    for block, form in _OPTIONAL_TEXT.items():
        if block in summaries.present:
            values = zip(*(summaries.values[name].tolist() for name in OPTIONAL[block]), strict=True)
            has = summaries.present[block].tolist()
            texts.append([form % row if mine else "" for row, mine in zip(values, has, strict=True)])
    return map("".join, zip(*texts, strict=True))


@functools.lru_cache(_REMEMBERED)
def _beginning(*row: int) -> str:
    """The fields from `sent` to `loss_burst_max`, of the values of COUNTS and that; empty where nothing
    happened."""
    *counts, burst = row
    if not any(counts):
        return ""
    sent, _, lost, *_ = counts
    loss = f",loss={lost / sent!r}" if sent else ""
    return f"{_COUNT_TEXT % tuple(counts)}{loss},loss_burst_max={burst}i"


def _part_of(row: tuple[Any, ...], timed: int, steps: bool, pairs: int) -> str:
    """The line of a flow that lacks some fields, without its time; `row` is in the order of a whole line."""
    series, begun, *values = row
    last, values = values[: len(_LAST)], values[len(_LAST) :]
    rtt, (jitter, *ipdv) = values[: len(RTT)], values[len(RTT) :]
    text = _LAST_TEXT % tuple(last)
    text += _RTT_TEXT % tuple(rtt) if timed else ""
    text += f",jitter_ns={jitter}i" if steps else ""
    text += _IPDV_TEXT % tuple(ipdv) if pairs else ""
    return f"{series} {begun}{text}"


def le_place(tags: Mapping[str, str]) -> int:
    """How many characters of `series_text("probe", tags)` stand before where `le` has its place among the
    tags."""
    return len(series_text(PROBE.name, {k: v for k, v in tags.items() if k < "le"}))


def histogram_lines(counts: Counts, series: Sequence[str], places: Sequence[int], start_ns: int) -> list[str]:
    """One `probe_histogram` line a bucket that is not empty.

    `series[flow]` is the flow's series as in `probe` lines, which has the same tags but `le`; `places[flow]`
    is its `le_place`. To make each line's series from its tags would take thirty times as long.
    """
    made: list[str] = []
    before, after, end, last = "", "", f"i {start_ns}", -1
    rows = zip(counts.flow.tolist(), counts.bucket.tolist(), counts.count.tolist(), strict=True)
    for flow, bucket, count in rows:
        if flow != last:
            place, last = places[flow], flow
            before = f"{PROBE_HISTOGRAM.name}{series[flow][_AFTER_PROBE:place]},le="
            after = f"{series[flow][place:]} count="
        made.append(f"{before}{LABELS[bucket]}{after}{count}{end}")
    return made


def event_line(
    tags: Mapping[str, str], kind: str, text: str, detail: Mapping[str, object], time_ns: int
) -> str:
    """One `event` line; `detail` becomes JSON. Where that is too long its lists are cut, and how long a list
    `x` was is in `x_in_all`."""
    written = _json(detail)
    while len(written) > DETAIL_MOST:
        sizes = {key: len(_json(value)) for key, value in detail.items()}
        key = max(sizes, key=lambda key: sizes[key])
        value = detail[key]
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1:
            in_all = {f"{key}_in_all": detail.get(f"{key}_in_all", len(value))}
            detail = {**detail, **in_all, key: value[: len(value) // 2]}
        else:
            detail = {other: value for other, value in detail.items() if other != key}
        written = _json(detail)
    if len(text) > TEXT_MOST:
        text = f"{text[: TEXT_MOST - 4]} ..."
    fields: dict[str, Value] = {"text": text, "detail": written}
    return encode(series_text("event", {**tags, "kind": kind}), fields, time_ns)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)
