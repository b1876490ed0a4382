"""Text in, ns and bytes out, exactly: no float stands in between."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.units import ByteSize, Duration


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0s", 0),
        ("1ns", 1),
        ("250us", 250_000),
        ("250µs", 250_000),
        ("100ms", 100_000_000),
        ("0.1s", 100_000_000),
        ("0.000000001s", 1),
        ("1.5ms", 1_500_000),
        ("10s", 10 * 10**9),
        ("5m", 300 * 10**9),
        ("1h", 3600 * 10**9),
        ("7d", 7 * 86400 * 10**9),
        (" 10 s ", 10 * 10**9),
    ],
)
def test_a_duration(text: str, ns: int) -> None:
    assert Duration.parse(text) == ns


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1kB", 1000),
        ("1MB", 10**6),
        ("1GB", 10**9),
        ("256KiB", 1 << 18),
        ("512MiB", 1 << 29),
        ("1.5GiB", 3 << 29),
    ],
)
def test_an_amount_of_data(text: str, size: int) -> None:
    assert ByteSize.parse(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "s",
        "-1s",
        "1 0s",
        "1e3s",
        "1.s",
        ".5s",
        "10S",
        "10 sec",
        "nan",
        "1s1s",
        "\u0661s",
        "1" * 16 + "s",
    ],
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number with a unit") as caught:
        Duration.parse(text)
    assert str(caught.value) == (
        f"{text!r} is not a number with a unit (allowed: for example '100ms' or '10s'; "
        "units ns, us, µs, ms, s, m, h, d)"
    )


def test_no_amount_of_data() -> None:
    with pytest.raises(ValueError, match="is not a number with a unit") as caught:
        ByteSize.parse("10s")
    assert str(caught.value) == (
        "'10s' is not a number with a unit (allowed: for example '256KiB' or '512MiB'; "
        "units B, kB, MB, GB, KiB, MiB, GiB)"
    )


@given(st.integers(0, 10**15))
def test_what_is_written_is_read_again(number: int) -> None:
    assert Duration.parse(str(Duration(number))) == number
    assert ByteSize.parse(str(ByteSize(number))) == number


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for kind in (Duration, ByteSize):
        with contextlib.suppress(ValueError):
            assert kind.parse(text) >= 0


def test_a_fraction_is_cut_at_the_unit_below_which_nothing_is_counted() -> None:
    assert Duration.parse("1.9ns") == 1
    assert ByteSize.parse("0.999B") == 0


def test_words() -> None:
    assert [str(Duration.parse(t)) for t in ("0s", "1500ms", "90s", "120m", "48h")] == [
        "0ns",
        "1500ms",
        "90s",
        "2h",
        "2d",
    ]
    assert [str(ByteSize(n)) for n in (0, 1000, 1024, 3 << 20, 1 << 30)] == [
        "0B",
        "1000B",
        "1KiB",
        "3MiB",
        "1GiB",
    ]
    assert Duration.parse("250ms").seconds == 0.25
