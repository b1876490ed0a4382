"""A broker in, its messages out, and acknowledgements back: connected again and again, until cancelled.

The session is a clean one: a broker would go on dealing batches to a collector that is away. What is lost
comes again from the agents, because nothing was acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

from probe.clock import SECOND, Clock
from probe.errors import MqttError, MqttRefused
from probe.settings import MqttTable
from probe.telemetry import topics
from probe.telemetry.backoff import Backoff
from probe.telemetry.mqtt import Connection, Message, connect
from probe.telemetry.topics import BatchId

MAX_PENDING = 100_000  # acknowledgements while the broker is away; an agent sends again what is beyond
GATHER_S = 0.02  # acknowledgements that follow each other this closely share a message
# Messages between the socket and `receive`, which does not wait for anything: a look at the socket may bring
# `read_ahead.AHEAD` bytes of the smallest ones at once, such as the statuses of a thousand agents.
MAX_QUEUED = 4096
TURN_NS = 10_000_000  # at most so long without a look at the socket and the sink
STABLE_NS = 10 * SECOND  # a connection that lasted this long was a good one

log = logging.getLogger(__name__)


class Acks:
    """Batches that the sink holds, waiting to be told to their agents."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._pending: dict[str, dict[str, set[int]]] = {}
        self._count = 0

    def add(self, batch: BatchId) -> None:
        if self._count < MAX_PENDING:
            self._pending.setdefault(batch.agent, {}).setdefault(batch.spool, set()).add(batch.number)
            self._count += 1
            self._quiet.clear()
            self.news.set()

    def hint(self, agent: str) -> None:
        """Tell an agent that acknowledgements are coming again, by one of no batch."""
        if agent not in self._pending and self._count < MAX_PENDING:
            self._pending[agent] = {}
            self._quiet.clear()
            self.news.set()

    def take(self) -> tuple[str, bytes] | None:
        """One agent and the acknowledgement for it (JSON); None: there is nothing to tell."""
        if not self._pending:
            self.news.clear()
            self._quiet.set()
            return None
        agent = next(iter(self._pending))
        spools = self._pending.pop(agent)
        self._count -= sum(len(numbers) for numbers in spools.values())
        parts = [f'"{spool}":{_text(ranges(numbers))}' for spool, numbers in spools.items()]
        return agent, f"{{{','.join(parts)}}}".encode()

    async def told(self) -> None:
        """Return when nothing waits any more."""
        await self._quiet.wait()


def _text(found: list[list[int]]) -> str:
    """JSON, in a tenth of the time that its encoder takes: one document goes out for nearly every batch."""
    return f"[{','.join(f'[{first},{last}]' for first, last in found)}]"


def ranges(numbers: set[int]) -> list[list[int]]:
    """Numbers as sorted inclusive ranges: {1, 2, 3, 5} is [[1, 3], [5, 5]]."""
    merged: list[list[int]] = []
    for number in sorted(numbers):
        if merged and merged[-1][1] == number - 1:
            merged[-1][1] = number
        else:
            merged.append([number, number])
    return merged


class FanIn:
    """The collector's side of the broker. `receive` gets every message and must not wait for anything."""

    def __init__(
        self,
        mqtt: MqttTable,
        collector: str,
        password: str | None,
        clock: Clock,
        *,
        acks: Acks,
        receive: Callable[[Message], None],
        discarded: Callable[[int], None],
    ) -> None:
        self._mqtt = mqtt
        self._collector = collector
        self._password = password
        self._clock = clock
        self._acks = acks
        self._receive = receive
        self._discarded = discarded  # is told how many messages the connection had no room for
        self._connection: Connection | None = None
        self._counted = 0  # of what this connection had no room for

    async def run(self) -> None:
        """Stay connected until cancelled; say once when the broker is away, and once when it is back."""
        backoff = Backoff(0.5, 30.0)
        complained: set[type[MqttError]] = set()  # a broker that is away may come back and refuse us
        while True:
            since: int | None = None
            connection: Connection | None = None
            try:
                async with connect(
                    self._mqtt,
                    # A name of its own every time: two collectors with one id must not throw each other out.
                    client_id=f"coloprobe-{self._collector}-{secrets.token_hex(4)}",
                    username=self._mqtt.username or self._collector,
                    password=self._password,
                    max_queued=MAX_QUEUED,
                ) as connection:
                    # Without the broker's own acknowledgement, which costs and proves nothing.
                    await connection.subscribe(lines_filter(self._mqtt.share_group), qos=0)
                    await connection.subscribe(topics.ALL_STATUS)
                    log.info("%s: connected", self._mqtt.url)
                    since = self._clock.mono()
                    complained.clear()
                    await self._converse(connection)
            except MqttError as problem:
                if type(problem) not in complained:
                    level = logging.ERROR if isinstance(problem, MqttRefused) else logging.WARNING
                    log.log(level, "%s (batches wait at their agents; trying again)", problem)
                complained.add(type(problem))
            finally:
                if connection is not None:
                    self._count_discarded(connection)
                self._counted = 0
            if since is not None and self._clock.mono() - since > STABLE_NS:
                backoff.reset()
            await asyncio.sleep(backoff.delay_s())

    async def flush(self, deadline_s: float) -> None:
        """Return when the broker has every acknowledgement, or at the deadline.

        The answer to a subscription says so. Just closing would not do: with batches arriving unread, the
        kernel ends the connection by a reset, and what the broker had not read yet is gone.
        """
        if (connection := self._connection) is None:
            return
        with suppress(TimeoutError, MqttError):
            async with asyncio.timeout(deadline_s):
                await self._acks.told()
                await connection.subscribe(lines_filter(self._mqtt.share_group), qos=0)

    async def _converse(self, connection: Connection) -> None:
        """Read and acknowledge until the connection is lost. Raises: MqttError."""
        self._connection = connection
        reader = asyncio.create_task(self._read(connection))
        acknowledger = asyncio.create_task(self._acknowledge(connection))
        try:
            done, _ = await asyncio.wait({reader, acknowledger}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._connection = None
            reader.cancel()
            acknowledger.cancel()
            await asyncio.gather(reader, acknowledger, return_exceptions=True)

    def _count_discarded(self, connection: Connection) -> None:
        if (new := connection.discarded - self._counted) > 0:
            self._counted += new
            self._discarded(new)

    async def _read(self, connection: Connection) -> None:
        until = self._clock.mono() + TURN_NS
        async for message in connection.messages():
            self._receive(message)
            if self._clock.mono() >= until:
                self._count_discarded(connection)
                await asyncio.sleep(0)  # the writer gets its turn, however many wait
                until = self._clock.mono() + TURN_NS

    async def _acknowledge(self, connection: Connection) -> None:
        while True:
            await self._acks.news.wait()
            await asyncio.sleep(GATHER_S)
            while (told := self._acks.take()) is not None:
                agent, document = told
                await connection.tell(topics.ack(agent), document)


def lines_filter(share_group: str) -> str:
    """What to subscribe to: every agent's batches, dealt among the collectors of a group if there is one."""
    return f"$share/{share_group}/{topics.ALL_LINES}" if share_group else topics.ALL_LINES
