"""STAMP packets in, replies or reasons out: as the golden exchanges are, and never more than came."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.limits import RateLimit
from probe.packets import stamp
from probe.packets.arrival import Arrival
from probe.packets.timestamps import to_ntp
from probe.reflection import (
    AGE,
    DESTINATION,
    FORGED,
    LIMITED,
    LONG,
    LOOP,
    RETURNED,
    SHORT,
    SOURCE,
    Reflection,
    Sessions,
)
from tests.unit.probe.packets.stamping import (
    ESTIMATE,
    KEY,
    LEFT_BEFORE,
    RECEIVED,
    SECOND,
    SENT,
    Exchange,
    exchange,
    exchanges,
)
from tests.unit.probe.repeatable import repeatable

PLAIN = exchange("unauthenticated").request
TLVS = exchange("unauthenticated, with TLVs").request
SEALED = exchange("authenticated, with TLVs and their HMAC").request


def rules(key: bytes = b"", rate: int = 1_000_000, sessions: int = 100) -> Reflection:
    found = Reflection(key, 8620, RateLimit(rate, rate), Sessions(sessions))
    found.estimate = ESTIMATE
    return found


def arrival(
    source: str = "192.0.2.7",
    port: int = 50_000,
    destination: str = "192.0.2.1",
    *,
    unicast: bool = True,
    whole: bool = True,
    received: int = RECEIVED,
) -> Arrival:
    packed = ip_address(source).packed
    peer = struct.pack(">HH", len(packed), port) + packed
    there = ip_address(destination).packed
    return Arrival(peer, packed, port, there, unicast, 64, received, whole)


def answer(
    reflection: Reflection, request: bytes, came: Arrival | None = None, now: int = SECOND, sent: int = SENT
) -> bytes | None:
    """The reply, or None. It has the request's length by its nature: it is written in its place."""
    packet = memoryview(bytearray(request))
    if reflection.prepare(packet, came or arrival(), now) is None:
        assert bytes(packet) == request, "what gets no reply is left alone"
        return None
    reflection.finish(packet, sent)
    return bytes(packet)


def number(reply: bytes | None) -> int:
    assert reply is not None
    return int.from_bytes(reply[:4], "big")


def followed(reply: bytes | None, at: int) -> tuple[int, int, int]:
    """Sequence number, timestamp and mode of a follow-up telemetry whose value is at `at`."""
    assert reply is not None
    found: tuple[int, int, int] = struct.unpack_from(">IQB", reply, at)
    return found


@pytest.mark.parametrize("golden", exchanges(), ids=str)
def test_golden_exchanges(golden: Exchange) -> None:
    reflection = rules(golden.key)
    for _ in range(3):
        before = answer(reflection, golden.request)
        assert before is not None
    session = reflection.sessions.of(arrival().peer, arrival().destination, ssid(golden), SECOND)
    session.replied(2, LEFT_BEFORE, stamp.SOFTWARE)
    assert answer(reflection, golden.request) == golden.reply
    assert not reflection.refused


def ssid(golden: Exchange) -> int:
    at = 26 if golden.key else 14
    return int.from_bytes(golden.request[at : at + 2], "big")


def test_every_session_is_numbered_by_itself() -> None:
    reflection = rules()
    other_ssid = PLAIN[:14] + b"\0\x2b" + PLAIN[16:]
    senders: list[tuple[bytes, Arrival]] = [
        (PLAIN, arrival()),
        (other_ssid, arrival()),
        (PLAIN, arrival(port=50_001)),
        (PLAIN, arrival("192.0.2.8")),
        (PLAIN, arrival(destination="192.0.2.2")),
        (PLAIN, arrival("2001:db8::7", destination="2001:db8::1")),
    ]
    for turn in range(3):
        for request, came in senders:
            assert number(answer(reflection, request, came)) == turn
    assert len(reflection.sessions) == len(senders)


