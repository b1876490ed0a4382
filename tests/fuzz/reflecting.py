"""STAMP from both sides in, targets out: what a reflector says to a sender, and what anybody says to it."""

from __future__ import annotations

import struct
import warnings
from collections import Counter

from tests.fuzz.target import Chooser, Feed, Target


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


TARGETS = (
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
)
