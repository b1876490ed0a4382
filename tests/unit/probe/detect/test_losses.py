"""Losses in, their bursts, rates and silences out, with begin and end."""

from __future__ import annotations

import numpy as np
import pytest

from probe.settings import DetectTable
from tests.unit.probe.detect.driving import LOST, NOON, STAYED, WINDOW, Drive, short


@pytest.mark.parametrize("probes", [10, 100])
@pytest.mark.parametrize("at", ["begin", "middle", "end", "boundary"])
@pytest.mark.parametrize("run", [3, 4, 8])
def test_a_burst_is_found_wherever_it_lies_even_while_it_learns(probes: int, at: str, run: int) -> None:
    drive = Drive(probes=probes)
    drive.windows(1)
    first, second = drive.quiet(), drive.quiet()
    where = {"begin": 0, "middle": (probes - run) // 2, "end": probes - run, "boundary": probes - 2}[at]
    both = np.concatenate([first, second], axis=1)
    both[:, where : where + run] = LOST
    found = [*drive.window(both[:, :probes]), *drive.window(both[:, probes:])]
    assert short(found)[:1] == [("loss", "begin", "x")]
    (begin, *_) = found
    assert begin.wall_ns == NOON + WINDOW
    assert begin.detail["burst"] == begin.detail["lost"] == run
    ends = [one for one in [*found, *drive.windows(8)] if one.phase == "end"]
    assert short(ends) == [("loss", "end", "x")]
    assert ends[0].wall_ns == NOON + (3 if at == "boundary" else 2) * WINDOW
    assert ends[0].detail["lost"] == run


def test_two_in_a_row_are_no_burst_and_settings_say_how_many_are() -> None:
    for least, expected in ((3, []), (2, [("loss", "begin", "x")])):
        drive = Drive(settings=DetectTable(loss_burst=least))
        drive.windows(3)
        rtts = drive.quiet()
        rtts[:, 4:6] = LOST
        assert short(drive.window(rtts)) == expected


def test_scattered_losses_are_told_where_they_are_more_than_usual() -> None:
    drive = Drive(probes=100)
    drive.windows(15)
    rtts = drive.quiet()
    rtts[:, [5, 40, 80]] = LOST
    (found,) = drive.window(rtts)
    assert (found.kind, found.text) == ("loss", "3 of 100 probes lost (3 %)")
    usual = Drive(probes=100)
    for number in range(300):
        rtts = usual.quiet()
        if number % 5 == 0:  # one in 500
            rtts[:, number % 100] = LOST
        assert usual.window(rtts) == []
    rtts = usual.quiet()
    rtts[:, [5, 40, 80]] = LOST
    assert usual.window(rtts) == []


def test_a_steady_loss_is_one_event_until_it_is_over() -> None:
    drive = Drive(probes=100)
    drive.windows(15)
    dice = np.random.default_rng(2)
    for _ in range(200):
        rtts = drive.quiet()
        rtts[dice.random(rtts.shape) < 0.03] = LOST
        drive.window(rtts)
    assert short(drive.told) == [("loss", "begin", "x")]
    (end,) = drive.windows(10)
    assert end.phase == "end"
    assert abs(float(str(end.detail["size"])) - 0.03) < 0.005


def test_what_this_host_did_not_let_out_is_no_loss_and_no_silence() -> None:
    drive = Drive()
    drive.windows(3)
    for _ in range(5):
        assert drive.window(np.full((1, 20), STAYED)) == []


def test_a_target_that_does_not_answer_and_does_again() -> None:
    drive = Drive()
    drive.windows(3)
    dead = np.full((1, 20), LOST)
    assert short(drive.window(dead)) == [("loss", "begin", "x")]
    (silent,) = drive.window(dead)
    assert (silent.kind, silent.phase, silent.text) == (
        "unreachable",
        "begin",
        "no answer in 2 windows, to 40 probes",
    )
    assert silent.wall_ns == NOON + 3 * WINDOW
    assert silent.detail["windows"] == [NOON + 3 * WINDOW, NOON + 4 * WINDOW]
    # The kernel has found no neighbour by now: that is no answer.
    assert drive.window(np.full((1, 20), STAYED)) == []
    found = drive.windows(1)
    assert short(found) == [("loss", "end", "x"), ("unreachable", "end", "x")]
    assert found[1].wall_ns == NOON + 6 * WINDOW
    assert found[1].text == "answers again after 30.0 s, 40 probes unanswered"
    assert drive.windows(5) == []


def test_late_answers_are_answers() -> None:
    drive = Drive()
    drive.windows(3)
    for _ in range(4):
        drive.window(np.full((1, 20), LOST), late=20)
    assert {one.kind for one in drive.told} == {"loss"}


def test_one_flow_that_loses_is_told_as_that_and_all_as_the_target() -> None:
    drive = Drive({"a": 1, "x": 8})
    drive.windows(15)
    one = drive.quiet()
    one[4, 5:9] = LOST
    (found,) = drive.window(one)
    assert (found.kind, found.detail["what"], found.detail["flow"], found.targets) == (
        "flow",
        "loss",
        3,
        ("x",),
    )
    assert found.text == "flow 3 of 8: 4 of 20 probes lost (20 %, 4 in a row)"
    assert short(drive.windows(6)) == [("flow", "end", "x")]
    every = drive.quiet()
    every[1:, 5:9] = LOST
    assert short(drive.window(every)) == [("loss", "begin", "x")]
    assert short(drive.windows(6)) == [("loss", "end", "x")]
    # Three packets in a row on the line are of three flows.
    three = drive.quiet()
    three[1:4, 7] = LOST
    assert short(drive.window(three)) == [("loss", "begin", "x")]


def test_a_thousand_targets_lost_at_once_are_few_events() -> None:
    drive = Drive({f"t{number}": 1 for number in range(1000)}, probes=3)
    drive.windows(8)
    dead = np.full((1000, 3), LOST)
    found = [*drive.window(dead), *drive.window(dead)]
    assert short([one for one in found if len(one.targets) == 1]) == []
    assert [(one.kind, one.detail["targets"], len(one.tags)) for one in found] == [
        ("loss", 1000, 0),
        ("unreachable", 1000, 0),
    ]
    assert len(str(found[0].detail)) < 1000
    assert found[1].text == "no answer at once at 1000 targets (t0, t1, t2, t3 and 996 more)"
    back = drive.windows(4)
    assert sorted(one.kind for one in back) == ["loss", "unreachable"]
