"""Closed windows in, lines out, and what they show: summaries every window, histograms every longer one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from probe.detect.found import Found
from probe.engine.samples import Cut
from probe.telemetry.points import histogram_lines, le_place, probe_lines
from probe.windows.histogram import Histogram
from probe.windows.layout import Layout, pieces
from probe.windows.summary import Summaries, summarise

_PIECE = 1 << 13  # samples: what is made of so many, lines included, stays in a processor's cache


class Measured(Protocol):
    """What flow indices stand for; `probe.measurement.Measurement` is one.

    tags, series: per flow, with the tag `flow` where its target has several.
    targets: (first flow, number of flows), in the order of flows; target_tags, target_series: per target.
    """

    @property
    def tags(self) -> Sequence[Mapping[str, str]]: ...
    @property
    def series(self) -> Sequence[str]: ...
    @property
    def targets(self) -> Sequence[tuple[int, int]]: ...
    @property
    def target_tags(self) -> Sequence[Mapping[str, str]]: ...
    @property
    def target_series(self) -> Sequence[str]: ...


class Detects(Protocol):
    """Who looks at windows for events; `probe.detect.detector.Detector` is one."""

    def add(self, first: int, flows: int, first_group: int, summaries: Summaries) -> None: ...
    def close(self, start_ns: int, end_ns: int) -> list[Found]: ...


class Reporter:
    """The lines of one measurement; `histogram` and `timeout` in ns.

    detector: sees every window as well; what it finds goes to `on_found`, in the thread that calls `lines`,
    before the window's lines are returned.
    """

    def __init__(
        self,
        measured: Measured,
        histogram: int,
        timeout: int,
        detector: Detects | None = None,
        on_found: Callable[[Found], None] = lambda _: None,
    ) -> None:
        self._detector, self._on_found = detector, on_found
        self._length, self._timeout = histogram, timeout
        self._series, self._target_series = measured.series, measured.target_series
        self._layout = Layout.of([tags.get("kind", "") for tags in measured.tags], measured.targets)
        # A target with one flow is that flow; the others' points stand behind those of their flows.
        self._group_series = [
            series
            for series, (_, flows) in zip(measured.target_series, measured.targets, strict=True)
            if flows > 1
        ]
        self._target = np.repeat(
            np.arange(len(measured.targets), dtype=np.int32), [flows for _, flows in measured.targets]
        )
        self._histogram = Histogram(len(measured.targets))
        self._places = array("I", map(le_place, measured.target_tags))
        self._start = 0  # of the open histogram window, wall ns

    def lines(self, cut: Cut) -> list[str]:
        """The lines that a closed window gives."""
        ended: list[str] = []
        boundary = self._start // self._length * self._length + self._length
        if self._start and not self._start <= cut.start_ns < boundary:
            ended = self.finish()  # the wall clock was stepped, or the host slept past the boundary
        self._start = self._start or cut.start_ns
        made = ended
        groups = 0
        for first, flows, piece, layout in pieces(cut, len(self._series), _PIECE, self._layout):
            summaries = summarise(piece, flows, self._timeout, layout)
            if self._detector is not None:
                self._detector.add(first, flows, groups, summaries)
            self._histogram.add(self._target[first : first + flows][summaries.rtt_flow], summaries.rtt)
            series = list(self._series[first : first + flows])
            if layout.groups:
                series += self._group_series[groups : groups + len(layout.groups)]
                groups += len(layout.groups)
            made += probe_lines(summaries, series)
        if self._detector is not None:
            for found in self._detector.close(cut.start_ns, cut.end_ns):
                self._on_found(found)
        if cut.end_ns % self._length == 0:
            made += self.finish()
        return made

    def finish(self) -> list[str]:
        """The lines of the histogram window that is open, which ends with this."""
        start, self._start = self._start, 0
        return histogram_lines(self._histogram.take(), self._target_series, self._places, start)
