"""Lines in, a promise out: what every place that a collector writes to can do.

A sink takes the body of one write and returns once it holds all of it, so that the collector may acknowledge.
Everything that can go wrong has one of four names, and each asks for something else of the caller: see
`probe.errors.SinkError`.
"""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Where points are kept. One writer calls it, a few writes at a time."""

    name: str  # for logs: which server, which database

    async def write(self, body: bytes, *, packed: bool = False) -> None:
        """Write lines, each ended by a newline, in integer ns since the epoch; return once the sink has them.

        packed: `body` is gzip of them, of one or more members.
        The same lines again are harmless. A cancelled write may or may not have happened.

        Raises: SinkUnavailable (not now; some or all may have been written), SinkRefused (an operator has to
        act), SinkTooLarge (nothing was written; halves may pass), SinkRejected (some lines cannot be written;
        the others may have been).
        """

    async def check(self) -> None:
        """Return where a write would be let in now, without writing a point. Raises: as `write`."""

    async def close(self) -> None:
        """Let go of connections and files. Twice is harmless."""
