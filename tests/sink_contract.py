"""A sink in, every promise of `collectors.sinks.Sink` tried out: one suite for all that can be written to.

check_sink(lambda: InfluxV1(...), lambda: rows_in_the_database())
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable

from collectors.sinks import Sink

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
Read = Callable[[], dict[int, int]]


def body(first: int, last: int) -> bytes:
    """Lines number `first` to `last`, one a second: the field `sent` is the number."""
    return b"".join(
        b'probe,agent=ny4-01,target=a\\ b sent=%di,loss=0.25,text="x, y=\\"z\\"" %d\n'
        % (n, START + n * SECOND)
        for n in range(first, last + 1)
    )


def expected(first: int, last: int) -> dict[int, int]:
    return {START + n * SECOND: n for n in range(first, last + 1)}


def check_sink(factory: Callable[[], Sink], read: Read) -> None:
    """Try everything that a sink must do; `factory` makes one over an empty, working place to write to.

    `read` answers with what that place holds of the field `sent` of the measurement `probe`, by time in ns.
    """
    asyncio.run(_check(factory, read))


async def _check(factory: Callable[[], Sink], read: Read) -> None:
    sink = factory()
    assert sink.name
    await sink.check()
    assert await asyncio.to_thread(read) == {}, "a check writes nothing"

    await sink.write(body(1, 3))
    assert await asyncio.to_thread(read) == expected(1, 3), "what was confirmed is there at once"

    await sink.write(body(2, 3))
    assert await asyncio.to_thread(read) == expected(1, 3), "the same lines again change nothing"

    await sink.write(body(10, 5000))
    assert await asyncio.to_thread(read) == expected(1, 3) | expected(10, 5000), "a large write arrives whole"

    await sink.close()
    await sink.close()

    again = factory()
    try:
        await again.write(body(5001, 5001))
        assert len(await asyncio.to_thread(read)) == 3 + 4992, "another sink adds to what the first one wrote"

        packed = b"".join(gzip.compress(body(first, first + 99), 1) for first in range(6001, 7001, 100))
        await again.write(packed, packed=True)
        assert len(await asyncio.to_thread(read)) == 3 + 4992 + 1000, "all members of a packed write arrive"
    finally:
        await again.close()
