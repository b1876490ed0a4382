"""Summaries, histograms and events in, lines of the published schema out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

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
    counts = zip(*(values[name] for name in COUNTS), strict=True)
    always = zip(*(values[name] for name in ALWAYS), strict=True)
    rtts = zip(*(values[name] for name in RTT), strict=True)
    ipdvs = zip(*(values[name] for name in IPDV), strict=True)
    timed_and_pairs = summaries.timed.tolist(), summaries.pairs.tolist()
    rows = zip(series, counts, always, rtts, ipdvs, values["jitter_ns"], *timed_and_pairs, strict=True)
    made = []
    for head, count, certain, rtt, ipdv, jitter, timed, pairs in rows:
        if not any(count):
            continue
        text = _COUNT_TEXT % count
        if count[0]:
            text += f",loss={count[2] / count[0]!r}"
        text += _ALWAYS_TEXT % certain
        if timed:
            text += _RTT_TEXT % rtt
        if timed > 1:
            text += f",jitter_ns={jitter}i"
        if pairs:
            text += _IPDV_TEXT % ipdv
        made.append(f"{head} {text} {summaries.start_ns}")
    return made


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
