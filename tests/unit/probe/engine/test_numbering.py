"""Where probes were lost, told from reply numbers: against the truth of a network that decides it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.samples import BACKWARD, FORWARD, HIDDEN, UNTOLD
from tests.unit.probe.engine.reflecting import Course, Session, StampDriver


def course_of(rng: Random, exotic: bool) -> Course:
    """What happens to a probe: every outcome often enough that all neighbourhoods occur."""
    draw = rng.random()
    if draw < 0.2:
        return Course("F")
    if draw < 0.4:
        return Course("B")
    if draw < 0.45:
        return Course("X")
    if draw < 0.5:
        return Course(back=rng.randrange(20, 1_900) * MILLISECOND)  # late, or overtaken by far
    if exotic and draw < 0.55:
        return Course(copies=rng.choice([2, 3]), again=rng.choice([1, 2]))
    if exotic and draw < 0.6:
        return Course(hold=True)
    return Course(back=rng.randrange(1, 30) * MILLISECOND)


def courses(seed: int, flows: int, exotic: bool) -> list[list[Course]]:
    rng = Random(seed)
    drawn = [[course_of(rng, exotic) for _ in range(400)] for _ in range(flows)]
    for some in drawn:
        for n in range(len(some) - 1):
            # What comes to the reflector behind, or twice, next to a loss leaves open on which side that was.
            after = some[n + 1]
            if (some[n].hold or some[n].copies > 1) and (after.way or after.back > 30 * MILLISECOND):
                some[n] = replace(some[n], hold=False, copies=1)
            if some[n].hold and n and some[n - 1].hold:
                some[n] = replace(some[n], hold=False)
        some[-1] = Course()
    return drawn


def expected(driver: StampDriver, flow: int) -> list[dict[int, int]]:
    """By the definition, probe by probe: on which way each unanswered one was lost, cut by cut."""
    reflector = driver.reflector
    first, remembered, out = 0, -1, []
    for cut, now in zip(driver.cuts, driver.cut_at, strict=True):
        samples = cut.samples[0]
        total = int((samples.flow == flow).sum())
        inside = int((samples.flow[: samples.inside] == flow).sum())
        answered = {n for (f, n), when in reflector.arrivals.items() if f == flow and when <= now}
        told: dict[int, int] = {}
        begin = remembered
        for n in range(first, first + total):
            if n not in answered:
                continue
            gap = [i for i in range(begin + 1, n) if i not in answered]
            gap = [i for i in gap if reflector.planned[flow, i].way != "X"]
            if begin >= 0:
                forward = sum(reflector.planned[flow, i].way == "F" for i in gap)
                told |= {i: FORWARD if k < forward else BACKWARD for k, i in enumerate(gap)}
            begin = n
            if n < first + inside:
                remembered = n
        out.append(told)
        first += inside
    return out


def told(driver: StampDriver, flow: int) -> list[dict[int, int]]:
    first, out = 0, []
    for i, cut in enumerate(driver.cuts):
        samples, lost = cut.samples[0], driver.said(i).lost[cut.samples[0].flow == flow]
        out.append({first + n: int(lost[n]) for n in np.flatnonzero(lost).tolist()})
        first += int((samples.flow[: samples.inside] == flow).sum())
    return out


@pytest.mark.parametrize("exotic", [False, True], ids=["lossy", "duplicating and reordering"])
@pytest.mark.parametrize("seed", range(6))
def test_every_loss_between_two_replies_is_told_as_it_was(seed: int, exotic: bool) -> None:
    flows = 1 + seed % 3
    drawn = courses(seed, flows, exotic)
    driver = StampDriver(lambda flow, n: drawn[flow][n], sizes=[84] * flows)
    if seed % 2:
        driver.reflector.first_number = (1 << 32) - 50
    assert driver.dialect is not None
    driver.run(3 * SECOND + 500 * MILLISECOND)
    driver.finish()
    for flow in range(flows):
        found, wanted = told(driver, flow), expected(driver, flow)
        first = 0
        for cut, mine, theirs in zip(driver.cuts, found, wanted, strict=True):
            inside = range(first, first + int((cut.samples[0].flow[: cut.samples[0].inside] == flow).sum()))
            mine, theirs = ({n: w for n, w in one.items() if n in inside} for one in (mine, theirs))
            assert mine == theirs
            first = inside.stop
        assert sum(map(len, wanted)) > 50
        assert {way for one in wanted for way in one.values()} == {FORWARD, BACKWARD}
    assert driver.channel.counters.foreign == 0


@pytest.mark.parametrize("seed", range(8))
def test_what_overtakes_next_to_a_loss_makes_nothing_told_that_was_not(seed: int) -> None:
    """Nobody knows in which order lost probes came to the reflector: no more of a way than there were."""
    rng = Random(seed)
    flows = 1 + seed % 3
    drawn = [
        [Course(rng.choice(["F", "B", "", "", "", ""]), hold=rng.random() < 0.2) for _ in range(400)]
        for _ in range(flows)
    ]
    driver = StampDriver(lambda flow, n: drawn[flow][n], sizes=[84] * flows)
    driver.run(3 * SECOND + 500 * MILLISECOND)
    driver.finish()
    for flow in range(flows):
        found: dict[int, int] = {}
        first = 0
        for cut, some in zip(driver.cuts, told(driver, flow), strict=True):
            inside = first + int((cut.samples[0].flow[: cut.samples[0].inside] == flow).sum())
            found |= {n: way for n, way in some.items() if n < inside}
            first = inside
        for way, name in ((FORWARD, "F"), (BACKWARD, "B")):
            there = sum(course.way == name for course in drawn[flow][:first])
            assert there * 0.5 < list(found.values()).count(way) <= there


def ways(driver: StampDriver) -> dict[int, int]:
    return {n: way for one in told(driver, 0) for n, way in one.items()}


def test_sequence_numbers_wrap() -> None:
    lost = {10: "F", 11: "B", 12: "F", 40: "B"}
    driver = StampDriver(lambda _, n: Course(lost.get((n + 20) & 0xFFFFFFFF, "")))
    assert driver.dialect is not None
    driver.dialect._next[0] = (1 << 32) - 20
    driver.run(2 * SECOND)
    driver.finish()
    assert ways(driver) == {10: FORWARD, 11: FORWARD, 12: BACKWARD, 40: BACKWARD}


def test_a_reflector_that_copies_the_senders_number_tells_nothing() -> None:
    driver = StampDriver(lambda _, n: Course("F" if n % 5 == 2 else "B" if n % 7 == 3 else ""))
    driver.reflector.stateful = driver.reflector.follow_up = False
    driver.run(2 * SECOND)
    driver.finish()
    assert not driver.said(0).numbering.any()
    assert ways(driver) == {}


def test_without_follow_up_a_reflector_is_known_to_number_once_a_loss_set_its_numbers_apart() -> None:
    driver = StampDriver(lambda _, n: Course({5: "B", 60: "F", 150: "B"}.get(n, "")))
    driver.reflector.tlvs = False
    driver.run(3 * SECOND)
    driver.finish()
    assert [bool(driver.said(i).numbering[0]) for i in range(3)] == [True] * 3
    assert ways(driver) == {5: BACKWARD, 60: FORWARD, 150: BACKWARD}


def test_a_reflector_may_be_replaced_by_one_that_numbers_nothing() -> None:
    driver = StampDriver(lambda _, n: Course("F" if n in (30, 250) else "B" if n in (31, 251) else ""))
    driver.run(1_500 * MILLISECOND)
    driver.reflector.stateful = driver.reflector.follow_up = False
    driver.run(2 * SECOND)
    driver.finish()
    assert [bool(driver.said(i).numbering[0]) for i in range(3)] == [True, True, False]
    assert ways(driver) == {30: FORWARD, 31: BACKWARD}


@pytest.mark.parametrize("ssid", [False, True], ids=["addresses and ports", "session identifiers"])
def test_two_flows_to_one_place_are_told_of_where_a_reflector_can_tell_them_apart(ssid: bool) -> None:
    lost = {20: "F", 21: "F", 40: "B"}
    there = bytes([2, 0, 3, 94, 10, 0, 0, 1]) + bytes(20)
    driver = StampDriver(
        lambda f, n: Course(lost.get(n, "") if f else ""), sizes=[52] * 2, destinations=[there] * 2
    )
    driver.reflector.ssid, driver.reflector.tlvs = ssid, False
    if not ssid:
        both = Session()
        driver.reflector.sessions = {101: both, 102: both}
    driver.run(2 * SECOND)
    driver.finish()
    assert driver.said(0).numbering.tolist() == [False, ssid]
    found = {n: way for one in told(driver, 1) for n, way in one.items()}
    assert found == ({20: FORWARD, 21: FORWARD, 40: BACKWARD} if ssid else {})


def test_a_reflector_with_one_counter_for_all_tells_nothing_of_any() -> None:
    lost = {20: "F", 21: "F", 40: "B", 60: "F"}
    driver = StampDriver(lambda f, n: Course(lost.get(n, "") if f else ""), sizes=[84] * 2)
    everybody = Session()
    driver.reflector.sessions = {101: everybody, 102: everybody}
    driver.run(2 * SECOND)
    driver.finish()
    assert not told(driver, 1)[0]
    assert not driver.said(0).numbering[1]


def test_numbers_at_random_tell_nothing() -> None:
    rng = Random(3)
    driver = StampDriver(lambda _, n: Course("F" if n % 7 == 3 else ""))

    def spoil(reply: bytearray) -> bytes:
        reply[:4] = rng.randbytes(4)
        return bytes(reply)

    driver.reflector.spoil = spoil
    driver.run(3 * SECOND)
    driver.finish()
    assert sum(map(len, told(driver, 0))) == 0


def test_over_a_restart_of_the_reflector_nothing_is_told_and_then_again() -> None:
    driver = StampDriver(lambda _, n: Course("F" if n in (30, 31, 90, 91) else "B" if n == 120 else ""))

    def restart() -> None:
        for session in driver.reflector.sessions.values():
            session.number, session.left = 0, []

    driver.run(920 * MILLISECOND)  # within the second gap
    restart()
    driver.run(2 * SECOND)
    driver.finish()
    assert ways(driver) == {30: FORWARD, 31: FORWARD, 120: BACKWARD}


def test_what_is_lost_behind_the_last_reply_is_untold() -> None:
    driver = StampDriver(lambda _, n: Course("B" if n >= 150 else ""))
    driver.run(3 * SECOND)
    driver.finish()
    assert ways(driver) == {}
    assert (driver.said(2).lost == UNTOLD).all()


def test_an_error_says_where_a_probe_was_lost_and_takes_no_part_in_the_count() -> None:
    driver = StampDriver(lambda _, n: Course("F" if n in (20, 21) else "B" if n == 22 else ""))
    driver.run(400 * MILLISECOND)
    driver.channel.ledger.failed(21, False)
    driver.run(2 * SECOND)
    driver.finish()
    assert ways(driver) == {20: FORWARD, 21: FORWARD, 22: BACKWARD}


def test_in_a_gap_that_our_own_full_buffer_may_have_made_nothing_is_told() -> None:
    driver = StampDriver(lambda _, n: Course("B" if n in (20, 21, 50) else ""))
    driver.run(400 * MILLISECOND)
    driver.channel.ledger.state[21] |= HIDDEN
    driver.run(2 * SECOND)
    driver.finish()
    assert ways(driver) == {50: BACKWARD}


def test_a_flood_of_duplicates_takes_no_memory_and_ends_in_nothing_told() -> None:
    driver = StampDriver(lambda _, n: Course("B" if n in (20, 150) else "", copies=2_000 if n < 60 else 1))
    driver.run(SECOND + 100 * MILLISECOND)
    assert driver.channel.ledger.reflected is not None
    assert driver.channel.ledger.reflected._numbering._kept <= 1 << 16
    driver.run(2 * SECOND)
    driver.finish()
    assert ways(driver) == {150: BACKWARD}
