"""Intervals in, due times out: exact counts, even spacing, and random gaps that are exponential."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.engine.schedule import Saturated, Schedule
from tests.unit.probe.repeatable import repeatable

Probes = list[tuple[int, int]]  # (due, flow)


def schedule(
    intervals: list[int],
    poisson: list[bool] | None = None,
    seed: int = 1,
    bursts: list[int] | None = None,
) -> Schedule:
    made = Schedule(intervals, poisson or [False] * len(intervals), np.random.default_rng(seed), bursts)
    made.begin(5 * SECOND)
    return made


def taken(it: Schedule, until: int, limit: int = 1 << 30) -> Probes:
    """All that one or more calls of `take` give before `until`."""
    out: Probes = []
    while True:
        flows, dues = it.take(until, limit)
        if not len(flows):
            return out
        out += zip(dues.tolist(), flows.tolist(), strict=True)


INTERVALS = st.lists(
    st.sampled_from([MILLISECOND, 3 * MILLISECOND, 10 * MILLISECOND, 7_777_777]), min_size=1, max_size=8
)


@repeatable
@given(INTERVALS, st.integers(0, 1000), st.integers(1, 40), st.integers(0, 40 * MILLISECOND))
def test_each_flow_is_due_once_an_interval_without_drift(
    intervals: list[int], seed: int, count: int, start: int
) -> None:
    probes = taken(schedule(intervals, seed=seed), 5 * SECOND + start + count * max(intervals))
    for flow, interval in enumerate(intervals):
        dues = [due for due, of in probes if of == flow]
        assert 5 * SECOND <= dues[0] < 5 * SECOND + interval
        assert np.diff(dues).tolist() == [interval] * (len(dues) - 1)
        # Any span of k intervals holds exactly k probes.
        begin = 5 * SECOND + start
        assert sum(begin <= due < begin + count * interval for due in dues) == count


@repeatable
@given(
    INTERVALS,
    st.integers(0, 1000),
    st.lists(st.integers(1, 20 * MILLISECOND), max_size=10),
    st.integers(1, 9),
)
def test_taken_in_pieces_it_is_the_same_as_at_once(
    intervals: list[int], seed: int, steps: list[int], limit: int
) -> None:
    pieces, whole = schedule(intervals, seed=seed), schedule(intervals, seed=seed)
    until = 5 * SECOND
    got: Probes = []
    for step in steps:
        until += step
        flows, dues = pieces.take(until, limit)
        assert len(flows) <= limit
        assert all(due < until for due in dues.tolist())
        got += zip(dues.tolist(), flows.tolist(), strict=True)
    got += taken(pieces, until, limit)
    expected = taken(whole, until)
    # Probes that are due at the very same instant may leave in either order.
    assert [due for due, _ in got] == [due for due, _ in expected]
    assert sorted(got) == sorted(expected)


@pytest.mark.parametrize("flows", [1, 2, 3, 7, 50, 1000])
def test_flows_are_spread_evenly_over_their_interval(flows: int) -> None:
    interval = 100 * MILLISECOND
    probes = taken(schedule([interval] * flows), 5 * SECOND + interval)
    assert sorted(flow for _, flow in probes) == list(range(flows))
    gaps = np.diff([due for due, _ in probes])
    assert all(abs(gap - interval / flows) <= 1 for gap in gaps.tolist())


def test_two_agents_that_start_together_do_not_stay_in_step() -> None:
    first, second = (taken(schedule([SECOND], seed=seed), 6 * SECOND)[0][0] for seed in (1, 2))
    assert first != second


def test_the_earliest_is_what_take_gives_next() -> None:
    it = schedule([3 * MILLISECOND, 5 * MILLISECOND])
    for _ in range(20):
        due = it.earliest()
        assert len(it.take(due, 10)[0]) == 0
        assert it.take(due + 1, 1)[1].tolist() == [due]


def test_what_is_due_at_the_very_end_is_left_for_later() -> None:
    it = schedule([MILLISECOND])
    first = it.earliest()
    assert it.take(first + 3 * MILLISECOND, 100)[1].tolist() == [first + n * MILLISECOND for n in range(3)]
    assert it.earliest() == first + 3 * MILLISECOND
    assert it.skip(first + 5 * MILLISECOND) == 2
    assert it.earliest() == first + 5 * MILLISECOND


def test_without_flows_nothing_is_ever_due() -> None:
    it = schedule([])
    assert len(it) == 0
    assert it.earliest() > 1 << 60
    assert len(it.take(1 << 60, 10)[0]) == 0


def test_random_gaps_are_exponential_around_the_interval() -> None:
    interval = 2 * MILLISECOND
    it = schedule([interval], [True], seed=3)
    gaps = np.diff([due for due, _ in taken(it, 5 * SECOND + 20_000 * interval)])
    assert len(gaps) == pytest.approx(20_000, abs=500)
    # An exponential distribution has its mean as standard deviation, and mean * ln 2 as its median.
    assert gaps.mean() == pytest.approx(interval, rel=0.03)
    assert gaps.std() == pytest.approx(interval, rel=0.05)
    assert np.median(gaps) == pytest.approx(interval * np.log(2), rel=0.05)
    assert (gaps > 0).all()
    # Without memory: one gap says nothing of the next.
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03


def test_random_and_periodic_flows_side_by_side() -> None:
    intervals = [2 * MILLISECOND, 5 * MILLISECOND, 2 * MILLISECOND, 9 * MILLISECOND]
    probes = taken(schedule(intervals, [True, False, True, False], seed=5), 25 * SECOND, 64)
    dues = [due for due, _ in probes]
    assert dues == sorted(dues)
    for flow, interval in ((1, 5 * MILLISECOND), (3, 9 * MILLISECOND)):
        mine = [due for due, of in probes if of == flow]
        assert set(np.diff(mine).tolist()) == {interval}
    for flow in (0, 2):
        mine = [due for due, of in probes if of == flow]
        assert np.diff(mine).mean() == pytest.approx(2 * MILLISECOND, rel=0.05)
        assert np.diff(mine).std() == pytest.approx(2 * MILLISECOND, rel=0.05)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_random_gaps_are_exponential_however_they_are_taken(limit: int) -> None:
    it = schedule([MILLISECOND] * 5, [True] * 5, seed=8)
    probes: Probes = []
    until = 5 * SECOND
    while until < 8 * SECOND:
        until += 3 * MILLISECOND
        probes += taken(it, until, limit)
    for flow in range(5):
        gaps = np.diff([due for due, of in probes if of == flow])
        assert len(gaps) == pytest.approx(3_000, abs=200)
        assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
        assert np.median(gaps) == pytest.approx(gaps.mean() * np.log(2), rel=0.1)


@pytest.mark.parametrize("flows", [1, 20, 300])
def test_random_gaps_are_planned_as_far_ahead_as_even_ones(flows: int) -> None:
    it = schedule([flows * MILLISECOND] * flows, [True] * flows, seed=9)
    # To plan costs the same for one probe as for a thousand.
    assert len(it.take(6 * SECOND, 1024)[0]) == pytest.approx(1000, abs=160)
    assert len(it.take(60 * SECOND, 1024)[0]) > 700


@repeatable
@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 30 * MILLISECOND), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_random_gaps_in_pieces_stay_in_order_and_below_the_limit(
    seed: int, steps: list[int], limit: int
) -> None:
    it = schedule([MILLISECOND, 4 * MILLISECOND, 3 * MILLISECOND], [True, False, True], seed)
    until, last = 5 * SECOND, 0
    for step in steps:
        until += step
        for _ in range(3):
            flows, dues = it.take(until, limit)
            assert len(flows) <= limit
            if len(dues):
                assert last <= dues[0]
                assert (np.diff(dues) >= 0).all()
                assert dues[-1] < until
                last = int(dues[-1])


@repeatable
@given(INTERVALS, st.integers(0, 1000), st.integers(0, 100 * MILLISECOND))
def test_skipping_is_taking_without_looking(intervals: list[int], seed: int, ahead: int) -> None:
    skipped, reference = schedule(intervals, seed=seed), schedule(intervals, seed=seed)
    assert skipped.skip(5 * SECOND + ahead) == len(taken(reference, 5 * SECOND + ahead))
    assert skipped.skip(5 * SECOND + ahead) == 0
    until = 5 * SECOND + ahead + 20 * MILLISECOND
    assert taken(skipped, until) == taken(reference, until)


def test_skipping_random_gaps_keeps_their_rate() -> None:
    it = schedule([MILLISECOND], [True], seed=4)
    assert it.skip(105 * SECOND) == pytest.approx(100_000, rel=0.02)
    gaps = [it.earliest() - 105 * SECOND]
    for n in range(1, 2_000):
        it.skip(105 * SECOND + n * SECOND)
        gaps.append(it.earliest() - (105 + n) * SECOND)
    assert min(gaps) >= 0
    assert np.mean(gaps) == pytest.approx(MILLISECOND, rel=0.1)


def test_saturated_has_always_something_due_until_all_is_taken() -> None:
    it = Saturated(3, 8)
    assert it.earliest() == 0
    flows = [it.take(0, 5)[0].tolist(), it.take(0, 5)[0].tolist(), it.take(0, 5)[0].tolist()]
    assert flows == [[0, 1, 2, 0, 1], [2, 0, 1], []]
    assert it.earliest() > 1 << 60


def test_the_shortest_interval_keeps_its_rate() -> None:
    assert len(taken(schedule([MILLISECOND] * 30), 6 * SECOND)) == 30_000
    assert len(taken(schedule([10 * MICROSECOND]), 5 * SECOND + 10 * MILLISECOND)) == 1_000


BURSTS = st.lists(st.integers(1, 5), min_size=8, max_size=8)


def repeated(instants: Probes, bursts: list[int]) -> Probes:
    """The plain reference: each instant of a schedule without bursts, as often as its flow's burst says."""
    return [probe for probe in instants for _ in range(bursts[probe[1]])]


