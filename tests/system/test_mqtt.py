"""The MQTT adapter against a real mosquitto: what works, what is refused, and what breaks off."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from probe.errors import MqttRefused, MqttUnavailable
from probe.settings import MqttTable
from probe.telemetry import mqtt
from tests.system import servers

PROTOCOLS = pytest.mark.parametrize("protocol", ["3.1.1", "5"])


def run(main: Coroutine[Any, Any, None]) -> None:
    async def watched() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        before = asyncio.all_tasks()
        async with asyncio.timeout(60):
            await main
        while left := [task for task in asyncio.all_tasks() - before if not task.done()]:
            await asyncio.wait(left, timeout=5)  # a connection that is over leaves nothing running
        assert complaints == []

    asyncio.run(watched())


def table(server: servers.Server, protocol: Any = "3.1.1", **more: Any) -> MqttTable:
    return MqttTable(url=f"mqtt://127.0.0.1:{server.port}", protocol=protocol, **more)


def connect(settings: MqttTable, client_id: str = "a", **more: Any) -> Any:
    return mqtt.connect(settings, **{"client_id": client_id, "username": "", "password": None, **more})


@PROTOCOLS
def test_what_is_published_arrives(mosquitto: servers.Server, protocol: str, caplog: Any) -> None:
    async def main() -> None:
        settings = table(mosquitto, protocol)
        async with connect(settings, "reader") as reader, connect(settings, "writer") as writer:
            await writer.publish("kept", b"before", retain=True)
            await reader.subscribe("#")
            bodies = [b"%d" % i for i in range(100)]
            async with asyncio.TaskGroup() as group:
                for body in bodies:
                    group.create_task(writer.publish("live", body, qos=1))
            await writer.publish("live", b"last", qos=0)
            got = []
            async for message in reader.messages():
                got.append(message)
                if len(got) == 102:
                    break
            assert got[0] == mqtt.Message("kept", b"before", True)
            assert got[1:] == [mqtt.Message("live", body, False) for body in [*bodies, b"last"]]
            assert reader.discarded == 0

    run(main())
    assert caplog.records == []


def test_a_full_inbox_counts_what_it_discards(mosquitto: servers.Server, caplog: Any) -> None:
    async def main() -> None:
        async with connect(table(mosquitto), "reader", max_queued=10) as reader:
            await reader.subscribe("t")
            for i in range(25):
                await reader.publish("t", b"%d" % i)
            while reader.discarded < 15:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
            messages = reader.messages()
            assert [(await anext(messages)).payload for _ in range(10)] == [b"%d" % i for i in range(10)]

    run(main())
    assert caplog.records == []


def test_a_full_inbox_is_full_of_bytes_as_well(
    mosquitto: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "QUEUED_BYTES", 1000)

    async def main() -> None:
        async with connect(table(mosquitto), "reader") as reader:
            await reader.subscribe("t")
            for _ in range(2):
                before = reader.discarded
                for size in (600, 600, 400):
                    await reader.publish("t", b"x" * size)
                while reader.discarded == before:  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(0.01)
                messages = reader.messages()
                assert [len((await anext(messages)).payload) for _ in range(2)] == [600, 400]

    run(main())


@PROTOCOLS
def test_will_comes_without_a_goodbye_and_not_with_one(mosquitto: servers.Server, protocol: str) -> None:
    async def main() -> None:
        settings = table(mosquitto, protocol)
        async with connect(settings, "reader") as reader:
            await reader.subscribe("gone/+")
            for name in ("polite", "thrown-out"):
                async with connect(settings, name, will=mqtt.Will(f"gone/{name}", b"offline")) as writer:
                    if name == "polite":
                        continue
                    async with connect(settings, name):  # a second connection under the same id
                        with pytest.raises(MqttUnavailable, match="connection lost"):
                            await anext(writer.messages())
            message = await anext(reader.messages())
            assert (message.topic, message.payload) == ("gone/thrown-out", b"offline")
        async with connect(settings, "late") as late:
            await late.subscribe("gone/+")
            assert (await anext(late.messages())).retain

    run(main())


@PROTOCOLS
def test_loss_of_the_broker_wakes_everybody(mosquitto: servers.Server, protocol: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connect(table(mosquitto, protocol)) as connection:
            await connection.subscribe("t")
            reading = asyncio.ensure_future(anext(connection.messages()))
            os.kill(mosquitto.pid, signal.SIGSTOP)
            sending = asyncio.ensure_future(connection.publish("t", b"x", timeout_s=1e6))
            subscribing = asyncio.ensure_future(connection.subscribe("u"))
            await asyncio.sleep(0)
            await loop.run_in_executor(None, mosquitto.kill)
            for task in (reading, sending, subscribing):
                with pytest.raises(MqttUnavailable, match="connection lost"):
                    await task
            with pytest.raises(MqttUnavailable, match="connection lost"):
                await connection.publish("t", b"x")
        with pytest.raises(
            MqttUnavailable, match=r"Connection refused; is the broker running there\? \(mqtt.url\)"
        ):
            await connect(table(mosquitto, protocol)).__aenter__()

    run(main())


def test_silent_broker_is_unavailable_and_cancelling_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "ANSWER_TIMEOUT_S", 0.2)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            settings = MqttTable(url=f"mqtt://127.0.0.1:{listener.getsockname()[1]}")
            with pytest.raises(MqttUnavailable, match="no answer; is the broker running there"):
                await connect(settings).__aenter__()
            listener.accept()[0].close()
            attempt = asyncio.ensure_future(connect(settings).__aenter__())
            while True:
                try:
                    listener.setblocking(False)
                    peer, _ = listener.accept()
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.001)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            with peer:
                peer.settimeout(10)
                while peer.recv(100):  # the other end was closed: this ends
                    pass

    run(main())


def test_broker_that_hangs_up_at_once() -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            settings = MqttTable(url=f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with pytest.raises(MqttUnavailable, match=r"hung up before it answered.*mqtt\.cert_file"):
                await connect(settings).__aenter__()

    run(main())


@pytest.mark.parametrize("patience_s", [0.0, 0.1])
@pytest.mark.parametrize("nonsense", [b"\x30\x05\x00\xffabc", b"\x90\x00\x40\x00", b"\xf0" * 40])
def test_broker_that_talks_nonsense(nonsense: bytes, patience_s: float) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"\x20\x02\x00\x00")
            await asyncio.sleep(patience_s)
            writer.write(nonsense)
            with suppress(ConnectionError):
                await reader.read()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            settings = MqttTable(url=f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with pytest.raises(MqttUnavailable, match="connection lost"):
                async with connect(settings) as connection:
                    await anext(connection.messages())

    run(main())


@PROTOCOLS
def test_wrong_password_is_refused(tmp_path: Path, protocol: str) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "ny4-01", "right"], check=True)
    conf = f"allow_anonymous false\npassword_file {passwords}"

    async def main(server: servers.Server) -> None:
        async with connect(table(server, protocol), username="ny4-01", password="right") as connection:
            await connection.publish("t", b"x")
        for password in ("wrong", None):
            with pytest.raises(MqttRefused, match=r"(?i)not authori.*mqtt\.username, mqtt\.password_file"):
                await connect(table(server, protocol), username="ny4-01", password=password).__aenter__()

    with servers.mosquitto(tmp_path, extra_conf=conf) as server:
        run(main(server))


def test_message_that_a_version_5_broker_refuses_is_not_taken_for_delivered(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite mine/#\n")

    async def main(server: servers.Server) -> None:
        async with connect(table(server, "5")) as connection:
            await connection.publish("mine/a", b"x")
            with pytest.raises(MqttRefused, match=r"refuses a message: Not authorized"):
                await connection.publish("theirs", b"x")

    with servers.mosquitto(tmp_path, extra_conf=f"acl_file {rules}") as server:
        run(main(server))


def test_version_5_broker_with_a_small_receive_maximum(tmp_path: Path) -> None:
    async def main(server: servers.Server) -> None:
        async with connect(table(server, "5")) as connection, asyncio.TaskGroup() as group:
            for i in range(200):
                group.create_task(connection.publish("t", b"%d" % i))

    with servers.mosquitto(tmp_path, extra_conf="max_inflight_messages 3") as server:
        run(main(server))


def test_tls_to_a_port_without_it(mosquitto: servers.Server) -> None:
    async def main() -> None:
        with pytest.raises((MqttUnavailable, MqttRefused), match=r"mqtts://127"):
            await connect(MqttTable(url=f"mqtts://127.0.0.1:{mosquitto.port}")).__aenter__()

    run(main())
