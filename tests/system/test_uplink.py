"""The uplink against a real mosquitto: whatever breaks, every spooled batch is acknowledged in the end."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from probe.clock import SECOND, SystemClock
from probe.errors import MqttError
from probe.settings import MqttTable, UplinkTable
from probe.telemetry import mqtt, topics
from probe.telemetry.backoff import Backoff
from probe.telemetry.outbox import FIRST_ROOM
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink
from probe.units import Duration
from tests.system import servers

AGENT = "ny4-01"


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(120):
            await main

    asyncio.run(limited())


async def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not condition():
        assert clock() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.01)


class Collector:
    """Acknowledges what it gets over MQTT, and connects again and again; is `deaf` to some batches."""

    def __init__(
        self, settings: MqttTable, name: str = "fanin", deaf: Callable[[int], bool] = lambda n: False
    ) -> None:
        self.settings = settings
        self.name = name
        self.deaf = deaf
        self.got: Counter[int] = Counter()
        self.acked: set[int] = set()
        self.payloads: dict[int, bytes] = {}
        self.statuses: list[dict[str, Any]] = []
        self.connected = asyncio.Event()

    async def run(self) -> None:
        while True:
            with suppress(MqttError):
                async with mqtt.connect(
                    self.settings, client_id=self.name, username="", password=None, max_queued=10_000
                ) as connection:
                    await connection.subscribe(topics.ALL_LINES)
                    await connection.subscribe(topics.ALL_STATUS)
                    self.connected.set()
                    async for message in connection.messages():
                        await self.heed(connection, message)
            self.connected.clear()
            await asyncio.sleep(0.05)

    async def heed(self, connection: mqtt.Connection, message: mqtt.Message) -> None:
        if topics.parse_status(message.topic):
            self.statuses.append(json.loads(message.payload))
            return
        batch = topics.parse_lines(message.topic)
        assert batch is not None
        self.got[batch.number] += 1
        self.payloads[batch.number] = message.payload
        if self.deaf(batch.number):
            return
        self.acked.add(batch.number)
        ack = json.dumps({"ffffffff": [[1, 1]], batch.spool: [[batch.number, batch.number]]})
        await connection.publish(topics.ack(batch.agent), ack.encode(), qos=0)


@asynccontextmanager
async def running(*parts: Collector | Uplink) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [r for r in results if not isinstance(r, asyncio.CancelledError)] == []


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.sqlite3", 64 << 20)
    yield spool
    spool.close()


def table(server: servers.Server, **more: Any) -> MqttTable:
    return MqttTable(url=f"mqtt://127.0.0.1:{server.port}", **more)


def uplink_of(spool: Spool, settings: MqttTable, *, ack_timeout: str = "1s", **more: Any) -> Uplink:
    password = more.pop("password", None)
    return Uplink(
        agent=AGENT,
        mqtt=settings,
        uplink=UplinkTable(ack_timeout=Duration.parse(ack_timeout), **more),
        spool=spool,
        clock=SystemClock(),
        password=password,
        version="0.1.0",
        settings_sha256="00ff",
    )


def fill(spool: Spool, count: int) -> None:
    for _ in range(count):
        spool.append(lambda number: b"agent,agent=ny4-01 batch=%di 1\n" % number + b"x" * 500)


def inside(seconds: float) -> int:
    return SystemClock().mono() + int(seconds * SECOND)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_everything_spooled_before_and_after_is_delivered_and_forgotten(
    mosquitto: servers.Server, spool: Spool, protocol: str
) -> None:
    async def main() -> None:
        settings = table(mosquitto, protocol=protocol)
        collector = Collector(settings)
        uplink = uplink_of(spool, settings)
        fill(spool, 300)
        expected = {number: spool.get(number) for number in range(1, 301)}
        async with running(collector):
            await collector.connected.wait()
            async with running(uplink):
                for _ in range(50):
                    await asyncio.to_thread(fill, spool, 1)
                    uplink.wake()
                expected |= {number: spool.get(number) for number in range(301, 351) if spool.get(number)}
                assert await uplink.drain(inside(60))
                assert uplink.state == "online"
            await until(lambda: len(collector.statuses) == 2, "the goodbye")
        assert sorted(collector.got) == list(range(1, 351))
        assert all(collector.payloads[number] == payload for number, payload in expected.items())
        assert (spool.depth, uplink.acknowledged, uplink.reconnects, uplink.bad_acks) == (0, 350, 0, 0)
        assert uplink.published == collector.got.total() == 350 + uplink.republished
        online, offline = collector.statuses
        assert (online["state"], offline["state"]) == ("online", "offline")
        assert online["version"] == "0.1.0"
        assert online["settings_sha256"] == "00ff"
        assert 0 < online["since"] < offline["since"]

    run(main())


def test_kill_9_of_the_broker_with_batches_in_flight_loses_nothing(
    mosquitto: servers.Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "probe")

    async def main() -> None:
        collector = Collector(table(mosquitto))
        uplink = uplink_of(spool, table(mosquitto), window=16)
        fill(spool, 500)
        async with running(collector, uplink):
            for back in (1, 2, 3):
                goal = len(collector.acked) + 20
                await until(partial(lambda goal: len(collector.acked) > goal, goal), "some are delivered")
                assert spool.depth > 0, "nothing was left to lose"
                await asyncio.to_thread(mosquitto.kill)
                await asyncio.to_thread(fill, spool, 200)
                uplink.wake()
                await until(lambda: uplink.state == "offline", "the loss is noticed")
                await asyncio.to_thread(mosquitto.start)
                await until(partial(lambda back: uplink.reconnects == back, back), "it is back")
            assert await uplink.drain(inside(60))
        assert collector.acked == set(range(1, 1101))
        assert spool.depth == 0
        assert spool.dropped == 0

    run(main())
    told = [record.getMessage() for record in caplog.records if record.name.startswith("probe")]
    lost = [text for text in told if "batches wait in the spool" in text]
    assert len(lost) == 3, told
    assert [text.split(": ")[1] for text in told if "connected" in text] == ["connected"] + [
        "connected again"
    ] * 3
    assert all(record.exc_info is None for record in caplog.records)


def test_batches_that_the_broker_or_a_collector_loses_come_again(
    mosquitto: servers.Server, spool: Spool
) -> None:
    async def main() -> None:
        forgetful = Collector(table(mosquitto))
        forgetful.deaf = lambda number: number % 3 == 0 and forgetful.got[number] == 1
        uplink = uplink_of(spool, table(mosquitto), ack_timeout="200ms", window=8)
        fill(spool, 40)
        async with running(forgetful, uplink):
            assert await uplink.drain(inside(60))
        assert forgetful.acked == set(range(1, 41))
        assert all(forgetful.got[number] >= 2 for number in range(3, 41, 3))
        assert uplink.republished >= 13

    run(main())


def test_without_a_collector_the_window_bounds_what_the_broker_gets(
    mosquitto: servers.Server, spool: Spool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "probe")
    monkeypatch.setattr("probe.telemetry.uplink.SILENCE_NS", SECOND)

    async def main() -> None:
        watcher = Collector(table(mosquitto), "watcher", deaf=lambda number: True)
        collector = Collector(table(mosquitto))
        uplink = uplink_of(spool, table(mosquitto), ack_timeout="300ms", window=8)
        fill(spool, 100)
        async with running(watcher):
            await watcher.connected.wait()
            async with running(uplink):
                await until(lambda: uplink.state == "unacknowledged", "it notices")
                assert watcher.got.total() <= 8 + 1
                before = uplink.published
                assert not await uplink.drain(inside(3.5))
                assert before <= uplink.published <= before + 3  # after 1 s, then 2 s
                async with running(collector):
                    await until(lambda: uplink.state == "online", "it recovers")
                    assert await uplink.drain(inside(60))
        assert collector.acked == set(range(1, 101))

    run(main())
    told = [record.getMessage() for record in caplog.records if "acknowledge" in record.getMessage()]
    assert len(told) == 2
    assert told[0].startswith(
        "no collector acknowledges anything; 100 batches wait in the spool. Is a collector"
    )
    assert told[1] == "collectors acknowledge again"


def test_hint_ends_a_long_pause_and_the_newest_batch_is_the_first(
    mosquitto: servers.Server, spool: Spool
) -> None:
    async def main() -> None:
        collector = Collector(table(mosquitto), deaf=lambda number: True)
        uplink = uplink_of(spool, table(mosquitto), ack_timeout="300ms")
        fill(spool, 50)
        async with running(collector):
            await collector.connected.wait()
            async with running(uplink):
                await until(lambda: uplink.state == "unacknowledged", "it notices")
                uplink._outbox._pause = 60 * SECOND
                before = uplink.published
                await until(lambda: uplink.published > before, "the pause of a minute begins")
                await asyncio.to_thread(fill, spool, 1)
                uplink.wake()
                collector.deaf = lambda number: False
                order: list[int] = []
                collector.acked = cast("Any", SimpleNamespace(add=order.append))
                async with mqtt.connect(table(mosquitto), client_id="x", username="", password=None) as other:
                    await other.publish(topics.ack(AGENT), b"{}", qos=0)
                    assert await uplink.drain(inside(30))
                assert order[0] == 51
                assert set(order) == set(range(1, 52))
                assert (uplink.bad_acks, uplink.state) == (0, "online")

    run(main())


def test_a_batch_that_the_broker_hangs_up_on_does_not_hold_up_the_others(
    tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "delay_s", lambda self: 0.02)

    async def main(server: servers.Server) -> None:
        collector = Collector(table(server))
        fill(spool, 9)
        spool.append(lambda number: b"x" * 5000)
        fill(spool, 50)
        async with running(collector):
            await collector.connected.wait()
            async with running(uplink_of(spool, table(server))):
                await until(lambda: spool.depth <= FIRST_ROOM, "all go but it and those beside it")
                await asyncio.to_thread(fill, spool, 1)
                await until(lambda: 61 in collector.acked, "a new one goes, too")
        assert 10 in spool.numbers(0, 100)
        assert 10 not in collector.got

    with servers.mosquitto(tmp_path, extra_conf="max_packet_size 2000") as server:
        run(main(server))
    assert "each of them goes alone from now on, after all others" in caplog.text


def test_next_run_goes_on_where_the_last_one_was_cut_off(mosquitto: servers.Server, tmp_path: Path) -> None:
    async def main() -> None:
        collector = Collector(table(mosquitto), deaf=lambda number: number > 20 and number % 2 == 0)
        total = 0
        async with running(collector):
            await collector.connected.wait()
            for _ in range(4):
                spool = Spool(tmp_path / "spool.sqlite3", 64 << 20)
                fill(spool, 30)
                total += 30
                uplink = uplink_of(spool, table(mosquitto), ack_timeout="30s")
                async with running(uplink):
                    await until(lambda: uplink.published >= 5, "some are on their way")  # noqa: B023
                spool.close()
            assert len(collector.acked) < total
            collector.deaf = lambda number: False
            spool = Spool(tmp_path / "spool.sqlite3", 64 << 20)
            uplink = uplink_of(spool, table(mosquitto))
            async with running(uplink):
                assert await uplink.drain(inside(60))
            assert spool.last == total
            spool.close()
        assert collector.acked == set(range(1, total + 1))

    run(main())


AGENT_PROCESS = """
import asyncio, sys
from pathlib import Path
from probe.clock import SystemClock
from probe.settings import MqttTable, UplinkTable
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink
from probe.units import Duration

