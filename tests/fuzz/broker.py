"""MQTT bytes in, targets out: what any client may send to the embedded broker."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from tests.fuzz.samples import SPOOL
from tests.fuzz.target import Feed, Target

PATIENCE_S = 30.0
_BATCH = f"coloprobe/v1/a/lines/{SPOOL}/17".encode()
_STATUS = b"coloprobe/v1/a/status"


def _text(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def packet(head: int, body: bytes) -> bytes:
    """An MQTT control packet (3.1.1, section 2.2)."""
    left, length = len(body), b""
    while True:
        left, low = divmod(left, 128)
        length += bytes((low | (0x80 if left else 0),))
        if not left:
            return bytes((head,)) + length + body


def connect(client: bytes, flags: int = 2, more: bytes = b"") -> bytes:
    return packet(0x10, _text(b"MQTT") + struct.pack(">BBH", 4, flags, 60) + _text(client) + more)


def publish(topic: bytes, payload: bytes, flags: int = 0) -> bytes:
    number = b"\0\7" if flags & 6 else b""
    return packet(0x30 | flags, _text(topic) + number + payload)


def subscribe(topic: bytes, qos: int = 0) -> bytes:
    return packet(0x82, b"\0\1" + _text(topic) + bytes((qos,)))


def _seeds() -> list[bytes]:
    will = _text(_STATUS) + _text(b"offline")
    return [
        connect(b"a", 0x2E, will) + publish(_STATUS, b"online", 3) + publish(_BATCH, b"x" * 300, 2),
        connect(b"a") + subscribe(b"#", 1) + subscribe(b"$share/c/coloprobe/v1/+/lines/#", 1),
        connect(b"") + packet(0xC0, b"") + packet(0xA2, b"\0\2" + _text(b"#")) + packet(0xE0, b""),
        connect(b"witness") + publish(_BATCH, b"taken over"),
        connect(b"a", 0xC2, _text(b"user") + _text(b"secret"))
        + publish(_STATUS, b"", 1)
        + subscribe(_STATUS),
        connect(b"a", 0)
        + publish(b"", b"")
        + publish(b"a/#", b"x")
        + publish(b"\0", b"x")
        + publish(b"\xff", b"x"),
    ]


_WORDS = [
    *(connect(b"a"), publish(_BATCH, b"x"), publish(_STATUS, b"x", 1), subscribe(b"#"), subscribe(b"+/+", 2)),
    *(
        packet(0xC0, b""),
        packet(0xE0, b""),
        packet(0x62, b"\0\7"),
        packet(0x40, b"\0\7"),
        b"\xff\xff\xff\x7f",
    ),
    *(
        b"\xff\xff\xff\xff\xff",
        b"\x80\x80\x80\x80\x01",
        b"\0\4MQTT",
        b"\0\6MQIsdp",
        b"MQTT\5",
        b"\x30\xff\xff\x3f",
    ),
    *(b"#", b"+", b"/", b"$SYS/", b"$share/", b"\0\0", b"\xff\xff"),
]


class _Core:
    """As much of amqtt's broker as is looked at before it sees a packet."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Any] = {}
        self.retained_messages: dict[str, Any] = {}
        self._broadcast_queue: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks_queue: list[Any] = []


class _Door:
    async def take_over(self, client: bytes) -> None:
        assert client


def _packets() -> Feed:
    from collectors import broker

    async def read(data: bytes) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        door: Any = _Door()
        packets = broker._Packets(reader, _Core(), door)
        first = True
        while head := await packets.read(1):
            kind, flags = head[0] >> 4, head[0] & 15
            length = shift = 0
            while True:
                [byte] = await packets.read(1)
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            assert length <= broker.MAX_PACKET
            assert shift <= 28
            body = await packets.read(length) if length else b""
            assert len(body) == length, "half a packet"
            assert (kind == 1) == first, "a CONNECT is the first packet, and no other"
            if first:
                at = 2 + int.from_bytes(body[:2], "big")
                assert body[at + 1] & 2, "sessions are clean"
                assert body[at + 2 : at + 4] == b"\0\0", "amqtt keeps no time"
            first = False
            assert kind in (1, 3, 4, 5, 6, 7, 8, 10, 12, 14)
            if kind == 3:
                assert flags & 6 in (0, 2)
                assert not flags & 1 or length <= broker.MAX_RETAINED_BYTES

    def feed(data: bytes) -> None:
        asyncio.run(read(data))

    return feed


def _broker() -> Feed:
    from collectors.broker import broker
    from collectors.listen import listen

    async def hostile(port: int, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            writer.write_eof()
            await reader.read()
        except OSError:
            pass  # it may hang up in any way
        finally:
            writer.close()

    async def witness(port: int, visitors: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        topic = b"coloprobe/v1/honest/lines/00/1"
        writer.write(connect(b"honest-client-whose-name-nobody-guesses") + subscribe(topic))
        answers = await reader.readexactly(4 + 5)
        assert answers[:4] == b"\x20\x02\0\0"
        for data in visitors:
            await hostile(port, data)
        sent = publish(topic, b"still here")
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()

    async def run(data: bytes) -> None:
        at = listen("127.0.0.1:0", "--broker")
        async with asyncio.timeout(PATIENCE_S), broker(at.socket):
            await witness(at.port, data.split(b"|||")[:8])
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something of it runs on"

    def feed(data: bytes) -> None:
        asyncio.run(run(data))

    return feed


TARGETS = (
    Target(
        "mqtt-packets",
        "collectors.broker._Packets",
        "amqtt sees whole packets of a sane size and order, from clean sessions only",
        _packets,
        _seeds,
        words=_WORDS,
        longest=4096,
        inputs=400,
    ),
    Target(
        "mqtt-broker",
        "collectors.broker.broker (amqtt behind it)",
        "another client is still served, nothing runs on when it has stopped",
        _broker,
        lambda: [*_seeds(), b"|||".join(_seeds())],
        words=[*_WORDS, b"|||"],
        inputs=25,
        guided=False,
    ),
)
