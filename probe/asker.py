"""A broker in, agents' statuses and answers out: the side of whoever asks, for `ask` and `agents`."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import secrets
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from probe.errors import AskError, MqttError
from probe.settings import MqttTable, load_agent, load_collector, read_secret
from probe.settings_checks import check_mqtt_files, check_url
from probe.tables import read_toml
from probe.telemetry import asks, topics
from probe.telemetry.asks import Ask, Options, Part, What
from probe.telemetry.mqtt import Connection, Message, connect

MOST = 32 << 20  # bytes of one answer; what an agent lets out is far less
QUEUED = 16_384  # messages: a status of each agent, and all that they answer at once
WAIT_NS = 60_000_000_000  # for our turn, where others are answered
QUIET_S = 0.3  # after this long without another status, all were seen that the broker has kept
MAX_STATUS = 4096  # bytes
NAMED = 20  # agents in an error

_BRIDGE = {b"1": "online", b"0": "offline"}  # mosquitto's notifications about a bridge


@dataclass(frozen=True)
class Access:
    """How to reach the broker, and as whom."""

    mqtt: MqttTable
    username: str
    password: str | None

    @property
    def user(self) -> str:
        """For errors."""
        return f"user {self.username!r}" if self.username else "this client, which has no user name,"


def access(arguments: argparse.Namespace) -> Access:
    """What `probe.arguments.add_broker` was given. Raises: SettingsError."""
    file, username = "command line", ""
    table = MqttTable()
    if arguments.config is not None:
        file = str(arguments.config)
        if "collector" in read_toml(file):
            collector = load_collector(file)
            table, username = collector.mqtt, collector.collector.id
        else:
            agent = load_agent(file)
            table, username = agent.mqtt, agent.agent.id
        username = table.username or username
    given = {
        key: getattr(arguments, key)
        for key in ("password_file", "ca_file", "cert_file", "key_file")
        if getattr(arguments, key)
    }
    if arguments.mqtt:
        given["url"] = arguments.mqtt
        check_url("command line", "--mqtt", arguments.mqtt, ("mqtt", "mqtts"))
    table = msgspec.structs.replace(table, **given)
    check_mqtt_files(file, table.cert_file, table.key_file)
    password = read_secret(table.password_file, "COLOPROBE_MQTT_PASSWORD", file, "mqtt.password_file")
    return Access(table, arguments.username or username, password)


class Status(msgspec.Struct, frozen=True):
    """What an agent, or the bridge of a site's broker, said of itself last."""

    state: Literal["online", "offline"]
    version: Annotated[str, Meta(max_length=64)] = ""
    since: int = 0
    settings_sha256: Annotated[str, Meta(max_length=128)] = ""
    bridge: bool = False

    @property
    def when(self) -> str:
        """`since` in words. Of one that is offline it is when it stopped; where it could not say so, the
        broker says in its name when it had connected."""
        return utc(self.since) if self.since else "unknown"


