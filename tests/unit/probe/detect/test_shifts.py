"""Levels of RTTs in, shifts of latency and jitter out: up, down, back, staying, and of which flows."""

from __future__ import annotations

import numpy as np
import pytest

from probe.detect.shifts import STAYS
from tests.unit.probe.detect.driving import MS, NOON, US, WINDOW, Drive, short


@pytest.mark.parametrize("probes", [10, 20, 100])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_shift_of_a_fifth_is_found_within_two_windows_wherever_it_falls(
    probes: int, part: float, way: str
) -> None:
    old, new = (MS, 1_200 * US) if way == "up" else (1_200 * US, MS)
    drive = Drive(probes=probes)
    assert drive.windows(8, old) == []
    mixed = drive.quiet(old)
    after = round(part * probes)
    mixed[:, after:] = drive.quiet(new)[:, after:]
    begin = drive.now
    found = drive.window(mixed) or drive.windows(1, new)
    assert short(found) == [("latency", "begin", "x")]
    (one,) = found
    assert begin <= one.wall_ns <= begin + WINDOW
    assert abs(float(str(one.detail["size"])) - (new / old - 1)) < 0.03
    assert abs(int(str(one.detail["after_ns"])) - new) < 30 * US
    assert drive.windows(20, new) == []


def test_what_an_event_says() -> None:
    drive = Drive()
    drive.windows(9)
    (begin,) = drive.windows(1, 2 * MS)
    assert begin.text == "latency up 100 %: 1.01 ms -> 2.01 ms"
    assert begin.tags == {"target": "x"}
    start = NOON + 9 * WINDOW
    assert begin.detail["windows"] == [start]
    assert (begin.wall_ns, begin.detail["begin_ns"], begin.detail["flows"]) == (start, start, 1)
    drive.windows(3, 2 * MS)
    (end,) = drive.windows(1)
    assert end.text == "latency back at 1.01 ms after 40.0 s"
    assert (end.phase, end.detail["begin_ns"], end.wall_ns) == ("end", start, start + 4 * WINDOW)
    assert end.detail["size"] == begin.detail["size"]


def test_a_level_that_stays_is_the_usual_one_and_the_way_back_a_shift_down() -> None:
    drive = Drive()
    drive.windows(10)
    assert short(drive.windows(1, 1_300 * US)) == [("latency", "begin", "x")]
    (stays,) = drive.windows(STAYS, 1_300 * US)
    assert (stays.phase, stays.detail["stays"]) == ("end", True)
    (down,) = drive.windows(1)
    assert (down.phase, down.text) == ("begin", "latency down 23 %: 1.31 ms -> 1.01 ms")
    assert float(str(down.detail["size"])) < -0.2


def test_a_further_shift_ends_one_event_and_begins_another() -> None:
    drive = Drive()
    drive.windows(10)
    drive.windows(3, 2 * MS)
    assert short(drive.windows(1, 4 * MS)) == [("latency", "end", "x"), ("latency", "begin", "x")]
    assert short(drive.windows(1)) == [("latency", "end", "x")]


@pytest.mark.parametrize("level", [100 * US, 30 * US])
def test_what_is_below_40_us_is_no_shift_whatever_share_it_is(level: int) -> None:
    drive = Drive()
    drive.windows(10, level, 2 * US)
    assert drive.windows(10, level + 30 * US, 2 * US) == []


def test_nothing_is_told_while_it_learns() -> None:
    drive = Drive()
    drive.windows(3)
    assert drive.windows(8, 3 * MS) == []
    assert short(drive.windows(1, 5 * MS)) == [("latency", "begin", "x")]


def test_few_probes_a_window_need_more_windows() -> None:
    drive = Drive(probes=2)
    drive.windows(20)
    found = [short(drive.windows(1, 1_300 * US)) for _ in range(4)]
    assert found[0] == found[1] == []
    assert ("latency", "begin", "x") in [one for each in found for one in each]


def test_a_few_far_outliers_and_a_wander_are_no_shift() -> None:
    drive = Drive(probes=10)
    dice = np.random.default_rng(3)
    for number in range(400):
        rtts = drive.quiet(MS + round(60 * US * np.sin(number / 9)))
        rtts[dice.random(rtts.shape) < 0.08] += 5 * MS
        assert drive.window(rtts) == []


