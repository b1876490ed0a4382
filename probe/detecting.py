"""Measurements one after the other in, reporters that also tell events of what their windows show out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from probe.detect.detector import Detector
from probe.detect.found import Found
from probe.measurement import Measurement
from probe.reporting import Reporter
from probe.settings import AgentSettings
from probe.telling import Teller
from probe.windows.summary import Summaries

T = TypeVar("T")
_TRACED = 4  # targets, where an event is about many at once

log = logging.getLogger(__name__)


class Watch:
    """A detector whose defect, if it has one, ends itself and nothing else."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._failed = False

    def add(self, first: int, flows: int, first_group: int, summaries: Summaries) -> None:
        """As `Detector.add`."""
        self._safely(lambda: self.detector.add(first, flows, first_group, summaries), None)

    def close(self, start_ns: int, end_ns: int) -> list[Found]:
        """As `Detector.close`."""
        return self._safely(lambda: self.detector.close(start_ns, end_ns), [])

    def _safely(self, work: Callable[[], T], otherwise: T) -> T:
        if self._failed:
            return otherwise
        try:
            return work()
        except Exception:
            log.exception("events of windows are not detected any more, by a defect; measuring goes on")
            self._failed = True
            return otherwise


class Detecting:
    """The events of an agent's windows, whichever measurement they come from.

    Args:
        call: has the event loop call a function, from any thread.
        trigger: asks for a trace of a target, and says why; in the event loop.
    """

    def __init__(
        self,
        teller: Teller,
        call: Callable[[Callable[[], None]], object],
        trigger: Callable[[str, str], None],
    ) -> None:
        self._teller, self._call, self._trigger = teller, call, trigger
        self._last: Detector | None = None

    def reporter(self, settings: AgentSettings, measurement: Measurement) -> Reporter:
        """Of a measurement that follows the last one."""
        watch = None
        if settings.detect.enabled:
            targets = zip(measurement.target_tags, (flows for _, flows in measurement.targets), strict=True)
            self._last = Detector(settings.detect, list(targets), self._last)
            watch = Watch(self._last)
        histogram, timeout = int(settings.window.histogram), int(settings.window.timeout)
        return Reporter(measurement, histogram, timeout, watch, self._on_found)

    def _on_found(self, found: Found) -> None:
        # The event loop comes to this before it learns that the window's lines are made: one batch has both.
        self._call(lambda: self.told(found))

    def told(self, found: Found) -> None:
        """In the event loop."""
        log.info("%s: %s", ", ".join(found.targets[:4]), found.text)
        self._teller.event(
            found.kind, found.text, tags=found.tags, detail=found.detail, wall_ns=found.wall_ns
        )
        # Also at its end: the path may be another one again.
        if not found.detail.keys() & {"stays", "why"}:
            for name in found.targets[:_TRACED]:
                self._trigger(name, found.text)
