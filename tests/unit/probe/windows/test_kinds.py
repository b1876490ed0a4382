"""Samples of other kinds than echo in, their fields out; and a target with several flows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probe.engine.samples import BACKWARD, CLOSED, FORWARD, REFUSED, SENT
from tests.unit.probe.windows.by_hand import answered, measured, one_flow
from tests.unit.probe.windows.drawing import TIMEOUT
from tests.unit.probe.windows.plain import Said, Window


def told(*said: Said | None, rtt: int = 100, numbering: bool = False) -> Window:
    """A STAMP flow of which its reflector said this, a probe each; None: not a word."""
    probes = tuple(
        replace(probe, said=one or Said())
        for probe, one in zip(answered(*[rtt] * len(said)), said, strict=True)
    )
    return replace(one_flow(*probes), kinds=("stamp",), numbering=(numbering,))


def test_the_dwell_time_is_no_part_of_the_round_trip_but_of_the_wait() -> None:
    fields = measured(told(Said(dwell=30), Said(dwell=0), rtt=TIMEOUT), TIMEOUT)
    assert (fields["rtt_min_ns"], fields["rtt_max_ns"]) == (TIMEOUT - 30, TIMEOUT)
    # A reply that took longer than the timeout is late, wherever the time went.
    fields = measured(told(Said(dwell=900), rtt=TIMEOUT + 1), TIMEOUT)
    assert (fields["received"], fields["late"]) == (0, 1)


@pytest.mark.parametrize("dwell", [101, 1 << 60, -1, -(1 << 60)])
def test_a_dwell_time_that_cannot_be_makes_no_loss_and_no_round_trip_time(dwell: int) -> None:
    fields = measured(told(Said(dwell=dwell), Said(dwell=20)), TIMEOUT)
    assert (fields["received"], fields["lost"], fields["rtt_min_ns"], fields["rtt_max_ns"]) == (2, 0, 80, 80)


def test_unfollowed_are_those_whose_dwell_ends_with_the_reflectors_own_reading() -> None:
    window = told(Said(dwell=1, followed=True), Said(dwell=1), Said())
    assert measured(window, TIMEOUT)["unfollowed"] == 2
    assert "unfollowed" not in measured(one_flow(*answered(1)), TIMEOUT)


def test_where_a_reflector_tells_when_replies_left_those_it_tells_not_of_are_in_no_time_behind_it() -> None:
    """Its own reading is earlier than its kernel's by a send call, which is no part of the way back."""
    said = Said(dwell=10, followed=True, forward=40, backward=50, error=5)
    early = Said(dwell=2, forward=41, backward=58, error=5)
    window = told(said, early, replace(said, dwell=11))
    fields = measured(window, TIMEOUT)
    assert (fields["received"], fields["unfollowed"]) == (3, 1)
    assert (fields["rtt_min_ns"], fields["rtt_max_ns"], fields["backward_max_ns"]) == (89, 90, 50)
    assert fields["forward_max_ns"] == 41
    assert "ipdv_mean_ns" not in fields
    # One that never tells has nothing better.
    fields = measured(told(early, early), TIMEOUT)
    assert (fields["unfollowed"], fields["rtt_max_ns"], fields["backward_max_ns"]) == (2, 98, 58)


def test_one_way_delays_may_be_negative_and_are_kept() -> None:
    fields = measured(
        told(
            Said(forward=-70, backward=170, error=200),
            Said(forward=-71, backward=171, error=500),
            Said(forward=30, backward=None, error=100),
            Said(),
        ),
        TIMEOUT,
    )
    names = ("min", "mean", "stddev", "p50", "p90", "p99", "p999", "max")
    # Of -71, -70, 30: the mean is -37; half of -141 would round up to -70.
    assert [fields[f"forward_{name}_ns"] for name in names] == [-71, -37, 47, -70, 30, 30, 30, 30]
    assert [fields[f"backward_{name}_ns"] for name in names] == [170, 171, 0, 170, 171, 171, 171, 171]
    assert fields["clock_error_ns"] == 500


def test_the_mean_of_negative_delays_is_rounded_half_up() -> None:
    fields = measured(told(Said(forward=-71), Said(forward=-70)), TIMEOUT)
    assert (fields["forward_mean_ns"], fields["forward_p50_ns"]) == (-70, -71)


def test_clocks_that_are_years_apart_or_set_in_between_still_have_exact_statistics() -> None:
    years = 10**18
    fields = measured(told(Said(forward=-years - 3), Said(forward=-years + 4)), TIMEOUT)
    assert (fields["forward_min_ns"], fields["forward_max_ns"]) == (-years - 3, -years + 4)
    assert (fields["forward_mean_ns"], fields["forward_stddev_ns"]) == (-years + 1, 4)
    fields = measured(told(*[Said(forward=sign * 4 * years) for sign in (-1, 1, 1, 1)]), TIMEOUT)
    assert (fields["forward_mean_ns"], fields["forward_p50_ns"]) == (2 * years, 4 * years)


def test_no_one_way_delay_without_both_our_stamps_or_of_a_late_reply() -> None:
    window = told(*[Said(forward=1, backward=2, error=3)] * 3)
    a, b, c = window.channels[0]
    odd = (replace(a, tx=0), replace(b, unstamped=True), replace(c, rx=c.tx + 2 * TIMEOUT))
    fields = measured(replace(window, channels=(odd,)), TIMEOUT)
    assert not [name for name in fields if name.startswith(("forward", "backward", "clock"))]


