"""A pool of batches and a broker's port in, the fastest fleet that one core can play out, and what came back.

A fleet of real uplinks (`player`) costs about a millisecond a batch, which is more than the collector that is
to be measured. This one knows four packets of MQTT 3.1.1 and nothing else: CONNECT, SUBSCRIBE, PUBLISH with
QoS 1, and that of QoS 0 which comes back. To the collector it is the same: it sees what the broker deals it.

Each agent has a connection of its own, or all share a few. One more hears every agent's acknowledgements.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Self

import msgspec

from benchmarks.fleet.pool import Batch, Pool
from benchmarks.measure import BenchmarkError
from probe.clock import SECOND

_ACKS = b"coloprobe/v1/+/ack"
_FEW = 8  # connections, where agents share them
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK, _PING = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xC0
_KEEPALIVE_S = 0xFFFF

_decode = msgspec.json.Decoder(dict[str, list[tuple[int, int]]]).decode


class Pump:
    """Publishes the batches of a pool, in its order, and notes when each was acknowledged.

    times: by agent and number, [due, given to the socket, acknowledged], monotonic ns; 0: not yet. Of the
    last round where the pool is sent more than once.
    """

    def __init__(self, port: int, pool: Pool, *, connection_each: bool = False) -> None:
        self.times: dict[tuple[str, int], list[int]] = {}
        self.acknowledged = 0  # batches
        self.lines = 0  # in them
        self.payload_bytes = 0
        self._pool = pool
        self._waiting: dict[tuple[str, int], Batch] = {}  # by spool and number
        self._selector = selectors.DefaultSelector()
        agents = list(dict.fromkeys(batch.agent for batch in pool.batches))
        links = [_Link(port, f"pump-{n}") for n in range(len(agents) if connection_each else _FEW)]
        self._links = {agent: links[n % len(links)] for n, agent in enumerate(agents)}
        self._ears = _Link(port, "pump-ears")
        self._ears.subscribe(_ACKS)
        for link in (*links, self._ears):
            link.socket.setblocking(False)
            self._selector.register(link.socket, selectors.EVENT_READ, link)
        self._all = [*links, self._ears]
        self._lap = 0
        self._step = max((batch.number for batch in pool.batches), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        for link in self._all:
            link.socket.close()
        self._selector.close()

    @property
    def in_flight(self) -> int:
        """Batches sent and not acknowledged."""
        return len(self._waiting)

    def saturate(
        self, seconds: float, in_flight: int, *, once: bool = False, tell: Callable[[], None] = lambda: None
    ) -> None:
        """Keep `in_flight` batches on their way; then wait for the last ones. `tell` is called now and then.

        When the pool is at its end it is sent again, under higher numbers; with `once`, that is the end.
        Raises: BenchmarkError where nothing is acknowledged for a minute.
        """
        until = time.monotonic() + seconds
        coming = iter(self._pool.batches)
        going = True
        while going and time.monotonic() < until:
            while len(self._waiting) < in_flight:
                batch = next(coming, None)
                if batch is None:
                    if once:
                        going = False
                        break
                    self._lap += 1
                    coming = iter(self._pool.batches)
                    continue
                self._publish(batch, 0)
            self._turn(0.05)
            tell()
        self.settle(60.0, tell)

    def windows(self, window_s: float, *, spread: bool, tell: Callable[[], None] = lambda: None) -> None:
        """Send each window's batches when it ends: all at once, or evenly over its length.

        Raises: BenchmarkError where a minute after the last one something is not acknowledged.
        """
        by_window: dict[int, list[Batch]] = {}
        for batch in self._pool.batches:
            by_window.setdefault(batch.window, []).append(batch)
        length = round(window_s * SECOND)
        start = time.monotonic_ns() + SECOND // 2
        coming: deque[tuple[int, Batch]] = deque()
        for at, batches in by_window.items():
            for n, batch in enumerate(batches):
                coming.append((start + at * length + (length * n // len(batches) if spread else 0), batch))
        while coming:
            now = time.monotonic_ns()
            while coming and coming[0][0] <= now:
                due, batch = coming.popleft()
                self._publish(batch, due)
            left = (coming[0][0] - time.monotonic_ns()) / SECOND if coming else 0.0
            self._turn(min(0.05, max(0.0, left)))
            tell()
        self.settle(60.0, tell)

    def settle(self, deadline_s: float, tell: Callable[[], None] = lambda: None) -> None:
        """Wait until everything is acknowledged. Raises: BenchmarkError where it is not, so long after the
        last acknowledgement."""
        last, until = self.acknowledged, time.monotonic() + deadline_s
        while self._waiting:
            self._turn(0.05)
            tell()
            if self.acknowledged != last:
                last, until = self.acknowledged, time.monotonic() + deadline_s
            if time.monotonic() > until:
                raise BenchmarkError(
                    f"{len(self._waiting)} batches are not acknowledged after {deadline_s:g} s"
                )

    def _publish(self, batch: Batch, due_ns: int) -> None:
        number = batch.number + self._lap * self._step
        self._waiting[batch.spool, number] = batch
        topic = f"coloprobe/v1/{batch.agent}/lines/{batch.spool}/{number}".encode()
        self._links[batch.agent].publish(topic, batch.payload)
        now = time.monotonic_ns()
        self.times[batch.agent, number] = [due_ns or now, now, 0]
        self.payload_bytes += len(batch.payload)

    def _turn(self, seconds: float) -> None:
        """Hear what has come and go on sending what did not fit."""
        for link in self._all:
            if link.unsent:
                link.flush()
                seconds = min(seconds, 0.001)
        for key, _ in self._selector.select(seconds):
            link = key.data
            got = link.receive()
            if link is self._ears:
                for topic, payload in link.messages(got):
                    self._heed(topic, payload)

    def _heed(self, topic: bytes, payload: bytes) -> None:
        agent, now = topic.decode().split("/")[2], time.monotonic_ns()
        for spool, ranges in _decode(payload).items():
            for first, last in ranges:
                for number in range(first, last + 1):
                    batch = self._waiting.pop((spool, number), None)
                    if batch is not None:
                        self.acknowledged += 1
                        self.lines += batch.lines
                        self.times[agent, number][2] = now


class _Link:
    """One connection to the broker."""

    def __init__(self, port: int, client: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unsent: deque[memoryview] = deque()
        self._got = b""
        self._id = 0
        body = struct.pack(">H4sBBH", 4, b"MQTT", 4, 2, _KEEPALIVE_S) + _text(client.encode())
        self.socket.sendall(_packet(_CONNECT, body))
        self._expect(_CONNACK)

    def subscribe(self, topic: bytes) -> None:
        self.socket.sendall(_packet(_SUBSCRIBE, struct.pack(">H", 1) + _text(topic) + b"\0"))
        self._expect(_SUBACK)

    def publish(self, topic: bytes, payload: bytes) -> None:
        """QoS 1. What the kernel does not take now goes with `flush`."""
        self._id = self._id % 0xFFFF + 1
        head = _text(topic) + struct.pack(">H", self._id)
        packet = bytes((_PUBLISH | 2,)) + _length(len(head) + len(payload)) + head + payload
        if self.unsent:
            self.unsent.append(memoryview(packet))
            return
        sent = self._send(packet)
        if sent < len(packet):
            self.unsent.append(memoryview(packet)[sent:])

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it."""
        while self.unsent:
            first = self.unsent[0]
            sent = self._send(first)
            if sent < len(first):
                self.unsent[0] = first[sent:]
                return
            self.unsent.popleft()

    def receive(self) -> bytes:
        """Read what is there. PUBACKs are not looked at: what counts is a collector's word."""
        got = self.socket.recv(1 << 18)
        if not got:
            raise BenchmarkError("the broker closed a connection")
        return got

    def messages(self, more: bytes) -> list[tuple[bytes, bytes]]:
        """Topic and payload of each PUBLISH (QoS 0) that has come whole with `more`."""
        found = []
        got, at = self._got + more, 0
        while (end := _end(got, at)) is not None:
            start, stop = end
            if got[at] & 0xF0 == _PUBLISH:
                (size,) = struct.unpack_from(">H", got, start)
                found.append((got[start + 2 : start + 2 + size], got[start + 2 + size : stop]))
            at = stop
        self._got = got[at:]
        return found

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def _expect(self, kind: int) -> None:
        got = self.socket.recv(64)
        if not got or got[0] != kind or (got[-1] & 0x80):
            raise BenchmarkError(f"the broker refuses ({got!r}): it must let everybody in for a benchmark")


def _text(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _length(size: int) -> bytes:
    """MQTT's variable length: seven bits a byte, the lowest first."""
    made = bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        made.append(low | (0x80 if size else 0))
        if not size:
            return bytes(made)


def _packet(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + _length(len(body)) + body


def _end(got: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; None: it is not whole yet."""
    size = shift = 0
    for place in range(at + 1, min(at + 5, len(got))):
        size |= (got[place] & 0x7F) << shift
        shift += 7
        if not got[place] & 0x80:
            stop = place + 1 + size
            return (place + 1, stop) if stop <= len(got) else None
    return None
