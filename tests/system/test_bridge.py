"""Two sites' brokers bridged to a central one, all real: nothing lost, and no site speaks for another."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from probe.clock import SystemClock
from probe.errors import MqttError
from probe.settings import MqttTable, UplinkTable
from probe.telemetry.batches import LIMIT
from probe.telemetry.mqtt import Connection, Message, connect
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink
from probe.units import Duration
from tests.system import servers
from tests.system.bridging import SECRET, Bridged, Line, generated, shipped
from tests.system.collecting import NOW, CollectorProcess

SITES = {"ny4": ["ny4-01", "ny4-02"], "ld4": ["ld4-01"]}
DEADLINE_S = 60.0


@pytest.fixture
def bridged(tmp_path: Path) -> Bridged:
    return Bridged(tmp_path)


class Agent:
    """A spool and an uplink: an agent without the measuring."""

    def __init__(self, home: Path, name: str, mqtt: MqttTable) -> None:
        self.name = name
        self.spool = Spool(home / f"{name}.sqlite3", 64 << 20)
        self.uplink = Uplink(
            agent=name,
            mqtt=mqtt,
            uplink=UplinkTable(ack_timeout=Duration.parse("2s")),
            spool=self.spool,
            clock=SystemClock(),
            password=SECRET(name),
            version="0.1.0",
            settings_sha256="00ff",
        )

    async def measure(self, count: int, *, size: int = 0) -> None:
        """So many batches more, each of one point, and of as many others as fit into `size` bytes."""

        def batch(number: int) -> bytes:
            text = f"probe,agent={self.name},target=x sent={number}i {NOW + number}\n"
            padding = f"probe,agent={self.name},target=other sent=1i {NOW}\n"
            return (text + padding * ((size - len(text)) // len(padding))).encode()

        for _ in range(count):
            await asyncio.to_thread(self.spool.append, batch)
        self.uplink.wake()


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(port: int, heard: dict[str, bytes]) -> AsyncIterator[None]:
    """Keep what the central broker last said on each status topic, from one of its lives to the next."""

    async def listen() -> None:
        while True:
            with suppress(MqttError):
                async with as_user(port, "fanin-1") as connection:
                    await connection.subscribe("coloprobe/v1/+/status")
                    async for message in connection.messages():
                        heard[message.topic.split("/")[2]] = message.payload
            heard.clear()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def as_user(port: int, user: str) -> AsyncIterator[Connection]:
    mqtt = MqttTable(url=f"mqtt://127.0.0.1:{port}")
    async with connect(mqtt, client_id=f"as-{user}", username=user, password=SECRET(user)) as connection:
        yield connection


@pytest.fixture
def make_collector(tmp_path: Path, influxdb: servers.Influx) -> Iterator[Callable[[int], CollectorProcess]]:
    with ExitStack() as stack:

        def make(port: int) -> CollectorProcess:
            secret = tmp_path / "fanin-1.secret"
            secret.write_text(SECRET("fanin-1"))
            settings = (
                f'[mqtt]\nurl = "mqtt://127.0.0.1:{port}"\npassword_file = "{secret}"\n'
                f'[influx]\nurl = "http://127.0.0.1:{influxdb.port}"\napi = "v1"\n'
            )
            process = CollectorProcess(tmp_path, settings)
            stack.callback(process.kill)
            process.start()
            return process

        yield make


def test_what_is_generated_is_what_is_shipped() -> None:
    for name in ("site.conf", "central.acl"):
        assert shipped(name).endswith(generated(name)), name


def test_nothing_is_lost_whatever_breaks_between_the_agents_and_the_centre(
    tmp_path: Path,
    bridged: Bridged,
    influxdb: servers.Influx,
    make_collector: Callable[[int], CollectorProcess],
) -> None:
    """A cut line, kill -9 of a site's broker and of the central one; they persist nothing."""

    def events(name: str) -> Counter[str]:
        return Counter(
            row["text"] for row in influxdb.query(f"select text from event where agent = '{name}'")
        )

    async def main(central: servers.Server, line: Line, ld4: servers.Server, agents: list[Agent]) -> None:
        heard: dict[str, bytes] = {}

        def is_online(name: str) -> bool:
            said = heard.get(name, b"{}")
            return said == b"1" or (said != b"0" and json.loads(said).get("state") == "online")

        async def everything_arrives() -> None:
            await until(lambda: not any(agent.spool.depth for agent in agents), "all is acknowledged")

        async with listening(central.port, heard), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(agent.uplink.run()) for agent in agents]
            everybody = [*(agent.name for agent in agents), "bridge-ny4", "bridge-ld4"]
            for agent in agents:
                await agent.measure(50)
            await agents[0].measure(1, size=LIMIT)
            await everything_arrives()
            await until(lambda: all(map(is_online, everybody)), "all are online")

            # A site's line fails: the central broker says so, and the other site goes on.
            await line.cut()
            await until(lambda: heard.get("bridge-ny4") == b"0", "the central broker notices")
            for agent in agents:
                await agent.measure(100)
            await until(lambda: agents[2].spool.depth == 0, "the other site is not concerned")
            assert agents[0].spool.depth >= 100
            # Meanwhile one of its agents ends, and the central broker dies.
            running[1].cancel()
            await asyncio.wait({running[1]})
            await asyncio.to_thread(central.kill)
            await agents[2].measure(100)
            await asyncio.to_thread(central.start)
            await line.mend()
            await until(lambda: is_online("bridge-ny4") and "ny4-02" in heard, "the line is back")
            assert not is_online("ny4-02")
            running[1] = tasks.create_task(agents[1].uplink.run())
            await everything_arrives()
            await until(lambda: all(map(is_online, everybody)), "all are online again")

            await asyncio.to_thread(ld4.kill)
            await agents[2].measure(100)
            await until(lambda: heard.get("bridge-ld4") == b"0", "the central broker notices")
            await asyncio.to_thread(ld4.start)
            await everything_arrives()
            await until(lambda: all(map(is_online, everybody)), "all are online once more")
            # It came, went and came again.
            await until(lambda: events("bridge-ny4").total() >= 3, "the events are written")
            assert events("bridge-ny4") == {"bridge is online": 2, "bridge is offline": 1}
            for task in running:
                task.cancel()

    async def with_a_line(central: servers.Server, ld4: servers.Server) -> list[Agent]:
        line = Line(bridged.tls_port)
        await line.mend()
        with bridged.site("ny4", SITES["ny4"], line.port) as ny4:
            brokers = {"ny4-01": ny4, "ny4-02": ny4, "ld4-01": ld4}
            agents = [Agent(tmp_path, name, bridged.mqtt(broker)) for name, broker in brokers.items()]
            try:
                await main(central, line, ld4, agents)
            finally:
                for agent in agents:
                    agent.spool.close()
        await line.cut()
        return agents

    with bridged.central(SITES) as central, bridged.site("ld4", SITES["ld4"], bridged.tls_port) as ld4:
        collector = make_collector(central.port)
        agents = asyncio.run(with_a_line(central, ld4))

        for agent in agents:
            rows = influxdb.query(f"select sent from probe where agent = '{agent.name}' and target = 'x'")
            assert sorted(row["sent"] for row in rows) == list(range(1, agent.spool.last + 1))
        assert collector.set_aside() == []
        assert collector.stop() == 0


