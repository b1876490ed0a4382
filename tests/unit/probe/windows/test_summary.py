"""Random windows in, what plain Python makes of them by array out; and windows to be checked by eye."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from probe.engine.samples import ERROR, LOCAL, REFUSED, SENT, SKIPPED
from probe.telemetry.points import probe_fields
from probe.windows.statistics import edge_runs
from probe.windows.summary import summarise
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.windows.by_hand import answered, measured, one_flow
from tests.unit.probe.windows.drawing import HUGE, TIMEOUT, windows
from tests.unit.probe.windows.plain import Probe, Window


def agree(window: Window, timeout: int) -> None:
    summaries = summarise(window.cut(), window.flows, timeout, window.layout)
    for row in range(len(window.rows)):
        got, expected = probe_fields(summaries, row), window.fields(row, timeout)
        assert list(got) == list(expected)
        for name, value in expected.items():
            if name == "jitter_ns" or "stddev" in name:
                # Only these are computed in floating point, and then rounded.
                assert got[name] == pytest.approx(value, abs=0.51, rel=1e-9), name
                assert isinstance(got[name], int)
            else:
                assert got[name] == value, name
                assert type(got[name]) is type(value), name


@settings(repeatable, max_examples=150)
@given(windows())
def test_every_field_is_what_plain_python_makes_of_the_same_probes(window: Window) -> None:
    agree(window, TIMEOUT)


@repeatable
@given(windows(scale=HUGE // TIMEOUT))
def test_huge_values(window: Window) -> None:
    agree(window, HUGE)


@repeatable
@given(windows())
def test_what_the_histogram_gets_are_the_round_trip_times(window: Window) -> None:
    summaries = summarise(window.cut(), window.flows, TIMEOUT, window.layout)
    for flow in range(window.flows):
        mine = summaries.rtt[summaries.rtt_flow == flow]
        assert len(mine) == summaries.timed[flow]
        if len(mine):
            assert (mine.min(), mine.max()) == (
                summaries.values["rtt_min_ns"][flow],
                summaries.values["rtt_max_ns"][flow],
            )


def test_an_empty_window_gives_no_point() -> None:
    for channels in ((), ((),), ((), ())):
        window = Window(channels, (True, False), (0, 0), (0, 0), (0, 0))
        summaries = summarise(window.cut(), 2, TIMEOUT)
        assert probe_fields(summaries, 0) == probe_fields(summaries, 1) == {}
        assert len(summaries.rtt) == 0


def test_nothing_received_has_no_round_trip_time() -> None:
    assert measured(one_flow(*answered(None, None, None)), TIMEOUT) == {
        "sent": 3,
        "received": 0,
        "lost": 3,
        "late": 0,
        "duplicates": 0,
        "reordered": 0,
        "errors": 0,
        "loss": 1.0,
        "loss_burst_max": 3,
        "send_lag_max_ns": 0,
        "unstamped": 0,
    }


def test_a_window_checked_by_eye() -> None:
    probes = answered(100, 140, None, 120, None, None, 200, 100)
    assert measured(one_flow(*probes), TIMEOUT) == {
        "sent": 8,
        "received": 5,
        "lost": 3,
        "late": 0,
        "duplicates": 0,
        "reordered": 0,
        "errors": 0,
        "loss": 0.375,
        "loss_burst_max": 2,
        "send_lag_max_ns": 0,
        "unstamped": 0,
        "rtt_min_ns": 100,
        "rtt_mean_ns": 132,  # 660 / 5
        "rtt_stddev_ns": 37,  # of 100, 140, 120, 200, 100: sqrt(6880 / 5) = 37.09
        "rtt_p50_ns": 120,
        "rtt_p90_ns": 200,
        "rtt_p99_ns": 200,
        "rtt_p999_ns": 200,
        "rtt_max_ns": 200,
        "jitter_ns": 14,  # 40, 20, 80, 100: 2.5, 3.59, 8.37, 14.10
        "ipdv_mean_ns": 70,  # the pairs 100-140 and 200-100
        "ipdv_p99_ns": 100,
    }


def test_percentiles_are_samples_never_between_two() -> None:
    fields = measured(one_flow(*answered(*range(1, 1001))), 2_000)
    names = ("rtt_p50_ns", "rtt_p90_ns", "rtt_p99_ns", "rtt_p999_ns")
    assert [fields[name] for name in names] == [500, 900, 990, 999]
    assert [measured(one_flow(*answered(7, 9)), TIMEOUT)[name] for name in names] == [7, 9, 9, 9]


def test_the_timeout_itself_is_in_time() -> None:
    fields = measured(one_flow(*answered(TIMEOUT, TIMEOUT + 1, every=10 * TIMEOUT)), TIMEOUT)
    assert (fields["received"], fields["lost"], fields["late"]) == (1, 1, 1)
    assert fields["rtt_max_ns"] == TIMEOUT


def test_a_late_reply_is_in_no_round_trip_time_but_overtaken() -> None:
    fields = measured(one_flow(*answered(5 * TIMEOUT, 10, 10)), TIMEOUT)
    assert (fields["late"], fields["lost"], fields["reordered"], fields["rtt_max_ns"]) == (1, 1, 1, 10)


def test_overtaken_by_a_probe_of_the_next_window() -> None:
    first, second = answered(5_000, 10)
    window = one_flow(first, replace(second, inside=False))
    fields = measured(window, 10_000)
    assert (fields["sent"], fields["reordered"]) == (1, 1)


def test_overtaken_only_within_a_flow() -> None:
    first, second = answered(5_000, 10)
    window = Window(((first, replace(second, flow=1)),), (True, True), (0, 0), (0, 0), (0, 0))
    assert measured(window, 10_000, 0)["reordered"] == 0
    assert measured(window, 10_000, 1)["reordered"] == 0


def test_what_this_host_did_not_let_out_is_an_error_and_no_loss() -> None:
    good, *rest = answered(100, 100, None, None)
    refused = replace(rest[0], state=REFUSED, tx=0, rx=0)
    stuck = replace(rest[1], tx=0)
    undeliverable = replace(rest[2], state=SENT | ERROR | LOCAL)
    fields = measured(one_flow(good, refused, stuck, undeliverable), TIMEOUT)
    assert (fields["sent"], fields["lost"], fields["loss"], fields["errors"]) == (1, 0, 0.0, 3)


def test_a_skipped_probe_is_not_even_an_error() -> None:
    skipped = Probe(due=10, sent=300, state=SKIPPED)
    assert measured(one_flow(skipped), TIMEOUT) == {}
    good = answered(100)
    assert measured(one_flow(skipped, *good), TIMEOUT) == measured(one_flow(*good), TIMEOUT)


def test_only_refused_has_no_loss_ratio() -> None:
    fields = measured(one_flow(Probe(due=1, sent=1, state=REFUSED)), TIMEOUT)
    assert fields["errors"] == 1
    assert "loss" not in fields
    assert "rtt_min_ns" not in fields


def test_a_refused_probe_ends_no_run_and_no_pair() -> None:
    a, b, c = answered(None, None, None)
    fields = measured(one_flow(a, replace(b, state=REFUSED, tx=0), c), TIMEOUT)
    assert fields["loss_burst_max"] == 2
    a, b, c = answered(100, None, 160)
    fields = measured(one_flow(a, replace(b, state=REFUSED, tx=0), c), TIMEOUT)
    assert fields["ipdv_mean_ns"] == 60


def test_an_icmp_error_of_a_router_is_a_loss_and_an_error() -> None:
    good, unreachable = answered(100, None)
    fields = measured(one_flow(good, replace(unreachable, state=SENT | ERROR)), TIMEOUT)
    assert (fields["sent"], fields["lost"], fields["errors"]) == (2, 1, 1)


def test_a_flow_that_the_kernel_never_stamped_loses_as_usual() -> None:
    probes = tuple(replace(p, tx=0) for p in answered(100, None))
    fields = measured(one_flow(*probes), TIMEOUT)
    assert (fields["sent"], fields["lost"], fields["errors"], fields["unstamped"]) == (2, 1, 0, 1)
    # Our own clock before the send call stands in for the stamp.
    assert fields["rtt_min_ns"] == 100


def test_stamps_out_of_order_are_no_measurement() -> None:
    (probe,) = answered(100)
    backward = replace(probe, sent=probe.sent - 50, rx=probe.tx - 20)
    fields = measured(one_flow(backward), TIMEOUT)
    assert (fields["received"], fields["unstamped"], fields["rtt_min_ns"]) == (1, 1, 30)
    before_all = replace(probe, rx=probe.sent - 20)
    fields = measured(one_flow(before_all), TIMEOUT)
    assert (fields["received"], fields["unstamped"]) == (1, 1)
    assert "rtt_min_ns" not in fields  # never negative, never clamped to 0


def test_strays_count_in_the_window_that_is_closed_next() -> None:
    fields = measured(one_flow(*answered(100), late=2, duplicates=3, errors=4), TIMEOUT)
    assert (fields["late"], fields["duplicates"], fields["errors"], fields["lost"]) == (2, 3, 4, 0)
    alone = measured(one_flow(late=1), TIMEOUT)
    assert (alone["late"], alone["sent"]) == (1, 0)
    assert "loss" not in alone


def test_duplicates_of_later_windows_are_not_counted_here() -> None:
    now, later = answered(100, 100)
    window = one_flow(replace(now, duplicates=255), replace(later, duplicates=9, inside=False))
    assert measured(window, TIMEOUT)["duplicates"] == 255


def test_jitter_goes_by_order_of_arrival() -> None:
    # Arrivals: second, third, first. RTTs in that order: 10, 20, 5000.
    fields = measured(one_flow(*answered(5_000, 10, 20)), 10_000)
    assert fields["jitter_ns"] == round((10 / 16) * 15 / 16 + 4_980 / 16)


def test_send_lag_is_the_largest_of_those_that_left() -> None:
    a, b, c = answered(10, 10, 10)
    window = one_flow(
        replace(a, due=a.sent - 7), replace(b, due=b.sent - 3), replace(c, due=c.sent - 90, state=REFUSED)
    )
    assert measured(window, TIMEOUT)["send_lag_max_ns"] == 7


def test_runs_of_losses_at_both_ends_of_a_window() -> None:
    dice = random.Random(6)
    for _ in range(300):
        rows = [
            [dice.random() < dice.choice((0.1, 0.9)) for _ in range(dice.randint(0, 6))] for _ in range(5)
        ]
        row = np.array([number for number, lost in enumerate(rows) for _ in lost], np.int64)
        lost = np.array([one for each in rows for one in each], np.bool_)
        first, last = edge_runs(row, lost, np.array([len(each) for each in rows], np.int64))
        for found, each in ((first, rows), (last, [one[::-1] for one in rows])):
            assert found.tolist() == [len(list(itertools.takewhile(bool, one))) for one in each]