def test_all_flows_that_shift_are_one_event_of_the_target() -> None:
    drive = Drive({"a": 1, "x": 16})
    assert drive.windows(10) == []
    # It falls into the middle of a window, and only some of them are sure.
    mixed = drive.quiet()
    for flow in range(1, 17):
        mixed[flow, 8 + flow // 3 :] += MS
    found = [*drive.window(mixed), *drive.windows(3, [MS] + [2 * MS] * 16)]
    assert short(found) == [("latency", "begin", "x")]
    assert found[0].detail["flows"] == 16
    assert "which" not in found[0].detail
    assert short(drive.windows(4)) == [("latency", "end", "x")]


def test_one_flow_out_of_many_is_told_as_that() -> None:
    drive = Drive({"x": 16})
    drive.windows(10)
    levels = [MS] * 16
    levels[3] = 1_500 * US
    found = drive.windows(4, levels)
    assert short(found) == [("flow", "begin", "x")]
    assert found[0].text == "flow 3 of 16: latency up 50 %: 1.01 ms -> 1.51 ms"
    assert (found[0].detail["what"], found[0].detail["flow"], found[0].detail["flows"]) == ("latency", 3, 16)
    levels[7] = levels[8] = 1_500 * US
    (more,) = drive.windows(4, levels)
    assert more.detail["which"] == [7, 8]
    ends = drive.windows(3)
    assert short(ends) == [("flow", "end", "x")]
    assert ends[0].detail["which"] == [3, 7, 8]


def test_a_target_s_flows_that_come_back_one_by_one_end_it_once() -> None:
    drive = Drive({"x": 8})
    drive.windows(10)
    drive.windows(3, 2 * MS)
    found = [one for back in range(1, 9) for one in drive.windows(2, [MS] * back + [2 * MS] * (8 - back))]
    assert short(found) == [("latency", "end", "x")]


def test_jitter_that_rises_and_falls() -> None:
    drive = Drive(probes=100)
    drive.windows(20, noise=30 * US)
    found = [drive.windows(1, noise=400 * US) for _ in range(8)]
    kinds = [kind for each in found for kind in short(each)]
    assert ("jitter", "begin", "x") in kinds
    back = short(drive.windows(8, noise=30 * US))
    assert ("jitter", "end", "x") in back


def test_a_shift_alone_is_no_jitter() -> None:
    drive = Drive(probes=100)
    drive.windows(20)
    for _ in range(5):
        mixed = drive.quiet()
        mixed[:, 50:] += 3 * MS
        drive.window(mixed)
        drive.windows(3, 4 * MS)
        mixed = drive.quiet()
        mixed[:, :50] += 3 * MS
        drive.window(mixed)
        drive.windows(3)
    assert {one.kind for one in drive.told} == {"latency"}


def test_an_end_is_told_before_what_begins_with_it_whatever_others_do() -> None:
    """Both have the same time, and whoever reads the begin first takes the end for its."""
    it = Drive({"x": 1, "y": 1})
    for _ in range(10):
        it.window(it.quiet(MS))
    for _ in range(3):
        it.window(it.quiet([MS, 5 * MS]))
    it.told.clear()
    for _ in range(3):
        it.window(it.quiet([2 * MS, 2 * MS]))
    told = [(found.targets[0], found.phase) for found in it.told if found.kind == "latency"]
    assert sorted(told) == [("x", "begin"), ("y", "begin"), ("y", "end")]
    assert told.index(("y", "end")) < told.index(("y", "begin"))


def test_what_many_have_in_common_is_said_of_all_of_them() -> None:
    """A shift that stays is not over, nor is what is no longer watched."""
    it = Drive({f"x{n}": 1 for n in range(20)})
    for level in (MS, 2 * MS):
        for _ in range(10):
            it.window(it.quiet(level))
    for _ in range(STAYS):
        it.window(it.quiet(2 * MS))
    begin, end = (found for found in it.told if found.kind == "latency")
    assert begin.text == "a shift of latency at once at 20 targets (x0, x1, x2, x3 and 16 more)"
    assert (end.phase, end.detail["stays"]) == ("end", True)
    assert end.text.startswith("a shift of latency stays, and is the usual one from now on, at 20 targets")
    for _ in range(3):
        it.window(it.quiet(4 * MS))
    after = Drive({"other": 1}, before=it)
    [gone] = after.window(after.quiet(MS))
    assert gone.detail["why"] == "it is not measured any more"
    assert gone.text.startswith("a shift of latency no longer watched (it is not measured any more) at 20")
