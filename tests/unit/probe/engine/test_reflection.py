"""Kind `stamp` over a memory socket: dwell times and one-way delays, what is believed, what is foreign."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.engine.samples import ABSENT, ERROR, LOCAL, SENT
from probe.sockets.packet_socket import QuotedError
from probe.windows.layout import Layout
from probe.windows.summary import summarise
from tests.unit.probe.engine.reflecting import OWN_ERROR, TIMEOUT, TOKEN, Course, StampDriver, ntp, ptp

KEY = b"a key that both ends have"
THERE, DWELL, KERNEL, BACK = 3 * MILLISECOND, 40 * MICROSECOND, 7 * MICROSECOND, 5 * MILLISECOND
# 43 * 2^22 * 2^-32 s, rounded up: the reflector's estimate in these tests.
ESTIMATE = -(-43 * SECOND * 2**22 // 2**32)


def ended(driver: StampDriver, seconds: int = 2) -> StampDriver:
    """Let it run to the end of its last window, whose every probe has its reply then."""
    driver.run((1_000 + seconds) * SECOND - 400 * MILLISECOND - driver.clock.mono_ns)
    driver.finish()
    assert len(driver.cuts) == seconds
    assert len(driver.cuts[-1].samples[0].flow) > 50
    return driver


@pytest.mark.parametrize("key", [b"", KEY], ids=["open", "sealed"])
@pytest.mark.parametrize("sizes", [(84,), (172, 172), (220, 172, 512), (52, 53, 64, 84, 85, 87, 88, 120)])
def test_delays_are_the_kernels_and_the_dwell_time_is_taken_out(sizes: tuple[int, ...], key: bytes) -> None:
    if key:
        sizes = tuple(max(size, 172) for size in sizes)
    driver = ended(StampDriver(sizes=sizes, key=key))
    assert driver.channel.counters.foreign == 0
    samples, said = driver.cuts[-1].samples[0], driver.said(-1)
    assert (samples.rx != 0).all()
    room = np.array(sizes)[samples.flow] >= (172 if key else 84)
    last = np.zeros(len(samples.flow), np.bool_)
    for flow in range(len(sizes)):
        last[np.flatnonzero(samples.flow == flow)[-1]] = True
    assert (said.followed == room & ~last).all()
    assert (said.dwell == np.where(said.followed, DWELL + KERNEL, DWELL)).all()
    assert (said.forward == THERE).all()
    assert (said.backward == np.where(said.followed, BACK, BACK + KERNEL)).all()
    assert (said.clock_error == OWN_ERROR + ESTIMATE).all()
    assert (samples.rx - samples.tx - said.dwell == said.forward + said.backward).all()
    assert said.numbering.tolist() == [size >= (172 if key else 84) for size in sizes]


@pytest.mark.parametrize("behind", [1, 3])
def test_a_stamp_may_be_told_by_a_reply_that_is_further_behind(behind: int) -> None:
    driver = StampDriver(lambda _, n: Course(hold=n % 7 == 3, way="B" if n % 11 == 1 else ""), sizes=(84, 84))
    driver.reflector.behind, driver.reflector.first_number = behind, (1 << 32) - 40
    ended(driver)
    samples, said = driver.cuts[-1].samples[0], driver.said(-1)
    answered = samples.rx != 0
    assert (said.followed <= answered).all()
    # Its teller may be lost, too, as every eleventh is.
    assert said.followed.sum() > answered.sum() * 0.85 - 2 * behind
    assert (said.dwell[said.followed] == DWELL + KERNEL).all()
    assert (said.backward[said.followed] == BACK).all()


def test_a_last_window_has_no_rtts_without_stamps_where_the_others_had_them() -> None:
    """As when settings are read again, or the agent ends, just after a window began."""
    driver = StampDriver(lambda _, n: Course(kernel=2 * MILLISECOND), sizes=[84, 52])
    driver.run(1014 * MILLISECOND)
    driver.finish()
    whole, rest = (summarise(cut, 2, TIMEOUT, Layout.of(["stamp"] * 2)) for cut in driver.cuts)
    assert whole.timed.min() > 90
    assert rest.values["received"].tolist() == [1, 1]
    # The second flow has no room for follow-up telemetry: all of its RTTs are by the reflector's own clock.
    assert rest.timed.tolist() == [0, 1]
    assert rest.present["backward"].tolist() == [False, True]
    assert rest.present["forward"].all()


def test_a_reflector_may_tell_the_time_as_ptp_does() -> None:
    driver = StampDriver()
    driver.reflector.time, driver.reflector.estimate = ptp, driver.reflector.estimate | 0x4000
    ended(driver)
    said = driver.said(-1)
    assert (said.forward == THERE).all()
    assert (said.backward[said.followed] == BACK).all()
    assert (said.dwell[said.followed] == DWELL + KERNEL).all()
    assert said.followed[:-1].all()


def test_negative_delays_are_kept() -> None:
    driver = StampDriver()
    driver.reflector.offset = -4 * MILLISECOND
    ended(driver)
    said = driver.said(-1)
    assert (said.forward == THERE - 4 * MILLISECOND).all()
    assert (said.backward[said.followed] == BACK + 4 * MILLISECOND).all()
    assert (said.dwell[said.followed] == DWELL + KERNEL).all()


@pytest.mark.parametrize(
    ("own", "estimate"),
    [(None, 0x962B), (OWN_ERROR, 0x162B), (OWN_ERROR, 0x8000)],
    ids=["our clock", "the reflector's", "the reflector's, whose estimate has the multiplier 0"],
)
def test_without_two_synchronised_clocks_there_are_no_one_way_delays(own: int | None, estimate: int) -> None:
    driver = StampDriver(own_error=own)
    driver.reflector.estimate = estimate
    ended(driver)
    said = driver.said(-1)
    assert (said.forward == ABSENT).all()
    assert (said.backward == ABSENT).all()
    assert (said.clock_error == ABSENT).all()
    assert (said.dwell >= DWELL).all()


def test_a_clock_that_was_not_synchronised_when_replies_came_is_none_for_them_later() -> None:
    """Set right by three seconds and synchronised before the window of these replies was closed."""
    driver = StampDriver(own_error=None)
    driver.reflector.offset = 3 * SECOND
    driver.run(990 * MILLISECOND)
    driver.clock.step(3 * SECOND)
    driver.reflector.offset = 0
    driver.own_error = OWN_ERROR
    driver.run(2 * SECOND)
    driver.finish()
    before, after = driver.said(0), driver.said(-1)
    (samples,) = driver.cuts[0].samples
    assert (samples.rx != 0).sum() > 90
    told = before.forward[: samples.inside] != ABSENT
    # What had not been read yet is read by the clock as it is now, which was set right.
    assert not told[:60].any()
    assert (before.forward[: samples.inside][told] == THERE).all()
    assert (after.forward[driver.cuts[-1].samples[0].rx != 0] == THERE).all()


def test_our_own_estimate_says_whether_our_clock_is_synchronised() -> None:
    for own, bit in ((OWN_ERROR, 1), (None, 0)):
        driver = ended(StampDriver(own_error=own))
        (estimate,) = struct.unpack_from("!H", driver.socket.sent[0], 12)
        assert estimate >> 15 == bit
        error = (estimate & 0xFF) * 2 ** ((estimate >> 8 & 0x3F) - 32)
        assert (own or 0) / 1e9 + 0.01 <= error <= 0.0102


@pytest.mark.parametrize("zeros", [(16, 24), (4, 12), (4, 12, 16, 24)], ids=["T2", "T3", "both"])
def test_a_reflector_that_keeps_no_time_tells_no_one_way_delay(zeros: tuple[int, ...]) -> None:
    driver = StampDriver()
    driver.reflector.tlvs = False

    def spoil(reply: bytearray) -> bytes:
        for begin, end in zip(zeros[::2], zeros[1::2], strict=True):
            reply[begin:end] = bytes(end - begin)
        return bytes(reply)

    driver.reflector.spoil = spoil
    ended(driver)
    said = driver.said(-1)
    assert (driver.cuts[-1].samples[0].rx != 0).all()
    assert (said.dwell == 0).all()
    assert (said.forward == ABSENT).all()
    assert (said.backward == ABSENT).all()


@pytest.mark.parametrize("dwell", [-1, 20 * MILLISECOND], ids=["negative", "longer than all"])
def test_a_dwell_time_that_cannot_be_is_not_believed(dwell: int) -> None:
    driver = StampDriver(lambda _, n: Course(kernel=0))

    def spoil(reply: bytearray) -> bytes:
        t2 = driver.clock.wall() + THERE
        struct.pack_into("!Q", reply, 16, ntp(t2))
        struct.pack_into("!Q", reply, 4, ntp(t2 + dwell))
        return bytes(reply)

    driver.reflector.spoil = spoil
    driver.reflector.follow_up = False
    ended(driver)
    said = driver.said(-1)
    assert (driver.cuts[-1].samples[0].rx != 0).all()
    assert (said.dwell == 0).all()
    assert not said.followed.any()
    assert (said.forward == ABSENT).all()
    assert (said.backward == ABSENT).all()


def test_without_our_own_kernels_stamps_there_are_no_one_way_delays() -> None:
    driver = StampDriver()
    driver.socket.receive_stamps = False
    ended(driver)
    said = driver.said(-1)
    assert (driver.cuts[-1].samples[0].unstamped).all()
    assert (said.forward == ABSENT).all()
    assert (said.dwell > 0).all()


@pytest.mark.parametrize("size", [44, 41], ids=["STAMP", "TWAMP"])
def test_a_reflector_without_sessions_and_tlvs_is_measured_too(size: int) -> None:
    driver = StampDriver()
    driver.reflector.spoil = lambda reply: bytes(reply[:size])
    driver.reflector.ssid = driver.reflector.tlvs = driver.reflector.stateful = False
    ended(driver)
    said, samples = driver.said(-1), driver.cuts[-1].samples[0]
    assert (samples.rx != 0).all()
    assert (said.dwell == DWELL).all()
    assert not said.followed.any()
    assert not said.numbering.any()


@pytest.mark.parametrize(
    ("at", "key"),
    [
        (14, b""),  # SSID
        (27, b""),  # the sender's sequence number
        (28, b""),  # T1: the seconds
        (33, b""),  # ... the fraction
        (35, b""),  # ... the number
        (48, b""),  # the secret in the padding
        (55, b""),
        (26, KEY),
        (51, KEY),
        (64, KEY),
        (71, KEY),
        (35, KEY),  # T2, under the HMAC
        (100, KEY),  # the HMAC
        (116, KEY),  # the secret
    ],
)
def test_what_is_not_exactly_ours_is_foreign(at: int, key: bytes) -> None:
    driver = StampDriver(key=key, sizes=(172 if key else 84,))

    def spoil(reply: bytearray) -> bytes:
        reply[at] ^= 0x10
        return bytes(reply)

    driver.reflector.spoil = spoil
    ended(driver, 1)
    assert (driver.cuts[-1].samples[0].rx == 0).all()
    assert driver.channel.counters.foreign == sum(cut.samples[0].inside for cut in driver.cuts)


@pytest.mark.parametrize("at", [132, 133, 140, 150], ids=["number", "number", "time", "HMAC"])
def test_follow_up_telemetry_without_the_right_hmac_is_not_believed(at: int) -> None:
    driver = StampDriver(key=KEY, sizes=(172,))

    def spoil(reply: bytearray) -> bytes:
        reply[at] ^= 0x10
        return bytes(reply)

    driver.reflector.spoil = spoil
    ended(driver)
    said, samples = driver.said(-1), driver.cuts[-1].samples[0]
    assert (samples.rx != 0).all()
    assert not said.followed.any()
    assert (said.dwell == DWELL).all()


@pytest.mark.parametrize("key", [b"", KEY], ids=["open", "sealed"])
@pytest.mark.parametrize("sizes", [(172,), (172, 200)])
def test_no_bytes_crash_it(key: bytes, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    driver = StampDriver(key=key, sizes=sizes)

    def spoil(reply: bytearray) -> bytes:
        cut = int(rng.integers(0, len(reply)))
        return bytes(reply[:cut]) if rng.random() < 0.5 else rng.bytes(cut)

    driver.socket.deliver((driver.clock.mono_ns, b""), (driver.clock.mono_ns, bytes(400)))
    driver.reflector.spoil = spoil
    ended(driver, 1)
    sent = sum(cut.samples[0].inside for cut in driver.cuts)
    # One that was cut behind all that is looked at is as good as a whole one.
    answered = sum(int((c.samples[0].rx[: c.samples[0].inside] != 0).sum()) for c in driver.cuts)
    assert driver.channel.counters.foreign == sent + 2 - answered
    assert answered < sent / 2


def test_a_reflector_that_fills_up_as_it_likes_is_believed() -> None:
    """One of TWAMP may: its packets are as long as ours, and hold anything."""
    rng = np.random.default_rng(3)
    driver = StampDriver()

    def spoil(reply: bytearray) -> bytes:
        reply[44:] = rng.bytes(len(reply) - 44)
        return bytes(reply)

    driver.reflector.spoil = spoil
    ended(driver)
    assert (driver.cuts[-1].samples[0].rx != 0).all()
    assert not driver.said(-1).followed.any()


def test_each_flow_is_a_session_that_counts_from_zero_and_bursts_have_numbers_in_order() -> None:
    driver = ended(StampDriver(sizes=(84, 84, 84), burst=4), 1)
    seen: dict[int, list[int]] = {}
    for packet in driver.socket.sent:
        seq, _, _, ssid = struct.unpack_from("!IQHH", packet)
        seen.setdefault(ssid, []).append(seq)
    assert sorted(seen) == [101, 102, 103]
    for numbers in seen.values():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 200
    assert all(packet[48:56] == TOKEN for packet in driver.socket.sent)


def test_a_session_is_never_zero() -> None:
    driver = StampDriver(sizes=(84, 84))
    assert driver.dialect is not None
    assert (driver.dialect._sessions != 0).all()


def test_t1_is_the_due_time_to_the_millisecond() -> None:
    driver = ended(StampDriver(), 1)
    samples, offset = driver.cuts[0].samples[0], driver.clock.wall_ns - driver.clock.mono_ns
    for due, packet in zip(samples.due.tolist(), driver.socket.sent, strict=False):
        (t1,) = struct.unpack_from("!Q", packet, 4)
        assert abs(t1 - ntp(due + offset)) < 1 << 22


def error(quoted: bytes, *, local: bool = False, destination: bytes = b"") -> QuotedError:
    return QuotedError(3, 1, local, quoted, destination)


def states(driver: StampDriver) -> set[int]:
    return {int(s) for cut in driver.cuts for s in cut.samples[0].state}


@pytest.mark.parametrize(("key", "least"), [(b"", 12), (KEY, 24)], ids=["open", "sealed"])
def test_an_icmp_error_leads_back_to_its_probe_by_what_it_quotes(key: bytes, least: int) -> None:
    driver = StampDriver(lambda _, n: Course("F" if n < 4 else ""), key=key, sizes=(172 if key else 84,))
    driver.run(300 * MILLISECOND)
    quotes = driver.socket.sent
    driver.socket.errors = [error(quotes[0]), error(quotes[1][:least]), error(quotes[2], local=True)]
    ended(driver, 1)
    state = driver.cuts[0].samples[0].state
    assert state[:4].tolist() == [SENT | ERROR, SENT | ERROR, SENT | ERROR | LOCAL, SENT]
    assert driver.channel.counters.unanswerable == 0


def test_an_icmp_error_that_quotes_too_little_is_the_flows() -> None:
    there = [b"\2\0\3\x5e\x0a\0\0" + bytes([host]) + bytes(20) for host in (1, 2, 2)]
    driver = StampDriver(sizes=(84, 84, 84), destinations=there)
    driver.run(100 * MILLISECOND)
    quoted = driver.socket.sent[0]
    driver.socket.errors = [
        error(b"", destination=there[0]),
        error(quoted[:11], destination=there[0]),
        error(b"", destination=there[1]),  # two flows go there
        error(b"", destination=b"\2\0\3\x5e\x0a\0\0\x09" + bytes(20)),
        error(b""),
        error(b"", local=True, destination=there[0]),  # refused in the send call
        error(quoted[:11] + b"\xff" + quoted[12:], destination=there[0]),  # none of ours
    ]
    ended(driver, 1)
    assert np.sum([cut.strays.errors for cut in driver.cuts], 0).tolist() == [2, 0, 0]
    assert driver.channel.counters.unanswerable == 4
    assert states(driver) == {SENT}
