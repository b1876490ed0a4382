"""The files of config/mosquitto in, a central broker and bridged sites out, with TLS and passwords.

Only ports, paths, names and pauses are replaced, and each of them must be found, so that what is tested is
what is shipped.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probe.settings import MqttTable
from tests.system import servers
from tests.system.certificates import Authority

SHIPPED = Path(__file__).parents[2] / "config" / "mosquitto"
SECRET = "{}-secret".format


def shipped(name: str) -> str:
    """The text of a file of config/mosquitto."""
    return (SHIPPED / name).read_text(encoding="utf-8")


def generated(name: str, *arguments: str) -> str:
    """What the commands in a comment of that file print with these arguments in place of the example's."""
    block = re.search(r"^#     bridge\(\) \{.*\n(?:#     .*\n)*", shipped(name), re.MULTILINE)
    assert block, name
    *function, example = re.sub(r"^#     ", "", block[0], flags=re.MULTILINE).splitlines()
    assert example.startswith("bridge ")
    script = "\n".join([*function, " ".join(["bridge", *(arguments or example.split()[1:])])])
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout


class Bridged:
    """A central broker and its sites. Everybody's password is `SECRET(name)`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.authority = Authority(home / "authority")
        self.tls_port = servers.free_port()  # of the central broker; `central.port` is the one without TLS

    @contextmanager
    def central(self, sites: dict[str, list[str]]) -> Iterator[servers.Server]:
        """The central broker, which knows these sites and the agents of each."""
        rules = shipped("central.acl").partition("user bridge-ny4\n")[0]
        for site, agents in sites.items():
            rules += generated("central.acl", site, *agents)
        names = ["fanin-1", *(f"bridge-{site}" for site in sites)]
        text = shipped("central.conf")
        text = replaced(text, "listener 1883 127.0.0.1", "")
        text = replaced(text, "listener 8883", f"listener {self.tls_port} 127.0.0.1")
        with self._broker("central", text, rules, names) as server:
            yield server

    @contextmanager
    def site(self, name: str, agents: list[str], port: int) -> Iterator[servers.Server]:
        """The broker of a site, bridged to the central one, which it reaches at this loopback port."""
        text = shipped("site.conf").partition("topic coloprobe/v1/ny4-01/lines/")[0]
        text += generated("site.conf", *agents)
        text = replaced(text, "listener 8883", "")
        text = replaced(text, "connection ny4", f"connection {name}")
        text = replaced(text, "address central.example:8883", f"address 127.0.0.1:{port}")
        text = replaced(text, "remote_clientid bridge-ny4-change-me", f"remote_clientid bridge-{name}-5c1f")
        text = replaced(text, "remote_username bridge-ny4", f"remote_username bridge-{name}")
        text = replaced(text, "remote_password change-me", f"remote_password {SECRET(f'bridge-{name}')}")
        topic = "notification_topic coloprobe/v1/bridge-{}/status".format
        text = replaced(text, topic("ny4"), topic(name))
        text = replaced(text, "restart_timeout 2 30", "restart_timeout 1")
        text = replaced(text, "bridge_cafile /etc/mosquitto/ca.pem", f"bridge_cafile {self.authority.pem}")
        with self._broker(name, text, shipped("site.acl"), agents) as server:
            yield server

    def mqtt(self, server: servers.Server) -> MqttTable:
        """How to reach a site's broker."""
        return MqttTable(url=f"mqtts://127.0.0.1:{server.port}", ca_file=str(self.authority.pem))

    @contextmanager
    def _broker(self, name: str, text: str, rules: str, users: Iterable[str]) -> Iterator[servers.Server]:
        home = self.home / name
        home.mkdir()
        passwords, acl = home / "passwd", home / "acl"
        passwords.touch(mode=0o600)
        for user in users:
            tool = servers.program("mosquitto_passwd")
            subprocess.run([tool, "-b", passwords, user, SECRET(user)], check=True, capture_output=True)
        acl.touch(mode=0o600)
        acl.write_text(rules, encoding="utf-8")
        certificate = self.authority.certificate(name)
        for key, ours in (
            ("cafile /etc/mosquitto/ca.pem", self.authority.pem),
            ("certfile /etc/mosquitto/broker.pem", certificate.pem),
            ("keyfile /etc/mosquitto/broker.key", certificate.key),
            ("password_file /etc/mosquitto/coloprobe.passwd", passwords),
            ("acl_file /etc/mosquitto/coloprobe.acl", acl),
        ):
            text = replaced(text, key, f"{key.split()[0]} {ours}")
        with servers.mosquitto(home, extra_conf=text) as server:
            yield server


def replaced(text: str, line: str, ours: str) -> str:
    """The configuration with this one line of it replaced. Fails where it is not there."""
    changed, count = re.subn(rf"^{re.escape(line)}$", ours, text, flags=re.MULTILINE)
    assert count == 1, line
    return changed


class Line:
    """A line between two brokers: what connects here reaches `target`, until it is cut."""

    def __init__(self, target: int) -> None:
        self.port = servers.free_port()
        self._target = target
        self._server: asyncio.Server | None = None
        self._joined: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """Every connection is reset, and nobody can connect."""
        assert self._server is not None
        self._server.close()
        for task in self._joined:
            task.cancel()
        await asyncio.gather(*self._joined, return_exceptions=True)
        await self._server.wait_closed()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._join(reader, writer))
        self._joined.add(task)
        task.add_done_callback(self._joined.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            there, away = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(away)
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(reader, away))
                both.create_task(_carry(there, writer))
        except (OSError, ExceptionGroup):
            pass
        finally:
            for end in writers:
                end.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
