"""The embedded broker with real clients, and with bytes that no client would send."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from collectors import broker as module
from collectors.broker import broker
from collectors.listen import listen
from probe.settings import MqttTable
from probe.telemetry.mqtt import Connection, Message, Will, connect

STATUS = "coloprobe/v1/a/status"


@asynccontextmanager
async def running() -> AsyncIterator[tuple[MqttTable, int]]:
    at = listen("127.0.0.1:0", "--broker")
    async with broker(at.socket):
        yield MqttTable(url=at.url("mqtt")), at.port
    # Stopping is clean: nothing of the broker runs on.
    assert asyncio.all_tasks() == {asyncio.current_task()}


@asynccontextmanager
async def client(mqtt: MqttTable, name: str, will: Will | None = None) -> AsyncIterator[Connection]:
    async with connect(mqtt, client_id=name, username=name, password=None, will=will) as connection:
        yield connection


async def take(connection: Connection, count: int, timeout_s: float = 20) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(timeout_s):
        async for message in connection.messages():
            found.append(message)
            if len(found) == count:
                break
    return found


async def works(mqtt: MqttTable) -> None:
    """The broker still does its job."""
    async with client(mqtt, "collector") as collector, client(mqtt, "agent") as agent:
        await collector.subscribe("coloprobe/v1/+/lines/#")
        await agent.publish("coloprobe/v1/agent/lines/00/1", b"still here")
        assert (await take(collector, 1))[0].payload == b"still here"


def run(work: Callable[[MqttTable, int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running() as (mqtt, port):
            await work(mqtt, port)

    asyncio.run(main(), debug=True)


def test_batches_acknowledgements_and_a_retained_status() -> None:
    async def work(mqtt: MqttTable, port: int) -> None:
        async with (
            client(mqtt, "a", Will(STATUS, b"offline")) as agent,
            client(mqtt, "collector") as collector,
        ):
            await agent.publish(STATUS, b"online", retain=True)
            await collector.subscribe("coloprobe/v1/+/status")
            await collector.subscribe("coloprobe/v1/+/lines/#")
            assert await take(collector, 1) == [Message(STATUS, b"online", retain=True)]
            bodies = [os.urandom(50_000) for _ in range(40)]
            await asyncio.gather(
                *(agent.publish(f"coloprobe/v1/a/lines/00/{n}", body) for n, body in enumerate(bodies))
            )
            found = await take(collector, 40)
            assert {(m.topic, m.payload) for m in found} == {
                (f"coloprobe/v1/a/lines/00/{n}", body) for n, body in enumerate(bodies)
            }
            await agent.subscribe("coloprobe/v1/a/ack")
            await collector.publish("coloprobe/v1/a/ack", b"{}", qos=0)
            assert (await take(agent, 1))[0].payload == b"{}"

    run(work)


def test_a_client_that_comes_again_takes_over_and_its_old_will_comes_before_its_new_birth() -> None:
    async def work(mqtt: MqttTable, port: int) -> None:
        async with client(mqtt, "collector") as collector:
            await collector.subscribe(STATUS)
            async with contextlib.AsyncExitStack() as stack:
                old = await stack.enter_async_context(client(mqtt, "a", Will(STATUS, b"offline")))
                await old.publish(STATUS, b"online 1", retain=True)
                new = await stack.enter_async_context(client(mqtt, "a", Will(STATUS, b"offline")))
                await new.publish(STATUS, b"online 2", retain=True)
                assert [m.payload for m in await take(collector, 3)] == [b"online 1", b"offline", b"online 2"]
                await new.subscribe(STATUS)
                assert await take(new, 1) == [Message(STATUS, b"online 2", retain=True)]

    run(work)


def test_bytes_from_nowhere_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKET_S", 2)  # as long as it waits, at the end, for who began a packet

    async def work(mqtt: MqttTable, port: int) -> None:
        rng = random.Random(7)
        async with client(mqtt, "witness") as witness:
            await witness.subscribe("#")
            sent = [strange(rng, n) for n in range(400)]
            for at in range(0, len(sent), 20):
                await asyncio.gather(
                    *(hostile(port, data, n % 2 == 1) for n, data in enumerate(sent[at : at + 20], at))
                )
            assert witness.discarded == 0
        await works(mqtt)

    run(work)


def strange(rng: random.Random, n: int) -> bytes:
    """What no client would send: noise, truncated and mutated packets."""
    connect_packet = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05x%04d" % n
    good = [
        connect_packet,
        b"\x82\x08\x00\x01\x00\x03a/b\x01",  # SUBSCRIBE
        b"\x32\x09\x00\x03a/b\x00\x05hi",  # PUBLISH, QoS 1
        b"\xc0\x00",  # PINGREQ
        b"\x40\x02\x00\x09",  # PUBACK of nothing
        b"\x34\x09\x00\x03a/b\x00\x05hi",  # PUBLISH, QoS 2
        b"\x30\x05\x00\x03a/#",  # PUBLISH to a filter
        b"\x30\x04\x00\x03\xff\xfe",  # a topic that is shorter than it says, and no UTF-8
        connect_packet,  # twice
        b"\xf0\x00",
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x30\xff\xff\xff\x7f",  # 256 MiB
    ]
    data = b"".join(good[: 1 + n % len(good)]) if n % 4 else rng.randbytes(rng.randrange(300))
    if n % 3 == 0 and data:
        mutable = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            mutable[rng.randrange(len(mutable))] = rng.randrange(256)
        data = bytes(mutable)
    return data[: rng.randrange(len(data) + 1)] if n % 5 == 0 else data


async def hostile(port: int, data: bytes, to_the_end: bool) -> None:
    """One connection that sends this, and waits for the broker to hang up, or does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        if to_the_end:
            writer.write_eof()
            async with asyncio.timeout(10):
                await reader.read()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PACKET_S", 0.2)
    monkeypatch.setattr(module, "MAX_RETAINED", 3)

    async def ended(port: int, data: bytes) -> float:
        """Seconds until the broker hangs up on a client that sends this and then nothing."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start = time.monotonic()
        try:
            writer.write(data)
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(1000):
                        pass
        finally:
            writer.close()
        return time.monotonic() - start

    async def work(mqtt: MqttTable, port: int) -> None:
        hello = b"\x10\x11\x00\x04MQTT\x04\x02\x00%c\x00\x05x0001"
        await ended(port, b"")  # no CONNECT
        await ended(port, b"\xc0\x00")  # another packet first
        await ended(port, hello % 60 + b"\x30\xff\xff\xff\x7f")  # a packet of 256 MiB
        # Keep-alive of 1 s: the broker waits one and a half.
        assert await ended(port, hello % 1) >= 1.4
        async with client(mqtt, "a") as agent:
            for n in range(5):
                await agent.publish(f"coloprobe/v1/a{n}/status", b"online", retain=True)
        async with client(mqtt, "b") as collector:
            await collector.subscribe("coloprobe/v1/+/status")
            await collector.subscribe("end")
            async with client(mqtt, "c") as other:
                await other.publish("end", b"")
            found = [m.topic for m in await take(collector, 4)]
            assert sorted(found) == [*(f"coloprobe/v1/a{n}/status" for n in range(3)), "end"]
        await works(mqtt)

    run(work)


def test_a_subscriber_that_does_not_read_slows_publishers_and_fills_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 20)

    async def work(mqtt: MqttTable, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05x0001" + b"\x82\x06\x00\x01\x00\x01#\x00")
        await writer.drain()
        async with client(mqtt, "a") as agent:
            sent = 0
            with contextlib.suppress(Exception):
                async with asyncio.timeout(3):
                    while True:
                        await agent.publish("a", bytes(200_000))
                        sent += 1
            # The sockets' buffers take some; the broker itself holds 20 or so.
            assert sent < 200
            writer.transport.abort()
        await works(mqtt)

    run(work)
