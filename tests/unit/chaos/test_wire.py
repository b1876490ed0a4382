"""Captures made by hand, and what was published in them: cut, doubled, out of order and with holes."""

from __future__ import annotations

import random
import struct

import pytest

from tests.chaos.wire import PORT, Published, WireProblem, published

AGENT, BROKER = bytes([10, 99, 0, 1]), bytes([10, 99, 1, 1])
ISN = (1 << 32) - 40  # so that the numbers wrap
SYN, ACK = 0x02, 0x10


def publish(topic: str, payload: bytes, qos: int = 1, properties: bytes = b"") -> bytes:
    """`properties`: with their length, as MQTT 5 has them."""
    identified = b"\0\7" if qos else b""
    body = struct.pack("!H", len(topic)) + topic.encode() + identified + properties + payload
    length, size = b"", len(body)
    while True:
        size, seven = divmod(size, 128)
        length += bytes([seven | (128 if size else 0)])
        if not size:
            return bytes([0x30 | qos << 1]) + length + body


def frame(sequence: int, data: bytes, flags: int = ACK, *, back: bool = False, port: int = 40000) -> bytes:
    ends, ports = ((BROKER, AGENT), (PORT, port)) if back else ((AGENT, BROKER), (port, PORT))
    tcp = struct.pack("!HHIIBBHHH", *ports, sequence % (1 << 32), 0, 5 << 4, flags, 0, 0, 0) + data
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, *ends) + tcp
    return bytes(12) + b"\x08\x00" + ip + bytes(max(0, 46 - len(ip)))  # short frames are padded


def pcap(*frames: bytes) -> bytes:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    return head + b"".join(
        struct.pack("<IIII", 1000, number, len(one), len(one)) + one for number, one in enumerate(frames)
    )


def said(*frames: bytes) -> list[tuple[str, bytes]]:
    return [(one.topic, one.payload) for one in published(pcap(frame(ISN, b"", SYN), *frames))]


CONNECT = bytes([0x10, 4]) + b"MQTT"
PING = bytes([0xC0, 0])
STREAM = CONNECT + publish("a/b", b"one") + PING + publish("c", b"x" * 300) + publish("d", b"two", qos=0)
WANTED = [("a/b", b"one"), ("c", b"x" * 300), ("d", b"two")]


def test_what_is_published_is_found() -> None:
    assert said(frame(ISN + 1, STREAM)) == WANTED


@pytest.mark.parametrize("seed", range(10))
def test_however_it_is_cut_mixed_up_and_repeated(seed: int) -> None:
    chance = random.Random(seed)
    frames, at = [], 0
    while at < len(STREAM):
        size = chance.randint(1, 60)
        frames.append(frame(ISN + 1 + at, STREAM[at : at + size]))
        # Sent again, cut elsewhere.
        if chance.random() < 0.3:
            begin = max(0, at - chance.randint(0, 50))
            frames.append(frame(ISN + 1 + begin, STREAM[begin : at + size]))
        at += size
    chance.shuffle(frames)
    assert said(*frames) == WANTED


def test_a_stream_counts_up_to_its_first_hole() -> None:
    first = len(CONNECT) + len(publish("a/b", b"one"))
    assert said(frame(ISN + 1, STREAM[:first]), frame(ISN + 2 + first, STREAM[first + 1 :])) == WANTED[:1]


def test_directions_and_connections_are_told_apart() -> None:
    out, back = publish("up", b"1"), publish("down", b"2")
    found = list(
        published(
            pcap(
                frame(1, b"", SYN),
                frame(9, b"", SYN, back=True),
                frame(2, out[:3]),
                frame(10, back, back=True),
                frame(2 + 3, out[3:]),
                frame(500, b"", SYN),  # the same ports once more
                frame(501, out),
            )
        )
    )
    assert [(one.topic, one.to_broker) for one in found] == [("down", False), ("up", True), ("up", True)]
    assert found[0] == Published(1000 + 3e-6, False, "down", b"2")


@pytest.mark.parametrize("qos", [0, 1])
def test_mqtt_5_has_properties_in_front_of_a_payload(qos: int) -> None:
    long = b"\x26" + struct.pack("!H100sH100s", 100, bytes(100), 100, bytes(100))  # a user property
    packets = [
        publish("none", b"payload", qos, b"\0"),
        publish("some", b"payload", qos, b"\x05\x02" + bytes(4)),  # message expiry interval
        publish("long", b"payload", qos, bytes([len(long) & 127 | 128, len(long) >> 7]) + long),
        publish("last", b"", qos, b"\0"),
    ]
    wanted = [("none", b"payload"), ("some", b"payload"), ("long", b"payload"), ("last", b"")]
    connect = bytes([0x10, 8]) + b"\0\4MQTT\5\0"
    frames = [frame(1, b"", SYN), frame(9, b"", SYN, back=True), frame(2, connect + b"".join(packets))]
    frames.append(frame(10, b"".join(packets), back=True))
    found = list(published(pcap(*frames)))
    for to_broker in (True, False):
        assert [(one.topic, one.payload) for one in found if one.to_broker is to_broker] == wanted


def test_a_repeated_syn_begins_nothing_new() -> None:
    out = publish("up", b"1")
    frames = frame(1, b"", SYN), frame(2, out[:3]), frame(1, b"", SYN), frame(5, out[3:])
    assert [one.topic for one in published(pcap(*frames))] == ["up"]


def test_what_is_no_whole_capture_is_refused() -> None:
    with pytest.raises(WireProblem, match="not a little-endian pcap"):
        list(published(b"\n\r\r\n" + bytes(100)))
    cut = pcap(frame(1, b"", SYN))
    cut = cut[:36] + struct.pack("<I", 9999) + cut[40:]
    with pytest.raises(WireProblem, match="a packet of 9999 bytes was cut"):
        list(published(cut))
