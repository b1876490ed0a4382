"""What goes wrong in, the right name out: made-up faults, alone and in pairs, recorded ones, and nonsense."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.diagnose.causes import CAUSES
from collectors.diagnose.facts import gather
from collectors.diagnose.report import report
from collectors.diagnose.verdicts import Verdict, diagnose
from collectors.history import PointHistory
from probe.clock import SECOND
from probe.telemetry.lines import Point, Value
from probe.telemetry.schema import MEASUREMENTS
from tests.unit.collectors.diagnose.faults import catalogue
from tests.unit.collectors.diagnose.site import FAULTY, QUIET, Fault, Flow, L, Packets, T, now, points

FAULTS = catalogue()
SILENT = QUIET + 6  # windows: as long as somebody waits until silence is one


def verdicts(made: list[Point], at: int) -> list[Verdict]:
    return diagnose(gather(PointHistory(made), T - SECOND, at))


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_alone_is_named_and_nothing_else(cause: str) -> None:
    windows = SILENT if cause == "broker-away" else QUIET + 3
    for seed in (1, 2):
        found = verdicts(points(FAULTS[cause], seed=seed, windows=windows), now(windows))
        assert [(one.place, one.cause) for one in found] == [(CAUSES[cause].place, cause)], seed
        (one,) = found
        assert one.confidence >= 0.5
        assert one.since_ns is not None
        # A window's start, or the last reading before.
        assert T + (QUIET - 2) * L <= one.since_ns <= T + (QUIET + 1) * L
        assert one.evidence
        assert one.settle


# What hits other packets, or shows in other ways: of those each must be seen beside the other.
APART = (
    ("line-loss", "gateway-slow"),
    ("line-loss", "gateway-down"),
    ("line-loss", "firewall"),
    ("line-loss", "mtu-black-hole"),
    ("line-delay", "gateway-down"),
    ("line-delay", "port-closed"),
    ("gateway-slow", "firewall"),
    ("gateway-slow", "mtu-black-hole"),
    ("gateway-slow", "host-stalled"),
    ("ecmp-member", "line-delay"),
    ("ecmp-member", "gateway-slow"),
    ("ecmp-member", "port-closed"),
    ("nic-drops", "gateway-slow"),
    ("nic-drops", "port-closed"),
    ("route-change", "port-closed"),
    ("route-change", "line-loss"),
    ("clock-step", "gateway-down"),
    ("neighbour-failover", "gateway-slow"),
    ("link-flap", "gateway-slow"),
    ("firewall", "clock-step"),
    ("firewall", "mtu-black-hole"),
    ("line-delay", "gateway-slow"),
)


@pytest.mark.parametrize("pair", APART, ids="+".join)
def test_two_faults_at_once_are_both_named(pair: tuple[str, str]) -> None:
    found = verdicts(points(*(FAULTS[cause] for cause in pair)), now())
    assert set(pair) <= {one.cause for one in found}


def test_faults_that_begin_at_different_times_are_told_apart() -> None:
    later = replace(FAULTS["gateway-slow"], begin=QUIET + 8, end=QUIET + 12)
    found = verdicts(points(FAULTS["line-delay"], later, windows=QUIET + 12), now(QUIET + 12))
    by_cause = {one.cause: one for one in found}
    assert by_cause["line-delay"].until_ns is not None
    assert by_cause["gateway-slow"].until_ns is None
    assert by_cause["gateway-slow"].since_ns == T + (QUIET + 8) * L


def test_the_same_fault_twice_is_told_twice() -> None:
    again = replace(FAULTS["receive-buffer"], begin=QUIET + 20, end=QUIET + 24)
    found = verdicts(points(FAULTS["receive-buffer"], again, windows=QUIET + 24), now(QUIET + 24))
    assert [one.cause for one in found] == ["receive-buffer", "receive-buffer"]
    assert found[0].until_ns is None
    assert found[1].until_ns is not None


def test_quiet_is_no_fault() -> None:
    for seed in range(3):
        (one,) = verdicts(points(seed=seed), now())
        assert (one.place, one.cause) == ("none", "none")
        assert report([one], "here").startswith("no fault: 24 targets of 2 agents")


def test_what_chance_loses_everywhere_is_no_fault() -> None:
    def some(flow: Flow, packets: Packets) -> None:
        packets.loss = 0.001

    always = Fault(some, begin=0, end=120)
    for seed in range(3):
        (one,) = verdicts(points(always, seed=seed, windows=120), now(120))
        assert one.cause == "none", one.where


def test_who_loses_ten_times_what_chance_does_is_seen_nevertheless() -> None:
    def some(flow: Flow, packets: Packets) -> None:
        packets.loss = 0.02 if (flow.agent, flow.line) == ("agent-1", "A") else 0.001

    (one,) = verdicts(points(Fault(some, begin=0, end=60), windows=60), now(60))
    assert (one.cause, one.agent) == ("line-loss", "agent-1")


def test_where_most_targets_are_hit_all_the_time_that_is_not_usual() -> None:
    def some(flow: Flow, packets: Packets) -> None:
        packets.loss = 0.03

    found = verdicts(points(Fault(some, begin=0, end=30), windows=30), now(30))
    assert found[0].cause != "none"


def test_a_point_that_is_there_twice_counts_once() -> None:
    quiet, broken = points(), points(FAULTS["ecmp-member"])
    assert [one.cause for one in verdicts(quiet + quiet, now())] == ["none"]
    assert verdicts(broken + broken, now()) == verdicts(broken, now())


def test_one_probe_skipped_between_two_windows_is_no_stall() -> None:
    made = points()
    last = next(
        point for point in reversed(made) if point.measurement == "agent" and point.tags["agent"] == "agent-1"
    )
    # An event makes a batch of its own, and so a reading, at once.
    fields = {**last.fields, "skipped": 1, "stalls": 1, "batch": 99}
    assert [
        one.cause
        for one in verdicts([*made, replace(last, time_ns=last.time_ns + SECOND, fields=fields)], now())
    ] == ["none"]


def test_what_is_over_has_an_end() -> None:
    (one,) = verdicts(points(FAULTS["line-loss"], windows=QUIET + 12), now(QUIET + 12))
    assert one.cause == "line-loss"
    assert one.until_ns == T + (QUIET + FAULTY) * L
    assert ": over" in report([one], "here")


def test_too_little_to_say_where_is_said() -> None:
    only = [point for point in points(FAULTS["line-loss"]) if point.tags.get("target") == "g1-a"]
    only = [point for point in only if point.tags["agent"] == "agent-1"]
    (one,) = verdicts(only, now())
    assert (one.place, one.cause) == ("unknown", "unknown")
    assert {rival.cause for rival in one.rivals} >= {"line-loss"}
    assert any("coloprobe ask agent-1" in line for line in one.settle)
    page = report([one], "here")
    assert "1. unknown" in page
    assert "it may be" in page


def test_nothing_measured_is_no_all_clear() -> None:
    (one,) = verdicts([], now())
    assert one.place == "unknown"
    assert "nothing was measured" in one.where


def test_what_waited_in_the_spool_is_told_afterwards() -> None:
    made = points(windows=QUIET + 10)
    for number, point in enumerate(made):
        window = (point.time_ns - T) // L - 1
        if point.measurement == "agent" and point.tags["agent"] == "agent-1" and QUIET <= window < QUIET + 7:
            waiting = {**point.fields, "spool_batches": window - QUIET + 1}
            made[number] = replace(point, fields=waiting)
    (one,) = verdicts(made, now(QUIET + 10))
    assert one.cause == "broker-away"
    assert one.agent == "agent-1"
    assert one.until_ns is not None


def test_a_silent_agent_beside_a_talking_one() -> None:
    made = [
        point
        for point in points(windows=SILENT)
        if point.tags["agent"] == "agent-2" or point.time_ns < T + QUIET * L
    ]
    (one,) = verdicts(made, now(SILENT))
    assert (one.cause, one.agent) == ("broker-away", "agent-1")


def test_the_report_says_what_it_is_first_and_ends_with_commands() -> None:
    found = verdicts(points(FAULTS["line-loss"], FAULTS["port-closed"]), now())
    page = report(found, "a store").splitlines()
    assert page[0].startswith("2 things are wrong, as of 2023-11-14 22:")
    assert page[2].startswith(("1. interface: line-loss, confidence", "1. gateway: port-closed, confidence"))
    assert "   for it:" in page
    assert any(line.startswith("     coloprobe ask agent-1 ping ") for line in page)
    assert all(line == line.rstrip() for line in page)
    for one in found:
        again = json.loads(json.dumps(one.as_dict()))
        assert set(again) == {
            *("time", "place", "cause", "where", "targets", "agent", "since", "until", "confidence"),
            *("evidence", "rivals", "settle"),
        }
        weights = [abs(item["weight"]) for item in again["evidence"]]
        assert weights == sorted(weights, reverse=True)


_TEXTS = st.sampled_from(
    ["", "A", "g1-a", "g1-b-tcp", "g1-a-big", "tcp", "icmp", "0", "1", "agent-1", "é \x07 9"]
)
_NUMBERS = st.one_of(
    st.integers(0, 3),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([100, 1_000_000, 3_000_000]),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", '{"targets": ["g1-a"], "what": "carrier"}', '{"targets": 1}', "[1]", "agent is offline"]
    ),
)


@st.composite
def any_point(draw: st.DrawFn) -> Point:
    measurement = draw(st.sampled_from(sorted(set(MEASUREMENTS) - {"probe_histogram"})))
    known = MEASUREMENTS[measurement]
    tags = {"agent": draw(st.sampled_from(["agent-1", "b"]))}
    for name in known.tags:
        value = draw(_TEXTS)
        if value:
            tags[name] = value
    if measurement == "event":
        tags["kind"] = draw(st.sampled_from(["link", "neighbour", "route", "clock", "path", "host", "agent"]))
    names = draw(st.lists(st.sampled_from([field.name for field in known.fields]), min_size=1, unique=True))
    fields: dict[str, Value] = {name: draw(_NUMBERS) for name in names}
    return Point(measurement, tags, fields, T + draw(st.integers(0, 20)) * L)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(any_point(), max_size=60))
def test_no_points_are_too_odd(odd: list[Point]) -> None:
    found = verdicts([*odd, *_SOME], now(24))
    assert found
    report(found, "x")
    json.dumps([one.as_dict() for one in found])
    assert all(0 <= one.confidence <= 1 for one in found)


_SOME = list(itertools.islice(points(FAULTS["line-loss"]), 0, None, 7))