@repeatable
@given(
    INTERVALS,
    BURSTS,
    st.integers(0, 1000),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 20 * MILLISECOND), st.integers(1, 12)), max_size=12),
)
def test_a_burst_is_its_instant_as_often_as_it_is_long_however_it_is_taken(
    intervals: list[int], bursts: list[int], seed: int, random: bool, steps: list[tuple[int, int]]
) -> None:
    bursts, poisson = bursts[: len(intervals)], [random and n % 2 == 0 for n in range(len(intervals))]
    it = schedule(intervals, poisson, seed, bursts)
    plain = schedule(intervals, poisson, seed)
    until = 5 * SECOND
    got: Probes = []
    for step, limit in steps:
        until += step
        before = it.earliest()
        flows, dues = it.take(until, limit)
        # Nothing where nothing is due, and never more than was asked for.
        assert (len(flows) > 0) == (before < until)
        assert len(flows) <= limit
        if len(dues):
            assert dues[0] == before
            assert dues[-1] < until
        got += zip(dues.tolist(), flows.tolist(), strict=True)
    got += taken(it, until, 7)
    assert it.earliest() >= until
    assert got == sorted(got, key=lambda probe: probe[0])
    if random:  # gaps are drawn in the order of taking: only the counts can be compared
        assert all(got.count(probe) == bursts[probe[1]] for probe in set(got))
    else:
        instants = taken(plain, until)
        assert sorted(got) == sorted(repeated(instants, bursts))
        assert sum(before != after for before, after in pairwise([(0, -1), *got])) == len(instants)