async def main():
    spool = Spool(Path(sys.argv[2]), 64 << 20)
    uplink = Uplink(
        agent="ny4-01", mqtt=MqttTable(url=sys.argv[1]), spool=spool, clock=SystemClock(), password=None,
        uplink=UplinkTable(ack_timeout=Duration.parse("500ms")), version="0.1.0", settings_sha256="00ff",
    )
    running = asyncio.create_task(uplink.run())
    while True:
        number = await asyncio.to_thread(spool.append, lambda number: b"agent batch=%di 1\\n" % number)
        print(number, flush=True)
        uplink.wake()
        await asyncio.sleep(0.002)

asyncio.run(main())
"""


def test_kill_9_of_the_agents_process_loses_nothing(mosquitto: servers.Server, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "spool.sqlite3"
        collector = Collector(table(mosquitto))
        told = 0
        async with running(collector):
            await collector.connected.wait()
            for _ in range(3):
                child = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", AGENT_PROCESS, collector.settings.url, path),
                    stdout=subprocess.PIPE,
                )
                assert child.stdout is not None
                goal = len(collector.acked) + 100
                while len(collector.acked) < goal:
                    told = int(await child.stdout.readline())
                child.kill()
                told = int([str(told).encode(), *(await child.stdout.read()).split()][-1])
                await child.wait()
            spool = Spool(path, 64 << 20)
            assert spool.last in (told, told + 1)
            uplink = uplink_of(spool, table(mosquitto))
            async with running(uplink):
                assert await uplink.drain(inside(60))
            spool.close()
        assert collector.acked == set(range(1, spool.last + 1))

    run(main())


def test_broker_acknowledgement_is_enough_where_settings_say_so(
    mosquitto: servers.Server, spool: Spool
) -> None:
    async def main() -> None:
        uplink = uplink_of(spool, table(mosquitto), acknowledge="broker")
        telegraf = Collector(table(mosquitto), deaf=lambda number: True)
        fill(spool, 100)
        async with running(telegraf):
            await telegraf.connected.wait()
            async with running(uplink):
                assert await uplink.drain(inside(60))
            await until(lambda: len(telegraf.got) == 100, "all arrive")
        assert telegraf.got == Counter(range(1, 101))

    run(main())


def test_hostile_acknowledgements_are_counted_and_forget_nothing(
    mosquitto: servers.Server, spool: Spool
) -> None:
    async def main() -> None:
        uplink = uplink_of(spool, table(mosquitto), ack_timeout="60s")
        fill(spool, 10)
        hostile = ["", "nonsense", "[1]", '{"aaaaaaaa": [[1, 10]]}', '{"%s": [[1, 1e9]]}', '{"%s": [[0, 5]]}']
        hostile += ['{"%s": [[1, 99999999999999999999]]}', '{"%s": [[1, 11]]}', '{"%s": "all"}']
        async with running(uplink):
            await until(lambda: uplink.published == FIRST_ROOM, "the first ones are on their way")
            async with mqtt.connect(table(mosquitto), client_id="evil", username="", password=None) as evil:
                for text in hostile:
                    await evil.publish(topics.ack(AGENT), text.replace("%s", spool.id).encode())
                await until(lambda: uplink.bad_acks == len(hostile), "all are counted")
                assert spool.depth == 10
                await evil.publish(topics.ack(AGENT), json.dumps({spool.id: [[2, 9]]}).encode())
                await until(lambda: spool.depth == 2, "the honest one is heeded")
        assert spool.numbers(0, 10) == [1, 10]

    run(main())


def test_will_says_offline_and_new_settings_are_announced(mosquitto: servers.Server, spool: Spool) -> None:
    async def main() -> None:
        collector = Collector(table(mosquitto))
        uplink = uplink_of(spool, table(mosquitto))
        async with running(collector):
            await collector.connected.wait()
            async with running(uplink):
                await until(lambda: len(collector.statuses) == 1, "online")
                uplink.settings_sha256 = "beef"
                uplink.wake()
                await until(lambda: len(collector.statuses) == 2, "the new settings")
                # Somebody connects under our id: the broker throws us out, without our goodbye.
                async with mqtt.connect(
                    table(mosquitto), client_id=f"coloprobe-{AGENT}-{spool.id}", username="", password=None
                ):
                    await until(lambda: len(collector.statuses) == 3, "the will")
                await until(lambda: len(collector.statuses) >= 4, "online again")
        assert [status["state"] for status in collector.statuses[:4]] == [
            "online",
            "online",
            "offline",
            "online",
        ]
        assert [status["settings_sha256"] for status in collector.statuses[:2]] == ["00ff", "beef"]

    run(main())


def test_unreachable_and_refusing_brokers_are_told_once_with_the_remedy(
    tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "probe")
    attempts = 0

    class Eager(Backoff):
        def delay_s(self) -> float:
            nonlocal attempts
            attempts += 1
            return 0.02

        def reset(self) -> None:
            raise AssertionError("an attempt that failed is no good connection, however long it took")

    monkeypatch.setattr("probe.telemetry.uplink.Backoff", Eager)
    monkeypatch.setattr("probe.telemetry.uplink.STABLE_NS", -1)
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, AGENT, "right"], check=True)

    async def main(server: servers.Server) -> None:
        nonlocal attempts
        server.kill()
        uplink = uplink_of(spool, table(server), password="wrong")
        async with running(uplink):
            await until(lambda: attempts >= 3, "some attempts")
            await asyncio.to_thread(server.start)
            seen = attempts
            await until(lambda: attempts >= seen + 3, "some more")
            assert uplink.state == "offline"
            uplink._password = "right"
            await until(lambda: uplink.state == "online", "the right password")

    conf = f"allow_anonymous false\npassword_file {passwords}"
    with servers.mosquitto(tmp_path, extra_conf=conf) as server:
        run(main(server))
        unavailable, refused, welcome = (r for r in caplog.records if r.name.startswith("probe"))
    assert unavailable.levelname == "WARNING"
    assert "Connection refused; is the broker running there? (mqtt.url)" in unavailable.getMessage()
    assert refused.levelname == "ERROR"
    assert "check mqtt.username, mqtt.password_file" in refused.getMessage()
    assert welcome.getMessage().endswith(": connected")


def test_spool_that_turns_out_damaged_under_way_is_replaced_and_the_uplink_goes_on(
    mosquitto: servers.Server, tmp_path: Path
) -> None:
    async def main() -> None:
        path = tmp_path / "spool.sqlite3"
        spool = Spool(path, 64 << 20)
        fill(spool, 2000)
        spool.close()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(5 * 4096)
            file.write(b"\xff" * (size - 5 * 4096))
        spool = Spool(path, 64 << 20) if size else spool
        collector = Collector(table(mosquitto))
        uplink = uplink_of(spool, table(mosquitto))
        async with running(collector, uplink):
            await until(lambda: spool.set_aside, "the damage is found")
            await asyncio.to_thread(fill, spool, 20)
            uplink.wake()
            assert await uplink.drain(inside(60))
            await until(
                lambda: spool.last == 20 and set(range(1, 21)) <= collector.acked, "the new ones arrive"
            )
        spool.close()

    run(main())
