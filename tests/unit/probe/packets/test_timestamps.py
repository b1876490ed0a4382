"""Unix nanoseconds in, NTP, PTP and error estimates out and back: against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.packets.timestamps import (
    PTP,
    SYNCHRONISED,
    error_estimate,
    errors_of,
    from_ntp,
    from_ntp_each,
    synchronised_of,
    times_of,
    to_ntp,
    to_ntp_each,
)
from tests.unit.probe.repeatable import repeatable

SECOND = 1_000_000_000
LAST = (2**32 + 2**31 - 2_208_988_800) * SECOND - 1  # of the era that begins in 2036, as far as it is read
TIMES = st.one_of(st.integers(0, LAST), st.sampled_from([0, 1, SECOND - 1, 2_085_978_496 * SECOND - 1, LAST]))


def test_known_times() -> None:
    assert to_ntp(0) == 2_208_988_800 << 32
    assert to_ntp(1_795_385_336_750_000_000) == 0xEEADE678_C0000000
    # The first second of the next era: 7 February 2036, 06:28:16 UTC.
    assert to_ntp(2_085_978_496 * SECOND) == 0
    assert from_ntp(0) == 2_085_978_496 * SECOND
    assert from_ntp(0xFFFFFFFF_80000000) == 2_085_978_496 * SECOND - SECOND // 2
    assert from_ntp(0x80000000_00000000) == (2**31 - 2_208_988_800) * SECOND


@repeatable
@given(st.lists(TIMES, min_size=1, max_size=20))
def test_every_nanosecond_comes_back(times: list[int]) -> None:
    raw = to_ntp_each(np.array(times, np.int64))
    assert raw.dtype == np.uint64
    for ns, stamp in zip(times, raw.tolist(), strict=True):
        assert stamp == to_ntp(ns)
        assert from_ntp(stamp) == ns
        seconds, fraction = stamp >> 32, stamp & 0xFFFFFFFF
        assert seconds == (ns // SECOND + 2_208_988_800) % 2**32
        assert abs(Fraction(fraction, 2**32) - Fraction(ns % SECOND, SECOND)) <= Fraction(1, 2**33)
    for form in ("<u8", ">u8"):
        assert from_ntp_each(raw.astype(form)).tolist() == times


@repeatable
@given(st.integers(0, 2**64 - 1))
def test_any_64_bits_are_a_time(raw: int) -> None:
    each = from_ntp_each(np.array([raw], np.uint64)).tolist()
    assert each == [from_ntp(raw)]
    fraction = Fraction(raw & 0xFFFFFFFF, 2**32) * SECOND
    assert abs(from_ntp(raw) % SECOND - fraction) <= Fraction(1, 2) or from_ntp(raw) % SECOND == 0


def test_each_timestamp_is_of_the_format_that_its_estimate_names() -> None:
    raw = np.array([0xEEADE678_80000000, 1_795_385_336 << 32 | 500_000_001], ">u8")
    errors = np.array([0x89A8, 0x89A8 | PTP], ">u2")
    half = 1_795_385_336 * SECOND + SECOND // 2
    assert times_of(raw, errors).tolist() == [half, half + 1]


@pytest.mark.parametrize(
    ("error", "estimate"),
    [
        (0, 0x0001),
        (1, 0x0005),  # 4.29 units of 2^-32 s
        (59, 0x00FE),
        (60, 0x0181),  # 257.7 units: the scale is 1, and 129 of that are enough
        (20_000, 0x09A8),
        (61_000, 0x0B80),  # 255.9 units of 2^10 do not fit: 128 of 2^11
        (16_000_000_000, 0x1D80),  # what the kernel says of a clock that nobody keeps right: 16 s
        (1 << 62, 0x398A),  # 146 years
        (1 << 80, 0x3FFF),
    ],
)
def test_known_error_estimates(error: int, estimate: int) -> None:
    assert error_estimate(error, False) == estimate
    assert error_estimate(error, True) == estimate | SYNCHRONISED


@repeatable
@given(st.one_of(st.integers(0, 10**6), st.integers(0, 10**18)))
def test_an_error_is_said_rounded_up_and_by_less_than_a_hundredth(error: int) -> None:
    estimate = error_estimate(error, True)
    said = Fraction((estimate & 0xFF) * 2 ** (estimate >> 8 & 0x3F), 2**32) * SECOND
    assert error <= said <= max(Fraction(SECOND, 2**32), error * Fraction(129, 128) + Fraction(SECOND, 2**32))
    found = errors_of(np.array([estimate], ">u2")).tolist()
    assert found == [-(-said.numerator // said.denominator)]


def test_errors_of_every_estimate() -> None:
    estimates = np.arange(1 << 16, dtype=np.uint16)
    exact = [
        min(-(-(((e & 0xFF) << (e >> 8 & 0x3F)) * SECOND) // 2**32), 1 << 62) for e in estimates.tolist()
    ]
    assert errors_of(estimates).tolist() == exact


def test_an_estimate_without_multiplier_is_none() -> None:
    estimates = np.array([0x89A8, 0x09A8, 0x8900, 0x0000, 0xC001], ">u2")
    assert synchronised_of(estimates).tolist() == [True, False, False, False, True]
