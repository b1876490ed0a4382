"""A directory in, a collector's process and an agent's hands out: what tests of the fan-in are made of."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from probe.settings import MqttTable
from probe.telemetry.mqtt import Connection, Message, connect

NOW = time.time_ns() // 1_000_000_000 * 1_000_000_000
SPOOL = "9f2c41d0"
DEADLINE_S = 60.0
MAIN = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from collectors.collector import main
sys.exit(main(sys.argv[1]))
"""


class CollectorProcess:
    """`coloprobe collect` without the command line around it: started, killed, stopped."""

    def __init__(self, directory: Path, settings: str, name: str = "fanin-1") -> None:
        self.state = directory / f"state-{name}"
        self.log = directory / f"{name}.log"
        self.file = directory / f"{name}.toml"
        self.file.write_text(f'[collector]\nid = "{name}"\nstate_dir = "{self.state}"\n{settings}')
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return once it has subscribed."""
        before = self.said("connected")
        self.start_without_broker()
        wait_until(lambda: self.said("connected") > before or not self.running())
        assert self.running(), self.log.read_text()

    def start_without_broker(self) -> None:
        with self.log.open("ab") as log:
            argv = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", MAIN, str(self.file)]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=Path(__file__).parents[2])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self, words: str) -> int:
        """How many lines of its log hold these words."""
        return sum(words in line for line in self.text().splitlines())

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(DEADLINE_S)

    def set_aside(self) -> list[dict[str, Any]]:
        """The entries of its quarantine."""
        files = sorted(self.state.glob("quarantine*"))
        # Not splitlines(): what is set aside may hold other characters that end a line to Python.
        return [json.loads(line) for file in files for line in file.read_bytes().split(b"\n") if line]


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until it holds; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class Hands:
    """An agent's side of the broker, by hand: publish batches, see which are acknowledged."""

    def __init__(self, connection: Connection, agent: str) -> None:
        self.agent = agent
        self.acknowledged: set[int] = set()
        self.acks: list[dict[str, list[list[int]]]] = []
        self._connection = connection
        self._news = asyncio.Event()

    async def batch(self, number: int, *lines: str, raw: bytes | None = None, agent: str = "") -> None:
        body = "".join(f"{line}\n" for line in lines).encode() if raw is None else raw
        await self._connection.publish(f"coloprobe/v1/{agent or self.agent}/lines/{SPOOL}/{number}", body)

    async def status(self, state: str, since: int) -> None:
        document = json.dumps({"state": state, "since": since, "version": "0.1.0"}).encode()
        await self._connection.publish(f"coloprobe/v1/{self.agent}/status", document, retain=True)

    async def until_acknowledged(self, *numbers: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not self.acknowledged.issuperset(numbers):
                self._news.clear()
                await self._news.wait()

    def line(self, number: int, fields: str = "") -> str:
        """A line whose time and field `sent` are `number`."""
        return f"probe,agent={self.agent},target=x {fields or f'sent={number}i'} {NOW + number}"

    def hear(self, message: Message) -> None:
        assert message.topic == f"coloprobe/v1/{self.agent}/ack"
        assert not message.retain
        document = json.loads(message.payload)
        self.acks.append(document)
        for first, last in document.get(SPOOL, []):
            self.acknowledged.update(range(first, last + 1))
        self._news.set()


@asynccontextmanager
async def hands(port: int, agent: str = "ny4-01") -> AsyncIterator[Hands]:
    """Be an agent at the broker on this port."""
    mqtt = MqttTable(url=f"mqtt://127.0.0.1:{port}")
    async with connect(mqtt, client_id=f"hands-{agent}", username=agent, password=None) as connection:
        made = Hands(connection, agent)
        await connection.subscribe(f"coloprobe/v1/{agent}/ack", qos=0)

        async def listen() -> None:
            async for message in connection.messages():
                made.hear(message)

        listener = asyncio.create_task(listen())
        try:
            yield made
            assert not listener.done(), listener.result()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
