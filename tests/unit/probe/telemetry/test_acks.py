"""Acknowledgements: what is heeded; hostile ones are refused at a cost that depends on their length."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import BatchError
from probe.telemetry import acks

SPOOL = "9f2c41d09f2c41d0"


def test_only_the_own_spool_is_heeded() -> None:
    payload = b'{"ffffffff": "anything", "%s": [[17, 23], [25, 25]], "0": {}}' % SPOOL.encode()
    assert acks.parse(payload, SPOOL, 30) == [(17, 23), (25, 25)]


def test_ranges_come_out_sorted_and_merged() -> None:
    payload = json.dumps({SPOOL: [[8, 9], [1, 3], [2, 5], [6, 6], [12, 12]]}).encode()
    assert acks.parse(payload, SPOOL, 12) == [(1, 6), (8, 9), (12, 12)]


@pytest.mark.parametrize("payload", [b"{}", b" { } ", b'{"%s": []}'])
def test_no_range_at_all_is_a_hint(payload: bytes) -> None:
    assert acks.parse(payload.replace(b"%s", SPOOL.encode()), SPOOL, 30) == []


HOSTILE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"7",
    b'{"%s": null}',
    b'{"%s": {}}',
    b'{"%s": 1}',
    b'{"%s": [1, 2]}',
    b'{"%s": [[1]]}',
    b'{"%s": [[1, 2, 3]]}',
    b'{"%s": [["1", "2"]]}',
    b'{"%s": [[1.5, 2]]}',
    b'{"%s": [[1, NaN]]}',
    b'{"%s": [[1, Infinity]]}',
    b'{"%s": [[true, true]]}',
    b'{"%s": [[null, 1]]}',
    b'{"%s": [[0, 1]]}',
    b'{"%s": [[-5, -1]]}',
    b'{"%s": [[3, 2]]}',
    b'{"%s": [[1, 101]]}',
    b'{"%s": [[1, 9223372036854775807]]}',
    b'{"%s": [[1, 9223372036854775808]]}',
    b'{"%s": [[1, ' + b"9" * 400 + b"]]}",
    b'{"%s": [[1, 1e400]]}',
    b'{"%s": [[1, 2], [7, 5]]}',
    b'{"%s": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"[" * 200_000,
    b" " * (acks.MAX_BYTES + 1),
    b'{"other": [[1, 2]]}',
]


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_acknowledgements_are_refused_whole(payload: bytes) -> None:
    with pytest.raises(BatchError):
        acks.parse(payload.replace(b"%s", SPOOL.encode()), SPOOL, 100)


@given(
    st.binary(max_size=200) | st.text(alphabet='{}[],:"0123456789eE.- 9f2c41d0', max_size=200).map(str.encode)
)
def test_no_bytes_do_anything_but_parse_or_be_refused(payload: bytes) -> None:
    try:
        ranges = acks.parse(payload, SPOOL, 100)
    except BatchError:
        return
    assert all(1 <= low <= high <= 100 for low, high in ranges)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=20))
def test_merged_ranges_hold_exactly_the_same_numbers(pairs: list[tuple[int, int]]) -> None:
    ranges = [(low, low + more) for low, more in pairs]
    merged = acks.parse(json.dumps({SPOOL: ranges}).encode(), SPOOL, 70)
    members = {number for low, high in ranges for number in range(low, high + 1)}
    assert {number for number in range(0, 75) if acks.covers(merged, number)} == members
    assert merged == sorted(merged)


def test_huge_range_is_as_cheap_as_a_small_one() -> None:
    merged = acks.parse(b'{"%s": [[1, 1000000000000000000]]}' % SPOOL.encode(), SPOOL, 10**18)
    assert merged == [(1, 10**18)]
    assert acks.covers(merged, random.randrange(1, 10**18))
