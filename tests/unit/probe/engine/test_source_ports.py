"""Flows and due times in, source ports out: one wherever that is enough, and none again too soon."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.clock import MILLISECOND, SECOND
from probe.engine.schedule import Schedule
from probe.engine.source_ports import MOST, REUSE, SourcePorts, Span, share, width
from tests.unit.probe.repeatable import repeatable


@pytest.mark.parametrize(
    ("interval", "burst", "ports"),
    [
        (SECOND, 1, 1),
        (REUSE, 1, 1),
        (REUSE - 1, 1, 2),
        (100 * MILLISECOND, 1, 4),
        (10 * MILLISECOND, 1, 35),
        (8 * SECOND, 8, 8),
        (100 * MILLISECOND, 8, 32),
    ],
)
def test_as_many_ports_as_probes_that_may_wait_for_their_reset(interval: int, burst: int, ports: int) -> None:
    assert width(interval, burst) == ports


def test_random_gaps_need_more() -> None:
    assert width(SECOND, poisson=True) == 5
    for interval in (SECOND, 100 * MILLISECOND, 5 * MILLISECOND):
        mean, ports = REUSE / interval, width(interval, poisson=True)
        within = sum(math.exp(-mean) * mean**n / math.factorial(n) for n in range(ports))
        assert 1 - within < 1e-4  # as many or more others within REUSE


def test_flows_to_one_destination_share_no_port() -> None:
    there = ["a", "a", "b", "a", "b", "c"]
    assert share(there, [1, 2, 1, 3, 1, 4]) == [(0, 1), (1, 2), (0, 1), (3, 3), (1, 1), (0, 4)]
    assert share([], []) == []


@pytest.mark.parametrize(("flows", "each"), [(4, 64), (64, 64), (255, 2), (300, 1), (1, 1000)])
def test_there_are_no_more_than_a_filter_can_tell_apart(flows: int, each: int) -> None:
    spans = share(["a"] * flows, [each] * flows)
    assert max(first + count for first, count in spans) <= MOST
    assert {count for _, count in spans} == {max(1, min(each, MOST // flows))}
    if flows <= MOST:
        taken = [port for first, count in spans for port in range(first, first + count)]
        assert len(set(taken)) == len(taken)


def plain(spans: list[Span], flows: list[int], dues: list[int]) -> list[int]:
    """One probe after the other."""
    last: dict[int, tuple[int, int]] = {}
    ports = []
    for flow, due in zip(flows, dues, strict=True):
        first, count = spans[flow]
        before, turn = last.get(flow, (-REUSE, 0))
        turn = 0 if due - before >= REUSE else (turn + 1) % count
        last[flow] = due, turn
        ports.append(first + turn)
    return ports


@repeatable
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.integers(0, 3), st.one_of(st.sampled_from([0, 1, REUSE - 1, REUSE]), st.integers(0, REUSE))
        ),
        max_size=40,
    ),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_as_a_loop_over_the_probes_does_it(
    spans: list[Span], steps: list[tuple[int, int]], cuts: list[int]
) -> None:
    flows = [flow % len(spans) for flow, _ in steps]
    dues = np.cumsum([gap for _, gap in steps] or [0])[: len(flows)].tolist()
    ports = SourcePorts(spans)
    chosen: list[int] = []
    edges = sorted({0, len(flows), *(cut for cut in cuts if cut < len(flows))})
    for begin, end in pairwise(edges):
        part = ports.choose(np.array(flows[begin:end], np.int64), np.array(dues[begin:end], np.int64))
        chosen += part.tolist()
    assert chosen == plain(spans, flows, dues)


@pytest.mark.parametrize(
    ("interval", "burst", "poisson"),
    [
        (SECOND, 1, False),
        (100 * MILLISECOND, 1, False),
        (2 * SECOND, 6, False),
        (30 * MILLISECOND, 3, False),
        (SECOND, 1, True),
        (20 * MILLISECOND, 1, True),
    ],
)
def test_no_port_of_a_schedule_comes_again_too_soon(interval: int, burst: int, poisson: bool) -> None:
    flows = 5
    spans = share(["a", "b"] * 2 + ["a"], [width(interval, burst, poisson)] * flows)
    schedule = Schedule([interval] * flows, [poisson] * flows, np.random.default_rng(3), [burst] * flows)
    ports, used = SourcePorts(spans), dict[tuple[str, int], int]()
    soon = total = 0
    singles: set[int] = set()
    for until in range(SECOND, 60 * SECOND, SECOND):
        while True:
            which, dues = schedule.take(until, 200)
            if not len(which):
                break
            for flow, port, due in zip(which, ports.choose(which, dues), dues, strict=True):
                key = "ab"[flow % 2], int(port)
                soon += int(due) - used.get(key, -REUSE) < REUSE
                used[key] = int(due)
                total += 1
                singles.add(int(port))
    assert total > 200
    assert soon <= (total * 1e-3 if poisson else 0)
    if interval == SECOND and not poisson:
        assert singles == {0, 1, 2}  # of three flows to one of the destinations: each keeps its own
