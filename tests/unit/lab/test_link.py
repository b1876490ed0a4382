"""Packets and times in, fates worked out by hand and laws that hold for any packets out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.link import (
    BURST,
    EVERY,
    QUEUE,
    RANDOM,
    Chance,
    Constant,
    Duplicate,
    Every,
    GilbertElliott,
    Impairments,
    Link,
    Listed,
    Rate,
    Reorder,
    Trace,
    Uniform,
    Verdict,
)

MS = 1_000_000


def send(impairments: Impairments, times: Sequence[int], *, seed: int = 0, size: int = 100) -> list[Verdict]:
    link = Link(impairments, seed)
    return [link.packet(now, size) for now in times]


def arrivals(verdicts: Sequence[Verdict]) -> list[int]:
    """Packet numbers in the order in which copies come out: by time, then as they came in."""
    return [number for _, number in sorted((due, v.number) for v in verdicts for due in v.due)]


def test_by_itself_a_link_does_nothing() -> None:
    assert send(Impairments(), [5, 5, 9]) == [
        Verdict(1, 5, 100, due=(5,)),
        Verdict(2, 5, 100, due=(5,)),
        Verdict(3, 9, 100, due=(9,)),
    ]


def test_every_third_is_lost_and_says_why() -> None:
    verdicts = send(Impairments(loss=Every(3)), range(7))
    assert [v.lost for v in verdicts] == ["", "", EVERY, "", "", EVERY, ""]
    assert [v.due for v in verdicts] == [(0,), (1,), (), (3,), (4,), (), (6,)]


def test_a_trace_gives_each_packet_the_next_delay_whether_others_are_lost_or_not() -> None:
    verdicts = send(Impairments(delay=Trace((10, 20, 30)), loss=Every(2)), [0, 100, 200, 300, 400])
    assert [v.due for v in verdicts] == [(10,), (), (230,), (), (420,)]
    assert [v.delay for v in verdicts if v.due] == [10, 30, 20]


def test_a_later_packet_with_a_shorter_delay_waits_behind_the_earlier_one() -> None:
    delays = Trace((50, 10, 5, 1))
    verdicts = send(Impairments(delay=delays), [0, 10, 20, 100])
    assert [v.due for v in verdicts] == [(50,), (50,), (50,), (101,)]
    assert [(v.delay, v.behind) for v in verdicts] == [(50, 0), (10, 30), (5, 25), (1, 0)]
    verdicts = send(Impairments(delay=delays, keep_order=False), [0, 10, 20, 100])
    assert [v.due for v in verdicts] == [(50,), (20,), (25,), (101,)]
    assert arrivals(verdicts) == [2, 3, 1, 4]


def test_who_is_held_back_is_overtaken_and_holds_up_nobody() -> None:
    verdicts = send(Impairments(delay=Constant(7), reorder=Reorder(Every(2), 25)), [0, 10, 20, 30, 40])
    assert [v.due for v in verdicts] == [(7,), (42,), (27,), (62,), (47,)]
    assert [v.held for v in verdicts] == [0, 25, 0, 25, 0]
    assert arrivals(verdicts) == [1, 3, 2, 5, 4]


def test_a_copy_follows_its_packet_and_nothing_else_changes() -> None:
    verdicts = send(Impairments(delay=Constant(3), duplicate=Duplicate(Every(2), 15)), [0, 10, 20, 30])
    assert [v.due for v in verdicts] == [(3,), (13, 28), (23,), (33, 48)]
    assert arrivals(verdicts) == [1, 2, 3, 2, 4, 4]


def test_a_lost_packet_has_no_copy_and_a_held_ones_copy_is_held_too() -> None:
    both = Impairments(loss=Every(3), duplicate=Duplicate(Every(1), 1), reorder=Reorder(Every(2), 100))
    assert [v.due for v in send(both, [0, 10, 20])] == [(0, 1), (110, 111), ()]


def test_a_line_sends_one_packet_after_the_other_and_refuses_what_finds_no_room() -> None:
    # 100 bytes at 1 Mbit/s take 0.8 ms; two fit.
    line = Impairments(rate=Rate(1_000_000, queue=2), delay=Constant(5 * MS))
    verdicts = send(line, [0, 0, 0, 800_000, 800_000, 10 * MS])
    assert [v.lost for v in verdicts] == ["", "", QUEUE, "", QUEUE, ""]
    assert [v.due for v in verdicts if v.due] == [(5_800_000,), (6_600_000,), (7_400_000,), (15_800_000,)]
    assert [v.queued for v in verdicts if v.due] == [800_000, 1_600_000, 1_600_000, 800_000]


def test_a_line_takes_time_by_size_rounded_up() -> None:
    (verdict,) = send(Impairments(rate=Rate(3, queue=1)), [0], size=1)
    assert verdict.queued == 2_666_666_667


def test_a_gilbert_elliott_link_with_certain_changes_alternates() -> None:
    verdicts = send(Impairments(loss=GilbertElliott(p=1, r=1)), range(6))
    assert [v.lost for v in verdicts] == ["", BURST, "", BURST, "", BURST]
    stuck = send(Impairments(loss=GilbertElliott(p=1, r=0)), range(4))
    assert [v.lost for v in stuck] == ["", BURST, BURST, BURST]
    assert not any(v.lost for v in send(Impairments(loss=GilbertElliott(p=0, r=0.5)), range(50)))


def test_gilbert_elliotts_loss_and_bursts_are_as_its_formulas_say() -> None:
    verdicts = send(Impairments(loss=GilbertElliott(p=0.02, r=0.25)), range(100_000))
    bursts = [len(list(run)) for lost, run in itertools.groupby(v.lost == BURST for v in verdicts) if lost]
    assert sum(bursts) / 100_000 == pytest.approx(0.02 / 0.27, rel=0.1)
    assert sum(bursts) / len(bursts) == pytest.approx(4, rel=0.1)


def test_chance_is_as_likely_as_asked_and_says_why() -> None:
    verdicts = send(Impairments(loss=Chance(0.1)), range(20_000))
    assert {v.lost for v in verdicts} == {"", RANDOM}
    assert sum(v.lost == RANDOM for v in verdicts) == pytest.approx(2_000, rel=0.15)


def test_uniform_delays_cover_their_range_evenly() -> None:
    verdicts = send(Impairments(delay=Uniform(10, 19)), range(0, 2_000_000, 100))
    counts = [sum(v.delay == ns for v in verdicts) for ns in range(10, 20)]
    assert min(counts) > 1_800
    assert sum(counts) == 20_000


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Every(0), "every: 0 is not at least 1"),
        (lambda: Chance(1.5), r"chance: 1\.5 is not within 0\.\.1"),
        (lambda: GilbertElliott(p=0.1, r=-1), r"r: -1 is not within 0\.\.1"),
        (lambda: Constant(-1), "delay: -1 ns is below 0"),
        (lambda: Uniform(5, 4), r"delay: 5\.\.4 ns is no range"),
        (lambda: Trace(()), "delay trace: it is empty"),
        (lambda: Trace((1, -1)), "a delay below 0"),
        (lambda: Duplicate(Every(1), -1), "duplicate: -1 ns is below 0"),
        (lambda: Reorder(Every(1), 0), "reorder: 0 ns holds nobody back"),
        (lambda: Rate(0), "rate: 0 bit/s moves nothing"),
        (lambda: Rate(1, 0), "a queue of 0 packets"),
    ],
)
def test_what_means_nothing_is_refused(make: object, complaint: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=complaint):
        make()


WHICH = st.one_of(st.builds(Every, st.integers(1, 5)), st.builds(Chance, st.floats(0, 1)))
P = st.floats(0, 1)
LISTED = st.builds(Listed, st.lists(st.integers(1, 40), max_size=4).map(tuple))
LOSS = st.one_of(st.none(), WHICH, LISTED, st.builds(GilbertElliott, P, P, P, P))
DELAY = st.one_of(
    st.builds(Constant, st.integers(0, 50)),
    st.builds(lambda low, more: Uniform(low, low + more), st.integers(0, 50), st.integers(0, 50)),
    st.lists(st.integers(0, 50), min_size=1, max_size=5).map(lambda delays: Trace(tuple(delays))),
)
IMPAIRMENTS = st.builds(
    Impairments,
    delay=DELAY,
    loss=LOSS,
    duplicate=st.one_of(st.none(), st.builds(Duplicate, WHICH, st.integers(0, 50))),
    reorder=st.one_of(st.none(), st.builds(Reorder, WHICH, st.integers(1, 50))),
    rate=st.one_of(st.none(), st.builds(Rate, st.integers(10**10, 10**12), st.integers(1, 5))),
    keep_order=st.booleans(),
)
TIMES = st.lists(st.integers(0, 20), max_size=60).map(lambda gaps: list(itertools.accumulate(gaps)))


@given(IMPAIRMENTS, TIMES, st.integers())
def test_whatever_is_asked_for_each_packet_is_lost_or_comes_out_and_adds_up(
    impairments: Impairments, times: list[int], seed: int
) -> None:
    verdicts = send(impairments, times, seed=seed)
    assert [v.number for v in verdicts] == list(range(1, len(times) + 1))
    assert [v.arrived for v in verdicts] == times
    for v in verdicts:
        assert bool(v.lost) == (v.due == ())
        if v.due:
            assert v.due[0] == v.arrived + v.queued + v.delay + v.behind + v.held
            assert min(v.queued, v.delay, v.behind, v.held) >= 0
            assert len(v.due) == 1 or impairments.duplicate is not None
            assert list(v.due) == sorted(v.due)
    assert send(impairments, times, seed=seed) == verdicts


@given(IMPAIRMENTS, TIMES, st.integers())
def test_order_is_kept_among_those_that_are_not_held_back(
    impairments: Impairments, times: list[int], seed: int
) -> None:
    verdicts = [v for v in send(impairments, times, seed=seed) if v.due and not v.held]
    dues = [v.due[0] for v in verdicts]
    if impairments.keep_order:
        assert dues == sorted(dues)
    else:
        assert not any(v.behind for v in verdicts)


def test_listed_packets_are_lost_and_no_others() -> None:
    lost = [not v.due for v in send(Impairments(loss=Listed((2, 5))), list(range(1, 7)))]
    assert lost == [False, True, False, False, True, False]


@given(IMPAIRMENTS, LOSS, TIMES, st.integers())
def test_another_loss_changes_nobodys_delay_copy_or_turn(
    impairments: Impairments,
    loss: Every | Chance | GilbertElliott | Listed | None,
    times: list[int],
    seed: int,
) -> None:
    def with_loss(loss: Every | Chance | GilbertElliott | Listed | None) -> list[Verdict]:
        parts = impairments
        asked = Impairments(parts.delay, loss, parts.duplicate, parts.reorder, None, keep_order=False)
        return send(asked, times, seed=seed)

    for one, other in zip(with_loss(impairments.loss), with_loss(loss), strict=True):
        if one.due and other.due:
            assert one == other


@given(st.integers(1, 10**6), st.integers(1, 6), TIMES, st.integers(1, 2000))
def test_a_line_is_never_faster_than_its_rate_and_never_holds_more_than_its_queue(
    rate: int, queue: int, times: list[int], size: int
) -> None:
    verdicts = [v for v in send(Impairments(rate=Rate(rate, queue)), times, size=size) if v.due]
    takes = size * 8 * 10**9 / rate
    for earlier, later in itertools.pairwise(verdicts):
        assert later.due[0] - earlier.due[0] >= takes
    for v in verdicts:
        assert sum(w.number <= v.number and w.due[0] > v.arrived for w in verdicts) <= queue
