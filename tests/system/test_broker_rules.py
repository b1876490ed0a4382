"""The example of mosquitto's configuration, on a real mosquitto: everybody speaks for himself alone."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from probe.errors import MqttError, MqttRefused
from probe.settings import MqttTable
from probe.telemetry.mqtt import connect
from tests.system import servers

EXAMPLE = Path(__file__).parents[2] / "config" / "mosquitto"
USERS = ("ny4-01", "ld4-02", "fanin-1")
AGENT, COLLECTOR, STATUS, ASK = "lines/9f2c41d0/1", "ack", "status", "ask"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[servers.Server]:
    passwords = tmp_path / "passwd"
    passwords.touch(mode=0o600)
    for user in USERS:
        tool = servers.program("mosquitto_passwd")
        subprocess.run([tool, "-b", str(passwords), user, f"{user}-secret"], check=True, capture_output=True)
    rules = tmp_path / "acl"
    rules.write_text((EXAMPLE / "acl").read_text())
    rules.chmod(0o600)
    text = (EXAMPLE / "mosquitto.conf").read_text()
    text, listeners = re.subn(r"^listener .*$", "", text, flags=re.MULTILINE)
    assert listeners == 1
    for path, ours in (
        ("/etc/mosquitto/coloprobe.passwd", passwords),
        ("/etc/mosquitto/coloprobe.acl", rules),
    ):
        assert re.search(rf"^\w+ {path}$", text, re.MULTILINE)
        text = text.replace(path, str(ours))
    with servers.mosquitto(tmp_path, extra_conf=text) as server:
        yield server


async def heard(port: int, speaker: str, topics: list[str], listener: str, filters: list[str]) -> list[str]:
    """Which of `topics`, published by `speaker`, `listener` hears on `filters`."""
    mqtt = MqttTable(url=f"mqtt://127.0.0.1:{port}")
    arrived: list[str] = []
    # The end is a topic of the listener's own status, sent by himself on a path that the rules allow.
    async with (
        connect(mqtt, client_id="listener", username=listener, password=f"{listener}-secret") as ears,
        connect(mqtt, client_id="speaker", username=speaker, password=f"{speaker}-secret") as mouth,
    ):
        for name in filters:
            await ears.subscribe(name)
        for topic in topics:
            await mouth.publish(topic, b"x")  # acknowledged by the broker: it has been dealt with
        end = (
            "coloprobe/v1/fanin-1/lines/9f2c41d0/9"
            if listener == "fanin-1"
            else f"coloprobe/v1/{listener}/ack"
        )
        if speaker == "fanin-1" or listener == "fanin-1":
            await mouth.publish(end if speaker == "fanin-1" else f"coloprobe/v1/{speaker}/status", b"end")
        else:
            async with connect(
                mqtt, client_id="third", username="fanin-1", password="fanin-1-secret"
            ) as third:
                await third.publish(end, b"end")
        async with asyncio.timeout(20):
            async for message in ears.messages():
                if message.payload == b"end":
                    return arrived
                arrived.append(message.topic)
    raise AssertionError


def topic(agent: str, what: str) -> str:
    return f"coloprobe/v1/{agent}/{what}"


def test_an_agent_is_heard_by_collectors_on_its_own_topics_only(broker: servers.Server) -> None:
    own = [topic("ny4-01", what) for what in (AGENT, "answer")]
    others = [topic(other, what) for other in ("ld4-02", "fanin-1") for what in (AGENT, STATUS, "answer")]
    filters = ["$share/g/coloprobe/v1/+/lines/#", "coloprobe/v1/+/status", "coloprobe/v1/+/answer"]
    arrived = asyncio.run(heard(broker.port, "ny4-01", [*others, *own], "fanin-1", filters))
    assert sorted(arrived) == sorted(own)


def test_an_agent_hears_its_own_acknowledgements_and_requests_only(broker: servers.Server) -> None:
    own = [topic("ny4-01", what) for what in ("ack", "ask")]
    others = [topic("ld4-02", what) for what in ("ack", "ask")]
    filters = ["coloprobe/v1/+/ack", "coloprobe/v1/+/ask", "coloprobe/v1/ny4-01/ack"]
    arrived = asyncio.run(heard(broker.port, "fanin-1", [*others, *own], "ny4-01", filters))
    assert set(arrived) == set(own)


def test_an_agent_cannot_acknowledge_in_a_collectors_place(broker: servers.Server) -> None:
    forged = [topic("ld4-02", "ack"), topic("ld4-02", "ask"), topic("ld4-02", AGENT)]
    filters = ["coloprobe/v1/ld4-02/#", "coloprobe/v1/ld4-02/ack", "coloprobe/v1/ld4-02/ask"]
    assert asyncio.run(heard(broker.port, "ny4-01", forged, "ld4-02", filters)) == []


def test_nobody_gets_in_without_the_right_password(broker: servers.Server) -> None:
    async def attempt(user: str, password: str | None) -> None:
        mqtt = MqttTable(url=f"mqtt://127.0.0.1:{broker.port}")
        async with connect(mqtt, client_id="x", username=user, password=password):
            pass

    for user, password in (("ny4-01", "wrong"), ("", None), ("ny4-01", None)):
        with pytest.raises(MqttRefused) as caught:
            asyncio.run(attempt(user, password))
        assert "mqtt.username" in str(caught.value)


def test_a_message_larger_than_a_batch_does_not_get_through(broker: servers.Server) -> None:
    async def main() -> int:
        mqtt = MqttTable(url=f"mqtt://127.0.0.1:{broker.port}")
        async with (
            connect(mqtt, client_id="c", username="fanin-1", password="fanin-1-secret") as collector,
            connect(mqtt, client_id="a", username="ny4-01", password="ny4-01-secret") as agent,
        ):
            await collector.subscribe("coloprobe/v1/+/lines/#")
            with suppress(MqttError):  # the broker hangs up
                await agent.publish(topic("ny4-01", AGENT), bytes(300_000))
            async with connect(mqtt, client_id="b", username="ny4-01", password="ny4-01-secret") as again:
                await again.publish(topic("ny4-01", AGENT), bytes(256 * 1024))
            async with asyncio.timeout(20):
                async for message in collector.messages():
                    return len(message.payload)
        raise AssertionError

    assert asyncio.run(main()) == 256 * 1024
