"""A listening socket in, an MQTT 3.1.1 broker out: amqtt, in the event loop that runs already.

The one module that knows amqtt. It is guarded where it trusts its clients: each connection is read here,
packet by packet, so that amqtt sees whole packets of a sane size and order only. What it leaves open is done
here: it waits for ever for a CONNECT, does not enforce keep-alive, keeps the old connection of a client that
comes again (whose will would follow the new one's birth), keeps sessions and retained messages without limit,
and reads from publishers faster than subscribers take.

Sessions are clean, whatever a client asks for: delivery is acknowledged end to end, nothing depends on them.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

# amqtt has annotations but does not say so (no py.typed).
from amqtt.adapters import ReaderAdapter, StreamWriterAdapter  # type: ignore[import-untyped]
from amqtt.broker import Broker  # type: ignore[import-untyped]
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType  # type: ignore[import-untyped]
from amqtt.plugins.base import BaseAuthPlugin  # type: ignore[import-untyped]
from amqtt.session import Session  # type: ignore[import-untyped]

log = logging.getLogger("coloprobe.broker")

MAX_PACKET = 1 << 20  # bytes; a batch has 256 KiB at most
MAX_CONNECTIONS = 512
MAX_RETAINED, MAX_RETAINED_BYTES = 4_096, 8_192  # messages kept, and the size of one: an agent has one status
MAX_FILTERS = 4_096  # subscriptions of all clients
MAX_PENDING = 256  # deliveries under way before publishers have to wait
FIRST_PACKET_S = 10.0  # for a connection's CONNECT
PACKET_S = 30.0  # from a packet's first byte to its last
_CONNECT, _PUBLISH, _SUBSCRIBE = 1, 3, 8
_FROM_CLIENTS = frozenset({_PUBLISH, 4, 5, 6, 7, _SUBSCRIBE, 10, 12, 14})
_LISTENER = "default"  # amqtt's word


class _Doorkeeper(BaseAuthPlugin):  # type: ignore[misc]
    """Lets everybody in who knows the password, if there is one: names prove nothing here."""

    @dataclass
    class Config:
        """What amqtt passes on; its name is amqtt's wish."""

        password: str = ""

    async def authenticate(self, *, session: Session) -> bool:
        session.is_anonymous = True  # amqtt then forgets the session when it ends
        wanted = self.config.password.encode()
        return not wanted or hmac.compare_digest((session.password or "").encode(), wanted)


class _Core(Broker):  # type: ignore[misc]
    """amqtt's broker sends a new connection what is retained for others' subscriptions; this one does not."""

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        if any(
            known.client_id == session.client_id for known, _ in self.subscriptions.get(subscription[0], ())
        ):
            await super()._publish_retained_messages_for_subscription(subscription, session)


@dataclass(frozen=True)
class Running:
    """A broker that serves."""

    core: Broker

    async def subscribed(self, topic: str, timeout_s: float) -> bool:
        """Wait until somebody subscribes to this filter; False where nobody did in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.core.subscriptions.get(topic):  # noqa: ASYNC110 - amqtt has nothing to wait for
                    await asyncio.sleep(0.02)
                return True
        return False


@asynccontextmanager
async def broker(listener: socket.socket, password: str | None = None) -> AsyncIterator[Running]:
    """Serve MQTT on `listener`, which listens and is closed at the end, until the block is left.

    With a `password` clients need it, whatever their user name.
    """
    for name in ("amqtt", "transitions"):
        # What a client does wrong is the client's matter: no lines for port scanners and health checks.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = BrokerConfig(
        listeners={_LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
        plugins={f"{__name__}._Doorkeeper": {"password": password or ""}},
    )
    core = _Core(config)
    door = _Door(core)
    await core.start()
    try:
        server = await asyncio.start_server(door.connected, sock=listener)
        try:
            yield Running(core)
        finally:
            server.close()
            await door.close()
    finally:
        await core.shutdown()
        listener.close()


class _Door:
    """Every connection of the broker, from its first byte to its last."""

    def __init__(self, core: Broker) -> None:
        self._core = core
        self._tasks: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._clients: dict[bytes, asyncio.Task[Any]] = {}

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end. Whatever it sends, nothing is raised."""
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MAX_CONNECTIONS:
            log.warning("broker: more than %d connections; one is refused", MAX_CONNECTIONS)
            writer.close()
            return
        self._tasks[task] = writer
        _die_when_silent(writer)
        adapter = StreamWriterAdapter(writer)
        packets = _Packets(reader, self._core, self)
        try:
            await self._core.external_connected(packets, adapter, _LISTENER)
        except Exception as problem:  # noqa: BLE001 - a connection's end, whatever amqtt makes of its bytes
            log.debug("broker: connection ended by %r", problem)
        finally:
            self._forget(task, adapter)
            writer.close()

    async def take_over(self, client: bytes) -> None:
        """End the connection that this client id has, will and all, and give the id to the current one."""
        task = asyncio.current_task()
        old = self._clients.get(client)
        if old is not None and old is not task and old in self._tasks:
            self._tasks[old].transport.abort()
            await asyncio.wait({old}, timeout=PACKET_S)
        if task is not None:
            self._clients[client] = task

    async def close(self) -> None:
        """Hang up on everybody."""
        for writer in self._tasks.values():
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=PACKET_S)

    def _forget(self, task: asyncio.Task[Any], adapter: StreamWriterAdapter) -> None:
        del self._tasks[task]
        for client in [client for client, owner in self._clients.items() if owner is task]:
            del self._clients[client]
        # Where amqtt itself hung up, the session stays 'connected', and would never be removed.
        for session, handler in list(self._core.sessions.values()):
            if handler.writer is adapter and session.transitions.state == "connected":
                session.transitions.disconnect()


