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
from probe.ping_words import summary
from probe.telemetry.points import probe_fields
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
    """The summary in words: see `probe.ping_words.summary`."""
    return summary(probe_fields(summaries, row), name, no_delays)
