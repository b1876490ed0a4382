"""A broker's address in, a live connection out: publish, subscribe, messages; errors name the remedy.

The one module that knows aiomqtt and paho. What they do that others need not know:

- paho keeps what it could not send and sends it on the next connect, so a retry would double it: every
  connection here has a paho client of its own, and dies with it.
- aiomqtt notices a lost connection only in its message iterator: a publish would sit out its whole timeout.
  Here a watcher iterates, and whoever waits is told at once.
- paho acknowledges a message to the broker before anybody has seen it, and aiomqtt's queue is unbounded, or
  discards with a log line. Here the queue is bounded and what it discards is counted; delivery does not
  depend on it, because it is acknowledged end to end.
- a connection attempt that fails half-way leaves its socket and tasks behind; `_Talk.discard` ends them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from probe.errors import MqttError, MqttRefused, MqttUnavailable
from probe.settings import MqttTable
from probe.telemetry import read_ahead, tls
from probe.telemetry.inbox import Inbox, Message, Minor

if TYPE_CHECKING:
    import aiomqtt

__all__ = ["Connection", "Message", "Minor", "Will", "connect", "load_client"]

CONNECT_TIMEOUT_S = 5.0  # of TCP and of the TLS handshake, each
ANSWER_TIMEOUT_S = 10.0  # of CONNACK and SUBACK
GOODBYE_TIMEOUT_S = 2.0  # of writing DISCONNECT
KEEPALIVE_S = 20  # a broker that fell silent is noticed within twice this; it sends our will after 1.5 times
BEHIND = 256  # messages without an acknowledgement that may wait for the socket
QUEUED_BYTES = 32 << 20  # of payloads that wait to be read, however few they are
IN_FLIGHT = 20  # PUBLISH packets without PUBACK, unless an MQTT 5 broker allows fewer

# Answers of MQTT 5 (paho translates those of 3.1.1) after which the same attempt may work later.
_PASSING = {0x80, 0x83, 0x88, 0x89, 0x93, 0x97, 0x9F}
_REMEDY = {
    0x84: "set mqtt.protocol to a version that this broker speaks",
    0x85: "give the agent or collector another id",
    0x86: "check mqtt.username and mqtt.password_file",
    0x87: "check mqtt.username, mqtt.password_file and what the broker's access control list allows",
}


@dataclass(frozen=True)
class Will:
    """What the broker publishes, with QoS 1 and retained, when this connection ends without a goodbye."""

    topic: str
    payload: bytes


class Connection:
    """A live connection; made by `connect`. Several coroutines may publish at once, one reads `messages`."""

    def __init__(
        self, client: aiomqtt.Client, inbox: Inbox, lost: asyncio.Future[MqttError], in_flight: int
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._lost = lost
        self._slots = asyncio.Semaphore(in_flight)

    @property
    def discarded(self) -> int:
        """Messages that came while `max_queued` others, or many bytes, waited, and were let go."""
        return self._inbox.discarded

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, timeout_s: float = 10.0
    ) -> None:
        """Send one message; with QoS 1 return when the broker has acknowledged it.

        The broker's word is no proof of delivery: with 3.1.1 it also acknowledges what its access control
        drops. After an error the message may or may not have arrived.
        Raises: MqttUnavailable (connection lost, or no acknowledgement in time), MqttRefused (MQTT 5 only).
        """
        import aiomqtt

        try:
            async with asyncio.timeout(timeout_s), self._slots:
                await self._unless_lost(
                    self._client.publish(topic, payload, qos=qos, retain=retain, timeout=math.inf)
                )
        except TimeoutError:
            raise MqttUnavailable(
                f"the broker did not acknowledge a message within {timeout_s:g} s"
            ) from None
        except aiomqtt.MqttError as problem:
            raise MqttUnavailable(f"cannot publish: {problem}") from None

    async def tell(self, topic: str, payload: bytes) -> None:
        """Send one message with QoS 0, and return when the broker does not lag behind with reading.

        Raises: MqttUnavailable.
        """
        paho = self._client._client
        if self._lost.done() or len(paho._out_packet) > BEHIND:
            await self.publish(topic, payload, qos=0)
        else:
            paho.publish(topic, payload)  # ten times cheaper than to wait for each

    async def subscribe(self, topic: str, *, qos: int = 1) -> None:
        """Ask for a topic or filter; return when the broker has agreed.

        Raises: MqttRefused (the broker says no), MqttUnavailable (connection lost, or no answer in time).
        """
        import aiomqtt

        try:
            answer = await self._unless_lost(self._client.subscribe(topic, qos, timeout=ANSWER_TIMEOUT_S))
        except aiomqtt.MqttError as problem:
            raise MqttUnavailable(f"cannot subscribe to {topic}: {problem}") from None
        for code in answer:
            if (code if isinstance(code, int) else code.value) >= 0x80:
                raise MqttRefused(f"the broker refuses the subscription to {topic} ({code}): {_REMEDY[0x87]}")

    async def messages(self) -> AsyncIterator[Message]:
        """What arrives, in order; ends by raising MqttUnavailable when the connection is lost."""
        inbox = self._inbox
        while True:
            while inbox.waiting:
                yield inbox.take()
            if self._lost.done():
                raise self._lost.result()
            inbox.news.clear()
            await inbox.news.wait()

    async def _unless_lost(self, call: Any) -> Any:
        if self._lost.done():
            call.close()
            raise self._lost.result()
        task = asyncio.ensure_future(call)
        try:
            await asyncio.wait({task, self._lost}, return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                raise self._lost.result()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.exception()  # seen, or asyncio would complain about it


@asynccontextmanager
async def connect(
    mqtt: MqttTable,
    *,
    client_id: str,
    username: str,
    password: str | None,
    will: Will | None = None,
    max_queued: int = 1000,
    minor: Minor | None = None,
) -> AsyncIterator[Connection]:
    """A clean session with the broker of `mqtt.url`, until the block is left (which says goodbye: no will).

    `client_id` must be unique at the broker: a second connection under it throws the first one out.
    Of what arrives, `max_queued` messages may wait to be read, and of those on the `minor` topic only a few.
    Raises: MqttUnavailable (try again later), MqttRefused (credentials, certificates, rights; names the key).
    """
    import aiomqtt

    parts = urlsplit(mqtt.url)
    secure = parts.scheme == "mqtts"
    five = mqtt.protocol == "5"
    inbox = Inbox(max_queued, QUEUED_BYTES, minor)
    quiet = logging.Logger("mqtt")
    quiet.disabled = True  # failures become exceptions or counts here; the caller tells them once
    client = aiomqtt.Client(
        parts.hostname or "",
        parts.port or (8883 if secure else 1883),
        username=username or None,
        password=password,
        identifier=client_id,
        logger=quiet,
        queue_type=cast("Any", lambda maxsize: inbox),  # noqa: ARG005 - aiomqtt calls it by this name
        protocol=aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311,
        clean_session=None if five else True,
        will=aiomqtt.Will(will.topic, will.payload, qos=1, retain=True) if will else None,
        timeout=ANSWER_TIMEOUT_S,
        keepalive=KEEPALIVE_S,
        max_inflight_messages=IN_FLIGHT,
        tls_context=await asyncio.to_thread(tls.context, mqtt) if secure else None,
    )
    client.pending_calls_threshold = 1 << 16
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[MqttError] = loop.create_future()
    lost.add_done_callback(lambda _: inbox.news.set())
    talk = _Talk(client, mqtt.url, lost, inbox)
    try:
        await talk.enter()
        watcher = asyncio.create_task(_watch(client, lost, mqtt.url))
        try:
            yield Connection(client, inbox, lost, talk.in_flight)
        finally:
            watcher.cancel()
            await asyncio.wait({watcher})
            client.timeout = GOODBYE_TIMEOUT_S
            with suppress(Exception):  # the connection is over, however it ends
                await client.__aexit__(None, None, None)
    finally:
        talk.discard()


def load_client() -> None:
    """Import the MQTT client now and not at the first connection: for who is about to give up privileges."""
    import aiomqtt  # noqa: F401


class _Talk:
    """Connecting and hanging up: what aiomqtt does not pass on, taken from its paho client."""

    def __init__(
        self, client: aiomqtt.Client, url: str, lost: asyncio.Future[MqttError], inbox: Inbox
    ) -> None:
        self.in_flight = IN_FLIGHT
        self._client = client
        self._url = url
        self._lost = lost
        self._paho = client._client  # aiomqtt offers no other way to it
        self._paho.connect_timeout = CONNECT_TIMEOUT_S
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._hung_up: asyncio.Future[Any] = self._loop.create_future()
        self._dialled: asyncio.Future[Any] = self._loop.create_future()
        self._answer: Any = None
        self._entered = False
        self._dial = self._paho.connect
        cast("Any", self._paho).connect = self._connect  # aiomqtt calls it in a thread
        self._on_connect, self._paho.on_connect = self._paho.on_connect, self._connected
        self._on_disconnect, self._paho.on_disconnect = self._paho.on_disconnect, self._disconnected
        self._on_publish, self._paho.on_publish = self._paho.on_publish, self._published
        self._paho.on_message = inbox.arrived
        self._paho.on_socket_register_write = self._want_write
        read_ahead.of(self._paho)

    async def enter(self) -> None:
        """Connect. Raises: MqttUnavailable, MqttRefused."""
        attempt: asyncio.Future[Any] = asyncio.ensure_future(self._client.__aenter__())
        try:
            await asyncio.wait({attempt, self._hung_up}, return_when=asyncio.FIRST_COMPLETED)
            if self._answer is not None:  # then aiomqtt has it too, and is about to return
                await asyncio.wait({attempt})
        finally:
            await self._settle(attempt)
        if self._answer is not None and self._answer.is_failure:
            raise _refusal(self._answer, f"{self._url}: the broker refuses the connection")
        if attempt.cancelled():
            raise MqttUnavailable(
                f"{self._url}: the broker hung up before it answered; is this its MQTT port, with "
                "TLS where it wants TLS, and does it ask for a certificate (mqtt.cert_file, mqtt.key_file)?"
            )
        if problem := attempt.exception():
            raise _translated(self._url, problem) from None
        if self._hung_up.done():
            raise MqttUnavailable(f"{self._url}: connection lost as soon as it was made")
        self._entered = True

    async def _settle(self, attempt: asyncio.Future[Any]) -> None:
        """End an attempt that is given up. Its thread cannot be stopped: it would open the socket later."""
        if not attempt.done():
            await asyncio.wait({attempt, self._dialled}, return_when=asyncio.FIRST_COMPLETED)
            attempt.cancel()
            await asyncio.wait({attempt})
        if not attempt.cancelled():
            attempt.exception()  # seen, or asyncio would complain about it

    def discard(self) -> None:
        """Let go of whatever is left: socket, queue and tasks."""
        self._paho.reinitialise()

    def _connect(self, *arguments: Any) -> Any:
        try:
            return self._dial(*arguments)
        finally:
            self._loop.call_soon_threadsafe(self._dialled.set_result, None)

    def _want_write(self, _client: Any, _userdata: Any, sock: Any) -> None:
        # aiomqtt always puts this off, and then watches a socket that may have been closed by then, or even
        # another one with the same descriptor.
        if threading.get_ident() == self._thread:
            self._add_writer(sock)
        else:
            self._loop.call_soon_threadsafe(self._add_writer, sock)

    def _add_writer(self, sock: Any) -> None:
        current = self._paho.socket()
        if current is not None and current is sock:
            self._loop.add_writer(current.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._paho.loop_write()
        except Exception as problem:  # noqa: BLE001 - whatever paho trips over, the connection is done for
            if not self._lost.done():
                self._lost.set_result(MqttUnavailable(f"{self._url}: connection lost ({problem})"))

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any = None) -> None:
        self._answer = reason
        self.in_flight = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        cast("Any", self._on_connect)(client, userdata, flags, reason, properties)

    def _disconnected(
        self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any = None
    ) -> None:
        if not self._hung_up.done():
            self._hung_up.set_result(None)
        if self._entered:  # aiomqtt forgets a disconnect that comes before it has finished connecting
            cast("Any", self._on_disconnect)(client, userdata, flags, reason, properties)

    def _published(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        # aiomqtt takes any PUBACK for a yes. Which message it was is not known there, so the connection ends:
        # all that is in flight counts as not delivered.
        if reason.is_failure and not self._lost.done():
            self._lost.set_result(_refusal(reason, f"{self._url}: the broker refuses a message"))
        cast("Any", self._on_publish)(client, userdata, mid, reason, properties)


async def _watch(client: aiomqtt.Client, lost: asyncio.Future[MqttError], url: str) -> None:
    """Wait for the end of the connection and tell whoever waits for something else."""
    import aiomqtt

    try:
        async for _ in client.messages:
            pass
    except aiomqtt.MqttError as problem:
        if not lost.done():
            lost.set_result(MqttUnavailable(f"{url}: connection lost ({problem.__cause__ or problem})"))


def _refusal(reason: Any, what: str) -> MqttError:
    """The exception for a reason code of MQTT 5."""
    remedy = _REMEDY.get(reason.value)
    text = f"{what}: {reason}" + (f"; {remedy}" if remedy else "")
    return MqttUnavailable(text) if reason.value in _PASSING else MqttRefused(text)


def _translated(url: str, problem: BaseException) -> BaseException:
    """A failed attempt as our exception. aiomqtt keeps the cause's text only; it is the `__context__`."""
    import aiomqtt

    cause = problem if isinstance(problem, OSError) else problem.__context__
    if refused := tls.refusal(url, cause):
        return refused
    if isinstance(cause, TimeoutError):
        return MqttUnavailable(f"{url}: no answer; is the broker running there, and is this its MQTT port?")
    if isinstance(cause, OSError):
        said = f"{cause.strerror}; is the broker running there?" if cause.strerror else str(cause)
        return MqttUnavailable(f"{url}: {said} (mqtt.url)")
    return MqttUnavailable(f"{url}: {problem}") if isinstance(problem, aiomqtt.MqttError) else problem
