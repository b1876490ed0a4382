"""mosquitto -> collector -> InfluxDB, all real, with batches published by hand."""

from __future__ import annotations

import asyncio
import gzip
import random
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from collectors import collector, writer
from probe.settings import MqttTable, load_collector
from probe.telemetry import topics
from probe.telemetry.mqtt import connect
from tests.system.collecting import DEADLINE_S, NOW, SPOOL, CollectorProcess, Hands, hands, wait_until
from tests.system.servers import Influx, Server, VictoriaMetrics

Make = Callable[..., CollectorProcess]


@pytest.fixture
def settings(mosquitto: Server, influxdb: Influx) -> str:
    return (
        f'[mqtt]\nurl = "mqtt://127.0.0.1:{mosquitto.port}"\n'
        f'[influx]\nurl = "http://127.0.0.1:{influxdb.port}"\napi = "v1"\n'
    )


@pytest.fixture
def make(tmp_path: Path, settings: str) -> Iterator[Make]:
    """Make collectors that are gone at the end."""
    made: list[CollectorProcess] = []

    def one(name: str = "fanin-1", text: str = settings) -> CollectorProcess:
        made.append(CollectorProcess(tmp_path, text, name))
        return made[-1]

    yield one
    for process in made:
        process.kill()
        assert "Traceback" not in process.text(), process.text()


def sent(influx: Influx, agent: str = "ny4-01") -> set[int]:
    return {row["sent"] for row in influx.query(f"select sent from probe where agent = '{agent}'")}


