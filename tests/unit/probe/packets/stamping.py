"""Nothing in, golden STAMP exchanges out, as `tests/vectors/stamp.toml` has them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

VECTORS = Path(__file__).parents[3] / "vectors" / "stamp.toml"
SECOND = 1_000_000_000
# What the file says of each exchange.
RECEIVED = 1_795_385_336 * SECOND + SECOND * 3 // 4
SENT = RECEIVED + 20_000
T1 = 1_795_385_336 * SECOND + SECOND // 2
LEFT_BEFORE = 1_795_385_336 * SECOND + SECOND // 4
ESTIMATE = 0x8601
KEY = b"sixteen byte key"


@dataclass(frozen=True)
class Exchange:
    """A request and its reply; `key` is empty in unauthenticated mode."""

    what: str
    key: bytes
    request: bytes
    reply: bytes

    def __str__(self) -> str:
        return self.what


def exchanges() -> list[Exchange]:
    """All of the file, in its order."""
    found = tomllib.loads(VECTORS.read_text(encoding="ascii"))["exchange"]
    return [
        Exchange(
            one["what"],
            one.get("key", "").encode(),
            bytes.fromhex("".join(one["request"])),
            bytes.fromhex("".join(one["reply"])),
        )
        for one in found
    ]


def exchange(what: str) -> Exchange:
    """The one of that name."""
    return next(one for one in exchanges() if one.what == what)
