"""What comes from the network and the kernel in, targets out: packets, control messages, TCP_INFO."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.fuzz.target import Chooser, Feed, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from probe.engine.channel import Channel
    from probe.sockets.packet_socket import Replies

SECRET = b"\x01\x23\x45\x67\x89\xab\xcd\xef"
HEADER4 = bytes((0x45, 0, 0, 84, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1))
NUMBERS = [bytes(8), b"\0" * 7 + b"\5", b"\xff" * 8, b"\x80" + bytes(7), b"\0\0\0\1" + bytes(4)]


def _vectors(kind: str) -> list[bytes]:
    from tests.unit.probe.packets.plain import vectors

    return [bytes(vector["bytes"]) for vector in vectors(kind)]


def _icmp_errors() -> Feed:
    from probe.packets import icmp

    def plainly(echo: bytes, request: int) -> tuple[int, int, bytes | None, int | None] | None:
        if len(echo) < 8 or echo[:2] != bytes((request, 0)):
            return None
        identifier, sequence = struct.unpack(">HH", echo[4:8])
        if len(echo) < 24:
            return identifier, sequence, None, None
        return identifier, sequence, echo[8:16], int.from_bytes(echo[16:24], "big")

    def same(error: icmp.IcmpError | None, echo: bytes, request: int) -> None:
        said = plainly(echo, request)
        assert (error is None) == (said is None)
        if error is not None:
            assert (error.id, error.sequence, error.token, error.number) == said

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        source, packet = choose.rest[:16], choose.rest[16:]
        error = icmp.parse_error4(packet)
        if error is not None:
            outer = (packet[0] & 15) * 4
            inner = outer + 8 + (packet[outer + 8] & 15) * 4
            same(error, packet[inner:], 8)
            assert len(error.destination) == 4
            assert not icmp.quotes_others(packet, v4=True)
        error = icmp.parse_error6(packet, source)
        if error is not None:
            same(error, packet[48:], 128)
            assert error.destination == packet[32:48]
            assert not icmp.quotes_others(packet, v4=False)
        icmp.quotes_others(packet, v4=True)
        icmp.quotes_others(packet, v4=False)
        same(icmp.parse_quoted(3, 1, packet, 8, local=False), packet, 8)
        same(icmp.parse_quoted(1, 4, packet, 128, local=False), packet, 128)

    return feed


def _error_seeds() -> list[bytes]:
    found = _vectors("error")
    return [bytes(16) + packet for packet in found] + [packet[8:24] + packet[40:] for packet in found]


def _tcp_quotes() -> Feed:
    from probe.packets import tcp

    def feed(data: bytes) -> None:
        syn = tcp.parse_quoted(data)
        assert (syn is None) == (len(data) < 8)
        if syn is not None:
            assert data[:8] == struct.pack(">HHI", syn.source, syn.destination, syn.sequence)

    return feed


def _timestamps() -> Feed:
    import numpy as np

    from probe.packets import timestamps

    def feed(data: bytes) -> None:
        size = len(data) // 10
        if not size:
            return
        raw = np.frombuffer(data[: size * 8], ">u8")
        estimates = np.frombuffer(data[size * 8 : size * 10], ">u2")
        times = timestamps.from_ntp_each(raw)
        assert times.tolist() == [timestamps.from_ntp(int(one)) for one in raw]
        written = timestamps.to_ntp_each(times)
        assert written.tolist() == [timestamps.to_ntp(int(one)) for one in times]
        inside = raw >> 32 != 0x7FFFFFFF  # the last second of 2104 is rounded to the first of 1968
        assert (timestamps.from_ntp_each(written) == times)[inside].all()
        either = timestamps.times_of(raw, estimates)
        ptp = [int(one >> 32) * 10**9 + int(one & 0xFFFFFFFF) for one in raw.tolist()]
        assert either.tolist() == [ptp[n] if estimates[n] & 0x4000 else int(times[n]) for n in range(size)]
        errors = timestamps.errors_of(estimates)
        for estimate, error in zip(estimates.tolist(), errors.tolist(), strict=True):
            exact = ((estimate & 0xFF) << (estimate >> 8 & 0x3F)) * 10**9
            assert error == min(-(-exact >> 32), 1 << 62)
        assert len(timestamps.synchronised_of(estimates)) == size

    return feed


def _control() -> Feed:
    import numpy as np

    from probe.sockets import abi, both_clocks
    from probe.sockets.quoted import quoted_error
    from probe.sockets.reflecting import _messages

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        quoted, name = choose.piece(), choose.piece()[:28]
        control = choose.rest
        error = quoted_error(control, quoted, name)
        if error is not None:
            assert error.quoted == quoted
            assert len(error.destination) in (0, 28)
        parts = list(_messages(control))
        assert sum(16 + len(part) for _, part in parts) <= len(control) + 16
        for row, read in ((abi.CONTROL, both_clocks.departures), (abi.ARRIVAL, None)):
            count = len(control) // row.itemsize
            rows = np.frombuffer(control[: count * row.itemsize], row)
            if read is not None:
                left = read(rows)
                assert len(left.ids) == len(left.stamp) <= count
                assert len(left.hard_ids) == len(left.hard_stamp) <= count
            else:
                used = np.full(count, len(quoted), np.uint64)
                came = both_clocks.arrivals(rows, used, np.array([2], np.uint32))
                assert len(came.stamp) == len(came.hard) == count

    return feed


def _control_seeds() -> list[bytes]:
    from tests.unit.probe.sockets.messages import vectors

    messages = [vector["message"] for kind in ("sent", "error", "received") for vector in vectors(kind)]
    return [
        bytes((len(one.data),)) + one.data + bytes((len(one.name),)) + one.name + one.control
        for one in messages
    ] + [b"\x60" + bytes(96) + b"\0" + messages[-1].control * 2]


def _tcp_info() -> Feed:
    import numpy as np

    from probe.sockets.tcp_info import INFO, answer_times

    def feed(data: bytes) -> None:
        size = INFO.itemsize
        infos = [data[at : at + size] for at in range(0, len(data) - size + 1, size)]
        sent = np.full(len(infos), 10**18, np.int64)
        came, repeated, first = answer_times(infos, sent, sent + 10**9)
        assert len(came) == len(repeated) == len(first) == len(infos)
        assert (first | repeated).all()
        assert (came[~repeated] >= 10**18).all()
        assert (np.abs(came - 10**18) < 5 * 10**15).all()

    return feed


def _frames() -> Feed:
    import numpy as np

    from probe.sockets.frames import FrameRing

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        header, size = ((20, 128), (40, 192))[choose.number(2)]
        memory = np.zeros((8, size), np.uint8)
        held = choose.rest[: memory.size]
        memory.reshape(-1)[: len(held)] = np.frombuffer(held, np.uint8)
        ours = (memory[:, 0] & 1).tolist()
        ring = FrameRing(memory, header)
        seen = 0
        for _ in range(4):
            ring.full  # noqa: B018 - it must not raise
            taken = ring.take()
            if taken is None:
                break
            assert len(taken.ids) == len(taken.left)
            assert len(taken.data) == len(taken.length) == len(taken.arrived)
            seen += len(taken.ids) + len(taken.data)
            ring.release()
        # Those up to the first that is the kernel's, and each once.
        assert seen == (ours.index(0) if 0 in ours else 8)

    return feed


def _frame_seeds() -> list[bytes]:
    from tests.unit.probe.sockets.test_frames import OUTGOING, TO_US, Kernel

    made = []
    for which, header in enumerate((20, 40)):
        kernel = Kernel(8, header)
        for number in range(6):
            kernel.write((OUTGOING, TO_US)[number % 2], number // 2, 10**18 + number)
        made.append(bytes((which,)) + kernel.memory.tobytes())
    return made


# -- answers to probes: what leads to a probe must have been in the packet -----------------------------------


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


def _stamp_windows() -> Feed:
    """A whole run with a reflector that says anything: what comes out are still statistics."""
    import numpy as np

    from probe.telemetry.points import probe_fields
    from probe.windows.layout import Layout
    from probe.windows.summary import summarise
    from tests.unit.probe.engine.reflecting import TIMEOUT, StampDriver

    def feed(data: bytes) -> None:
        driver = StampDriver(sizes=(84, 84))
        place = iter(range(1 << 30))

        def spoil(reply: bytearray) -> bytes:
            at = next(place) * 5 % max(len(data), 1)
            change = data[at : at + 5]
            if len(change) == 5:
                begin = change[0] % 84
                reply[begin : begin + change[1] % 9] = (change[2:] * 3)[: change[1] % 9]
            return bytes(reply[:84])

        driver.reflector.spoil = spoil
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            driver.run(1_250 * 10**6)
            driver.finish()
            summaries = [summarise(cut, 2, TIMEOUT, Layout.of(["stamp"] * 2)) for cut in driver.cuts]
        for one in summaries:
            values = one.values
            assert (values["received"] + values["lost"] <= values["sent"]).all()
            for flow in range(2):
                fields = probe_fields(one, flow)
                assert 0 <= float(fields.get("loss", 0.0)) <= 1
                assert int(fields.get("rtt_min_ns", 0)) >= 0
                assert all(np.isfinite(value) for value in fields.values() if not isinstance(value, str))

    return feed


def _reflector() -> Feed:
    from collections import Counter

    from probe import reflection as rules
    from probe.limits import RateLimit
    from probe.packets import stamp
    from probe.packets.arrival import Arrival
    from tests.unit.probe.packets.stamping import ESTIMATE, KEY, RECEIVED

    known = {
        *(rules.SHORT, rules.LONG, rules.FORGED, rules.SOURCE),
        *(rules.DESTINATION, rules.LOOP, rules.RETURNED, rules.LIMITED),
    }
    both = [
        rules.Reflection(key, 8620, RateLimit(10**6, 10**6), rules.Sessions(50), ESTIMATE)
        for key in (b"", KEY)
    ]
    now = 0

    def kinds(packet: bytes, base: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while base + 4 <= len(packet) and packet[base + 1] and len(found) < 32:
            found.append((packet[base + 1], int.from_bytes(packet[base + 2 : base + 4], "big")))
            base += 4 + found[-1][1]
        return found

    def feed(data: bytes) -> None:
        nonlocal now
        choose = Chooser(data)
        one = both[choose.number(2)]
        now += choose.number(1 << 40)
        unicast, whole = choose.number(16) != 15, choose.number(16) != 15
        port, last = choose.number(65536), choose.number(256)
        source = bytes((192, 0, 2, last)) if choose.flag() else bytes(15) + bytes((last,))
        request = choose.rest
        came = Arrival(struct.pack(">H", port) + source, source, port, bytes(4), unicast, 64, RECEIVED, whole)
        before = Counter(one.refused)
        packet = memoryview(bytearray(request))
        prepared = one.prepare(packet, came, now)
        if prepared is None:
            assert bytes(packet) == request, "what gets no reply is left alone"
            assert (one.refused - before).total() == 1
            assert set(one.refused) <= known
            return
        session, number = prepared
        one.finish(packet, RECEIVED + 1000)
        session.replied(number, RECEIVED + 2000, stamp.SOFTWARE)
        reply = bytes(packet)
        sealed = bool(one.key)
        base, seq, t1 = (112, 48, 64) if sealed else (44, 24, 28)
        begin = 16 if sealed else 4
        assert len(reply) == len(request) >= base
        assert unicast
        assert whole
        assert port not in (0, 862, 8620)
        assert reply[seq : seq + 4] == request[:4]
        assert reply[t1 : t1 + 8] == request[begin : begin + 8]
        assert kinds(reply, base) == kinds(request, base), "every TLV comes back in its place"
        if sealed:
            assert request[96:112] == stamp.mac(one.key, request[:96])
            assert reply[96:112] == stamp.mac(one.key, reply[:96])
        assert len(one.sessions) <= 50
        assert len(session.left) <= 64
        # Two reflectors that answer each other stop: at the latest with the second reply that comes back.
        for _ in range(2):
            if one.prepare(packet, came, now) is None:
                break
            one.finish(packet, RECEIVED + 1000)
        else:
            raise AssertionError("it answers its own replies")

    return feed


def _reflector_seeds() -> list[bytes]:
    from tests.unit.probe.packets.stamping import exchanges

    def head(sealed: bool) -> bytes:
        return bytes((sealed,)) + (10**9).to_bytes(5, "big") + b"\0\0" + (50_000).to_bytes(2, "big") + b"\7\1"

    return [head(bool(one.key)) + part for one in exchanges() for part in (one.request, one.reply)]


def _info_seeds() -> list[bytes]:
    info = bytearray(104)
    info[0] = 1
    struct.pack_into("=I", info, 68, 250)
    again = bytearray(info)
    struct.pack_into("=I", again, 100, 1)
    return [bytes(info), bytes(info + again)]


STAMP_KEY = b"a key that both ends have"

TARGETS = (
    Target(
        "icmp-errors",
        "probe.packets.icmp.parse_error4, parse_error6, parse_quoted, quotes_others",
        "what is said of the quoted probe stands there, by a plain reading",
        _icmp_errors,
        _error_seeds,
        longest=256,
        inputs=2000,
    ),
    Target(
        "tcp-quotes",
        "probe.packets.tcp.parse_quoted",
        "ports and sequence number as they stand there; nothing of fewer than 8 bytes",
        _tcp_quotes,
        lambda: [bytes.fromhex("9c40232889abcdef0000000060 02faf099af0000020405b4".replace(" ", ""))],
        longest=64,
        inputs=500,
    ),
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
    Target(
        "stamp-windows",
        "probe.engine.reflected, probe.windows.summary (a reflector that lies)",
        "still statistics: no loss beyond what was sent, no negative RTT, nothing that is not finite",
        _stamp_windows,
        lambda: [
            b"",
            bytes((4, 8, 255, 255, 255)),
            bytes((16, 8, 0, 0, 0, 64, 3, 9, 9, 9)),
            bytes(range(250)),
        ],
        longest=1000,
        inputs=10,
    ),
    Target(
        "reflector",
        "probe.reflection.Reflection, probe.packets.tlvs, probe.packets.stamp",
        "a reply as long as its request, every TLV in its place; forged ones get none; bounded sessions; no "
        "endless conversation of two reflectors",
        _reflector,
        _reflector_seeds,
        words=[b"\x80\1\0\x08", b"\x80\7\0\x10", b"\x80\x08\0\x10", b"\x80\xf0\0\3", b"\xff\xff", b"\0\0"],
        longest=1500,
        inputs=2000,
    ),
    Target(
        "timestamps",
        "probe.packets.timestamps",
        "arrays say what a plain calculation says of each; errors are never negative",
        _timestamps,
        lambda: [bytes(range(1, 101)), b"\xff" * 60, b"\xee\xad\xe6\x78\x80\0\0\0\x89\xa8", bytes(20)],
        longest=400,
        inputs=1000,
    ),
    Target(
        "control",
        "probe.sockets.quoted.quoted_error, both_clocks.departures, arrivals, reflecting._messages",
        "nothing is read beyond the control bytes; as many times as rows",
        _control,
        _control_seeds,
        longest=1024,
        inputs=800,
    ),
    Target(
        "tcp-info",
        "probe.sockets.tcp_info.answer_times",
        "a time for each connection, none before its SYN",
        _tcp_info,
        _info_seeds,
        longest=1040,
        inputs=500,
    ),
    Target(
        "frames",
        "probe.sockets.frames.FrameRing.take",
        "every frame that is ours is taken, once",
        _frames,
        _frame_seeds,
        longest=1537,
        inputs=800,
    ),
)