def test_points_arrive_as_they_were_sent_and_are_acknowledged(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    collecting = make()
    collecting.start()

    async def agent() -> list[dict[str, list[list[int]]]]:
        async with hands(mosquitto.port) as hand:
            await hand.batch(1, hand.line(1), hand.line(2, 'sent=2i,loss=0.5,text="a, \\"b\\" ü"'))
            await hand.batch(2, raw=gzip.compress(f"{hand.line(3)}\n{hand.line(4)}".encode()))
            await hand.batch(9, hand.line(9))
            await hand.until_acknowledged(1, 2, 9)
            return hand.acks

    acks = asyncio.run(agent())
    rows = influxdb.query("select * from probe")
    assert [(row["time"], row["sent"]) for row in rows] == [(NOW + n, n) for n in (1, 2, 3, 4, 9)]
    assert (rows[1]["agent"], rows[1]["target"], rows[1]["loss"], rows[1]["text"]) == (
        "ny4-01",
        "x",
        0.5,
        'a, "b" ü',
    )
    assert {spool for ack in acks for spool in ack} == {SPOOL}
    assert sorted(n for ack in acks for first, last in ack[SPOOL] for n in range(first, last + 1)) == [
        1,
        2,
        9,
    ]
    assert collecting.set_aside() == []
    assert collecting.stop() == 0


def test_the_same_over_the_v2_api(mosquitto: Server, victoria_metrics: VictoriaMetrics, make: Make) -> None:
    collecting = make(
        text=f'[mqtt]\nurl = "mqtt://127.0.0.1:{mosquitto.port}"\n'
        f'[influx]\nurl = "http://127.0.0.1:{victoria_metrics.port}"\norg = "colo"\n'
    )
    collecting.start()

    async def agent() -> None:
        async with hands(mosquitto.port) as hand:
            await hand.batch(1, hand.line(1))
            await hand.until_acknowledged(1)

    asyncio.run(agent())
    [series] = victoria_metrics.export('{__name__="probe_sent"}')
    assert (series["metric"]["agent"], series["values"], series["timestamps"]) == (
        "ny4-01",
        [1],
        [NOW // 10**6],
    )
    assert collecting.stop() == 0
    wait_until(lambda: bool(victoria_metrics.export('{__name__="collector_lines"}')))


def test_a_line_that_conflicts_goes_to_quarantine_and_the_rest_is_written(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    collecting = make()
    collecting.start()

    async def agent() -> str:
        async with hands(mosquitto.port) as hand:
            await hand.batch(1, hand.line(1, "sent=1i,newer=1i"))
            await hand.until_acknowledged(1)
            bad = hand.line(50, 'newer="fifty"')
            for n in range(2, 40):
                await hand.batch(n, *([bad] if n == 20 else []), hand.line(n), hand.line(n + 100))
            await hand.until_acknowledged(*range(2, 40))
            return bad

    bad = asyncio.run(agent())
    assert sent(influxdb) == {1, *range(2, 40), *range(102, 140)}
    [entry] = collecting.set_aside()
    assert (entry["agent"], entry["spool"], entry["batch"], entry["line"]) == ("ny4-01", SPOOL, 20, bad)
    assert 'input field "newer" on measurement "probe" is type string' in entry["reason"]
    assert collecting.stop() == 0
    [row] = influxdb.query("select last(quarantined) as quarantined, batches, lines from collector")
    assert row["quarantined"] == 1


def test_influxdb_killed_and_restarted_loses_nothing(mosquitto: Server, influxdb: Influx, make: Make) -> None:
    collecting = make()
    collecting.start()

    async def agent() -> None:
        async with hands(mosquitto.port) as hand:
            await hand.batch(1, hand.line(1))
            await hand.until_acknowledged(1)
            influxdb.kill()
            for n in range(2, 60):
                await hand.batch(n, hand.line(n))
            await asyncio.to_thread(wait_until, lambda: collecting.said("cannot connect") == 1)
            assert hand.acknowledged == {1}
            await asyncio.to_thread(influxdb.start)
            await hand.until_acknowledged(*range(2, 60))

    asyncio.run(agent())
    assert sent(influxdb) == set(range(1, 60))
    assert collecting.said("cannot connect") == 1
    assert collecting.said("fanin-1.toml: see influx.url") >= 1
    assert collecting.said("takes writes again") == 1
    assert collecting.stop() == 0


def test_a_collector_killed_with_batches_in_flight_has_not_acknowledged_them(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    first = make("fanin-1")
    first.start()

    async def agent() -> None:
        async with hands(mosquitto.port) as hand:
            influxdb.kill()
            for n in range(1, 30):
                await hand.batch(n, hand.line(n))
            await asyncio.to_thread(wait_until, lambda: first.said("cannot connect") == 1)
            first.kill()
            await asyncio.to_thread(influxdb.start)
            second = make("fanin-2")
            await asyncio.to_thread(second.start)
            await hand.batch(30, hand.line(30))
            await hand.until_acknowledged(30)
            assert hand.acknowledged == {30}
            for n in range(1, 30):  # as an agent does with what nobody acknowledged
                await hand.batch(n, hand.line(n))
            await hand.until_acknowledged(*range(1, 30))
            assert await asyncio.to_thread(second.stop) == 0

    asyncio.run(agent())
    assert sent(influxdb) == set(range(1, 31))


def test_stopping_with_influxdb_away_leaves_the_batches_to_their_agent(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    collecting = make()
    collecting.start()

    async def agent() -> None:
        async with hands(mosquitto.port) as hand:
            influxdb.kill()
            await hand.batch(1, hand.line(1))
            await asyncio.to_thread(wait_until, lambda: collecting.said("cannot connect") == 1)
            assert await asyncio.to_thread(collecting.stop) == 0
            assert hand.acknowledged == set()

    asyncio.run(agent())
    assert collecting.said("unacknowledged") == 1


def test_stopping_under_load_acknowledges_exactly_what_influxdb_holds(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    collecting = make()
    collecting.start()

    async def agent() -> set[int]:
        async with hands(mosquitto.port) as hand:
            await asyncio.gather(*(hand.batch(n, hand.line(n)) for n in range(1, 300)))
            collecting.signal(signal.SIGTERM)
            await asyncio.gather(*(hand.batch(n, hand.line(n)) for n in range(300, 400)))
            await asyncio.to_thread(wait_until, lambda: not collecting.running())
            third = make("fanin-2")
            await asyncio.to_thread(third.start)
            before = set(hand.acknowledged)
            await hand.batch(400, hand.line(400))
            await hand.until_acknowledged(400)  # whatever was acknowledged before has been heard by now
            assert await asyncio.to_thread(third.stop) == 0
            return before

    acknowledged = asyncio.run(agent())
    assert acknowledged == sent(influxdb) - {400}
    assert acknowledged


def test_collectors_of_one_group_share_the_work(mosquitto: Server, influxdb: Influx, make: Make) -> None:
    both = [make("fanin-1"), make("fanin-2")]
    for one in both:
        one.start()

    async def agent() -> None:
        async with hands(mosquitto.port) as hand:
            for n in range(1, 101):
                await hand.batch(n, hand.line(n))
            await hand.until_acknowledged(*range(1, 101))

    asyncio.run(agent())
    assert sent(influxdb) == set(range(1, 101))
    for one in both:
        assert one.stop() == 0
    rows = influxdb.query("select last(batches) as batches from collector group by collector")
    assert {row["collector"] for row in rows} == {"fanin-1", "fanin-2"}
    assert sum(row["batches"] for row in rows) == 100
    assert all(row["batches"] > 0 for row in rows)


def test_what_is_no_batch_is_set_aside_acknowledged_and_blocks_nobody(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    collecting = make()
    collecting.start()
    chance = random.Random(7)
    foreign = f"probe,agent=ld4-02,target=x sent=666i {NOW}"

    async def hostile(hand: Hands, honest: Hands) -> None:
        rubbish = {
            1: b"x" * (300 << 10),
            2: gzip.compress(bytes(50 << 20)),
            3: f"{hand.line(3)}\n{foreign}\n".encode(),
            4: chance.randbytes(2000),
            5: b"\x1f\x8b" + chance.randbytes(2000),
            6: b"",
            7: b"no line\n" * 1000,
        }
        for n, payload in rubbish.items():
            await hand.batch(n, raw=payload)
            await honest.batch(n, honest.line(n))
        for topic in ("x/1", "9f2c41d0/0", "9f2c41d0/1/2"):
            await hand._connection.publish(f"coloprobe/v1/evil/lines/{topic}", foreign.encode())
        await honest.until_acknowledged(*rubbish)
        await hand.until_acknowledged(*rubbish)

    async def agents() -> None:
        async with hands(mosquitto.port, "evil") as hand, hands(mosquitto.port, "ld4-02") as honest:
            await hostile(hand, honest)

    asyncio.run(agents())
    assert sent(influxdb, "ld4-02") == set(range(1, 8))
    assert sent(influxdb, "evil") == set()
    reasons = {
        entry["batch"]: entry["reason"].split(":")[0]
        for entry in collecting.set_aside()
        if entry["batch"] < 7
    }
    assert reasons == {1: "oversized", 2: "oversized", 3: "foreign", 4: "encoding", 5: "gzip", 6: "empty"}
    lines = [
        line for entry in collecting.set_aside() if entry["batch"] == 7 for line in entry["line"].split("\n")
    ]
    assert lines == ["no line"] * 1000
    assert collecting.stop() == 0
    [row] = influxdb.query("select last(rejected) as rejected, quarantined, dropped from collector")
    assert (row["rejected"], row["quarantined"], row["dropped"]) == (6 + 3, 1000, 0)


def test_an_agents_coming_and_going_become_events_once(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    both = [make("fanin-1"), make("fanin-2")]

    async def agent() -> None:
        async with hands(mosquitto.port) as hand:
            await hand.status("online", 1)
            for one in both:
                await asyncio.to_thread(one.start)
            await hand.status("offline", 1)
            await hand.status("online", 2)
            await hand.status("online", 2)
            # Statuses and batches come in order, so a batch that each of them acknowledged ends the story.
            for n in range(1, 21):
                await hand.batch(n, hand.line(n))
            await hand.until_acknowledged(*range(1, 21))

    asyncio.run(agent())
    for one in both:
        assert one.stop() == 0
    rows = influxdb.query("select * from event")
    assert {row["text"] for row in rows} == {"agent is offline", "agent is online"}
    assert {(row["agent"], row["kind"]) for row in rows} == {("ny4-01", "agent")}
    assert len(rows) <= 4  # 2, or more where the two collectors' seconds differed


def test_the_broker_killed_and_restarted(mosquitto: Server, influxdb: Influx, make: Make) -> None:
    collecting = make()
    mosquitto.kill()
    collecting.start_without_broker()
    wait_until(lambda: collecting.said("mqtt.url") == 1)

    async def agent(n: int) -> None:
        async with hands(mosquitto.port) as hand:
            await hand.batch(n, hand.line(n))
            await hand.until_acknowledged(n)

    for number in (1, 2):
        mosquitto.start()
        wait_until(partial(lambda n: collecting.said("connected") == n, number))
        asyncio.run(agent(number))
        mosquitto.kill()
    wait_until(lambda: collecting.said("trying again") == 3)
    assert collecting.running()
    assert sent(influxdb) == {1, 2}
    assert collecting.stop() == 0


def test_a_database_that_is_missing_is_an_alarm_until_somebody_makes_it(
    mosquitto: Server, influxdb: Influx, tmp_path: Path, settings: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(writer, "REFUSED_PAUSE_S", 0.05)
    file = tmp_path / "collector.toml"
    table = f'[collector]\nid = "c"\nstate_dir = "{tmp_path}/state"\n'
    file.write_text(f'{table}{settings}database = "later"\n')

    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(collector.run(load_collector(file), str(file), stop=stop))
        async with hands(mosquitto.port) as hand:
            await asyncio.to_thread(wait_until, lambda: "later" in caplog.text)
            for n in range(1, 4):
                await hand.batch(n, hand.line(n))
            await asyncio.to_thread(influxdb.create_database, "later")
            while not hand.acknowledged.issuperset({1, 2, 3}):
                await asyncio.sleep(0.02)
                for n in range(1, 4):  # the subscription may have come after the first time
                    await hand.batch(n, hand.line(n))
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(main(), 60))
    assert sent(influxdb) == {1, 2, 3}
    refusals = [
        record.message for record in caplog.records if "create it (CREATE DATABASE later)" in record.message
    ]
    assert len(refusals) == 1
    assert threading.active_count() < 10


def test_settings_are_read_again_and_a_bad_file_changes_nothing(
    mosquitto: Server, influxdb: Influx, make: Make
) -> None:
    collecting = make()
    collecting.start()
    influxdb.query('CREATE DATABASE "other"')
    good = collecting.file.read_text()

    async def agent(n: int) -> None:
        async with hands(mosquitto.port) as hand:
            await hand.batch(n, hand.line(n))
            await hand.until_acknowledged(n)

    collecting.file.write_text(good + 'databse = "typo"\n')
    collecting.signal(signal.SIGHUP)
    wait_until(lambda: collecting.said("the old settings stay") == 1)
    asyncio.run(agent(1))
    collecting.file.write_text(good + 'database = "other"\n')
    collecting.signal(signal.SIGHUP)
    wait_until(lambda: collecting.said("connected") == 2)
    asyncio.run(agent(2))
    assert collecting.stop() == 0
    assert sent(influxdb) == {1}
    assert [row["sent"] for row in influxdb.query("select sent from probe", "other")] == [2]


def test_the_statuses_of_a_thousand_agents_fit_through_the_door_at_once(
    mosquitto: Server, make: Make
) -> None:
    names = [f"agent-{number}" for number in range(1000)]
    status = b'{"state": "online", "since": 1, "settings_sha256": "%s"}' % (b"0" * 64)

    async def agents() -> None:
        table = MqttTable(url=f"mqtt://127.0.0.1:{mosquitto.port}")
        async with connect(table, client_id="all", username="", password=None) as connection:
            await connection.subscribe(topics.ack("+"))
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(connection.publish(topics.status(name), status, retain=True))
            await asyncio.to_thread(make().start)
            missing = {topics.ack(name) for name in names}
            async with asyncio.timeout(DEADLINE_S):
                async for message in connection.messages():
                    missing.discard(message.topic)
                    if not missing:
                        break

    asyncio.run(agents())


def test_who_is_heard_of_as_online_is_told_that_it_may_try_again(mosquitto: Server, make: Make) -> None:
    """By one that was there before and after a line was cut, and by one that comes back itself."""
    collecting = make()
    collecting.start()

    async def agent() -> None:
        async with hands(mosquitto.port) as hand:

            async def hinted(times: int) -> None:
                await asyncio.to_thread(wait_until, lambda: hand.acks.count({}) >= times)

            await hand.status("online", since=1)
            await hinted(1)
            await hand.status("online", since=1)
            await hinted(2)
            await asyncio.to_thread(collecting.stop)
            await asyncio.to_thread(collecting.start)
            await hinted(3)

    asyncio.run(agent())
