"""What the writer does about each answer of a sink: pauses are recorded, never slept."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from collectors.backlog import GROUP_BYTES, Backlog
from collectors.jobs import Held
from collectors.quarantine import Entry, Quarantine
from collectors.report import Counters
from collectors.writer import POLL_S, REFUSED_PAUSE_S, Writer
from probe.clock import ManualClock
from probe.errors import SinkRefused, SinkRejected, SinkTooLarge, SinkUnavailable
from probe.telemetry.backoff import Backoff
from probe.telemetry.topics import BatchId

KNOWN_GOOD = b"known good\n"


class FakeSink:
    """Holds lines; `answer` is asked before each write and raises what a real one would."""

    name = "a sink"

    def __init__(self, answer: Callable[[bytes], None]) -> None:
        self.answer = answer
        self.held: list[bytes] = []
        self.writes = 0
        self.checks = 0
        self.away = False

    async def write(self, body: bytes, *, packed: bool = False) -> None:
        self.writes += 1
        await asyncio.sleep(0)
        self.answer(body)
        self.held += body.splitlines()

    async def check(self) -> None:
        self.checks += 1
        if self.away:
            raise SinkUnavailable("nobody there", away=True)

    async def close(self) -> None: ...


class Rig:
    """A writer over a fake sink, with recorded pauses."""

    def __init__(
        self,
        directory: Path,
        answer: Callable[[bytes], None],
        held_bytes: int = 1 << 20,
        at_once: int = 1,
        gather_s: float = 0.0,
    ) -> None:
        self.recoveries: list[int] = []
        self.sink = FakeSink(answer)
        self.pauses: list[float] = []
        self.acknowledged: list[int] = []
        self.counters = Counters()
        self.quarantine = Quarantine(directory, "c", 1 << 20)
        self.backlog = Backlog(held_bytes)
        self.writer = Writer(
            self.sink,
            self.quarantine,
            self.backlog,
            self.counters,
            ManualClock(),
            acknowledge=lambda batch: self.acknowledged.append(batch.number),
            known_good=lambda: KNOWN_GOOD,
            recovered=lambda: self.recoveries.append(self.sink.writes),
            at_once=at_once,
            gather_s=gather_s,
            sleep=self._sleep,
            backoff=Backoff(1.0, 8.0, chance=lambda: 0.0),
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def offer(self, number: int, *lines: str, agent: str = "a") -> None:
        body = "".join(f"{line}\n" for line in lines).encode()
        self.writer.offer(Held(BatchId(agent, "9f2c41d0", number), body, len(lines)))

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Run the writer until `until`, or until nothing is held."""

        async def main() -> None:
            task = asyncio.create_task(self.writer.run())
            async with asyncio.timeout(20):
                while not (until() if until else self.writer._idle.is_set()):  # noqa: ASYNC110 - one step each
                    await asyncio.sleep(0)
            task.cancel()

        asyncio.run(main())

    def set_aside(self) -> list[str]:
        return self.quarantine.path.read_text().splitlines() if self.quarantine.path.exists() else []


def refuse(bad: str, error: Exception) -> Callable[[bytes], None]:
    def answer(body: bytes) -> None:
        if bad.encode() in body:
            raise error

    return answer


def fail_times(times: int, error: Exception) -> Callable[[bytes], None]:
    left = [times]

    def answer(body: bytes) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error

    return answer


def test_a_sink_that_was_away_is_written_to_as_soon_as_it_answers(tmp_path: Path) -> None:
    """After 20 failures the next attempt would come 8 s later; the sink is back after two polls."""
    rig = Rig(tmp_path, fail_times(20, SinkUnavailable("no connection", away=True)))
    rig.sink.away = True
    rig.offer(1, "x 1")
    rig.run(until=lambda: rig.sink.writes == 20)
    rig.pauses.clear()
    checks = rig.sink.checks

    async def main() -> None:
        task = asyncio.create_task(rig.writer.run())
        async with asyncio.timeout(20):
            while not rig.acknowledged:
                await asyncio.sleep(0)
                rig.sink.away = rig.sink.checks < checks + 2
        task.cancel()

    asyncio.run(main())
    assert sum(rig.pauses) <= 3 * POLL_S
    assert len(rig.recoveries) == 1


