"""What comes from the network and the kernel in, targets out: packets, control messages, TCP_INFO."""

from __future__ import annotations

import struct

from tests.fuzz.target import Chooser, Feed, Target


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


def _info_seeds() -> list[bytes]:
    info = bytearray(104)
    info[0] = 1
    struct.pack_into("=I", info, 68, 250)
    again = bytearray(info)
    struct.pack_into("=I", again, 100, 1)
    return [bytes(info), bytes(info + again)]


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