def test_numbers_are_the_reflectors_own_and_begin_again_after_2_to_the_32() -> None:
    reflection = rules()
    assert number(answer(reflection, b"\0\0\x10\0" + PLAIN[4:])) == 0
    reflection.sessions.of(arrival().peer, arrival().destination, 42, SECOND).number = 0xFFFFFFFF
    assert number(answer(reflection, PLAIN)) == 0xFFFFFFFF
    assert number(answer(reflection, PLAIN)) == 0


def test_a_session_ends_when_it_has_been_silent_for_long() -> None:
    reflection = rules()
    assert [number(answer(reflection, PLAIN, now=now)) for now in (1, AGE + 1, AGE + 2)] == [0, 1, 2]
    assert number(answer(reflection, PLAIN, now=2 * AGE + 3)) == 0
    answer(reflection, PLAIN, arrival(port=50_001), now=4 * AGE)
    assert len(reflection.sessions) == 1
    assert reflection.sessions.evicted == 0


def test_sessions_are_bounded_and_the_longest_silent_one_goes() -> None:
    reflection = rules(sessions=3)
    for port in (1, 2, 3, 1, 4):
        answer(reflection, PLAIN, arrival(port=port))
    assert len(reflection.sessions) == 3
    assert reflection.sessions.evicted == 1
    assert number(answer(reflection, PLAIN, arrival(port=1))) == 2
    assert number(answer(reflection, PLAIN, arrival(port=2))) == 0


def test_a_flood_of_forged_senders_takes_no_session_from_who_has_one() -> None:
    reflection = rules(sessions=100)
    for n in range(3):
        assert number(answer(reflection, PLAIN)) == n
    for n in range(500):
        answer(reflection, PLAIN, arrival(f"198.51.{n // 250}.{n % 250}"))
    assert len(reflection.sessions) == 100
    assert number(answer(reflection, PLAIN)) == 3
    # Nor do senders that were there once, and are not any more, keep new ones out.
    for n in range(200):
        for _ in range(2):
            answer(reflection, PLAIN, arrival(f"203.0.113.{n}"))
    assert len(reflection.sessions) == 100
    for n in range(20):
        answer(reflection, PLAIN, arrival(f"198.51.100.{n}"))
    assert number(answer(reflection, PLAIN, arrival("198.51.100.0"))) == 1


def test_follow_up_telemetry_tells_the_last_reply_and_then_the_others_of_a_burst() -> None:
    reflection = rules()
    at = 44 + 12 + 4
    assert followed(answer(reflection, TLVS), at) == (0, 0, 0)
    session = reflection.sessions.of(arrival().peer, arrival().destination, 42, SECOND)
    for _ in range(2):
        answer(reflection, TLVS)
    for reply in range(3):
        session.replied(reply, SENT + reply, stamp.SOFTWARE)
    told = [followed(answer(reflection, TLVS), at) for _ in range(4)]
    assert told == [(reply, to_ntp(SENT + reply), 2) for reply in (2, 1, 0)] + [(0, 0, 0)]


def test_stamps_are_kept_for_who_asks_and_not_without_bound() -> None:
    reflection = rules()
    answer(reflection, PLAIN)
    session = reflection.sessions.of(arrival().peer, arrival().destination, 42, SECOND)
    session.replied(0, SENT, stamp.SOFTWARE)
    assert session.left == []
    answer(reflection, TLVS)
    for reply in range(1000):
        session.replied(reply, SENT, stamp.SOFTWARE)
    assert len(session.left) == 64
    assert followed(answer(reflection, TLVS), 60)[0] == 999


