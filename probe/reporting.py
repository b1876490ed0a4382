"""Closed windows in, lines out: summaries every window, histograms every longer one."""

from __future__ import annotations

from array import array

from probe.engine.samples import Cut
from probe.measurement import Measurement
from probe.telemetry.points import histogram_lines, le_place, probe_lines
from probe.windows.histogram import Histogram
from probe.windows.summary import pieces, summarise

_PIECE = 1 << 13  # samples: what is made of so many, lines included, stays in a processor's cache


class Reporter:
    """The lines of one measurement; `histogram` and `timeout` in ns."""

    def __init__(self, measurement: Measurement, histogram: int, timeout: int) -> None:
        self._measurement = measurement
        self._length, self._timeout = histogram, timeout
        self._histogram = Histogram(measurement.flows)
        self._places = array("I", map(le_place, measurement.tags))
        self._start = 0  # of the open histogram window, wall ns

    def lines(self, cut: Cut) -> list[str]:
        """The lines that a closed window gives."""
        ended: list[str] = []
        boundary = self._start // self._length * self._length + self._length
        if self._start and not self._start <= cut.start_ns < boundary:
            ended = self.finish()  # the wall clock was stepped, or the host slept past the boundary
        self._start = self._start or cut.start_ns
        made = ended
        for first, flows, piece in pieces(cut, self._measurement.flows, _PIECE):
            summaries = summarise(piece, flows, self._timeout)
            self._histogram.add(summaries.rtt_flow + first, summaries.rtt)
            made += probe_lines(summaries, self._measurement.series[first : first + flows])
        if cut.end_ns % self._length == 0:
            made += self.finish()
        return made

    def finish(self) -> list[str]:
        """The lines of the histogram window that is open, which ends with this."""
        start, self._start = self._start, 0
        return histogram_lines(self._histogram.take(), self._measurement.series, self._places, start)
