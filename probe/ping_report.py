"""The windows of a whole run in, one summary over all of it out: as points (JSON), or as text for people."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from probe.engine.samples import Cut, Reflections, Samples, Strays
from probe.telemetry.lines import Value
from probe.telemetry.points import probe_fields
from probe.text import duration
from probe.windows.layout import Layout
from probe.windows.summary import Summaries, summarise

_KEEP = 1 << 22  # probes that the final summary looks at; the oldest go first

Columns = TypeVar("Columns", Samples, Reflections)


class Cuts:
    """Closed windows of one target with `flows` flows."""

    def __init__(self, kind: str, flows: int) -> None:
        self._cuts: deque[Cut] = deque()
        self._flows = flows
        self._layout = Layout.of([kind] * flows, [(0, flows)])
        self._kept = 0

    def add(self, cut: Cut) -> None:
        """Keep a window; where that is too much, the oldest one goes."""
        samples = tuple(_inside(part) for part in cut.samples)
        self._cuts.append(replace(cut, samples=samples))
        self._kept += sum(part.inside for part in samples)
        while self._kept > _KEEP and len(self._cuts) > 1:
            self._kept -= sum(part.inside for part in self._cuts.popleft().samples)

    def summaries(self, timeout: int) -> Summaries:
        """All windows as one: a row a flow, and where there are several one of all of them behind these."""
        late, duplicates, errors = (
            sum((getattr(cut.strays, name) for cut in self._cuts), np.zeros(self._flows, np.int64))
            for name in ("late", "duplicates", "errors")
        )
        samples = tuple(part for cut in self._cuts for part in cut.samples)
        strays = Strays(late, duplicates, errors)
        whole = Cut(self._cuts[0].start_ns, self._cuts[-1].end_ns, samples, strays)
        return summarise(whole, self._flows, timeout, self._layout)


def _inside(samples: Samples) -> Samples:
    """Without the rows of later windows, which come again with these."""
    said = samples.reflections
    return replace(_first(samples, samples.inside), reflections=said and _first(said, samples.inside))


def _first(columns: Columns, rows: int) -> Columns:
    whole = ("stamping", "numbering", "follows")  # these have a value a flow
    cut: dict[str, Any] = {}
    for field in fields_of(columns):
        value = getattr(columns, field.name)
        if isinstance(value, np.ndarray) and field.name not in whole:
            cut[field.name] = value[:rows].copy()
    return replace(columns, **cut)


def points(summaries: Summaries, tags: Mapping[str, str], flows: int) -> list[str]:
    """The `probe` point of the target and, where it has several, those of its flows, as JSON."""
    rows = [(tags, flows if flows > 1 else 0)]
    if flows > 1:
        rows += [({**tags, "flow": str(flow)}, flow) for flow in range(flows)]
    return [
        json.dumps(
            {"time": summaries.start_ns, "measurement": "probe", **mine, **probe_fields(summaries, row)}
        )
        for mine, row in rows
    ]


def text(summaries: Summaries, row: int, name: str, no_delays: str = "") -> str:
    """The summary in words. `no_delays`: why there are no one-way delays, where there might be."""
    fields = probe_fields(summaries, row)
    if not fields:
        return "nothing was sent"
    loss = f"{fields['loss']:.2%}" if "loss" in fields else "-"
    counts = f"{fields['sent']} sent, {fields['received']} received, {fields['lost']} lost ({loss})"
    if "open" in fields:
        counts += f", {fields['open']} open, {fields['closed']} closed"
    more = [f"{fields[name]} {name}" for name in ("late", "duplicates", "reordered", "errors")]
    more.append(f"longest loss burst {fields['loss_burst_max']}")
    more.append(f"{fields['unstamped']} without kernel stamps")
    if "hardware" in fields:
        more.append(f"{fields['hardware']} with hardware stamps")
    lines = [f"\n--- {name}: {counts}", "    " + ", ".join(more)]
    if "forward_lost" in fields and fields["lost"]:
        lines.append(f"    lost: {fields['forward_lost']} on the way there, {fields['backward_lost']} back")
    if "rtt_min_ns" in fields:
        lines.append("rtt " + _spread(fields, "rtt"))
    if "jitter_ns" in fields:
        lines.append(f"jitter {_time(fields, 'jitter_ns')} (RFC 3550)")
    if "ipdv_mean_ns" in fields:
        mean, high = _time(fields, "ipdv_mean_ns"), _time(fields, "ipdv_p99_ns")
        lines[-1] += f"  ipdv mean {mean}  p99 {high} (RFC 3393)"
    if "clock_error_ns" in fields:
        ways = [way for way in ("forward", "backward") if f"{way}_min_ns" in fields]
        lines += [f"{way} {_spread(fields, way)}" for way in ways]
        lines.append(f"one-way delays: clock error at most {_time(fields, 'clock_error_ns')}")
    elif no_delays and fields["received"]:
        lines.append(f"no one-way delays: {no_delays}")
    if missed := int(fields.get("unfollowed", 0)):
        if missed == fields["received"] and "rtt_min_ns" in fields:
            why = "the reflector did not tell when its kernel sent its replies: its send call is in the RTTs"
        else:
            what, them = ("1 reply", "it") if missed == 1 else (f"{missed} replies", "them")
            why = f"no RTT is taken of {what}, as the reflector did not tell when its kernel sent {them}"
            why += " (of a flow's last reply it cannot)"
        lines.append(why)
    return "\n".join(lines)


def _spread(fields: Mapping[str, Value], prefix: str) -> str:
    names = ("min", "p50", "p90", "p99", "p999", "max", "mean", "stddev")
    return "  ".join(f"{name} {_time(fields, f'{prefix}_{name}_ns')}" for name in names)


def _time(fields: Mapping[str, Value], name: str) -> str:
    return duration(int(fields[name]))
