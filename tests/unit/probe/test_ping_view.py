"""A network's rule in, what a ping tells of each probe out: once, in order, and not before it is settled."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.channel import FAR
from probe.engine.samples import ABSENT, CLOSED
from probe.ping_report import Cuts
from probe.ping_view import HELD_BACK, OUTCOMES, STAMPS, View, nth
from probe.sockets.memory import Fate, Rule, lossless
from tests.unit.probe.engine.driving import Driver
from tests.unit.probe.engine.reflecting import Course, StampDriver

TIMEOUT = 200 * MILLISECOND  # of the drivers


@dataclass(frozen=True)
class Line:
    """One probe of some news, and when (ns since the start) it was told of."""

    outcome: str
    stamp: str
    at: int
    flow: int
    seq: int
    sent: int
    rtt: int
    state: int
    forward: int
    backward: int
    unfollowed: bool


def watch(driver: Driver | StampDriver, length: int, *, interval: int = 10 * MILLISECOND) -> list[Line]:
    """Let it run for so long, look every 10 ms, and once more when all is over."""
    view = View([driver.channel], driver.flows, TIMEOUT, interval)
    start = driver.clock.mono()
    lines: list[Line] = []

    def look(now: int) -> None:
        for news in view.update(now):
            names = [OUTCOMES[code] for code in news.outcome.tolist()]
            stamps = [STAMPS[code] for code in news.stamp.tolist()]
            told = (news.flow, news.seq, news.sent - start, news.rtt, news.state)
            more = (news.forward, news.backward, news.unfollowed)
            numbers = zip(*(column.tolist() for column in told + more), strict=True)
            at = driver.clock.mono() - start
            for name, stamp, row in zip(names, stamps, numbers, strict=True):
                lines.append(Line(name, stamp, at, *row))

    for _ in range(length // (10 * MILLISECOND)):
        driver.run(10 * MILLISECOND)
        driver.channel.drain(driver.clock, driver.engine.to_mono)  # as a ping's engine does
        look(driver.clock.mono())
    driver.finish()
    look(FAR)
    assert view.told == sum(1 for line in lines if line.outcome != "duplicate") - again(lines)
    return lines


def again(lines: list[Line]) -> int:
    """How many late replies came to what had been called lost."""
    lost = {(line.flow, line.seq) for line in lines if line.outcome in ("lost", "error")}
    return len([line for line in lines if line.outcome == "late" and (line.flow, line.seq) in lost])


def of(fate: Callable[[int], Fate]) -> Rule:
    return lambda n, _packet: fate(n)


def outcomes(lines: list[Line]) -> list[tuple[int, str]]:
    return [(line.seq, line.outcome) for line in lines]


def test_each_is_told_of_once_in_order_of_sending() -> None:
    rng = random.Random(1)
    delays = [rng.choice([1, 30, 150, 190]) * MILLISECOND for _ in range(200)]
    lines = watch(Driver(of(lambda n: Fate((delays[n],)))), 2 * SECOND)
    assert outcomes(lines) == [(n, "received") for n in range(len(lines))]
    assert len(lines) in range(195, 201)
    assert [line.rtt for line in lines] == delays[: len(lines)]
    assert {line.stamp for line in lines} == {"kernel"}


def test_a_loss_is_told_after_the_timeout_and_holds_back_the_next_ones() -> None:
    lines = watch(Driver(of(lambda n: Fate(() if n == 5 else (MILLISECOND,)))), SECOND)
    assert outcomes(lines)[:8] == [(n, "lost" if n == 5 else "received") for n in range(8)]
    assert lines[5].at - lines[5].sent in range(TIMEOUT, TIMEOUT + 40 * MILLISECOND)
    assert lines[6].at == lines[5].at
    assert lines[5].rtt < 0


def test_a_flow_is_not_held_back_by_a_loss_of_another_one() -> None:
    lines = watch(Driver(of(lambda n: Fate(() if n % 2 else (MILLISECOND,))), flows=2), SECOND)
    by_flow = [[line for line in lines if line.flow == flow] for flow in (0, 1)]
    for mine in by_flow:
        assert [line.seq for line in mine] == list(range(len(mine)))
    answered = next(mine for mine in by_flow if mine[0].outcome == "received")
    assert max(line.at - line.sent for line in answered) <= 20 * MILLISECOND
    (lost,) = (mine for mine in by_flow if mine is not answered)
    assert {line.outcome for line in lost[:-20]} == {"lost"}


def test_late_and_duplicate_replies_are_told_as_they_come() -> None:
    def fate(n: int) -> Fate:
        if n == 3:
            return Fate((500 * MILLISECOND,))  # long after it was called lost
        if n == 4:
            return Fate((210 * MILLISECOND,))  # late, and yet told of at once
        return Fate((MILLISECOND, 40 * MILLISECOND, 40 * MILLISECOND) if n == 7 else (MILLISECOND,))

    lines = watch(Driver(of(fate)), SECOND)
    told = Counter(outcomes(lines))
    assert {one: many for one, many in told.items() if many > 1 or one[1] != "received"} == {
        (3, "lost"): 1,
        (3, "late"): 1,
        (4, "late"): 1,
        (7, "duplicate"): 2,
    }
    late = next(line for line in lines if line.seq == 3 and line.outcome == "late")
    assert late.rtt == 500 * MILLISECOND
    assert late.at - late.sent in range(500 * MILLISECOND, 530 * MILLISECOND)


def test_what_this_host_refuses_is_an_error_at_once() -> None:
    driver = Driver(of(lambda n: Fate(refused=1) if n == 2 else Fate((MILLISECOND,))))
    lines = watch(driver, 200 * MILLISECOND)
    assert outcomes(lines)[:4] == [(0, "received"), (1, "received"), (2, "error"), (3, "received")]
    assert lines[2].at - lines[2].sent <= 20 * MILLISECOND


def test_what_never_left_is_no_loss_and_what_waits_for_its_neighbour_is_not_called_lost() -> None:
    """No stamp: it waits in this host, for three seconds at most."""
    driver = Driver(of(lambda n: Fate((), stamped=False) if n == 5 else Fate((MILLISECOND,))))
    lines = watch(driver, 4 * SECOND)
    assert outcomes(lines)[:7] == [(n, "error" if n == 5 else "received") for n in range(7)]
    assert lines[5].at - lines[5].sent >= TIMEOUT + HELD_BACK
    assert lines[5].stamp == "user"


def test_where_the_kernel_stamps_nothing_no_stamp_is_no_sign() -> None:
    driver = Driver(of(lambda n: Fate(() if n == 5 else (MILLISECOND,), stamped=False)))
    lines = watch(driver, SECOND)
    assert outcomes(lines)[:7] == [(n, "lost" if n == 5 else "received") for n in range(7)]
    assert {line.stamp for line in lines} == {"user"}


@pytest.mark.parametrize("seed", range(6))
def test_any_mix_is_told_as_the_summary_counts_it(seed: int) -> None:
    rng = random.Random(seed)

    def fate(_: int) -> Fate:
        kind = rng.random()
        if kind < 0.1:
            return Fate()
        if kind < 0.15:
            return Fate(refused=1)
        late = rng.choice([1, 1, 1, 150, 205, 260, 450]) * MILLISECOND
        return Fate((late, late + rng.choice([0, 90]) * MILLISECOND) if kind < 0.25 else (late,))

    driver = Driver(of(fate), flows=5)
    lines = watch(driver, 3 * SECOND)
    totals = Counter(line.outcome for line in lines)
    cuts = Cuts("icmp", driver.flows)
    for cut in driver.cuts:
        cuts.add(cut)
    values = cuts.summaries(TIMEOUT).values
    summed = {name: int(values[name][:5].sum()) for name in ("received", "late", "errors", "duplicates")}
    assert summed == {
        "received": totals["received"],
        "late": totals["late"],
        "errors": totals["error"],
        "duplicates": totals["duplicate"],
    }
    first = totals["received"] + totals["lost"] + totals["late"] - again(lines)
    assert int(values["sent"][5]) == first
    assert {name: int(values[name][5]) for name in summed} == summed  # all flows together


@pytest.mark.parametrize("seed", range(3))
def test_the_summary_of_all_windows_is_that_of_one_long_window(seed: int) -> None:
    rng = random.Random(seed)
    fates = [Fate((rng.randint(1, 150) * MILLISECOND,) if rng.random() < 0.9 else ()) for _ in range(4000)]
    driver = Driver(of(lambda n: fates[n]), flows=3)
    driver.run(3 * SECOND)
    driver.finish()
    assert len(driver.cuts) == 4
    cuts = Cuts("icmp", 3)
    for cut in driver.cuts:
        cuts.add(cut)
    whole = cuts.summaries(TIMEOUT)
    parts = driver.summaries()
    for name in ("sent", "received", "lost", "reordered"):
        assert whole.values[name][:3].tolist() == np.sum([p.values[name] for p in parts], 0).tolist()
    assert (whole.start_ns, whole.end_ns) == (driver.cuts[0].start_ns, driver.cuts[-1].end_ns)
    rtts = np.concatenate([part.rtt for part in parts])
    assert int(whole.values["rtt_max_ns"][3]) == rtts.max()
    assert int(whole.values["rtt_mean_ns"][3]) == (2 * int(rtts.sum()) + len(rtts)) // (2 * len(rtts))


def test_old_windows_go_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.ping_report._KEEP", 150)
    driver = Driver(of(lambda _: Fate((MILLISECOND,))))
    driver.run(4 * SECOND)
    driver.finish()
    cuts = Cuts("icmp", 1)
    for cut in driver.cuts:
        cuts.add(cut)
    assert int(cuts.summaries(TIMEOUT).values["sent"][0]) == 100


# -- other kinds ---------------------------------------------------------------------------------------------


def test_a_reflectors_own_time_is_in_no_rtt_and_the_delays_are_told() -> None:
    driver = StampDriver()
    lines = watch(driver, 500 * MILLISECOND)
    course = Course()
    assert {line.outcome for line in lines} == {"received"}
    # NTP's timestamps are good to a quarter of a nanosecond, and each is rounded.
    for line in lines[:-1]:
        assert abs(line.rtt - course.there - course.back) <= 2
        assert abs(line.forward - course.there) <= 2
        assert abs(line.backward - course.back) <= 2
    # Nothing came behind the last one, so nobody said when its reply left.
    assert abs(lines[-1].rtt - course.there - course.back - course.kernel) <= 2
    # They were told when the next reply said so: that is an interval later.
    assert max(line.at - line.sent for line in lines[:-1]) <= 40 * MILLISECOND
    assert [line.unfollowed for line in lines] == [False] * (len(lines) - 1) + [True]


def test_nobody_waits_for_a_follow_up_that_comes_seconds_later() -> None:
    driver = StampDriver()
    lines = watch(driver, 500 * MILLISECOND, interval=2 * SECOND)
    course = Course()
    assert max(line.at - line.sent for line in lines) <= course.there + course.back + 12 * MILLISECOND


def test_a_reflector_that_tells_nothing_more_is_waited_for_only_so_long() -> None:
    driver = StampDriver()
    driver.reflector.follow_up = False
    lines = watch(driver, 600 * MILLISECOND)
    assert outcomes(lines) == [(n, "received") for n in range(len(lines))]
    assert max(line.at - line.sent for line in lines) <= 70 * MILLISECOND  # four more replies
    assert {line.unfollowed for line in lines} == {True}
    assert {abs(line.rtt - Course().there - Course().back - Course().kernel) <= 2 for line in lines} == {True}


def test_without_a_clock_to_trust_there_are_no_delays() -> None:
    driver = StampDriver(own_error=None)
    lines = watch(driver, 300 * MILLISECOND)
    assert {(line.forward, line.backward) for line in lines} == {(ABSENT, ABSENT)}
    assert abs(lines[0].rtt - Course().there - Course().back) <= 2


def test_a_refusal_is_told_with_the_reply() -> None:
    driver = Driver(of(lambda _: Fate((MILLISECOND,))))
    driver.run(100 * MILLISECOND)
    driver.channel.ledger.refused(np.arange(0, 9, 3))  # as a dialect says before it tells of the replies
    driver.channel.drain(driver.clock, driver.engine.to_mono)
    view = View([driver.channel], 1, TIMEOUT, 10 * MILLISECOND)
    (news,) = view.update(driver.clock.mono())
    assert [bool(state & CLOSED) for state in news.state[:5].tolist()] == [True, False, False, True, False]


def test_places_within_a_flow() -> None:
    assert nth(np.array([2, 0, 2, 2, 1, 0]), 3).tolist() == [0, 0, 1, 2, 0, 1]
    assert nth(np.zeros(3, np.int64), 1).tolist() == [0, 1, 2]
    assert nth(np.zeros(0, np.int64), 4).tolist() == []


def test_several_channels_share_a_target() -> None:
    """As STAMP's flows do: each has a socket of its own."""
    drivers = [Driver(of(lambda _: Fate((MILLISECOND,)))), Driver(of(lambda _: Fate()))]
    view = View([driver.channel for driver in drivers], 1, TIMEOUT, 10 * MILLISECOND)
    for driver in drivers:
        driver.run(SECOND)
        driver.channel.drain(driver.clock, driver.engine.to_mono)
    told = [OUTCOMES[code] for news in view.update(drivers[0].clock.mono()) for code in news.outcome]
    assert view.told == len(told)
    assert set(told[:90]) == {"received"}
    assert set(told[-70:]) == {"lost"}


def test_what_waits_unread_while_this_process_is_stopped_is_not_lost() -> None:
    """Stopped after the queues were read; the replies came in time, 150 ms after their probes."""
    driver = Driver(lossless(150 * MILLISECOND))
    view = View([driver.channel], 1, TIMEOUT, 10 * MILLISECOND)
    driver.run(100 * MILLISECOND)
    driver.engine.turn()
    driver.clock.advance(10 * SECOND)
    assert list(view.update(driver.engine.drained)) == []
    driver.run(SECOND)
    told = [OUTCOMES[code] for news in view.update(driver.engine.drained) for code in news.outcome.tolist()]
    assert set(told) == {"received", "error"}  # those due meanwhile did not leave
