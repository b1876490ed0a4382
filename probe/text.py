"""Integers with units in, short text for people out."""

from __future__ import annotations


def duration(ns: int) -> str:
    """Three significant digits and a unit: 950 -> '950 ns', 12_345 -> '12.3 us', 1_500_000_000 -> '1.50
    s'."""
    size = abs(ns)
    for unit, scale in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)):
        value = size / scale
        if value >= 0.9995:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{'-' if ns < 0 else ''}{value:.{digits}f} {unit}"
    return f"{ns} ns"
