"""Distinctive secrets in, every log, process list, page and file searched for them out.

Agent, collectors, reflector and `up` run at their most talkative while their connections work, are refused
and break off.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from probe.errors import MqttRefused
from probe.settings import MqttTable
from probe.telemetry.mqtt import connect
from tests.system import servers
from tests.system.asking import SOCKET, asked, socket_says
from tests.system.commands import DEADLINE_S, Command, spooled, wait_for
from tests.system.test_up import address

AGENT = """
[agent]
id = "ny4-01"
state_dir = "{home}/state-agent"
[window]
length = "500ms"
timeout = "200ms"
histogram = "500ms"
[defaults]
interval = "50ms"
[[target]]
name = "reflector"
address = "127.0.0.1"
kind = "stamp"
port = {reflector}
key_file = "{home}/stamp"
[mqtt]
url = "mqtt://127.0.0.1:{broker}"
password_file = "{home}/agent"
"""
COLLECTOR = """
[collector]
id = "{id}"
state_dir = "{home}/state-{id}"
[mqtt]
url = "mqtt://127.0.0.1:{broker}"
password_file = "{home}/collector"
[influx]
timeout = "1s"
"""
V1 = """
api = "v1"
url = "http://127.0.0.1:{influx}"
username = "writer"
password_file = "{home}/influx"
"""
V2 = """
url = "http://127.0.0.1:{influx}"
token_file = "{home}/token"
"""


class Secrets:
    """Files in `home`, by name, each with a secret of its own; `found` says whose are in some bytes."""

    def __init__(self, home: Path, *names: str) -> None:
        self.known = {name: f"hush-{name}-{secrets.token_hex(12)}" for name in names}
        for name, secret in self.known.items():
            (home / name).write_text(f"{secret}\n")
            (home / name).chmod(0o600)

    def found(self, data: bytes) -> list[str]:
        return [name for name, secret in self.known.items() if secret.encode() in data]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[partial[Command]]:
    """`start(name, *arguments)`: a talkative command, killed at the end."""
    with contextlib.ExitStack() as stack:

        def started(name: str, *arguments: str | Path) -> Command:
            command = Command(tmp_path, name, "-v", *arguments)
            stack.callback(command.kill)
            return command.start()

        yield partial(started)


def passwords(home: Path, hush: Secrets, *, right: bool) -> Path:
    """mosquitto's password file, with our passwords or others."""
    file = home / "passwd"
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    for user, name in (("ny4-01", "agent"), ("fanin-1", "collector"), ("fanin-2", "collector")):
        word = hush.known[name] if right else "another"
        subprocess.run(
            [servers.program("mosquitto_passwd"), "-b", str(file), user, word],
            check=True,
            capture_output=True,
        )
    return file


