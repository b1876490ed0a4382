"""Bytes in, the Internet checksum out, by array and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.packets.checksum import checksum, fold, word_sums
from tests.unit.probe.packets.plain import internet_checksum
from tests.unit.probe.repeatable import repeatable


def test_the_example_of_rfc_1071() -> None:
    # Section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0xFFFF), (b"\0", 0xFFFF), (b"\x12", 0xEDFF), (b"\xff\xff", 0), (b"\xff\xff\xff\xff", 0)],
)
def test_small_packets(data: bytes, expected: int) -> None:
    assert checksum(data) == expected


@repeatable
@given(st.binary(max_size=300))
def test_as_by_hand(data: bytes) -> None:
    # One's complement has two zeros; a sum of nothing but zeros is the only one that stays +0.
    assert checksum(data) == internet_checksum(data)


@repeatable
@given(st.binary(min_size=2, max_size=200).filter(lambda data: len(data) % 2 == 0))
def test_over_a_packet_that_carries_its_own_it_is_zero(data: bytes) -> None:
    assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@repeatable
@given(st.lists(st.integers(0, 1 << 47), min_size=1, max_size=20))
def test_fold_leaves_no_carry(sums: list[int]) -> None:
    expected = [((total - 1) % 0xFFFF + 1 if total else 0) ^ 0xFFFF for total in sums]
    assert fold(np.array(sums, np.int64)).tolist() == expected


def test_each_row_of_a_matrix_has_its_own_sum() -> None:
    rows = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    expected = [sum(int(row[i]) << 8 | int(row[i + 1]) for i in (0, 2, 4)) for row in rows]
    assert word_sums(rows).tolist() == expected
    assert word_sums(rows[:, 2:]).tolist() == [
        sum(int(row[i]) << 8 | int(row[i + 1]) for i in (2, 4)) for row in rows
    ]