def test_batches_that_come_one_by_one_share_a_write(tmp_path: Path) -> None:
    """The first goes at once. The clock stands still, so the gap after it never ends by itself."""
    rig = Rig(tmp_path, lambda _: None, held_bytes=1 << 30, gather_s=3600.0)
    rig.offer(0, "x")

    async def main() -> None:
        task = asyncio.create_task(rig.writer.run())

        async def until(count: int) -> None:
            async with asyncio.timeout(20):
                while len(rig.acknowledged) < count:  # noqa: ASYNC110 - one step each
                    await asyncio.sleep(0)

        await until(1)
        for number in range(1, 8):
            rig.offer(number, "x" * (GROUP_BYTES // 8))
            await asyncio.sleep(0)
        assert rig.sink.writes == 1
        rig.offer(8, "x" * (GROUP_BYTES // 8))
        await until(8)
        assert rig.sink.writes == 2
        rig.offer(9, "x")
        await asyncio.sleep(0)
        assert len(rig.acknowledged) == 8
        await rig.writer.drain(20)
        assert len(rig.acknowledged) == 10
        task.cancel()

    asyncio.run(main())


def test_two_writes_are_under_way_and_a_third_waits(tmp_path: Path) -> None:
    together: list[int] = []
    rig = Rig(tmp_path, lambda _: None, held_bytes=1 << 30, at_once=2)
    write, under_way = rig.sink.write, [0]

    async def slow(body: bytes, *, packed: bool = False) -> None:
        under_way[0] += 1
        together.append(under_way[0])
        for _ in range(10):
            await asyncio.sleep(0)
        await write(body, packed=packed)
        under_way[0] -= 1

    rig.sink.write = slow  # type: ignore[method-assign]
    for number in range(6):
        rig.offer(number, "x" * GROUP_BYTES, agent=f"a{number}")
    rig.run()
    assert sorted(rig.acknowledged) == list(range(6))
    assert max(together) == 2


@pytest.mark.parametrize("seed", range(20))
def test_two_writers_and_a_sink_of_moods_finish_everything_once(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    moods = [
        None,
        SinkUnavailable("busy", 0.5),
        SinkUnavailable("gone", away=True),
        SinkRefused("no"),
        SinkRejected("some"),
    ]

    def answer(body: bytes) -> None:
        if b"bad" in body:
            raise SinkRejected("bad line")
        mood = rng.choice(moods) if rng.random() < 0.5 else None
        if mood is not None and not isinstance(mood, SinkRejected):
            raise mood

    rig = Rig(tmp_path, answer, held_bytes=1 << 30, at_once=2)
    for number in range(12):
        size = rng.choice([1, GROUP_BYTES // 3, GROUP_BYTES])
        rig.offer(number, "x" * size, *["bad 1"] * (number % 5 == 0), agent=f"a{number}")
    rig.run()
    # What fails while others go through is left to its agent, unacknowledged and counted.
    assert len(set(rig.acknowledged)) == len(rig.acknowledged)
    assert len(rig.acknowledged) + rig.counters.dropped == 12


def test_a_batch_is_acknowledged_after_the_sink_holds_it(tmp_path: Path) -> None:
    order: list[str] = []
    rig = Rig(tmp_path, lambda body: order.append("written"))
    rig.writer._acknowledge = lambda batch: order.append("acknowledged")
    rig.offer(1, "x 1")
    rig.run()
    assert order == ["written", "acknowledged"]
    assert (rig.counters.batches, rig.counters.lines) == (1, 1)


def test_an_unavailable_sink_is_tried_again_with_back_off_and_mentioned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, fail_times(6, SinkUnavailable("no connection")))
    rig.offer(1, "x 1")
    rig.run()
    assert sum(rig.pauses) == sum([1, 2, 4, 8, 8, 8])
    assert max(rig.pauses) == POLL_S  # it is asked in between, but answers as it did before
    assert rig.acknowledged == [1]
    assert rig.counters.retries == 6
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    assert "no connection" in caplog.text
    assert "takes writes again" in caplog.text


def test_the_sinks_own_wish_is_honoured_within_reason(tmp_path: Path) -> None:
    wishes = iter([0.0, 17.0, 86_400.0])

    def answer(body: bytes) -> None:
        if (wish := next(wishes, None)) is not None:
            raise SinkUnavailable("busy", wish)

    rig = Rig(tmp_path, answer)
    rig.offer(1, "x 1")
    rig.run()
    assert rig.pauses == [1, 17, 300]


def test_a_refusal_is_an_alarm_and_tried_again_slowly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, fail_times(3, SinkRefused("HTTP 401: check influx.token_file")))
    rig.offer(1, "x 1")
    rig.run()
    assert rig.pauses == [REFUSED_PAUSE_S] * 3
    assert rig.acknowledged == [1]
    assert sum("influx.token_file" in record.message for record in caplog.records) == 1


def test_rejected_lines_go_to_quarantine_with_the_reason_and_the_rest_is_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path, refuse("bad", SinkRejected("HTTP 400: field type conflict")))
    for number in range(1, 6):
        rig.offer(number, *[f"good {number}.{n}" for n in range(7)])
    rig.offer(6, "good 6.0", "bad 6.1", "good 6.2")
    rig.offer(7, "bad 7.0")
    rig.run()
    assert sorted(rig.acknowledged) == list(range(1, 8))
    assert {line for line in rig.sink.held if line + b"\n" != KNOWN_GOOD} == {
        *[f"good {number}.{n}".encode() for number in range(1, 6) for n in range(7)],
        b"good 6.0",
        b"good 6.2",
    }
    set_aside = rig.set_aside()
    assert len(set_aside) == rig.counters.quarantined == 2
    assert all("field type conflict" in line for line in set_aside)
    assert rig.counters.lines == 37
    assert rig.pauses == []


def test_a_sink_that_rejects_everything_alike_is_an_alarm_and_no_line_is_blamed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, fail_times(12, SinkRejected("HTTP 400: please provide org")))
    rig.offer(1, "x 1", "x 2")
    rig.run()
    assert rig.acknowledged == [1]
    assert rig.set_aside() == []
    assert rig.pauses
    assert set(rig.pauses) == {REFUSED_PAUSE_S}
    assert "the collector's own line is rejected as well: HTTP 400: please provide org" in caplog.text


def test_a_write_that_is_too_large_is_split(tmp_path: Path) -> None:
    def answer(body: bytes) -> None:
        if len(body) > 30:
            raise SinkTooLarge("HTTP 413")

    rig = Rig(tmp_path, answer)
    rig.offer(1, *[f"line {n}" for n in range(40)])
    rig.offer(2, "short", "x" * 100)
    rig.run()
    assert sorted(rig.acknowledged) == [1, 2]
    assert {line for line in rig.sink.held if line.startswith(b"line")} == {
        f"line {n}".encode() for n in range(40)
    }
    [entry] = rig.set_aside()
    assert "HTTP 413" in entry
    assert "x" * 100 in entry


def test_an_outage_in_the_middle_of_the_search_loses_nothing(tmp_path: Path) -> None:
    calls = [0]

    def answer(body: bytes) -> None:
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise SinkUnavailable("gone again")
        if b"bad" in body:
            raise SinkRejected("HTTP 400: bad")

    rig = Rig(tmp_path, answer)
    rig.offer(1, "good 1", "bad 1", "good 2", "good 3", "bad 2")
    rig.run()
    # A suspect that fails while enough others go through may be dropped, but here nothing else goes through.
    assert rig.acknowledged == [1]
    assert {b"good 1", b"good 2", b"good 3"} <= set(rig.sink.held)
    assert len(rig.set_aside()) == 2


def test_what_is_beyond_the_limit_is_dropped_unacknowledged_and_counted(tmp_path: Path) -> None:
    down = [True]

    def answer(body: bytes) -> None:
        if down[0]:
            raise SinkUnavailable("down")

    rig = Rig(tmp_path, answer, held_bytes=10_000)
    for number in range(1, 101):
        rig.offer(number, "x")
    held = len([n for n in range(100) if n]) + 1 - rig.counters.dropped
    assert rig.backlog.bytes <= 10_000
    rig.run(until=lambda: len(rig.pauses) > 10)
    assert rig.acknowledged == []
    down[0] = False
    rig.run()
    assert rig.acknowledged == list(range(1, held + 1))
    assert rig.counters.dropped == 100 - held > 0


def test_a_batch_that_is_held_already_is_not_held_twice(tmp_path: Path) -> None:
    rig = Rig(tmp_path, lambda body: None)
    rig.offer(1, "x")
    rig.offer(1, "x")
    rig.run()
    assert rig.acknowledged == [1]
    assert rig.counters.dropped == 0


def test_what_cannot_be_set_aside_is_not_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path / "missing", lambda body: None)
    for number in (1, 2):
        batch = BatchId("a", "9f2c41d0", number)
        rig.writer.offer(Held(batch, b"good\n", 1, aside=[Entry(batch, "r", "bad")]))
    rig.run()
    assert rig.acknowledged == []
    assert rig.counters.dropped == 2
    assert rig.sink.held == [b"good", b"good"]
    assert len(caplog.records) == 1


def test_a_batch_with_nothing_to_write_is_set_aside_and_acknowledged_without_the_sink(tmp_path: Path) -> None:
    rig = Rig(tmp_path, lambda body: None)
    batch = BatchId("a", "9f2c41d0", 1)
    rig.writer.offer(Held(batch, b"", aside=[Entry(batch, "gzip: cut", b"\x1f", 0)]))
    rig.run()
    assert rig.sink.writes == 0
    assert rig.acknowledged == [1]
    assert len(rig.set_aside()) == 1


def test_at_the_end_what_is_held_is_written_but_nobody_waits_for_a_sink_that_is_away(tmp_path: Path) -> None:
    rig = Rig(tmp_path, lambda body: None)
    rig.offer(1, "x")

    async def drain(deadline_s: float) -> None:
        task = asyncio.create_task(rig.writer.run())
        await asyncio.sleep(0)
        await rig.writer.drain(deadline_s)
        task.cancel()

    asyncio.run(drain(60))
    assert rig.acknowledged == [1]

    async def away(seconds: float) -> None:
        await asyncio.Event().wait()

    rig = Rig(tmp_path, fail_times(1, SinkUnavailable("down")))
    rig.writer._sleep = away
    rig.offer(1, "x")
    rig.run(until=lambda: rig.counters.retries == 1)
    asyncio.run(asyncio.wait_for(drain(3600), 20))
    assert rig.acknowledged == []