class _Packets(ReaderAdapter):  # type: ignore[misc]
    """What amqtt reads from: whole packets, of a size and in an order that it can take; else the end."""

    def __init__(self, reader: asyncio.StreamReader, core: Broker, door: _Door) -> None:
        self._reader, self._core, self._door = reader, core, door
        self._packet = memoryview(b"")
        self._keep_alive: float | None = None
        self._first = True

    async def read(self, n: int = -1) -> bytes:
        """`n` bytes of the current packet, or of the next where it is used up; b'' is the end."""
        if not self._packet:
            try:
                self._packet = memoryview(await self._next())
            except (asyncio.IncompleteReadError, TimeoutError, OSError, ValueError, struct.error) as problem:
                log.debug("broker: %r", problem)
                return b""
        count = len(self._packet) if n < 0 else n
        data, self._packet = bytes(self._packet[:count]), self._packet[count:]
        return data

    def feed_eof(self) -> None:
        self._reader.feed_eof()

    async def _next(self) -> bytes:
        async with asyncio.timeout(FIRST_PACKET_S if self._first else self._keep_alive):
            head = (await self._reader.readexactly(1))[0]
        async with asyncio.timeout(PACKET_S):
            length, encoded = await self._length()
            body = await self._reader.readexactly(length)
        kind = head >> 4
        if self._first:
            if kind != _CONNECT:
                raise ValueError("the first packet is no CONNECT")
            self._first = False
            body = await self._connect(body)
        elif kind not in _FROM_CLIENTS:
            raise ValueError(f"packet type {kind} does not come from clients")
        elif kind == _PUBLISH:
            head = await self._publish(head, body)
        elif kind == _SUBSCRIBE and len(self._core.subscriptions) >= MAX_FILTERS:
            raise ValueError("too many subscriptions")
        return bytes((head,)) + encoded + body

    async def _length(self) -> tuple[int, bytes]:
        """The remaining length (MQTT 3.1.1 section 2.2.3), and how it was written."""
        length, encoded = 0, b""
        for shift in (0, 7, 14, 21):
            byte = await self._reader.readexactly(1)
            encoded += byte
            length |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                break
        else:
            raise ValueError("remaining length has more than four bytes")
        if length > MAX_PACKET:
            raise ValueError(f"a packet of {length} bytes")
        return length, encoded

    async def _connect(self, body: bytes) -> bytes:
        """Note keep-alive and client id, ask for a clean session (MQTT 3.1.1 section 3.1)."""
        (name,) = struct.unpack_from("!H", body)
        flags, keep_alive, size = struct.unpack_from("!xBHH", body, 2 + name)
        client = body[8 + name : 8 + name + size]
        self._keep_alive = keep_alive * 1.5 or None
        if client:
            await self._door.take_over(client)
        # amqtt's own keep-alive (now 0: none) would cut packets in two when it looks at its watch.
        return body[: 3 + name] + struct.pack("!BH", flags | 0x02, 0) + body[6 + name :]

    async def _publish(self, head: int, body: bytes) -> int:
        """Wait until subscribers keep up; retain only what fits."""
        if head & 0x06 > 0x02:
            raise ValueError("QoS 2")
        while self._pending() > MAX_PENDING:  # noqa: ASYNC110 - amqtt has nothing to wait for
            await asyncio.sleep(0.01)
        if head & 0x01 and len(body) > 2:
            topic = body[2 : 2 + int.from_bytes(body[:2], "big")].decode(errors="replace")
            retained = self._core.retained_messages
            if (len(retained) >= MAX_RETAINED and topic not in retained) or len(body) > MAX_RETAINED_BYTES:
                return head & ~0x01
        return head

    def _pending(self) -> int:
        # amqtt tells nobody how far behind it is. Done deliveries stay in its list until the next message.
        waiting: int = self._core._broadcast_queue.qsize()
        tasks = self._core._tasks_queue
        return waiting + (sum(not task.done() for task in tasks) if len(tasks) > MAX_PENDING else 0)


def _die_when_silent(writer: asyncio.StreamWriter) -> None:
    """Let the kernel end a connection whose other end is gone, or takes nothing for 20 s."""
    connection: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
