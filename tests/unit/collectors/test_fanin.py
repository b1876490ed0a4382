"""Acknowledgements: what is told to whom."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import fanin
from collectors.fanin import TURN_NS, Acks, FanIn, lines_filter, ranges
from probe.clock import ManualClock
from probe.settings import MqttTable
from probe.telemetry.mqtt import Connection, Message
from probe.telemetry.topics import BatchId


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [(set(), []), ({7}, [[7, 7]]), ({1, 2, 3, 5}, [[1, 3], [5, 5]]), ({9, 2, 1}, [[1, 2], [9, 9]])],
)
def test_numbers_become_inclusive_ranges(numbers: set[int], expected: list[list[int]]) -> None:
    assert ranges(numbers) == expected


@given(st.sets(st.integers(min_value=1, max_value=60)))
def test_ranges_hold_exactly_the_numbers_and_are_as_few_as_can_be(numbers: set[int]) -> None:
    made = ranges(numbers)
    assert [n for first, last in made for n in range(first, last + 1)] == sorted(numbers)
    assert all(b[0] - a[1] > 1 for a, b in itertools.pairwise(made))


def test_each_agent_is_told_of_its_own_batches_once() -> None:
    acks = Acks()
    for agent, spool, number in [
        ("a", "aaaaaaaa", 2),
        ("b", "cccccccc", 9),
        ("a", "bbbbbbbb", 7),
        ("a", "aaaaaaaa", 1),
    ]:
        acks.add(BatchId(agent, spool, number))
    told = {}
    while (one := acks.take()) is not None:
        assert one[0] not in told
        told[one[0]] = json.loads(one[1])
    assert told == {"a": {"aaaaaaaa": [[1, 2]], "bbbbbbbb": [[7, 7]]}, "b": {"cccccccc": [[9, 9]]}}


def test_what_waits_for_a_broker_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanin, "MAX_PENDING", 3)
    acks = Acks()
    for number in range(1, 10):
        acks.add(BatchId("a", "aaaaaaaa", number))
    assert acks.take() == ("a", b'{"aaaaaaaa":[[1,3]]}')
    acks.add(BatchId("a", "aaaaaaaa", 9))
    assert acks.take() == ("a", b'{"aaaaaaaa":[[9,9]]}')


def test_a_hint_is_an_acknowledgement_of_nothing_and_any_other_replaces_it() -> None:
    acks = Acks()
    acks.add(BatchId("b", "cccccccc", 1))
    for agent in ("a", "b", "c"):
        acks.hint(agent)
    acks.add(BatchId("c", "dddddddd", 2))
    told = {}
    while (one := acks.take()) is not None:
        told[one[0]] = json.loads(one[1])
    assert told == {"a": {}, "b": {"cccccccc": [[1, 1]]}, "c": {"dddddddd": [[2, 2]]}}


def test_a_group_shares_the_batches() -> None:
    assert lines_filter("") == "coloprobe/v1/+/lines/#"
    assert lines_filter("collectors") == "$share/collectors/coloprobe/v1/+/lines/#"


def test_what_was_let_go_is_counted_while_the_connection_lasts() -> None:
    class Flood:
        discarded = 0

        async def messages(self) -> AsyncIterator[Message]:
            for _ in range(3):
                self.discarded += 5
                yield Message("t", b"", retain=False)

    clock = ManualClock()
    counted: list[int] = []
    fanin = FanIn(
        MqttTable(),
        "c",
        None,
        clock,
        acks=Acks(),
        receive=lambda _: clock.advance(TURN_NS),
        discarded=counted.append,
    )
    asyncio.run(fanin._read(cast("Connection", Flood())))
    assert counted == [5, 5, 5]
