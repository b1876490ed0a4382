"""A network of known paths in, with time that only passes when nothing is to be sent; what the search finds
out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.clock import MILLISECOND, SECOND
from probe.paths.hops import BEYOND, POLITE, Hops
from probe.paths.replies import EXCEEDED
from tests.unit.probe.repeatable import repeatable

TIMEOUT = SECOND
TARGET = "t"


@dataclass
class Network:
    """Answers as routers do. lengths: of each flow's path, to the target.

    silent: (flow, ttl) that never answer; limited: that do not for the first two seconds.
    """

    lengths: list[int]
    silent: set[tuple[int, int]] = field(default_factory=set)
    limited: set[tuple[int, int]] = field(default_factory=set)
    answers: bool = True  # the target
    loss: float = 0.0
    rtt: int = MILLISECOND
    gap: int = 2 * MILLISECOND
    random: random.Random = field(default_factory=lambda: random.Random(1))
    sent: list[tuple[int, int, int]] = field(default_factory=list)  # time, flow, ttl
    last: int = 0

    def run(self, hops: Hops) -> int:
        """Until all is done. Returns when."""
        now, next_at = 0, 0
        waiting: list[tuple[int, int, str, str]] = []
        for _ in range(100_000):
            while waiting and waiting[0][0] <= now:
                at, number, address, what = waiting.pop(0)
                hops.answered(number, at, address, what, what != EXCEEDED, self.rtt)
            if now < next_at:
                now = min([next_at, *(w[0] for w in waiting[:1])])
                continue
            probe = hops.next(now)
            if probe is None:
                wake = hops.wake(now)
                if wake is None:
                    return now
                now = min([max(wake, now), *(w[0] for w in waiting[:1])])
                continue
            number = len(self.sent)
            flow, ttl = probe
            hops.sent(number, flow, ttl, now)
            self.sent.append((now, flow, ttl))
            next_at = now + self.gap
            if (answer := self._answer(flow, ttl, now)) is not None:
                waiting.append((now + self.rtt, number, *answer))
                waiting.sort()
        raise AssertionError("it never ends")

    def _answer(self, flow: int, ttl: int, now: int) -> tuple[str, str] | None:
        if self.random.random() < self.loss:
            return None
        if ttl >= self.lengths[flow]:
            return (TARGET, "echo reply") if self.answers else None
        place = (flow, ttl)
        if place in self.silent:
            return None
        if place in self.limited and now < 2 * SECOND:
            return None
        return f"r{flow}.{ttl}", EXCEEDED


def found(hops: Hops, flow: int) -> list[str]:
    return [hop.address or "*" for hop in hops.hops(flow)]


def truth(network: Network, flow: int) -> list[str]:
    inner = [
        "*" if (flow, ttl) in network.silent else f"r{flow}.{ttl}" for ttl in range(1, network.lengths[flow])
    ]
    return [*inner, TARGET]


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@repeatable
@given(st.data(), st.integers(1, 4))
def test_every_hop_of_every_flow_is_found_whoever_is_silent(data: st.DataObject, probes: int) -> None:
    lengths = data.draw(LENGTHS)
    places = [(flow, ttl) for flow, length in enumerate(lengths) for ttl in range(1, length)]
    silent = set(data.draw(st.lists(st.sampled_from(places), max_size=6))) if places else set()
    network = Network(
        lengths, silent, rtt=data.draw(st.sampled_from([1000, 5 * MILLISECOND, 90 * MILLISECOND]))
    )
    hops = Hops(len(lengths), 30, probes, TIMEOUT)
    network.run(hops)
    for flow, length in enumerate(lengths):
        assert found(hops, flow) == truth(network, flow)
        assert (hops.reached[flow], hops.answer[flow], hops.length(flow)) == (True, "echo reply", length)
        for hop in hops.hops(flow):
            again = (flow, hop.ttl) in silent
            assert hop.sent == probes + again
            assert hop.received == (0 if again else probes)
            assert hop.rtt_ns == (None if again else network.rtt)


@repeatable
@given(st.integers(0, 12), st.integers(1, 4))
def test_a_silent_target_ends_at_the_last_answer_and_within_bounds(length: int, flows: int) -> None:
    network = Network([length + 1] * flows, answers=False)
    hops = Hops(flows, 30, 3, TIMEOUT)
    end = network.run(hops)
    for flow in range(flows):
        assert found(hops, flow) == truth(network, flow)[:-1]
        assert not hops.reached[flow]
    beyond = [ttl for _, _, ttl in network.sent if ttl > length]
    assert len(beyond) <= flows * (30 - length + 2 * BEYOND)
    assert end < 10 * SECOND


def test_a_router_that_limits_its_answers_is_asked_once_more_a_second_later() -> None:
    network = Network([4], limited={(0, 2)})
    hops = Hops(1, 30, 3, TIMEOUT)
    network.run(hops)
    # All three rounds are over by then; 2 s is when it answers again.
    assert found(hops, 0) == ["r0.1", "*", "r0.3", TARGET]
    times = [now for now, _, ttl in network.sent if ttl == 2]
    assert len(times) == 4
    assert times[-1] - times[-2] >= SECOND


@repeatable
@given(st.integers(0, 1 << 30))
def test_loss_makes_no_path_longer_or_shorter(seed: int) -> None:
    network = Network([6, 6, 3], loss=0.2, random=random.Random(seed))
    hops = Hops(3, 30, 5, TIMEOUT)
    network.run(hops)
    for flow in range(3):
        ours, real = found(hops, flow), truth(network, flow)
        if hops.reached[flow] and ours[-2:-1] != ["*"]:
            assert len(ours) == len(real)
        assert all(ours[at] in ("*", router) for at, router in enumerate(real[:-1]) if at < len(ours) - 1)


@repeatable
@given(LENGTHS, st.sampled_from([1000, 5 * MILLISECOND, 80 * MILLISECOND, 300 * MILLISECOND]))
def test_a_gateways_port_gets_one_syn_of_each_flow_and_one_a_second(lengths: list[int], rtt: int) -> None:
    network = Network(lengths, rtt=rtt, gap=20 * MILLISECOND)
    hops = Hops(len(lengths), 30, 3, TIMEOUT, polite=True)
    network.run(hops)
    for flow in range(len(lengths)):
        assert found(hops, flow) == truth(network, flow)
    reaching = [now for now, flow, ttl in network.sent if ttl >= lengths[flow]]
    assert len(reaching) == len(lengths)
    if len(set(lengths)) == 1:
        assert all(later - now >= POLITE for now, later in pairwise(reaching))


@pytest.mark.parametrize("rtt", [1000, 80 * MILLISECOND, 300 * MILLISECOND])
@pytest.mark.parametrize("flows", [1, 4])
def test_a_port_that_says_nothing_gets_one_syn_a_second_and_is_left_alone_soon(flows: int, rtt: int) -> None:
    network = Network([5] * flows, answers=False, rtt=rtt, gap=20 * MILLISECOND)
    hops = Hops(flows, 30, 3, TIMEOUT, polite=True)
    network.run(hops)
    assert max(ttl for _, _, ttl in network.sent) <= 4 + 8
    assert found(hops, 0) == truth(network, 0)[:-1]
    reaching = [now for now, _, ttl in network.sent if ttl >= 5]
    assert all(later - now >= POLITE for now, later in pairwise(reaching))
    assert len(reaching) <= 8 + 2 * (flows - 1) + 2 * 2


def test_a_port_behind_silent_hops_is_found_also_where_the_first_flow_is_lost() -> None:
    silent = {(flow, ttl) for flow in range(4) for ttl in (3, 4)} | {(0, ttl) for ttl in range(2, 30)}
    network = Network([5, 5, 5, 5], silent=silent, gap=20 * MILLISECOND)
    network.lengths[0] = 30
    hops = Hops(4, 30, 3, TIMEOUT, polite=True)
    network.run(hops)
    assert hops.reached == [False, True, True, True]
    assert found(hops, 1) == truth(network, 1)


def test_a_flow_that_is_lost_on_its_way_holds_the_others_up_for_three_seconds() -> None:
    silent = {(0, ttl) for ttl in range(2, 30)}
    network = Network([30, 5, 5, 5], silent=silent, gap=20 * MILLISECOND)
    hops = Hops(4, 30, 3, TIMEOUT, polite=True)
    network.run(hops)
    assert hops.reached == [False, True, True, True]
    assert min(now for now, flow, ttl in network.sent if (flow, ttl) == (1, 5)) < 4 * POLITE


def test_an_answer_counts_once_and_in_time() -> None:
    hops = Hops(1, 5, 1, TIMEOUT)
    assert hops.next(0) == (0, 1)
    hops.sent(7, 0, 1, 0)
    assert hops.answered(8, 1, "x", EXCEEDED, False, 1) is None
    assert hops.answered(7, TIMEOUT + 1, "x", EXCEEDED, False, 1) is None
    assert hops.answered(7, 5, "x", EXCEEDED, False, 5) == (0, 1)
    assert hops.answered(7, 6, "x", EXCEEDED, False, 6) is None
    assert hops.seen[0][1].received == 1


def test_what_this_host_does_not_let_out_no_router_has_lost() -> None:
    hops = Hops(1, 2, 2, TIMEOUT)
    for number, ttl in enumerate((1, 2, 1, 2)):
        assert hops.next(number) == (0, ttl)
        hops.sent(number, 0, ttl, number)
        if number == 2:
            hops.refused(number)
        elif ttl == 1:
            hops.answered(number, number, "r1", EXCEEDED, False, 1)
        else:
            hops.answered(number, number, "t", "echo reply", True, 1)
    assert [(hop.sent, hop.received) for hop in hops.hops(0)] == [(1, 1), (2, 2)]
    assert hops.next(5) is None
    assert hops.wake(5) is None


def test_where_a_router_refuses_the_path_ends_without_the_target() -> None:
    hops = Hops(1, 5, 1, TIMEOUT)
    for ttl in (1, 2):
        assert hops.next(ttl) == (0, ttl)
        hops.sent(ttl, 0, ttl, ttl)
        hops.answered(ttl, ttl, f"r{ttl}", EXCEEDED if ttl == 1 else "prohibited", False, 1)
    assert hops.next(3) is None
    assert (hops.reached[0], hops.answer[0], hops.length(0)) == (False, "prohibited", 2)
    assert hops.hops(0)[-1].what == "prohibited"
