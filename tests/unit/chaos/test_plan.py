"""What a seed makes of a cast: the same every time, in bounds, and something of everything."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.plan import CUTS, KINDS, Cast, Plan, draw

CAST = Cast(
    agents=("agent-1", "agent-2", "agent-3"),
    collectors=("collector-1", "collector-2"),
    cramped=("agent-3",),
    bystanders=("fleet",),
)


def test_a_plan_is_a_function_of_seed_and_length() -> None:
    assert draw(7, 300, CAST) == draw(7, 300, CAST)
    assert draw(7, 300, CAST) != draw(8, 300, CAST)
    plans = [draw(seed, 1, CAST) for seed in range(100)]
    assert len({(plan.persistent, plan.tight, plan.protocol) for plan in plans}) == 8


@pytest.mark.parametrize("seed", range(20))
def test_all_is_over_in_time_and_nothing_has_two_faults_at_once(seed: int) -> None:
    plan = draw(seed, 120, CAST)
    until: dict[tuple[str, ...], float] = {}
    for fault in plan.faults:
        assert 0 <= fault.at_s < fault.until_s <= 120
        assert fault.at_s >= until.get(fault.where, 0)
        until[fault.where] = fault.until_s
    assert list(plan.faults) == sorted(plan.faults)


@pytest.mark.parametrize("seed", range(5))
def test_everybody_meets_everything_that_can_befall_them(seed: int) -> None:
    """Some five decks of 29 cards each."""
    plan = draw(seed, 300, CAST)
    kinds = Counter(fault.kind for fault in plan.faults)
    assert {*kinds} == {*KINDS}
    met = {(fault.kind, fault.where[0].partition("-")[0]) for fault in plan.faults if fault.kind not in CUTS}
    groups = ("agent", "collector", "broker", "database")
    assert met == {
        *((kind, group) for kind in ("kill", "end", "freeze") for group in groups),
        ("freeze", "fleet"),
        ("reload", "agent"),
        ("reload", "collector"),
        ("wipe", "broker"),
        ("fill", "agent"),
        ("flood", "agent"),
    }
    ends = {fault.where[-1] for fault in plan.faults if fault.kind in CUTS}
    assert ends == {"broker", "database"}


def test_a_blackout_kills_in_the_same_moment() -> None:
    plan = draw(7, 300, CAST)
    kills = Counter(fault.at_s for fault in plan.faults if fault.kind == "kill")
    assert max(kills.values()) >= len(CAST.collectors)


def test_a_storm_kills_who_has_just_been_started() -> None:
    plan = draw(7, 300, CAST)
    kills = [fault for fault in plan.faults if fault.kind == "kill" and fault.until_s - fault.at_s < 0.25]
    again = [
        (one, other) for one in kills for other in kills if one.where == other.where and other.at_s > one.at_s
    ]
    assert sum(other.at_s - one.until_s < 2.0 for one, other in again) >= 4


def test_faults_of_different_parts_overlap() -> None:
    def overlapping(plan: Plan) -> int:
        pairs = zip(plan.faults, plan.faults[1:], strict=False)
        return sum(one.until_s > other.at_s for one, other in pairs)

    assert overlapping(draw(7, 300, CAST)) > 30
