"""Numbers as an instrument prints them."""

from __future__ import annotations

import pytest

from collectors.board import text


@pytest.mark.parametrize(
    ("ns", "words"),
    [
        (None, "–"),  # noqa: RUF001
        (0, "0 ns"),
        (7, "7 ns"),
        (999, "999 ns"),
        (1_000, "1.00 µs"),
        (28_450, "28.4 µs"),
        (99_960, "100 µs"),
        (999_400, "999 µs"),
        (999_600, "1.00 ms"),
        (1_234_567, "1.23 ms"),
        (45_678_901, "45.7 ms"),
        (1_999_999_999, "2.00 s"),
        (-28_450, "-28.4 µs"),
    ],
)
def test_durations_have_three_digits_and_the_unit_that_fits(ns: int | None, words: str) -> None:
    assert text.duration(ns) == words


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (None, "–"),  # noqa: RUF001
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.999_99, "99.99 %"),
        (0.5, "50.0 %"),
        (0.012_34, "1.23 %"),
        (0.000_012_3, "0.00123 %"),
        (1e-8, "0.00000100 %"),
    ],
)
def test_a_loss_is_never_rounded_away(ratio: float | None, words: str) -> None:
    assert text.percent(ratio) == words


def test_significant_digits_survive_a_carry() -> None:
    assert [text.significant(v) for v in (9.996, 99.96, 0.9996, 1234.5, -0.01234)] == [
        "10.0",
        "100",
        "1.00",
        "1,234",
        "-0.0123",
    ]


def test_sizes_and_ages() -> None:
    assert [text.size(v) for v in (None, 0, 512, 1536, 61_000_000, 3 << 30)] == [
        "–",  # noqa: RUF001
        "0 B",
        "512 B",
        "1.50 KiB",
        "58.2 MiB",
        "3.00 GiB",
    ]
    second = 1_000_000_000
    assert [text.age(s * second) for s in (0, 119, 120, 7_199, 7_200, 172_800)] == [
        "0 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h",
        "2 d",
    ]
    assert text.age(-5 * second) == "\N{MINUS SIGN}5 s"
