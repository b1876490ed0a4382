"""Text such as '250us' or '512MiB' in, integers with a unit in their type out (ns, bytes)."""

from __future__ import annotations

import re
from typing import Self

_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_BYTES = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_QUANTITY = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-zµ]{1,3})\s*")


def _parse(text: str, units: dict[str, int], example: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(
            f"{text!r} is not a number with a unit (allowed: {example}; units {', '.join(units)})"
        )
    whole, _, fraction = match[1].partition(".")
    scale = units[match[2]]
    # Integer arithmetic: 0.1 s is 100,000,000 ns, not what a float makes of it.
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


class Duration(int):
    """A length of time: integer ns, written as '250us', '100ms', '10s', '5m', '1h' or '7d'."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise ValueError, naming what is allowed, where `text` is no duration."""
        return cls(_parse(text, _NS, "for example '100ms' or '10s'"))

    @property
    def seconds(self) -> float:
        """The same length in seconds, for APIs that want them."""
        return self / 1e9

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s", "ms", "us"):
            if self and self % _NS[unit] == 0:
                return f"{self // _NS[unit]}{unit}"
        return f"{int(self)}ns"


class ByteSize(int):
    """An amount of data: integer bytes, written as '256KiB', '512MiB' or '1GB'."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise ValueError, naming what is allowed, where `text` is no amount of data."""
        return cls(_parse(text, _BYTES, "for example '256KiB' or '512MiB'"))

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{self // _BYTES[unit]}{unit}"
        return f"{int(self)}B"
