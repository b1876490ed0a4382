"""The example of mosquitto's configuration, on a real mosquitto: everybody speaks for himself alone."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path

import pytest

from probe.clock import SystemClock
from probe.errors import MqttError, MqttRefused
from probe.settings import MqttTable, UplinkTable
from probe.telemetry.mqtt import Connection, connect
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink
from tests.system import servers
from tests.system.certificates import Authority

EXAMPLE = Path(__file__).parents[2] / "config" / "mosquitto"
USERS = ("ny4-01", "ld4-02", "fanin-1", "ops")
AGENT, COLLECTOR, STATUS, ASK = "lines/9f2c41d0/1", "ack", "status", "ask"


def example(tmp_path: Path) -> str:
    """The example without its listener, with a password file and rules of ours."""
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
    return text


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[servers.Server]:
    with servers.mosquitto(tmp_path, extra_conf=example(tmp_path)) as server:
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


# -- whoever tries more than that ----------------------------------------------------------------------------

LINES, OTHERS = topic("ny4-01", AGENT), topic("ld4-02", AGENT)
EVERYTHING = [
    *("#", "+/+/+/+", "coloprobe/#", "coloprobe/v1/+/ack", "coloprobe/v1/+/ask", "coloprobe/v1/+/lines/#"),
    *("coloprobe/v1/fanin-1/#", "coloprobe/v1/ny4-01/#", "$SYS/#", "$SYS/broker/version"),
    *("$share/collectors/#", "$share/collectors/coloprobe/v1/+/lines/#", "$share/g/coloprobe/v1/+/ack"),
]
Said = list[tuple[str, str, bool]]  # who, topic, retained


async def overheard(
    user: Callable[[str], AbstractAsyncContextManager[Connection]],
    listener: str,
    filters: list[str],
    said: Said,
) -> list[str]:
    """What `listener` hears of what was said, before and after it subscribed. The last one must be heard."""
    async with AsyncExitStack() as stack:
        mouths = {
            name: await stack.enter_async_context(user(name))
            for name in dict.fromkeys(who for who, *_ in said)
        }

        async def say() -> None:
            for who, name, retain in said:
                await mouths[who].publish(name, name.encode(), retain=retain)

        await say()
        ears = await stack.enter_async_context(user(listener))
        for name in filters:
            with suppress(MqttRefused):
                await ears.subscribe(name)
        await say()
        heard = []
        async with asyncio.timeout(20):
            async for message in ears.messages():
                heard.append(message.topic)
                if message.topic == said[-1][1] and not message.retain:
                    return heard
        raise AssertionError


def with_password(broker: servers.Server) -> Callable[[str], AbstractAsyncContextManager[Connection]]:
    mqtt = MqttTable(url=f"mqtt://127.0.0.1:{broker.port}")
    names = itertools.count()
    return lambda user: connect(
        mqtt, client_id=f"{user}-{next(names)}", username=user, password=f"{user}-secret"
    )


def everybody_speaks() -> Said:
    """Collectors to both agents, both agents to collectors; the last is for ny4-01."""
    agents = [(a, topic(a, what), False) for a in ("ny4-01", "ld4-02") for what in (AGENT, STATUS, "answer")]
    return [
        *agents,
        *(("fanin-1", topic(a, what), False) for a in ("ld4-02", "ny4-01") for what in (ASK, "ack")),
    ]


def test_an_agent_that_asks_for_everything_hears_what_is_meant_for_it(broker: servers.Server) -> None:
    heard = asyncio.run(overheard(with_password(broker), "ny4-01", EVERYTHING, everybody_speaks()))
    assert set(heard) == {topic("ny4-01", "ack"), topic("ny4-01", "ask")}


def retained_rubbish(who: str) -> Said:
    """Everything that `who` may not leave at the broker."""
    agents = ("ld4-02", "ny4-01", "fanin-1", "nobody")
    foreign = [topic(a, what) for a in agents for what in (AGENT, STATUS, "answer") if a != who]
    # Its own acknowledgements and requests, too: they would be the first that it hears after a restart.
    own = [topic(a, what) for a in agents for what in ("ack", "ask", "ack/x", "rubbish", "")]
    return [
        (who, name, True) for name in [*foreign, *own, "rubbish", "$SYS/rubbish", "$share/g/rubbish", "/"]
    ]


def test_an_agent_leaves_nothing_at_the_broker_but_what_is_its_own(broker: servers.Server) -> None:
    said = [*retained_rubbish("ny4-01"), ("ny4-01", topic("ny4-01", STATUS), True)]
    user = with_password(broker)
    collector = asyncio.run(overheard(user, "fanin-1", ["#", "coloprobe/v1/+/#"], said))
    assert set(collector) == {topic("ny4-01", STATUS)}
    for agent in ("ld4-02", "ny4-01"):
        end = ("fanin-1", topic(agent, "ack"), False)
        heard = asyncio.run(overheard(user, agent, ["#", "$SYS/#", f"coloprobe/v1/{agent}/#"], [*said, end]))
        assert set(heard) == {end[1]}


def test_a_collector_cannot_speak_for_an_agent_or_hear_what_others_tell_agents(
    broker: servers.Server,
) -> None:
    forged = [
        ("fanin-1", topic(a, what), retain)
        for a in ("ny4-01", "ld4-02")
        for what in (AGENT, STATUS, "answer")
        for retain in (True, False)
    ]
    end = ("ny4-01", topic("ny4-01", "answer"), False)
    said: Said = [*forged, ("fanin-1", topic("ny4-01", "ack"), False), end]
    heard = asyncio.run(
        overheard(with_password(broker), "fanin-1", [*EVERYTHING, "coloprobe/v1/+/answer"], said)
    )
    # The end is the agent's; there is one such topic among the forged ones.
    assert heard.count(end[1]) == 1
    assert set(heard) == {end[1]}


def test_an_operator_asks_and_hears_answers_and_nothing_else(broker: servers.Server) -> None:
    user = with_password(broker)
    agents = [("ny4-01", topic("ny4-01", what), False) for what in (AGENT, "answer", STATUS)]
    collector = [("fanin-1", topic("ny4-01", what), False) for what in (ASK, "ack")]
    heard = asyncio.run(overheard(user, "ops", EVERYTHING, [*collector, *agents]))
    assert set(heard) == {topic("ny4-01", "answer"), topic("ny4-01", STATUS)}
    forged = [
        ("ops", topic("ny4-01", what), False) for what in ("ack", AGENT, STATUS, "answer", "lines", "x")
    ]
    asked = ("ops", topic("ny4-01", ASK), False)
    assert set(asyncio.run(overheard(user, "ny4-01", ["#"], [*forged, asked]))) == {asked[1]}
    said = [*forged, asked, ("ny4-01", topic("ny4-01", STATUS), False)]
    assert set(asyncio.run(overheard(user, "fanin-1", ["#"], said))) == {topic("ny4-01", STATUS)}


def test_an_agent_cannot_throw_another_one_out(broker: servers.Server, tmp_path: Path) -> None:
    """A broker ends the connection of whose client id comes again, whoever brings it."""

    async def main() -> None:
        mqtt = MqttTable(url=f"mqtt://127.0.0.1:{broker.port}")
        uplink = Uplink(
            agent="ld4-02",
            mqtt=mqtt,
            uplink=UplinkTable(),
            spool=spool,
            clock=SystemClock(),
            password="ld4-02-secret",
            version="0",
            settings_sha256="",
        )
        sending = asyncio.create_task(uplink.run())
        async with (
            asyncio.timeout(20),
            connect(mqtt, client_id="c", username="fanin-1", password="fanin-1-secret") as collector,
        ):
            await collector.subscribe("coloprobe/v1/+/status")
            messages = collector.messages()
            assert b'"online"' in (await anext(messages)).payload
            for guess in ("ld4-02", "coloprobe-ld4-02"):
                async with connect(
                    mqtt, client_id=guess, username="ny4-01", password="ny4-01-secret"
                ) as other:
                    await other.publish(topic("ny4-01", STATUS), guess.encode())
                assert (await anext(messages)).payload == guess.encode()  # and no last will
        assert (uplink.state, uplink.reconnects) == ("online", 0)
        sending.cancel()
        await asyncio.wait({sending})

    spool = Spool(tmp_path / "spool.sqlite3", 1 << 20)
    try:
        asyncio.run(main())
    finally:
        spool.close()


def test_certificates_in_place_of_passwords(tmp_path: Path) -> None:
    """`use_identity_as_username`: the same rules, and nothing that a client says of itself counts."""
    authority = Authority(tmp_path / "authority")
    server, port = authority.certificate("broker"), servers.free_port()
    text = example(tmp_path)
    for line, ours in (
        ("#listener 8883", f"listener {port} 127.0.0.1"),
        ("#cafile /etc/mosquitto/ca.pem", f"cafile {authority.pem}"),
        ("#certfile /etc/mosquitto/broker.pem", f"certfile {server.pem}"),
        ("#keyfile /etc/mosquitto/broker.key", f"keyfile {server.key}"),
        ("#require_certificate true", "require_certificate true"),
        ("#use_identity_as_username true", "use_identity_as_username true"),
    ):
        assert text.count(f"\n{line}\n") == 1, line
        text = text.replace(line, ours)
    shown = {name: authority.certificate(name) for name in (*USERS, "+", "#")}
    names = itertools.count()

    def user(name: str, claims: str = "fanin-1") -> AbstractAsyncContextManager[Connection]:
        pem, key = (str(file) for file in (shown[name].pem, shown[name].key))
        url = f"mqtts://127.0.0.1:{port}"
        mqtt = MqttTable(url=url, ca_file=str(authority.pem), cert_file=pem, key_file=key)
        return connect(mqtt, client_id=f"client-{next(names)}", username=claims, password="fanin-1-secret")

    with servers.mosquitto(tmp_path, extra_conf=text):
        said = [*retained_rubbish("ny4-01"), ("ny4-01", topic("ny4-01", STATUS), True)]
        heard = asyncio.run(overheard(user, "fanin-1", ["#", "coloprobe/v1/+/#"], said))
        assert set(heard) == {topic("ny4-01", STATUS)}
        heard = asyncio.run(overheard(user, "ny4-01", EVERYTHING, everybody_speaks()))
        assert set(heard) == {topic("ny4-01", "ack"), topic("ny4-01", "ask")}
        # A name that is a wildcard in a rule.
        for name in ("+", "#"):
            forged = [
                (name, topic(a, what), True) for a in ("nobody", "fanin-1") for what in (AGENT, STATUS, "ack")
            ]
            end = ("ld4-02", topic("ld4-02", STATUS), False)
            assert set(asyncio.run(overheard(user, "fanin-1", ["coloprobe/#"], [*forged, end]))) <= {
                topic("ny4-01", STATUS),  # of above
                end[1],
            }
