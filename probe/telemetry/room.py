"""Acknowledgements and losses in, how many batches may be in flight out: pure arithmetic.

The way to the database is shared by every agent, and nobody on it says how much it can hold: a broker or a
collector that is full lets batches go. So each agent feels its way, as a TCP sender does (RFC 5681):

- A connection, and the end of an outage, begin with a small room. It grows by one for each acknowledged
  batch, and so doubles in every round trip: a fleet that comes back together begins with little.
- When a batch is lost while others are acknowledged the room is halved, at most once in an `ack_timeout`, and
  grows by one in a round trip from there on.
- It grows only while it is used (RFC 7661): what never was in flight has proved nothing.
"""

from __future__ import annotations


class Room:
    """How many batches may be in flight at a time: `size`, from 1 to `window`. Times are monotonic ns."""

    def __init__(self, window: int, timeout_ns: int) -> None:
        self.size = 1
        self._window = window
        self._timeout = timeout_ns
        self._known = window  # up to here the way is believed to be free: growth is fast
        self._grown = 0  # acknowledgements towards the next step of slow growth
        self._halved: int | None = None  # when

    def begin(self, size: int) -> None:
        """Nothing is known of the way any more."""
        self.size = min(size, self._window)
        self._known = self._window
        self._grown = 0

    def acknowledged(self, count: int, in_use: int) -> None:
        """`count` batches have arrived, when `in_use` were on their way."""
        if 2 * in_use < self.size:
            return
        while count and self.size < self._window:
            step = 1 if self.size < self._known else self.size - self._grown
            if count < step:
                self._grown += count
                return
            count -= step
            self._grown = 0
            self.size += 1

    def lost(self, now: int) -> None:
        """A batch was not acknowledged in time, while others were."""
        if self._halved is not None and now - self._halved < self._timeout:
            return
        self._halved = now
        self.size = self._known = max(1, self.size // 2)
        self._grown = 0
