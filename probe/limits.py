"""Keys and times in, yes or no out: at most so many a second for each key and for all. Bounded memory.

Each key has a token bucket, held as one number, its theoretical time of arrival (GCRA, ITU-T I.371): how far
that is ahead of now says how empty the bucket is. Idle keys are the first to be forgotten, and a forgotten
bucket is a full one, so the limit for all together stands behind.
"""

from __future__ import annotations

from collections import OrderedDict

_SECOND = 1_000_000_000


class RateLimit:
    """`rate`: events a second for one key; `total`: for all. `keys`: how many are remembered.

    A quarter of a second's worth may come at once, and at least `LEAST`: so a stall of the host drops
    nothing.
    """

    LEAST = 16

    def __init__(self, rate: int, total: int, keys: int = 4096) -> None:
        self._step, self._ahead = self._bucket(rate)
        self._all_step, self._all_ahead = self._bucket(total)
        self._keys = keys
        self._due: OrderedDict[bytes, int] = OrderedDict()
        self._all_due = 0

    def _bucket(self, rate: int) -> tuple[int, int]:
        step = _SECOND // rate
        return step, step * (max(rate // 4, self.LEAST) - 1)

    def allows(self, key: bytes, now: int) -> bool:
        """Whether another event may happen at `now` (monotonic ns); if so, it is counted."""
        mine = self._due.get(key, 0)
        if mine - self._ahead > now:
            self._due.move_to_end(key)  # who is over the limit is not idle
            return False
        if self._all_due - self._all_ahead > now:
            return False
        self._due[key] = max(mine, now) + self._step
        self._due.move_to_end(key)
        if len(self._due) > self._keys:
            self._due.popitem(last=False)
        self._all_due = max(self._all_due, now) + self._all_step
        return True

    def __len__(self) -> int:
        return len(self._due)
