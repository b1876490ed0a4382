"""What answers probes in, targets out: a probe is touched only by a packet in which its secret stands."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.fuzz.target import Feed, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from probe.engine.channel import Channel
    from probe.sockets.packet_socket import Replies


SECRET = b"\x01\x23\x45\x67\x89\xab\xcd\xef"


HEADER4 = bytes((0x45, 0, 0, 84, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1))


NUMBERS = [bytes(8), b"\0" * 7 + b"\5", b"\xff" * 8, b"\x80" + bytes(7), b"\0\0\0\1" + bytes(4)]
STAMP_KEY = b"a key that both ends have"


def _split(data: bytes) -> list[bytes]:
    """Several packets, each with its length before it."""
    packets = []
    while len(data) > 1:
        size = data[0]
        packets.append(data[1 : 1 + size])
        data = data[1 + size :]
    return packets


def _joined(*packets: bytes) -> bytes:
    return b"".join(bytes((len(packet),)) + packet for packet in packets)


def _replies(packets: Sequence[bytes], kept: int, stamp: int) -> Replies:
    import numpy as np

    from probe.sockets.packet_socket import Replies

    rows = np.zeros((len(packets), kept), np.uint8)
    for row, packet in zip(rows, packets, strict=True):
        row[: len(packet)] = np.frombuffer(packet, np.uint8)[:kept]
    count = len(packets)
    lengths = np.array([len(packet) for packet in packets], np.uint32)
    return Replies(rows, lengths, np.full(count, stamp, np.int64), np.zeros((count, 28), np.uint8), False)


def _reader(channel: Channel, kept: int, proof: Callable[[int], Sequence[bytes]]) -> Feed:
    """Packets to a channel: a probe is answered or failed only by a packet in which its `proof` stands."""
    import numpy as np

    from probe.clock import ManualClock
    from probe.engine.stamps import WallToMono

    clock = ManualClock()
    ledger, dialect = channel.ledger, channel.dialect
    to_mono = WallToMono(clock)
    columns: list[NDArray[np.generic]] = [ledger.rx, ledger.state, ledger.duplicates, ledger.unstamped]

    def feed(data: bytes) -> int:
        packets = _split(data)
        if not packets:
            return 0
        ledger.settle()
        before = [column.copy() for column in columns]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dialect.read(_replies(packets, kept, clock.wall() + 1), clock.mono() + 1, to_mono)
        ledger.settle()
        touched = np.zeros(ledger.size, np.bool_)
        for column, old in zip(columns, before, strict=True):
            touched |= column != old
            column[:] = old
        for row in np.flatnonzero(touched).tolist():
            assert row < ledger.head, "a probe that never left"
            assert any(part in packet for part in proof(row) for packet in packets), (
                "it did not know the secret"
            )
        return int(touched.sum())

    return feed


def _echo(raw: bool) -> Callable[[], Feed]:
    def make() -> Feed:
        from probe.sockets.memory import Fate
        from tests.unit.probe.engine.driving import Driver
        from tests.unit.probe.engine.test_ip_header import RawDriver

        driver: Driver = RawDriver([0]) if raw else Driver(lambda _n, _packet: Fate())
        driver.socket.rule = lambda _n, _packet: Fate()
        driver.run(300 * 10**6)
        sent = driver.socket.sent
        assert len(sent) > 20
        # A reply and an ICMP error have the secret with the number; some routers quote 8 bytes only.
        return _reader(
            driver.channel, 128, lambda n: (sent[n][8:24], sent[n][4:8]) if raw else (sent[n][8:24],)
        )

    return make


def _echo_seeds(raw: bool) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        from tests.unit.probe.engine.test_strangers import echo, unreachable

        header = HEADER4 if raw else b""
        reply = header + b"\0\0" + echo(5, SECRET)[2:]
        optioned = bytes((0x46,)) + HEADER4[1:] + bytes(4) + b"\0\0" + echo(6, SECRET)[2:]
        error = unreachable(echo(7, SECRET))
        return [
            _joined(reply),
            _joined(*(header + b"\0\0" + echo(n, SECRET)[2:] for n in (3, 4, 4, 9, 200))),
            _joined(optioned, reply),
            _joined(error, unreachable(echo(8, SECRET)[:8]), unreachable(echo(5, b"another!"))),
        ]

    return seeds


def _shaken() -> tuple[Channel, list[bytes]]:
    """A channel that has sent SYNs, the same every time, and these."""
    from probe.engine.handshake import Handshake
    from tests.unit.probe.engine.test_handshake import Driver

    driver = Driver(lambda _n, _syn: [])
    dialect = driver.channel.dialect
    assert isinstance(dialect, Handshake)
    dialect._noise = bytes
    driver.run(300 * 10**6)
    return driver.channel, driver.socket.sent


def _handshake() -> Feed:
    from tests.unit.probe.engine.test_handshake import sequence_of

    channel, sent = _shaken()
    acknowledgments = [((sequence_of(syn) + 1) % (1 << 32)).to_bytes(4, "big") for syn in sent]
    # An ACK tells of an earlier SYN of the same flow, which the target has not forgotten.
    return _reader(channel, 128, lambda n: acknowledgments[: n + 1])


def _handshake_seeds() -> list[bytes]:
    from probe.packets.tcp import ACK, RST, SYN
    from tests.unit.probe.engine.test_handshake import answer

    _, sent = _shaken()
    return [
        _joined(answer(sent[5], SYN | ACK), answer(sent[6], RST | ACK), answer(sent[7], ACK)),
        _joined(answer(sent[8], SYN | ACK, options=bytes(8)), answer(sent[9], SYN | ACK)[:-4]),
        _joined(*(answer(syn, SYN | ACK) for syn in sent[10:14])),
    ]


def _stamp_replies(key: bytes) -> Callable[[], Feed]:
    def make() -> Feed:
        from tests.unit.probe.engine.reflecting import Course, StampDriver

        driver = StampDriver(lambda _f, _n: Course(way="F"), sizes=(172 if key else 84,), key=key)
        driver.run(300 * 10**6)
        at = 16 if key else 4
        sent = driver.socket.sent
        return _reader(driver.channel, 192, lambda n: (sent[n][at : at + 8],))

    return make


def _stamp_seeds(key: bytes) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        from tests.unit.probe.engine.reflecting import Course, Session, StampDriver

        driver = StampDriver(lambda _f, _n: Course(way="F"), sizes=(172 if key else 84,), key=key)
        driver.run(300 * 10**6)
        wall, session = driver.clock.wall(), Session()
        replies = []
        for number, request in enumerate(driver.socket.sent[:6]):
            replies.append(driver.reflector.reply(session, request, wall - 2000, wall - 1000))
            session.left.append((number, wall - 500))
            session.number += 1
        return [_joined(replies[0]), _joined(*replies), _joined(replies[3], replies[3][:44])]

    return seeds


TARGETS = (
    Target(
        "echo",
        "probe.engine.echo.Echo.read (ping socket)",
        "only a packet with this run's secret and its number answers a probe",
        _echo(raw=False),
        _echo_seeds(raw=False),
        words=[SECRET, *NUMBERS],
        longest=1024,
        inputs=800,
    ),
    Target(
        "echo-raw",
        "probe.engine.echo.Echo.read (raw socket: IP header, options, ICMP errors)",
        "only a packet with this run's secret, or an error that quotes the probe, touches it",
        _echo(raw=True),
        _echo_seeds(raw=True),
        words=[SECRET, *NUMBERS, HEADER4, b"\x4f", b"\3\1", b"\x0b\0"],
        longest=1024,
        inputs=800,
    ),
    Target(
        "handshake",
        "probe.engine.handshake.Handshake.read",
        "only a segment that acknowledges a SYN of the flow answers a probe",
        _handshake,
        _handshake_seeds,
        words=[bytes((flags,)) for flags in (0x02, 0x04, 0x10, 0x12, 0x14)],
        longest=1024,
        inputs=800,
    ),
    Target(
        "stamp-replies",
        "probe.engine.reflection.Reflection.read, probe.engine.reflected",
        "only a packet with the probe's own timestamp answers it",
        _stamp_replies(b""),
        _stamp_seeds(b""),
        words=[b"\0\7\0\x10", b"\0\1\0\x08", b"\xff" * 8],
        longest=1024,
        inputs=500,
    ),
    Target(
        "stamp-replies-sealed",
        "probe.engine.reflection.Reflection.read, probe.packets.stamp.Layout.genuine",
        "only a packet with the probe's own timestamp answers it (authenticated mode)",
        _stamp_replies(STAMP_KEY),
        _stamp_seeds(STAMP_KEY),
        words=[b"\0\7\0\x10", b"\0\x08\0\x10", b"\xff" * 8],
        longest=1024,
        inputs=500,
    ),
)