def test_no_secret_is_anywhere_but_in_its_file(
    tmp_path: Path, start: partial[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    hush = Secrets(tmp_path, "agent", "collector", "influx", "token", "stamp", "board", "embedded")
    for name in ("agent", "stamp", "influx"):
        (tmp_path / name).chmod(0o644)
    rules = f"allow_anonymous false\npassword_file {passwords(tmp_path, hush, right=True)}"
    reflector, dead = servers.free_port(), servers.free_port()
    with (
        servers.mosquitto(tmp_path, extra_conf=rules) as broker,
        servers.influxdb(tmp_path, extra_http="auth-enabled = true") as influx,
    ):
        influx.query("CREATE USER admin WITH PASSWORD 'x' WITH ALL PRIVILEGES")  # there is no user `writer`
        for name, text in (
            ("agent.toml", AGENT),
            ("fanin-1.toml", COLLECTOR + V1),
            ("fanin-2.toml", COLLECTOR + V2.replace("{influx}", str(dead))),
        ):
            values = {"home": tmp_path, "broker": broker.port, "influx": influx.port, "reflector": reflector}
            (tmp_path / name).write_text(text.format(id=name.removesuffix(".toml"), **values))
        reflecting = ("--bind", f"127.0.0.1:{reflector}", "--key-file", tmp_path / "stamp")
        processes = [
            start("reflect", "reflect", *reflecting),
            start("agent", "agent", "-c", tmp_path / "agent.toml"),
            start("fanin-1", "collect", "-c", tmp_path / "fanin-1.toml"),
            start("fanin-2", "collect", "-c", tmp_path / "fanin-2.toml"),
        ]
        fan_in, other = processes[2:]
        for key in ("BOARD_TOKEN", "MQTT_PASSWORD"):
            monkeypatch.setenv(
                f"COLOPROBE_{key}", hush.known["board" if key == "BOARD_TOKEN" else "embedded"]
            )
        ups = ("--board", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--state", tmp_path / "state-up")
        processes.append(up := start("up", "up", "127.0.0.1", *ups))
        monkeypatch.undo()

        # They work, and are refused by the databases.
        wait_for(lambda: "influx.password_file" in fan_in.text(), "InfluxDB refuses the collector")
        wait_for(lambda: "cannot connect" in other.text(), "the other one finds no InfluxDB")
        board, mqtt = address(up, "board"), address(up, "broker")
        assert "(asks for your token: " in up.text()
        bearer = f"Bearer {hush.known['board']}"
        pages = [
            asked(board)[1],
            asked(f"{board}/?token=wrong-wrong-wrong-wrong")[1],
            asked(board, Authorization=bearer)[1],
            asked(board + SOCKET + "polling", Authorization=bearer)[1],
            asyncio.run(socket_says(board, Authorization=bearer)),
        ]
        asyncio.run(refused_by(mqtt))
        asyncio.run(rubbish(mqtt, hush.known["embedded"]))
        aside = tmp_path / "state-up/quarantine-embedded.jsonl"
        wait_for(lambda: b"rubbish" in aside.read_bytes(), "it is in quarantine")
        wait_for(lambda: up.text().count(": connected") == 2, "its own agent and collector know the password")
        # The broker dies, and comes back with other passwords.
        passwords(tmp_path, hush, right=False)
        broker.kill()
        broker.start()
        for command in processes[1:4]:
            wait_for(partial(lambda c: "mqtt.password_file" in c.text(), command), "it is refused")
        names = ("agent", "fanin-1", "fanin-2")
        checks = [start(f"check-{name}", "check", "-c", tmp_path / f"{name}.toml") for name in names]
        for check in checks:
            assert check.process is not None
            assert check.process.wait(DEADLINE_S) == 1, check.text()
        lists = {command: processes_say(command.pid) for command in processes}
        for command in processes:
            command.signal(signal.SIGTERM)
        for command in processes:
            assert command.process is not None
            assert command.process.wait(DEADLINE_S) == 0, command.text()

    # Who starts with a secret that everybody may read says so.
    for at, key in (
        (0, "--key-file"),
        (1, "mqtt.password_file"),
        (1, "target.key_file"),
        (2, "influx.passw"),
    ):
        told = rf"WARNING.*{key}.*: everybody on this host may read {tmp_path}/"
        assert re.search(told, processes[at].text()), processes[at].text()
    said = "".join(command.text() for command in (*processes, *checks))
    assert hush.found(said.encode()) == []
    assert "Traceback" not in said
    assert hush.found("".join(pages).encode()) == []
    for command, (line, environment) in lists.items():
        assert hush.found(line) == []
        assert hush.found(environment) == (["board", "embedded"] if command is up else [])
    assert hush.found(repr(spooled(tmp_path / "state-agent")).encode()) == []
    kept = [file for file in tmp_path.glob("state-*/**/*") if file.is_file()]
    assert {"spool.sqlite3", "store.sqlite", "quarantine-embedded.jsonl"} <= {file.name for file in kept}
    assert [file for file in kept if hush.found(file.read_bytes())] == []


def processes_say(pid: int) -> tuple[bytes, bytes]:
    """What `ps` shows of a process, and what its user and root see of its environment."""
    folder = Path(f"/proc/{pid}")
    return (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()


async def refused_by(mqtt: str) -> None:
    """The broker of `up` wants its password, whatever the name."""
    for password in (None, "wrong"):
        with pytest.raises(MqttRefused, match=r"mqtt\.password_file"):
            async with connect(MqttTable(url=mqtt), client_id="x", username="embedded", password=password):
                pass


async def rubbish(mqtt: str, password: str) -> None:
    """A batch that ends in quarantine."""
    async with connect(MqttTable(url=mqtt), client_id="y", username="y", password=password) as agent:
        await agent.publish("coloprobe/v1/y/lines/5e57e57e/1", b"rubbish")
