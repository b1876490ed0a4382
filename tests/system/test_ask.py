"""Real agents and a broker with the access list of config/mosquitto in, what people far away get from them
out."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probe.settings import MqttTable
from probe.telemetry import asks, topics
from probe.telemetry.asks import Ask, Options, Part
from probe.telemetry.mqtt import Connection, connect
from tests.system import servers
from tests.system.commands import ROOT, Command, coloprobe, run, wait_for
from tests.system.test_broker_rules import example

pytestmark = pytest.mark.icmp

AGENT = """
[agent]
id = "{name}"
site = "NY4"
state_dir = "{directory}/{name}"
[window]
length = "500ms"
timeout = "200ms"
histogram = "500ms"
[defaults]
interval = "100ms"
[[target]]
name = "gw"
address = "127.0.0.1"
[trace]
every = "0s"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
password_file = "{directory}/{name}.password"
[ask]
{ask}
"""
STALE = "5" * 32  # the id of an ask that was left at the broker


@dataclass
class Site:
    """ny4-01 does what it is asked, ld4-02 hardly anything."""

    port: int
    directory: Path
    agents: dict[str, Command]

    def access(self, user: str = "ops") -> list[str]:
        file = self.directory / f"{user}.password"
        return [f"--mqtt=mqtt://127.0.0.1:{self.port}", f"--username={user}", f"--password-file={file}"]

    def ask(self, *arguments: str, user: str = "ops") -> subprocess.CompletedProcess[str]:
        return run("ask", *arguments, *self.access(user))

    def connection(self, user: str = "ops") -> Any:
        table = MqttTable(url=f"mqtt://127.0.0.1:{self.port}")
        return connect(
            table, client_id=asks.new_id(), username=user, password=f"{user}-secret", max_queued=9999
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("asks")
    with ExitStack() as stack:
        broker = stack.enter_context(servers.mosquitto(directory, extra_conf=example(directory)))
        site = Site(broker.port, directory, {})
        for user in ("ny4-01", "ld4-02", "ops"):
            (directory / f"{user}.password").write_text(f"{user}-secret\n")
            (directory / f"{user}.password").chmod(0o600)

        async def leave() -> None:
            async with site.connection() as ops:
                stale = Ask(id=STALE, what="links", who="somebody@yesterday")
                await ops.publish(topics.ask("ld4-02"), asks.encode(stale), retain=True)

        asyncio.run(leave())
        for name, ask in (
            ("ny4-01", 'per_minute = 100\nlongest = "20s"'),
            ("ld4-02", 'allow = ["links", "ping"]\nper_minute = 4'),
        ):
            file = directory / f"{name}.toml"
            file.write_text(AGENT.format(name=name, directory=directory, port=broker.port, ask=ask))
            command = Command(directory, name, "agent", "-c", file)
            stack.callback(command.kill)
            site.agents[name] = command.start()
        wait_for(lambda: all("connected" in command.text() for command in site.agents.values()))
        yield site


class Listener:
    """Somebody who asks by hand, and hears every answer."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.parts: dict[str, list[Part]] = {}

    async def read(self) -> None:
        async for message in self.connection.messages():
            if (part := asks.parse_part(message.payload)) is not None:
                self.parts.setdefault(part.id, []).append(part)

    async def end(self, asked: str) -> Part:
        async with asyncio.timeout(30):
            while not (found := [part for part in self.parts.get(asked, []) if part.done]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        (only,) = found
        return only

    async def say(self, agent: str, payload: bytes, **more: Any) -> None:
        await self.connection.publish(topics.ask(agent), payload, **more)

    async def ask(self, agent: str, what: Any, target: str = "", **options: Any) -> str:
        ask = Ask(id=asks.new_id(), what=what, target=target, options=Options(**options), who="ops@desk")
        await self.say(agent, asks.encode(ask))
        return ask.id


@asynccontextmanager
async def listening(site: Site) -> Any:
    async with site.connection() as connection:
        await connection.subscribe(topics.ALL_ANSWERS)
        listener = Listener(connection)
        reading = asyncio.create_task(listener.read())
        try:
            yield listener
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def drive(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(limited())


def test_a_ping_from_afar_reads_as_a_local_one(site: Site) -> None:
    done = site.ask("ny4-01", "ping", "gw", "-n", "3", "-i", "50ms")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first == "PING gw (127.0.0.1) from ny4-01: icmp"
    assert [re.sub(r"rtt=[\d.]+ \w+", "rtt", line) for line in lines[:3]] == [
        f"64 bytes from 127.0.0.1: seq={n} rtt" for n in range(3)
    ]
    assert "--- gw: 3 sent, 3 received, 0 lost (0.00%)" in lines
    log = site.agents["ny4-01"].text()
    assert re.search(r"INFO ping of gw, asked for by \S+@\S+ \(as it says\): 4 lines", log)
    done = site.ask("ny4-01", "ping", "127.0.0.1", "-n", "2", "-i", "0.05", "--json", "--flows", "2")
    assert done.returncode == 0
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    probes = [one for one in objects if "outcome" in one]
    assert sorted((one["flow"], one["seq"]) for one in probes) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    whole, *flows = (one for one in objects if one.get("measurement") == "probe")
    assert (whole["agent"], whole["site"], whole["target"], whole["sent"]) == ("ny4-01", "NY4", "gw", 4)
    assert [one["flow"] for one in flows] == ["0", "1"]


def test_what_a_host_knows_of_itself(site: Site) -> None:
    async def main() -> None:
        async with listening(site) as ops:
            # All at once: children take turns, the rest is answered meanwhile.
            trace = await ops.ask("ny4-01", "trace", "gw", flows=1, max_hops=2)
            check = await ops.ask("ny4-01", "check")
            others = {what: await ops.ask("ny4-01", what) for what in ("links", "sessions", "about")}
            ends = {what: await ops.end(asked) for what, asked in others.items()}
            assert {what: end.error for what, end in ends.items()} == dict.fromkeys(others, "")
            said = {
                what: [line for part in ops.parts[asked] for line in part.lines]
                for what, asked in others.items()
            }
            assert {line["measurement"] for line in said["links"]} <= {"interface"}
            assert {line["measurement"] for line in said["sessions"]} <= {"session"}
            assert said["about"][0]["targets"] == 1
            assert (await ops.end(check)).error == ""
            parts = [line["part"] for part in ops.parts[check] for line in part.lines]
            assert parts[0] == "settings"
            assert parts[-1] == "broker"
            assert (await ops.end(trace)).error == ""
            found = [line for part in ops.parts[trace] for line in part.lines]
            assert [(line["measurement"], line["agent"]) for line in found][-1] == ("path", "ny4-01")
            assert found[-1]["reached"] is True

    drive(main())


def test_who_is_there(site: Site) -> None:
    def rows() -> list[dict[str, Any]]:
        done = run("agents", "--json", *site.access())
        assert (done.returncode, done.stderr) == (0, "")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return found if all(one["about"]["batch"] > 0 for one in found) else []

    found = wait_for(rows, "both have made a batch")
    assert [(one["agent"], one["state"]) for one in found] == [("ld4-02", "online"), ("ny4-01", "online")]
    assert found[0]["about"]["allow"] == ["links", "ping"]
    assert all(one["settings_sha256"] == one["about"]["settings_sha256"] for one in found)
    done = run("agents", *site.access())
    head, first, second = done.stdout.splitlines()
    assert head.split()[:6] == ["agent", "site", "state", "version", "settings", "since"]
    assert first.startswith("ld4-02  NY4   online ")
    assert re.search(r" s ago +\d+ +online +links ping$", first)
    assert second.startswith("ny4-01  NY4   online ")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["ny4-1", "links"], 1, r"no agent ny4-1 at mqtt://\S+; online: ld4-02, ny4-01$"),
        (
            ["ld4-02", "check"],
            1,
            r"ld4-02 does not allow check: ask.allow in its agent.toml has links, ping$",
        ),
        (["ny4-01", "ping", "192.0.2.1; id"], 2, r"ny4-01 has no target 192.0.2.1; id; it has gw "),
        (
            ["ny4-01", "ping", "gw", "-i", "1ms"],
            2,
            r"1000 packets a second \(allowed: 100, ask.packets_per_sec",
        ),
        (["ny4-01", "ping", "gw", "-n", "99"], 2, r"are 99s \(allowed: 20s, ask.longest of ny4-01\)"),
    ],
)
def test_what_is_not_answered_says_why(site: Site, arguments: list[str], status: int, words: str) -> None:
    done = site.ask(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert re.search(words, done.stderr.rstrip()), done.stderr


def test_an_agent_cannot_ask_another_one(site: Site) -> None:
    """The broker lets its ask go nowhere, and does not even let it know who is there."""
    done = site.ask("ld4-02", "links", user="ny4-01")
    assert done.returncode == 1
    assert "no agent ld4-02" in done.stderr
    assert "may user 'ny4-01' read coloprobe/v1/+/status" in done.stderr

    async def main() -> None:
        async with listening(site) as ops, site.connection("ny4-01") as agent:
            forged = Ask(id=asks.new_id(), what="links")
            await agent.publish(topics.ask("ld4-02"), asks.encode(forged))
            await agent.publish(topics.answer("ld4-02"), asks.done(forged.id, 0, 0))
            genuine = await ops.ask("ld4-02", "about")
            await ops.end(genuine)
            assert forged.id not in ops.parts

    drive(main())


def test_ctrl_c_ends_the_child_at_the_other_end(site: Site) -> None:
    argv = coloprobe("ask", "ny4-01", "ping", "gw", "-n", "190", "-i", "0.1", *site.access())
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as asker:
        assert asker.stdout is not None
        assert asker.stdout.readline().startswith("PING gw")
        assert "seq=0" in asker.stdout.readline()
        (child,) = children(site.agents["ny4-01"].pid)
        asker.send_signal(signal.SIGINT)
        assert asker.wait(20) == 130
        assert asker.stderr is not None
        assert asker.stderr.read() == ""
    wait_for(lambda: child not in children(site.agents["ny4-01"].pid), "the child ends")
    wait_for(lambda: "withdrawn by the asker" in site.agents["ny4-01"].text())


def children(pid: int) -> list[int]:
    """Those of all its threads that are not over."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return [one for one in found if (state := _state(one)) and state != "Z"]


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return ""


def test_rubbish_repetition_and_a_flood_are_not_answered_and_change_nothing(site: Site) -> None:
    """The last one for ld4-02: afterwards it answers nobody for a minute."""

    async def main() -> None:
        async with listening(site) as ops:
            once = Ask(id=asks.new_id(), what="links")
            for _ in range(3):
                await ops.say("ld4-02", asks.encode(once))
            rubbish = (
                *(b"", b"\x00\xff" * 50, b"[" * 4000, b'{"id":' * 600, b"x" * 200_000, b"null"),
                *(b'{"id":"%032x","what":"links","shell":"id"}' % 1, b'{"id":"../..","what":"check"}'),
                asks.begun(f"{2:032x}", {}),
            )
            for payload in rubbish:
                await ops.say("ld4-02", payload)
            sent = [Ask(id=asks.new_id(), what="links") for _ in range(400)]
            for ask in sent:
                await ops.say("ld4-02", asks.encode(ask), qos=0)
            await ops.end(once.id)
            # It still answers what it answers at another pace, as soon as it has room for a question.
            found: list[str] = []
            while not found:
                abouts = [await ops.ask("ld4-02", "about") for _ in range(2)]
                await asyncio.sleep(0.2)
                found = [asked for asked in abouts if asked in ops.parts]
            await ops.end(found[-1])
            assert [part.done for part in ops.parts[once.id]].count(True) == 1
            assert STALE not in ops.parts
            ends = [parts[-1] for asked, parts in ops.parts.items() if asked in {ask.id for ask in sent}]
            said = Counter(end.error or "answered" for end in ends)
            assert said.pop("answered", 0) <= 3
            assert set(said) <= {"ld4-02 is asked too often: it answers 4 a minute (ask.per_minute)"}
            assert said.total() <= 60
            assert ops.parts[f"{1:032x}"][0].status == 2

    before = site.agents["ld4-02"].text()
    drive(main())
    assert "1 left at the broker (retained)" in before
    assert site.agents["ld4-02"].running()
    site.agents["ld4-02"].kill()  # with nobody to acknowledge, a gentle end takes 5 s
    log = site.agents["ld4-02"].text()
    assert "Traceback" not in log
    assert log.count("connected") == 1
    done = site.ask("ld4-02", "links")
    assert done.returncode == 1
    assert re.search(
        r"ld4-02 is offline; it stopped, or connected for the last time, at 20\d\d-", done.stderr
    )


def test_an_agent_that_dies_while_it_answers(site: Site) -> None:
    """The last one: ny4-01 does not live on."""
    argv = coloprobe("ask", "ny4-01", "ping", "gw", "-n", "190", "-i", "0.1", *site.access())
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as asker:
        assert asker.stdout is not None
        assert asker.stdout.readline().startswith("PING gw")
        site.agents["ny4-01"].kill()
        assert asker.wait(20) == 1
        assert asker.stderr is not None
        assert "ny4-01 went offline before it had answered" in asker.stderr.read()
