"""A measurement that follows another in, what is known of its targets out; quiet noise in, nothing out."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.detection.recording import load
from benchmarks.detection.replay import RECORDING, Line, Noise, lines, replay, summaries
from probe.detect.detector import Detector
from probe.settings import DetectTable
from probe.windows.summary import Summaries
from tests.unit.probe.detect.driving import LOST, MS, STAYED, WINDOW, Drive, short


def test_a_target_that_stays_needs_not_be_learnt_again_after_a_reload() -> None:
    old = Drive({"a": 1, "b": 1, "c": 4})
    old.windows(10)
    new = Drive({"z": 1, "c": 4, "b": 1}, before=old)
    found = new.windows(1, [MS, *[MS] * 4, 2 * MS])
    assert short(found) == [("latency", "begin", "b")]
    assert old.windows(3, 9 * MS) == []  # its own last windows are not heeded any more


def test_what_is_open_ends_where_its_target_is_gone() -> None:
    old = Drive({"a": 1, "b": 1, "c": 4})
    old.windows(10)
    old.window(np.full((6, 20), LOST))
    old.windows(1)
    old.windows(1, 3 * MS)
    new = Drive({"b": 1, "c": 4}, before=old)
    found = new.windows(1, 3 * MS)
    assert ("latency", "end", "a") in short(found)
    assert ("latency", "end", "b") not in short(found)
    # Its flows have other ports, and so perhaps other paths.
    assert ("latency", "end", "c") in short(found)
    assert {one.detail["why"] for one in found if one.targets == ("a",)} == {"it is not measured any more"}


def test_a_measurement_without_a_window_in_between_loses_nothing() -> None:
    first = Drive()
    first.windows(10)
    third = Drive(before=Drive(before=first))
    third.now = first.now
    assert short(third.windows(1, 2 * MS)) == [("latency", "begin", "x")]


def test_a_gap_joins_no_losses_and_a_clock_that_is_set_back_does_no_harm() -> None:
    drive = Drive()
    drive.windows(10)
    rtts = drive.quiet()
    rtts[:, -2:] = LOST
    assert drive.window(rtts) == []
    drive.now += WINDOW
    rtts = drive.quiet()
    rtts[:, :2] = LOST
    assert drive.window(rtts) == []
    drive.now -= 3600 * 10**9
    assert drive.windows(5) == []
    assert short(drive.windows(1, 2 * MS)) == [("latency", "begin", "x")]


def test_nothing_is_told_of_recorded_quiet_noise() -> None:
    # A long form of this, of days, is `python -m benchmarks.detection`.
    for rate in (10.0, 1.0):
        made = lines(rate)
        assert replay(made, 200, seed=7) == []


def test_the_replay_s_summaries_are_those_of_the_engine() -> None:
    drive = Drive({"x": 1, "y": 1}, probes=30)
    seen: list[Summaries] = []

    class Watching(Detector):
        def add(self, first: int, flows: int, first_group: int, summaries: Summaries) -> None:
            seen.append(summaries)

    drive.detector = Watching(DetectTable(), [({"target": "x"}, 1), ({"target": "y"}, 1)])
    rtts = drive.quiet()
    rtts[0, [0, 1, 7, 28, 29]] = LOST
    start = drive.now
    drive.window(rtts)
    made = summaries(rtts, start, start + WINDOW)
    for name, column in made.values.items():
        assert column.tolist() == seen[0].values[name].tolist(), name
    for name in ("timed", "lost_first", "lost_last", "rtt_flow", "rtt"):
        assert getattr(made, name).tolist() == getattr(seen[0], name).tolist(), name


def test_a_shift_in_recorded_noise_is_found() -> None:
    recording = load(RECORDING)
    quiet = Line("quiet", 10.0, MS)
    assert recording.shape[0] >= 4
    noise = Noise(recording, [quiet], 3)
    detector = Detector(DetectTable(), [({"target": "x"}, 1)])
    found = []
    for number in range(20):
        rtts = noise.window(number) + (MS // 5 + 20_000 if number >= 15 else 0)
        detector.add(0, 1, 0, summaries(rtts, number * WINDOW, (number + 1) * WINDOW))
        found += [(number, one.kind) for one in detector.close(number * WINDOW, (number + 1) * WINDOW)]
    assert found == [(15, "latency")]


def test_whatever_comes_every_end_has_its_begin() -> None:
    dice = np.random.default_rng(11)
    for seed in range(6):
        drive = Drive({"a": 1, "b": 5, "c": 2}, probes=int(dice.integers(1, 12)), seed=seed)
        told = []
        for _ in range(150):
            rtts = drive.quiet(
                dice.choice([MS, 2 * MS, 40 * MS], 8).tolist(), int(dice.choice([1, 10**5, 10**6]))
            )
            fate = dice.random()
            rtts[dice.random(rtts.shape) < fate * 0.3] = LOST
            if fate > 0.8:
                rtts[dice.integers(0, 8)] = dice.choice([LOST, STAYED])
            if fate > 0.95:
                rtts[:] = dice.choice([LOST, STAYED])
            if fate < 0.05:
                drive.now += int(dice.integers(-3, 3)) * WINDOW
            if 0.5 < fate < 0.52:
                drive = Drive({"b": 5, "a": 1, "c": 2}, probes=drive.probes, before=drive)
            drive.window(rtts, late=int(fate * 3))
            told += drive.told
            drive.told = []
        begun = {(one.kind, one.targets, one.detail["begin_ns"]) for one in told if one.phase == "begin"}
        ended = {(one.kind, one.targets, one.detail["begin_ns"]) for one in told if one.phase == "end"}
        assert begun
        assert ended <= begun
        for one in told:
            assert one.text
            assert json.loads(json.dumps(one.detail))["windows"]


def test_a_measurement_of_nothing() -> None:
    detector = Detector(DetectTable(), [])
    assert detector.close(0, WINDOW) == []
    drive = Drive(before=None)
    drive.detector = Detector(DetectTable(), [({"target": "x"}, 1)], detector)
    assert drive.windows(8) == []
