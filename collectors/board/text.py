"""Numbers in, an instrument's words out: three significant digits, the unit that fits, a dash for nothing."""

from __future__ import annotations

import math

NOTHING = "–"  # noqa: RUF001 - an en dash, as instruments print it
_MINUS = "\N{MINUS SIGN}"
_DURATIONS = ((1_000, 1, "ns"), (1_000_000, 1_000, "µs"), (1_000_000_000, 1_000_000, "ms"))
_SIZES = ((1 << 10, 1, "B"), (1 << 20, 1 << 10, "KiB"), (1 << 30, 1 << 20, "MiB"), (1 << 40, 1 << 30, "GiB"))


def significant(value: float) -> str:
    """`value` with three significant digits, never in scientific notation: 0.0123, 1.23, 12.3, 123, 1,230."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, digits)
    # Rounding may carry into another digit: 9.996 is 10.0, not 10.00.
    digits = max(0, 2 - math.floor(math.log10(abs(rounded)))) if rounded else digits
    return f"{rounded:,.{min(digits, 9)}f}"


def duration(ns: float | None) -> str:
    """Integer ns as '850 ns', '28.5 µs', '1.20 ms' or '2.00 s'; a dash where there is none."""
    if ns is None:
        return NOTHING
    if ns == 0:
        return "0 ns"
    if abs(ns) < 1_000:
        return f"{ns:.0f} ns"
    for limit, scale, unit in _DURATIONS[1:]:
        # 999.95 µs is shown as 1.00 ms: the unit follows the rounded number.
        if abs(ns) < limit * 0.9995:
            return f"{significant(ns / scale)} {unit}"
    return f"{significant(ns / 1e9)} s"


def percent(ratio: float | None) -> str:
    """A ratio 0..1 as '0 %', '0.123 %', '12.3 %' or '100 %'; a dash where there is none."""
    if ratio is None:
        return NOTHING
    if 0.99995 <= ratio < 1:
        return "99.99 %"  # nearly everything is not everything
    return f"{significant(ratio * 100)} %"


def count(number: float | None) -> str:
    """A count with thousands separated; a dash where there is none."""
    return NOTHING if number is None else f"{number:,.0f}"


def size(octets: float | None) -> str:
    """Bytes as '512 B', '1.50 MiB'; a dash where there is none."""
    if octets is None:
        return NOTHING
    for limit, scale, unit in _SIZES:
        if abs(octets) < limit:
            return f"{octets:.0f} B" if scale == 1 else f"{significant(octets / scale)} {unit}"
    return f"{significant(octets / (1 << 40))} TiB"


def age(ns: int) -> str:
    """How long ago: '3 s', '4 min', '2 h', '5 d'; what lies ahead of this host's clock has a minus sign."""
    seconds = abs(ns) // 1_000_000_000
    sign = _MINUS if ns < 0 and seconds else ""
    for limit, scale, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{sign}{seconds // scale} {unit}"
    return f"{sign}{seconds // 86_400} d"