REFUSED: dict[str, tuple[bytes, Arrival, str]] = {
    "empty": (b"", arrival(), SHORT),
    "a byte short": (PLAIN[:43], arrival(), SHORT),
    "cut short on its way to us": (PLAIN, arrival(whole=False), LONG),
    "to a group or to all": (PLAIN, arrival(unicast=False), DESTINATION),
    "from a group": (PLAIN, arrival("224.0.0.1"), SOURCE),
    "from all": (PLAIN, arrival("255.255.255.255"), SOURCE),
    "from nobody": (PLAIN, arrival("0.0.0.0"), SOURCE),
    "from this network": (PLAIN, arrival("0.1.2.3"), SOURCE),
    "from a reserved address": (PLAIN, arrival("240.0.0.1"), SOURCE),
    "from an IPv6 group": (PLAIN, arrival("ff02::1", destination="2001:db8::1"), SOURCE),
    "from no IPv6 address": (PLAIN, arrival("::", destination="2001:db8::1"), SOURCE),
    "from port 0": (PLAIN, arrival(port=0), SOURCE),
    "from our own port": (PLAIN, arrival(port=8620), LOOP),
    "from STAMP's port": (PLAIN, arrival(port=862), LOOP),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gets_no_reply_is_counted_by_its_reason(case: str) -> None:
    request, came, reason = REFUSED[case]
    reflection = rules()
    assert answer(reflection, request, came) is None
    assert dict(reflection.refused) == {reason: 1}
    assert len(reflection.sessions) == 0


def test_a_reflectors_reply_is_no_request_of_another() -> None:
    one, other = rules(), rules()
    reply = answer(one, PLAIN)
    assert reply is not None
    assert answer(other, reply, arrival("192.0.2.1", 8620)) is None


@pytest.mark.parametrize("key", [b"", KEY], ids=["open", "sealed"])
def test_a_packet_that_goes_round_between_two_reflectors_does_so_once(key: bytes) -> None:
    """Each believes the other to be a sender, on a port that it does not know; their clocks differ."""
    one, other = rules(key), rules(key)
    packet = answer(one, SEALED if key else TLVS)
    assert packet is not None
    packet = answer(other, packet, arrival(port=8621, received=RECEIVED + 3600 * SECOND))
    assert packet is not None
    later = arrival(port=8622, received=RECEIVED + 30 * SECOND)
    assert answer(one, packet, later) is None
    assert dict(one.refused) == {RETURNED: 1}


def test_an_echo_service_is_not_answered_for_ever() -> None:
    reflection = rules()
    packet: bytes | None = PLAIN[:4] + bytes(8) + PLAIN[12:]  # from who keeps no time
    replies = 0
    while packet is not None and replies < 10:
        packet = answer(reflection, packet, arrival(port=7))
        replies += packet is not None
    assert replies == 2


@pytest.mark.parametrize("at", [0, 16, 95, 96, 111])
def test_authenticated_mode_believes_no_changed_bit(at: int) -> None:
    reflection = rules(KEY)
    changed = bytearray(SEALED)
    changed[at] ^= 1
    assert answer(reflection, bytes(changed)) is None
    assert answer(reflection, PLAIN) is None
    assert dict(reflection.refused) == {FORGED: 1, SHORT: 1}
    assert answer(reflection, SEALED) is not None


def test_forged_packets_do_not_use_up_what_the_address_may_send() -> None:
    reflection = rules(KEY, rate=1)
    forged = SEALED[:111] + bytes([SEALED[111] ^ 1])
    for _ in range(100):
        answer(reflection, forged)
    assert answer(reflection, SEALED) is not None


def test_too_many_are_refused_and_take_no_number() -> None:
    reflection = rules(rate=10)
    replies = [answer(reflection, PLAIN, now=SECOND) for _ in range(20)]
    assert [reply is not None for reply in replies] == [True] * 16 + [False] * 4
    assert dict(reflection.refused) == {LIMITED: 4}
    assert number(answer(reflection, PLAIN, now=2 * SECOND)) == 16


def test_an_rfc_8762_sender_may_pad_with_anything() -> None:
    """A type of 0, or fewer bytes than a header, are no TLVs: they come back as they were."""
    for padding in (b"\0" * 41, b"\xff", b"\xff\xff\xff", b"\xff\0\xff\xff" * 9):
        reply = answer(rules(), PLAIN + padding)
        assert reply is not None
        assert reply[44:] == padding


def test_of_very_many_tlvs_the_first_are_answered() -> None:
    reply = answer(rules(), PLAIN + b"\x80\x01\0\0" * 100)
    assert reply is not None
    assert reply[44:] == b"\0\x01\0\0" * 32 + b"\x80\x01\0\0" * 68


def test_without_a_key_an_hmac_is_unknown() -> None:
    reply = answer(rules(), PLAIN + SIGNATURE + b"\x80\x01\0\0")
    assert reply is not None
    assert reply[44:] == SIGNATURE + b"\0\x01\0\0"


UNSIGNED = b"\x80\x07\0\x10" + bytes(16)
SIGNATURE = b"\x80\x08\0\x10" + bytes(16)
# A right one, for no TLVs at all.
RIGHT = SIGNATURE[:4] + stamp.mac(KEY, SEALED[:4])


@pytest.mark.parametrize(
    "tlvs",
    [
        UNSIGNED,  # no HMAC at all
        SIGNATURE,  # a wrong one
        RIGHT + UNSIGNED,  # not at the end
        RIGHT + SIGNATURE,  # two
        UNSIGNED + b"\x80\x08\0\x08" + bytes(8),  # half of one
        UNSIGNED + b"\x80\x08\0\x10" + bytes(15),  # one that is cut short
    ],
)
def test_in_authenticated_mode_unsigned_tlvs_are_not_processed(tlvs: bytes) -> None:
    reply = answer(rules(KEY), SEALED[:112] + tlvs)
    assert reply is not None
    at, flags = 112, []
    while at + 4 <= len(reply):
        flags.append(reply[at])
        at += 4 + int.from_bytes(reply[at + 2 : at + 4], "big")
    cut = stamp.MALFORMED if at > len(reply) else 0
    assert flags == [stamp.INTEGRITY] * (len(flags) - 1) + [stamp.INTEGRITY | cut]
    masked = bytearray(reply[112:])
    masked[0] = tlvs[0]
    assert masked[:20] == tlvs[:20], "and nothing is told"


def test_padding_alone_needs_no_hmac() -> None:
    reply = answer(rules(KEY), SEALED[:112] + b"\x80\x01\0\x04abcd")
    assert reply is not None
    assert reply[112:] == b"\0\x01\0\x04abcd"


def fuzzed(request: bytes, chance: random.Random) -> bytes:
    """A packet with some bytes changed, cut off or added."""
    packet = bytearray(request)
    for _ in range(chance.randrange(8)):
        if packet:
            packet[chance.randrange(len(packet))] = chance.choice((0, 1, 7, 8, 16, 0x80, 0xFF))
    size = chance.choice((len(packet), chance.randrange(400)))
    return bytes(packet[:size]) + chance.randbytes(max(0, size - len(packet)))


@pytest.mark.parametrize("key", [b"", KEY])
def test_any_bytes_get_a_reply_of_their_length_or_none(key: bytes) -> None:
    chance = random.Random(8762)
    reflection = rules(key)
    seeds = [one.request for one in exchanges()]
    replies = 0
    for _ in range(5000):
        request = fuzzed(chance.choice(seeds), chance)
        if key and len(request) >= stamp.SEALED:
            request = request[: stamp.SIGNED] + stamp.mac(key, request[: stamp.SIGNED]) + request[112:]
        reply = answer(reflection, request)
        if reply is not None:
            replies += 1
            assert len(reply) == len(request)
    assert replies > 1000
    assert replies + reflection.refused.total() == 5000


@repeatable
@given(st.binary(max_size=120), st.booleans())
def test_random_tlvs_never_raise(tlvs: bytes, sealed: bool) -> None:
    reply = answer(rules(KEY if sealed else b""), (SEALED[:112] if sealed else PLAIN) + tlvs)
    assert reply is not None