def test_losses_are_told_apart_where_the_reflector_numbers_its_replies() -> None:
    lost = [Said(lost=FORWARD), Said(lost=BACKWARD), Said(lost=BACKWARD), Said()]
    window = told(*lost, Said(lost=FORWARD), numbering=True)
    *silent, last = window.channels[0]
    window = replace(window, channels=((*(replace(p, rx=0) for p in silent), last),))
    fields = measured(window, TIMEOUT)
    assert (fields["lost"], fields["forward_lost"], fields["backward_lost"]) == (4, 1, 2)
    fields = measured(replace(window, numbering=(False,)), TIMEOUT)
    assert fields["lost"] == 4
    assert "forward_lost" not in fields
    # A late reply was lost nowhere.
    late = replace(last, rx=last.tx + TIMEOUT + 1)
    fields = measured(replace(window, channels=((late,),)), TIMEOUT)
    assert (fields["lost"], fields["forward_lost"], fields["backward_lost"]) == (1, 0, 0)


def test_nothing_sent_was_lost_nowhere() -> None:
    window = told(Said(), numbering=True)
    refused = replace(window.channels[0][0], state=REFUSED, tx=0, rx=0)
    fields = measured(replace(window, channels=((refused,),)), TIMEOUT)
    assert (fields["errors"], fields["unfollowed"]) == (1, 0)
    assert "forward_lost" not in fields


def test_open_and_closed_ports_both_answer() -> None:
    a, b, c, late = answered(100, 100, None, 2 * TIMEOUT)
    window = one_flow(a, replace(b, state=SENT | CLOSED), c, replace(late, state=SENT | CLOSED))
    for kind in ("tcp", "connect"):
        fields = measured(replace(window, kinds=(kind,)), TIMEOUT)
        assert (fields["received"], fields["open"], fields["closed"], fields["lost"]) == (2, 1, 1, 2)
    assert "open" not in measured(window, TIMEOUT)


def test_the_interfaces_time_is_taken_where_it_is_there() -> None:
    stamped, missing = (
        replace(probe, hard=hard) for probe, hard in zip(answered(100, 100), (60, 0), strict=True)
    )
    fields = measured(one_flow(stamped, missing), TIMEOUT)
    assert (fields["hardware"], fields["unstamped"]) == (1, 0)
    assert (fields["rtt_min_ns"], fields["rtt_max_ns"]) == (60, 100)
    # It counts as stamped, also where the kernel's own stamp is missing.
    fields = measured(one_flow(replace(stamped, unstamped=True)), TIMEOUT)
    assert (fields["hardware"], fields["unstamped"], fields["rtt_min_ns"]) == (1, 0, 60)
    assert "hardware" not in measured(one_flow(*answered(100)), TIMEOUT)


def test_the_interfaces_time_alone_calls_no_reply_late() -> None:
    # Without kernel stamps nobody can tell whether the interface's clock was set in between.
    (probe,) = answered(100)
    fields = measured(one_flow(replace(probe, hard=10 * TIMEOUT, unstamped=True)), TIMEOUT)
    assert (fields["received"], fields["late"], fields["hardware"]) == (1, 0, 1)
    assert "rtt_max_ns" not in fields


def test_a_target_over_all_its_flows() -> None:
    first = answered(100, 140, None, None)
    second = tuple(replace(p, flow=1, due=p.due - 9) for p in answered(300, None, 310, 310))
    third = tuple(replace(p, flow=2) for p in answered(700))
    by_due = tuple(sorted((*first, *second, *third), key=lambda p: p.due))
    window = Window((by_due,), (True,) * 3, (1, 2, 0), (0, 0, 4), (0, 1, 0), counts=(3,))
    fields = measured(window, TIMEOUT, 3)
    assert {name: fields[name] for name in ("sent", "received", "lost", "late", "duplicates", "errors")} == {
        "sent": 9,
        "received": 6,
        "lost": 3,
        "late": 3,
        "duplicates": 4,
        "errors": 1,
    }
    assert fields["loss"] == 3 / 9
    assert fields["loss_burst_max"] == 2  # of the first flow: no run goes from flow to flow
    assert fields["send_lag_max_ns"] == 9
    assert (fields["rtt_min_ns"], fields["rtt_p50_ns"], fields["rtt_max_ns"]) == (100, 300, 700)
    assert fields["rtt_mean_ns"] == 310
    # The pairs 100-140 and 310-310, each within its flow.
    assert (fields["ipdv_mean_ns"], fields["ipdv_p99_ns"]) == (20, 40)
    # 40/16 of two RTTs and 15/16 * 10/16 of three; a flow with one RTT has none.
    assert fields["jitter_ns"] == round((40 / 16 * 2 + 15 / 16 * 10 / 16 * 3) / 5)
    assert fields["reordered"] == 0


def test_a_target_whose_flows_have_one_reply_each_has_no_jitter() -> None:
    a, b = answered(100, 900)
    window = Window(((a, replace(b, flow=1)),), (True,) * 2, (0,) * 2, (0,) * 2, (0,) * 2, counts=(2,))
    fields = measured(window, TIMEOUT, 2)
    assert (fields["received"], fields["rtt_mean_ns"]) == (2, 500)
    assert "jitter_ns" not in fields
    assert "ipdv_mean_ns" not in fields


def test_a_target_is_there_where_one_flow_is() -> None:
    (a,) = answered(100)
    window = Window(((replace(a, flow=2),),), (True,) * 3, (0,) * 3, (0,) * 3, (0,) * 3, counts=(1, 2))
    assert [bool(measured(window, TIMEOUT, row)) for row in range(4)] == [False, False, True, True]
