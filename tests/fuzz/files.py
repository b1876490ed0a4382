"""Damaged files in, targets out: the agent's spool and the embedded store, real SQLite files both."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tests.fuzz.samples import TEXTS, WORDS
from tests.fuzz.target import Chooser, Feed, Target

_BATCHES = 24
_AGENT = "ny4-01"


def directory() -> Path:
    """A new one, which is gone when the process is."""
    made = Path(tempfile.mkdtemp(prefix="coloprobe-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _damaged(whole: bytes, data: bytes, row: int) -> bytes:
    """What a file looks like after the damage that `data` describes; `row`: where a row is that matters."""
    choose = Chooser(data)
    image = bytearray(whole)
    for _ in range(1 + choose.number(6)):
        page = choose.number(8) if choose.flag() else choose.number(len(whole) // 4096)
        at = row + choose.number(32) - 8 if choose.flag() else page * 4096 + choose.number(4096)
        way, amount = choose.number(6), choose.number(256)
        if way == 0:
            image[at : at + 1] = bytes((amount,))
        elif way == 1 and at < len(image):
            image[at] ^= 1 << amount % 8
        elif way == 2:
            image[at : at + amount] = bytes(amount)
        elif way == 3:
            image[at : at + amount] = choose.rest[:amount]
        elif way == 4:
            image[page * 4096 : page * 4096 + 4096] = image[(amount % 8) * 4096 :][:4096]
        else:
            del image[at + amount * 512 :]
    return bytes(image)


def _spool() -> Feed:
    from probe.errors import SpoolError
    from probe.telemetry import topics
    from probe.telemetry.spool import Spool

    here = directory()
    path = here / "spool.sqlite"
    with closing(Spool(path, 1 << 20)) as first:
        for _ in range(_BATCHES):
            first.append(lambda n: bytes((n,)) * (100 if n % 3 else 9000))
        first.forget([(2, 3), (7, 7)])
        given = {(first.id, number) for number in range(1, _BATCHES + 1)}
    whole = path.read_bytes()
    row = whole.index(first.id.encode())

    def use(spool: Spool, used: set[tuple[str, int]]) -> None:
        """As the agent does: see what waits, send it, add to it, forget."""
        waiting = spool.numbers(0, 1000)
        for number in waiting:
            payload = spool.get(number)
            assert payload is None or isinstance(payload, bytes)
            check(spool.id, number)
        for _ in range(3):
            number = spool.append(lambda n: b"new")
            assert (spool.id, number) not in used, "a number was given out twice"
            check(spool.id, number)
            used.add((spool.id, number))
            assert spool.get(number) == b"new"
        spool.forget([(1, spool.last)])
        assert spool.depth >= 0
        assert spool.bytes >= 0
        assert spool.dropped >= 0

    def check(spool: str, number: int) -> None:
        topic = topics.lines(topics.BatchId(_AGENT, spool, number))
        assert topics.parse_lines(topic), f"no collector would take a batch called {spool!r} {number}"

    def feed(data: bytes) -> None:
        for file in here.iterdir():
            file.unlink()
        path.write_bytes(_damaged(whole, data, row))
        used = set(given)
        for _ in range(2):
            with suppress(SpoolError), closing(Spool(path, 1 << 20)) as spool:
                use(spool, used)

    return feed


def _store() -> Feed:
    import asyncio

    from collectors.sinks.embedded import EmbeddedSink
    from collectors.sinks.store import Reader
    from probe.clock import ManualClock
    from probe.errors import SinkError

    here = directory()
    path = here / "store.sqlite"
    clock = ManualClock()

    async def fill() -> None:
        sink = EmbeddedSink(path, clock=clock)
        for text in TEXTS:
            await sink.write(text if text.endswith(b"\n") else text + b"\n")
        await sink.close()

    asyncio.run(fill())
    with closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode = delete")
    whole = path.read_bytes()
    row = whole.index(b'{"agent"')

    async def write() -> None:
        try:
            sink = EmbeddedSink(path, clock=clock)
        except SinkError:
            return
        with suppress(SinkError):
            await sink.write(TEXTS[0])
        await sink.close()

    def read() -> None:
        with suppress(SinkError), Reader(path) as reader:
            reader.changed()
            for name in ("probe", "agent", "event"):
                for one in reader.series(name):
                    reader.latest(one.id)
            for point in reader.points():
                assert point.fields
                assert isinstance(point.time_ns, int)

    def feed(data: bytes) -> None:
        for file in here.iterdir():
            file.unlink()
        path.write_bytes(_damaged(whole, data, row))
        read()
        asyncio.run(write())
        read()

    return feed


def _bodies() -> Feed:
    """What the embedded store does with any body: all of it, or none and a reason."""
    import asyncio

    from collectors.sinks.embedded import EmbeddedSink
    from collectors.sinks.store import Reader
    from probe.clock import ManualClock
    from probe.errors import LineError, SinkRejected
    from probe.telemetry import lines

    path = directory() / "store.sqlite"
    clock = ManualClock()

    async def write(body: bytes) -> bool:
        sink = EmbeddedSink(path, clock=clock, max_age=1 << 62)  # nothing goes because it is old
        try:
            await sink.write(body)
        except SinkRejected:
            return False
        finally:
            await sink.close()
        return True

    def feed(data: bytes) -> None:
        taken = asyncio.run(write(data))
        if not taken:
            return
        try:
            points = list(lines.parse_many(data.decode()))
        except (LineError, UnicodeDecodeError):
            raise AssertionError("it took what are no lines") from None
        with Reader(path) as reader:
            for point in points:
                [series] = [one for one in reader.series(point.measurement) if one.tags == dict(point.tags)]
                assert [one.time_ns for one in reader.tail(series.id, 1, point.time_ns, point.time_ns)] == [
                    point.time_ns
                ]

    return feed


def _damages() -> list[bytes]:
    row = [bytes((0, 1, 0, 1, at, way, 65)) for at in (4, 7, 8, 12, 20, 27) for way in (0, 1, 2)]
    anywhere = [bytes((0, 1, page, 0, 0, 16 * page, way, 64 + page)) for page in range(6) for way in range(6)]
    return row + anywhere


def _target(name: str, decodes: str, invariant: str, make: Callable[[], Feed], inputs: int) -> Target:
    return Target(name, decodes, invariant, make, _damages, longest=128, inputs=inputs, guided=False)


TARGETS = (
    _target(
        "spool",
        "probe.telemetry.spool.Spool (a damaged file)",
        "opens or sets the file aside; no number twice under one id; nothing that no collector would take",
        _spool,
        40,
    ),
    _target(
        "store",
        "collectors.sinks.embedded.EmbeddedSink, store.Reader (a damaged file)",
        "reads and writes, or says what is wrong",
        _store,
        80,
    ),
    Target(
        "store-body",
        "collectors.sinks.embedded.EmbeddedSink.write",
        "all lines of a body are in the store, or none and a reason",
        _bodies,
        lambda: TEXTS,
        words=WORDS,
        longest=2048,
        inputs=60,
        guided=False,
    ),
)