def test_a_burst_that_is_cut_goes_on_first_and_at_its_own_time() -> None:
    it = schedule([10 * MILLISECOND, 10 * MILLISECOND], bursts=[3, 1])
    (first, one), (second, other), (third, _) = taken(schedule([10 * MILLISECOND] * 2), 6 * SECOND)[:3]
    assert (one, other) == (0, 1)
    assert [part.tolist() for part in it.take(6 * SECOND, 2)] == [[0, 0], [first, first]]
    assert it.earliest() == first
    assert len(it.take(first, 9)[0]) == 0
    assert it.take(first + 1, 9)[1].tolist() == [first]
    assert it.earliest() == second
    assert [part.tolist() for part in it.take(third + 1, 3)] == [[1, 0, 0], [second, third, third]]
    # What is left of that burst is skipped with the next one's three.
    assert it.earliest() == third
    assert it.skip(third) == 0
    assert it.skip(third + 1) == 1
    assert it.earliest() == second + 10 * MILLISECOND
    assert it.skip(third + 10 * MILLISECOND + 1) == 1 + 3


@repeatable
@given(
    INTERVALS,
    BURSTS,
    st.integers(0, 1000),
    st.tuples(st.integers(0, 20 * MILLISECOND), st.integers(1, 30)),
    st.integers(0, 100 * MILLISECOND),
)
def test_skipping_bursts_counts_every_probe_of_them(
    intervals: list[int], bursts: list[int], seed: int, some: tuple[int, int], ahead: int
) -> None:
    bursts = bursts[: len(intervals)]
    skipped, reference = (schedule(intervals, seed=seed, bursts=bursts) for _ in range(2))
    for it in (skipped, reference):
        it.take(5 * SECOND + some[0], some[1])
    assert skipped.skip(5 * SECOND + ahead) == len(taken(reference, 5 * SECOND + ahead))
    assert skipped.skip(5 * SECOND + ahead) == 0
    until = 5 * SECOND + ahead + 20 * MILLISECOND
    assert taken(skipped, until) == taken(reference, until)


def test_random_bursts_keep_their_rate_taken_and_skipped() -> None:
    it = schedule([10 * MILLISECOND], [True], seed=6, bursts=[4])
    probes = taken(it, 105 * SECOND, 1000)
    instants = sorted({due for due, _ in probes})
    assert len(probes) == 4 * len(instants)
    assert len(instants) == pytest.approx(10_000, rel=0.03)
    assert np.diff(instants).std() == pytest.approx(10 * MILLISECOND, rel=0.05)
    skipped = it.skip(205 * SECOND)
    assert skipped % 4 == 0
    assert skipped == pytest.approx(40_000, rel=0.03)


def test_bursts_of_one_are_no_bursts() -> None:
    one, none = schedule([MILLISECOND] * 3, bursts=[1, 1, 1]), schedule([MILLISECOND] * 3)
    assert taken(one, 6 * SECOND, 100) == taken(none, 6 * SECOND, 100)
