"""Telegraf in the collector's place, or a stand-in where there is none: what the agent then publishes."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.clock import SECOND, SystemClock
from probe.settings import MqttTable, UplinkTable
from probe.telemetry.batches import pack
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink
from tests.system.collecting import NOW, wait_until
from tests.system.servers import Influx, Server
from tests.system.telegraf import StandIn, Telegraf, consumer

AGENT = "ny4-01"
POINTS = 100  # of each batch: enough for gzip to pay


@pytest.fixture
def sink(tmp_path: Path, mosquitto: Server, influxdb: Influx) -> Iterator[Telegraf | StandIn]:
    made = consumer(tmp_path, mosquitto, influxdb)
    yield made
    made.kill()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.sqlite3", 64 << 20)
    yield spool
    spool.close()


def batch(number: int) -> bytes:
    first = number * POINTS
    fields = 'sent=%di,loss=0.25,up=true,text="a, \\"b\\" ü"'
    points = (f"probe,agent={AGENT},target=x {fields % n} {NOW + n}\n" for n in range(first, first + POINTS))
    return pack("".join(points).encode())


def deliver(spool: Spool, broker: Server, table: UplinkTable, count: int) -> None:
    """Let an agent's uplink send so many batches until the broker has acknowledged them all."""
    for _ in range(count):
        spool.append(batch)

    async def main() -> None:
        uplink = Uplink(
            agent=AGENT,
            mqtt=MqttTable(url=f"mqtt://127.0.0.1:{broker.port}"),
            uplink=table,
            spool=spool,
            clock=SystemClock(),
            password=None,
            version="0.1.0",
            settings_sha256="00ff",
        )
        task = asyncio.create_task(uplink.run())
        assert await uplink.drain(SystemClock().mono() + 60 * SECOND)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def sent(influxdb: Influx) -> list[int]:
    return sorted(row["sent"] for row in influxdb.query("select sent from probe"))


def test_points_arrive_as_they_were_measured_also_when_database_and_consumer_were_away(
    spool: Spool, mosquitto: Server, influxdb: Influx, sink: Telegraf | StandIn
) -> None:
    table = UplinkTable(acknowledge="broker")
    sink.start()
    assert gzip.decompress(batch(1))
    deliver(spool, mosquitto, table, 10)
    wait_until(lambda: sent(influxdb) == list(range(POINTS, 11 * POINTS)))
    (row,) = influxdb.query("select * from probe limit 1")
    assert row.pop("name") == "probe"
    point = {"agent": AGENT, "target": "x", "sent": POINTS, "loss": 0.25, "up": True, "text": 'a, "b" ü'}
    assert row == {"time": NOW + POINTS, **point}

    influxdb.kill()
    deliver(spool, mosquitto, table, 10)
    sink.kill()
    deliver(spool, mosquitto, table, 10)
    influxdb.start()
    sink.start()
    wait_until(lambda: sent(influxdb) == list(range(POINTS, 31 * POINTS)))


def test_what_is_packed_is_lost_there_so_it_is_not_packed_unless_asked_for(
    spool: Spool, mosquitto: Server, influxdb: Influx, sink: Telegraf | StandIn
) -> None:
    sink.start()
    deliver(spool, mosquitto, UplinkTable(acknowledge="broker", compress="gzip"), 1)
    deliver(spool, mosquitto, UplinkTable(acknowledge="broker", compress="none"), 1)
    wait_until(lambda: sent(influxdb) != [])
    assert sent(influxdb) == list(range(2 * POINTS, 3 * POINTS))
