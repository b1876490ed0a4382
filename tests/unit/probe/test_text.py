"""Integers in, short text out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.text import duration
from tests.unit.probe.repeatable import repeatable

UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (950, "950 ns"),
        (999, "999 ns"),
        (1_000, "1.00 us"),
        (9_994, "9.99 us"),
        (9_995, "10.0 us"),
        (12_345, "12.3 us"),
        (99_949, "99.9 us"),
        (99_950, "100 us"),
        (999_499, "999 us"),
        (999_500, "1.00 ms"),
        (123_456_789, "123 ms"),
        (1_500_000_000, "1.50 s"),
        (3_600_000_000_000, "3600 s"),
        (-12_345, "-12.3 us"),
        (-5, "-5 ns"),
    ],
)
def test_durations(ns: int, text: str) -> None:
    assert duration(ns) == text


@repeatable
@given(st.integers(-999_000_000_000, 999_000_000_000))
def test_three_digits_lose_no_more_than_half_of_the_third(ns: int) -> None:
    number, unit = duration(ns).split()
    assert abs(float(number) * UNITS[unit] - ns) <= abs(ns) * 0.005 + 1e-6
    assert len(number.lstrip("-").replace(".", "")) <= 3
