"""Windows of one measurement after the other in, events told and traces asked for out."""

from __future__ import annotations

import logging

import pytest

from probe.clock import SECOND
from probe.detect.detector import Detector
from probe.detect.found import Found
from probe.detecting import Detecting, Watch
from probe.settings import DetectTable
from probe.telemetry.lines import parse
from probe.telling import Teller
from tests.unit.probe.detect.driving import Drive


class Told:
    """What a `Detecting` tells, and asks to be traced."""

    def __init__(self) -> None:
        self.traced: list[str] = []
        self.teller = Teller({"agent": "a", "site": "s"}, FixedClock(), lambda: None)
        self.detecting = Detecting(
            self.teller, lambda call: call(), lambda target, why: self.traced.append(target)
        )


class FixedClock:
    def wall(self) -> int:
        return SECOND

    def mono(self) -> int:
        return SECOND


def test_an_event_is_a_line_and_a_trace() -> None:
    told = Told()
    drive = Drive({"x": 1, "y": 1})
    drive.windows(10)
    (found,) = drive.windows(1, [1_000_000, 2_000_000])
    told.detecting.told(found)
    point = parse(told.teller.take()[0])
    assert point.tags == {"agent": "a", "site": "s", "target": "y", "kind": "latency"}
    assert point.time_ns == found.wall_ns
    assert '"phase":"begin"' in str(point.fields["detail"])
    assert told.traced == ["y"]


def test_an_event_of_many_targets_has_only_some_of_them_traced() -> None:
    told = Told()
    detail = {"phase": "begin", "begin_ns": 5, "windows": [5]}
    told.detecting.told(Found("loss", "all", tuple(f"t{n}" for n in range(900)), detail))
    assert "target" not in parse(told.teller.take()[0]).tags
    assert len(told.traced) == 4


def test_a_defect_of_the_detector_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    detector = Detector(DetectTable(), [({"target": "x"}, 1)])

    def broken(start_ns: int, end_ns: int) -> list[Found]:
        raise ZeroDivisionError

    detector.close = broken  # type: ignore[method-assign]
    watch = Watch(detector)
    with caplog.at_level(logging.ERROR):
        assert [watch.close(0, 1), watch.close(1, 2)] == [[], []]
    assert caplog.text.count("by a defect") == 1