def status_of(payload: bytes) -> Status | None:
    """None where it is no status."""
    if payload in _BRIDGE:
        return Status("online" if payload == b"1" else "offline", bridge=True)
    if len(payload) > MAX_STATUS:
        return None
    try:
        return msgspec.json.decode(payload, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def utc(ns: int) -> str:
    """ns since the epoch as a date and time of day."""
    try:
        return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return "unknown"


class Asker:
    """A connection by which agents are asked; made by `asking`."""

    def __init__(self, connection: Connection, broker: Access) -> None:
        self.broker = broker
        self.statuses: dict[str, Status] = {}
        self._connection = connection
        self._parts: dict[tuple[str, str], deque[tuple[Part, int]]] = {}  # by agent and id, with their sizes
        self._news = asyncio.Event()
        self._count = 0
        self._lost: MqttError | None = None

    async def read(self) -> None:
        """Take what comes, until the connection is lost."""
        try:
            async for message in self._connection.messages():
                self._take(message)
        except MqttError as problem:
            self._lost = problem
            self._tell()

    def _take(self, message: Message) -> None:
        if agent := topics.parse_status(message.topic):
            if (status := status_of(message.payload)) is not None:
                self.statuses[agent] = status
                self._tell()
        elif agent := topics.parse_answer(message.topic):
            # Only from the one that was asked: the broker lets agents write their own answers alone.
            part = None if message.retain else asks.parse_part(message.payload)
            if part is not None and (waiting := self._parts.get((agent, part.id))) is not None:
                waiting.append((part, len(message.payload)))
                self._tell()

    def _tell(self) -> None:
        self._count += 1
        self._news.set()

    async def _something(self, within_s: float) -> bool:
        """Wait for something new; False where nothing came. Raises: MqttError."""
        if self._lost is not None:
            raise self._lost
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
                return True
        return False

    async def know(self, agent: str, within_s: float) -> Status | None:
        """What the broker has kept of its status. Raises: MqttError."""
        await self._connection.subscribe(topics.status(agent))
        end = asyncio.get_running_loop().time() + within_s
        while agent not in self.statuses and (left := end - asyncio.get_running_loop().time()) > 0:
            await self._something(left)
        return self.statuses.get(agent)

    async def know_all(self, within_s: float) -> dict[str, Status]:
        """What the broker has kept of everybody's status. Raises: MqttError."""
        # QoS 0: the broker then sends what it has kept without waiting for us.
        await self._connection.subscribe(topics.ALL_STATUS, qos=0)
        end = asyncio.get_running_loop().time() + within_s
        while (left := end - asyncio.get_running_loop().time()) > 0:
            if not await self._something(min(left, QUIET_S)) and self.statuses:
                break
        return self.statuses

    async def listen(self, agent: str | None = None) -> None:
        """Hear answers of an agent, or of all. Raises: MqttError."""
        await self._connection.subscribe(topics.answer(agent) if agent else topics.ALL_ANSWERS)

    async def ask(
        self, agent: str, what: What, target: str = "", options: Options | None = None, *, patience_s: float
    ) -> AsyncGenerator[Part, None]:
        """Ask, after `listen`; yields the parts of the answer, the last one has `done`.

        patience_s: how long the agent may be silent; while it works it says something every 2 s.
        Whoever stops early takes the question back. Raises: MqttError, AskError.
        """
        ask = Ask(
            id=asks.new_id(),
            what=what,
            target=target,
            options=options or Options(),
            who=identity(),
            wait_ns=WAIT_NS,
        )
        waiting = self._parts[agent, ask.id] = deque()
        before = self.statuses.get(agent)
        heard, size, done = 0, 0, False
        try:
            await self._connection.publish(topics.ask(agent), asks.encode(ask))
            while not done:
                while not waiting:
                    await self._wait(agent, before, heard, patience_s)
                part, length = waiting.popleft()
                size += length
                if size > MOST:
                    raise AskError(f"{agent} answers more than {MOST >> 20} MiB; this is its beginning")
                if part.n < heard:
                    continue  # again, as QoS 1 may
                if part.n > heard:
                    raise AskError(f"part {heard} of what {agent} answers got lost on the way")
                heard, done = heard + 1, part.done
                yield part
        finally:
            del self._parts[agent, ask.id]
            if not done and self._lost is None:
                with suppress(MqttError):
                    await self._connection.publish(topics.ask(agent), asks.cancel(ask.id), timeout_s=2)

    async def _wait(self, agent: str, before: Status | None, heard: int, patience_s: float) -> None:
        """For anything new about this question. Raises: AskError, MqttError."""
        count = self._count
        came = await self._something(patience_s)
        now = self.statuses.get(agent)
        if now is not None and before is not None and (now.state, now.since) != (before.state, before.since):
            what = "went offline" if now.state == "offline" else "was started again"
            raise AskError(f"{agent} {what} before it had answered")
        if came or count != self._count:
            return
        if heard:
            raise AskError(f"{agent} has fallen silent: no word for {patience_s:g} s")
        user = self.broker.user
        raise AskError(
            f"{agent} is online, and does not answer: does its version know questions, and may {user} write "
            f"{topics.ask(agent)} and read {topics.answer(agent)} (the broker's access list)?"
        )


@asynccontextmanager
async def asking(broker: Access) -> AsyncIterator[Asker]:
    """Connect, and read until the block is left. Raises: MqttError."""
    async with connect(
        broker.mqtt,
        client_id=f"coloprobe-ask-{secrets.token_hex(8)}",
        username=broker.username,
        password=broker.password,
        max_queued=QUEUED,
    ) as connection:
        asker = Asker(connection, broker)
        reader = asyncio.create_task(asker.read())
        try:
            yield asker
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


def identity() -> str:
    """Who asks, as far as this host knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:128]


def nobody(agent: str, known: dict[str, Status], broker: Access) -> str:
    """Why an agent that has no status cannot be asked."""
    online = sorted(name for name, status in known.items() if status.state == "online" and not status.bridge)
    if not online:
        return (
            f"no agent {agent} at {broker.mqtt.url}, and none that is online; may {broker.user} read "
            f"{topics.ALL_STATUS} (the broker's access list)?"
        )
    named = ", ".join(online[:NAMED]) + (f" and {len(online) - NAMED} more" if len(online) > NAMED else "")
    return f"no agent {agent} at {broker.mqtt.url}; online: {named}"
