"""The spool in, acknowledged batches at a collector out: connects, publishes, listens, and never gives up.

    spool --numbers--> outbox --one at a time--> broker --> collector
      ^--------------- forget <-- acknowledgements <-----------'

What to send and when is `outbox`'s; this is the shell around it. A batch leaves the spool only when its
acknowledgement is here (or the broker's, with acknowledge = "broker"), so it does not matter what breaks.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Literal

from probe.clock import SECOND, Clock
from probe.errors import BatchError, ColoprobeError, MqttError, MqttRefused, MqttUnavailable, SpoolError
from probe.settings import MqttTable, UplinkTable
from probe.telemetry import acks, topics
from probe.telemetry.backoff import Backoff
from probe.telemetry.batches import unpack
from probe.telemetry.mqtt import Connection, Message, Minor, Will, connect
from probe.telemetry.outbox import PAGE, Outbox
from probe.telemetry.spool import Spool

AT_ONCE = 20  # payloads in memory, on their way to the broker
STABLE_NS = 10 * SECOND  # a connection that lasted this long was a good one
SILENCE_NS = 10 * SECOND  # of trying one batch at a time, before the operator is told
GOODBYE_S = 2.0  # for the last status
ASKS, ASK_BYTES = 32, 4096  # of what somebody asks: so many wait to be read, each so long at most

# Publishes an answer on the connection by which the ask came. Raises: MqttError.
Reply = Callable[[bytes], Awaitable[None]]

_log = logging.getLogger(__name__)


class Uplink:
    """An agent's side of the broker. `run` it in one task; the rest may be called any time."""

    def __init__(
        self,
        *,
        agent: str,
        mqtt: MqttTable,
        uplink: UplinkTable,
        spool: Spool,
        clock: Clock,
        password: str | None,
        version: str,
        settings_sha256: str,
        asked: Callable[[Message, Reply], None] | None = None,
    ) -> None:
        """`asked` is called with whatever comes on the topic `ask`, and must return at once."""
        self.settings_sha256 = settings_sha256  # assign and `wake`: the status says it
        self.published = 0  # batches that the broker took, repetitions included
        self.acknowledged = 0  # batches that the spool could forget
        self.reconnects = 0  # connections after the first one
        self.bad_acks = 0  # acknowledgements that were not heeded
        self._agent = agent
        self._mqtt = mqtt
        self._to_broker = uplink.acknowledge == "broker"
        self._as_text = uplink.compress == "none" or (self._to_broker and uplink.compress == "auto")
        self._uplink = uplink
        self._spool = spool
        self._clock = clock
        self._password = password
        self._version = version
        self._asked = asked
        self._since = clock.wall()
        self._connected = False
        self._connections = 0
        self._welcomed = 0  # when the connection of now was made; 0: it was not
        self._told_settings = ""
        self._complained: set[type[ColoprobeError]] = set()
        self._narrow_since: int | None = None
        self._told_silence = False
        self._told_deaf = False
        self._connection: Connection | None = None
        self._unread = 0  # of connections that are over
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()  # something happened that the sender may want to know
        self._progress = asyncio.Event()  # the spool could forget something
        self._forgetting = 0
        self._earlier_republished = 0
        self._begin_spool()

    @property
    def state(self) -> Literal["offline", "online", "unacknowledged"]:
        """`unacknowledged`: the broker is there, but no collector answers."""
        if not self._connected:
            return "offline"
        return "unacknowledged" if self._outbox.narrow else "online"

    @property
    def republished(self) -> int:
        """Batches that had to be published again: not acknowledged in time, or the connection was lost."""
        return self._earlier_republished + self._outbox.republished

    @property
    def unread(self) -> int:
        """Messages that came while too many others waited to be read: questions, as a rule."""
        return self._unread + (self._connection.discarded if self._connection is not None else 0)

    def counters(self) -> dict[str, int]:
        """Fields of the measurement `agent`. From any thread."""
        return {
            "published": self.published,
            "republished": self.republished,
            "acknowledged": self.acknowledged,
            "reconnects": self.reconnects,
            "bad_acks": self.bad_acks,
            "unread": self.unread,
        }

    def wake(self) -> None:
        """Something was spooled. From any thread; harmless while `run` is not running."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._news.set)

    async def drain(self, deadline_ns: int) -> bool:
        """Wait until the spool is empty, at most until `deadline_ns` (monotonic); `run` goes on meanwhile.

        Returns whether it is empty. What is left stays in the spool, for the next run.
        """
        self.wake()
        while (self._spool.depth or self._forgetting) and (left := deadline_ns - self._clock.mono()) > 0:
            self._progress.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left / SECOND):
                    await self._progress.wait()
        return self._spool.depth == 0

    async def run(self) -> None:
        """Publish until cancelled; being cancelled is the clean stop. Never raises anything else of ours."""
        self._loop = asyncio.get_running_loop()
        backoff = Backoff(0.5, 30.0)
        while True:
            self._welcomed = 0
            try:
                await self._connect()
            except (MqttError, SpoolError) as problem:
                self._complain(problem)
            finally:
                self._connected = False
            # An attempt may take as long: a broker that accepts and then says nothing, for example.
            if self._welcomed and self._clock.mono() - self._welcomed > STABLE_NS:
                backoff.reset()
            await asyncio.sleep(backoff.delay_s())

    async def _connect(self) -> None:
        """One connection, from its beginning to its end. Raises: MqttError, SpoolError."""
        will = Will(topics.status(self._agent), self._status("offline", self._clock.wall()))
        async with connect(
            self._mqtt,
            # Always the same: the broker ends what is left of the last connection, and its will comes first.
            # It does so whoever brings the id: with one that can be guessed, any other agent could throw this
            # one out. The spool's is random.
            client_id=f"coloprobe-{self._agent}-{self._spool_id}",
            username=self._mqtt.username or self._agent,
            password=self._password,
            will=will,
            minor=Minor(topics.ask(self._agent), ASKS, ASK_BYTES),
        ) as connection:
            try:
                if not self._to_broker:
                    await connection.subscribe(topics.ack(self._agent))
                if self._asked is not None:
                    await self._hear_asks(connection)
                await self._announce(connection)
                self._welcome()
                self._tell_suspects(self._outbox.restart(self._clock.mono()))
                await self._converse(connection)
            except asyncio.CancelledError:
                offline = self._status("offline", self._clock.wall())
                with suppress(MqttError):
                    await connection.publish(will.topic, offline, retain=True, timeout_s=GOODBYE_S)
                raise

    async def _converse(self, connection: Connection) -> None:
        """Send and listen until the connection is lost or the spool fails."""
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        publishing: set[asyncio.Task[None]] = set()
        self._connection = connection
        tasks: list[asyncio.Future[None]] = [
            asyncio.create_task(self._send(connection, publishing, failed)),
            asyncio.create_task(self._listen(connection)),
        ]
        try:
            done, _ = await asyncio.wait([*tasks, failed], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._connection, self._unread = None, self.unread
            tasks += publishing
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if failed.done():
                failed.exception()  # seen

    async def _send(
        self, connection: Connection, publishing: set[asyncio.Task[None]], failed: asyncio.Future[None]
    ) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        def publish_done(task: asyncio.Task[None]) -> None:
            slots.release()
            publishing.discard(task)
            if not task.cancelled() and (problem := task.exception()) and not failed.done():
                failed.set_exception(problem)

        while True:
            self._news.clear()
            number = await self._next(connection)
            if number is None:
                continue
            await slots.acquire()
            spool = self._spool_id
            payload = await asyncio.to_thread(self._spool.get, number)
            if payload is None or spool != self._spool.id:
                slots.release()
                self._outbox.missing(number)
                continue
            task = asyncio.create_task(self._publish(connection, spool, number, payload))
            publishing.add(task)
            task.add_done_callback(publish_done)

    async def _next(self, connection: Connection) -> int | None:
        """The next batch's number; None: ask again."""
        if self._spool.id != self._spool_id:
            self._earlier_republished += self._outbox.republished
            self._begin_spool()
        if self._told_settings != self.settings_sha256:
            await self._announce(connection)
        now = self._clock.mono()
        self._outbox.appended(self._spool.last)
        number = self._outbox.take(now)
        self._tell_silence(now)
        if number is not None:
            return number
        after = self._outbox.wanted()
        if after is not None:
            self._outbox.supply(after, await asyncio.to_thread(self._spool.numbers, after, PAGE))
            return None
        due = self._outbox.due()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0, due - now) / SECOND):
                await self._news.wait()
        return None

    async def _publish(self, connection: Connection, spool: str, number: int, payload: bytes) -> None:
        text = unpack(payload) if self._as_text else payload
        await connection.publish(topics.lines(topics.BatchId(self._agent, spool, number)), text)
        self.published += 1
        if spool != self._spool_id:
            return
        self._outbox.delivered(number, self._clock.mono())
        if self._to_broker:
            await self._forget([(number, number)])
        else:
            self._news.set()

    async def _listen(self, connection: Connection) -> None:
        """Heed acknowledgements, and pass on what is asked, until the connection is lost."""
        topic, ask = topics.ack(self._agent), topics.ask(self._agent)
        reply = partial(connection.publish, topics.answer(self._agent))
        async for message in connection.messages():
            if message.topic == ask and self._asked is not None:
                self._asked(message, reply)
                continue
            try:
                if message.topic != topic:
                    raise BatchError("topic", "not an acknowledgement for this agent")
                ranges = acks.parse(message.payload, self._spool_id, self._spool.last)
            except BatchError:
                self.bad_acks += 1
                continue
            if ranges:
                await self._forget(ranges)
            else:
                self._outbox.hinted(self._clock.mono())
                self._news.set()

    async def _hear_asks(self, connection: Connection) -> None:
        """A broker that does not let us hear them takes batches all the same. Raises: MqttUnavailable."""
        try:
            await connection.subscribe(topics.ask(self._agent))
        except MqttRefused as problem:
            if not self._told_deaf:
                _log.warning("nobody can ask this agent anything: %s", problem)
            self._told_deaf = True

    async def _forget(self, ranges: list[tuple[int, int]]) -> None:
        spool = self._spool_id
        self._forgetting += 1
        try:
            forgotten = await asyncio.to_thread(self._spool.forget, ranges, spool)
        finally:
            self._forgetting -= 1
            self._progress.set()
        if spool != self._spool.id:
            return
        self._complained.discard(SpoolError)
        self.acknowledged += forgotten
        self._outbox.acknowledged(ranges, forgotten, self._clock.mono())
        self._news.set()

    def _begin_spool(self) -> None:
        self._spool_id = self._spool.id
        self._outbox = Outbox(self._uplink.window, self._uplink.ack_timeout, self._spool.last)

    async def _announce(self, connection: Connection) -> None:
        settings = self.settings_sha256
        status = self._status("online", self._since)
        await connection.publish(topics.status(self._agent), status, retain=True)
        self._told_settings = settings

    def _status(self, state: str, since_ns: int) -> bytes:
        """`since`, ns since the epoch: when this agent started, stopped, or (in the will) connected last."""
        status = {
            "state": state,
            "version": self._version,
            "since": since_ns,
            "settings_sha256": self.settings_sha256,
        }
        return json.dumps(status).encode()

    def _welcome(self) -> None:
        self._connected = True
        self._welcomed = self._clock.mono()
        self._connections += 1
        self.reconnects = self._connections - 1
        _log.info("%s: connected%s", self._mqtt.url, " again" if self.reconnects else "")
        self._complained -= {MqttUnavailable, MqttRefused}

    def _complain(self, problem: MqttError | SpoolError) -> None:
        """Tell an outage once, and once more if its kind changes."""
        if type(problem) in self._complained:
            return
        self._complained.add(type(problem))
        level = logging.ERROR if isinstance(problem, (MqttRefused, SpoolError)) else logging.WARNING
        _log.log(level, "%s (batches wait in the spool; trying again)", problem)

    def _tell_suspects(self, numbers: list[int]) -> None:
        if numbers:
            _log.warning(
                "%s: the connection was lost again and again with batches %s on their way; each of them goes "
                "alone from now on, after all others. Does the broker take messages of 256 KiB?",
                self._mqtt.url,
                ", ".join(map(str, numbers)),
            )

    def _tell_silence(self, now: int) -> None:
        if not self._outbox.narrow:
            self._narrow_since = None
            if self._told_silence:
                _log.info("collectors acknowledge again")
            self._told_silence = False
            return
        self._narrow_since = self._narrow_since or now
        if not self._told_silence and now - self._narrow_since >= SILENCE_NS:
            self._told_silence = True
            _log.warning(
                "no collector acknowledges anything; %d batches wait in the spool. Is a collector connected "
                "to %s, does its database take writes, and may %s read %s?",
                self._spool.depth,
                self._mqtt.url,
                self._agent,
                topics.ack(self._agent),
            )