def test_a_site_speaks_and_hears_for_its_own_agents_alone(bridged: Bridged) -> None:
    """Both what an agent of that site may try, and what somebody who has taken its broker may."""
    batch, foreign = "coloprobe/v1/ld4-01/lines/9f2c41d0/1", "coloprobe/v1/ny4-01"
    forged = [f"{foreign}/{what}" for what in ("lines/9f2c41d0/1", "status", "answer", "ack", "ask")]
    forged += ["coloprobe/v1/ld4-01/ack", "coloprobe/v1/ld4-01/ask", "coloprobe/v1/ld4-01/x"]
    forged += ["coloprobe/v1/bridge-ny4/status"]
    neighbour = ["coloprobe/v1/ld4-02/lines/9f2c41d0/1", "coloprobe/v1/ld4-02/status"]
    every = ["#", "coloprobe/#", "coloprobe/v1/+/ack", "coloprobe/v1/+/ask", f"{foreign}/ack", f"{foreign}/#"]

    async def collected(connection: Connection, end: str) -> list[Message]:
        messages: list[Message] = []
        async with asyncio.timeout(DEADLINE_S):
            async for message in connection.messages():
                if message.payload == b"end" and message.topic == end:
                    return messages
                messages.append(message)
        raise AssertionError

    async def main(central: servers.Server, ld4: servers.Server) -> None:
        site = bridged.mqtt(ld4)
        async with (
            as_user(central.port, "fanin-1") as collector,
            as_user(central.port, "bridge-ny4") as victim,
            as_user(central.port, "bridge-ld4") as taken,
            connect(site, client_id="a", username="ld4-01", password=SECRET("ld4-01")) as agent,
        ):
            for what in ("lines/#", "status", "answer"):
                await collector.subscribe(f"coloprobe/v1/+/{what}")
            await victim.subscribe(f"{foreign}/#")
            for name in every:
                await taken.subscribe(name)
                await agent.subscribe(name)
            for speaker, topics in ((taken, forged), (agent, forged + neighbour)):
                for topic in topics:
                    await speaker.publish(topic, b"forged", retain=topic.endswith("status"))
            # What a collector tells another site is not heard, what it tells this one is.
            for name in ("ny4-01", "ld4-01"):
                for what in ("ack", "ask"):
                    await collector.publish(f"coloprobe/v1/{name}/{what}", name.encode())
                    await collector.publish(f"coloprobe/v1/{name}/{what}", b"end")
            own = [message.topic for message in await collected(taken, "coloprobe/v1/ld4-01/ask")]
            assert set(own) == {"coloprobe/v1/ld4-01/ack", "coloprobe/v1/ld4-01/ask"}
            own = [message.topic for message in await collected(agent, "coloprobe/v1/ld4-01/ask")]
            assert set(own) == {"coloprobe/v1/ld4-01/ack", "coloprobe/v1/ld4-01/ask"}
            told = await collected(victim, f"{foreign}/ask")
            assert {message.payload for message in told} == {b"ny4-01", b"end"}
            # And of all that was said from there, the collector hears what that site may say.
            for speaker in (taken, agent):
                await speaker.publish(batch, b"own")
            await agent.publish(batch, b"end")
            said = [(message.topic, message.payload) for message in await collected(collector, batch)]
            assert [entry for entry in said if entry[1] not in (b"0", b"1")] == [(batch, b"own")] * 2

    sites = {**SITES, "ld4": ["ld4-01", "ld4-02"]}
    with bridged.central(sites) as central, bridged.site("ld4", sites["ld4"], bridged.tls_port) as ld4:
        asyncio.run(standing(central.port, "bridge-ld4"))
        asyncio.run(main(central, ld4))


async def standing(port: int, bridge: str) -> None:
    """Return when the central broker says so."""
    heard: dict[str, bytes] = {}
    async with listening(port, heard):
        await until(lambda: heard.get(bridge) == b"1", "the bridge stands")
