"""Failed attempts in, seconds to wait before the next one out."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Seconds to wait before the next attempt: doubling up to a ceiling, less up to half by chance."""

    def __init__(
        self, first_s: float = 0.5, ceiling_s: float = 60.0, chance: Callable[[], float] = random.random
    ) -> None:
        self._first = first_s
        self._ceiling = ceiling_s
        self._chance = chance  # 0 <= chance() < 1
        self._next = first_s

    def delay_s(self) -> float:
        """The delay before the next attempt; each call doubles what the following one starts from."""
        full = min(self._next, self._ceiling)
        self._next = min(full * 2, self._ceiling)
        return full * (1 - self._chance() / 2)

    def reset(self) -> None:
        """The last attempt worked: start from the beginning."""
        self._next = self._first
