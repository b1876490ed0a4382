"""Answers as routers and targets write them in, the probe they belong to out; and anything else in,
nothing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.paths import identity
from probe.paths.identity import Secrets
from probe.paths.replies import (
    ECHOED,
    EXCEEDED,
    PORT_UNREACHABLE,
    REFLECTED,
    RESET,
    SYN_ACK,
    TOO_BIG,
    Matcher,
    Reply,
)
from tests.unit.probe.repeatable import repeatable

US, ROUTER, TARGET = bytes([10, 0, 0, 1]), bytes([10, 0, 9, 1]), bytes([10, 98, 0, 1])
US6, ROUTER6, TARGET6 = (bytes([0xFD, n]) + bytes(14) for n in (1, 2, 3))
PORT = 9000
SECRETS = Secrets.of(bytes(range(1, 17)), 1_700_000_000 * 10**9)
FLOWS = identity.flows("x", 4)
FOUR, SIX = (Matcher(target, PORT, FLOWS, SECRETS) for target in (TARGET, TARGET6))


def transport(kind: str, flow: int, number: int, version: int) -> bytes:
    """What stands behind the IP header of a probe."""
    one = FLOWS[flow]
    if kind == "udp":
        return struct.pack("!HHHH", one.port, PORT, 52, SECRETS.udp_checksum(number)) + bytes(44)
    if kind == "tcp":
        return struct.pack("!HHIIHHHH", one.port, PORT, SECRETS.tcp_sequence(number), 0, 0x5002, 64240, 0, 0)
    head = struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, one.ident, SECRETS.echo_sequence(number))
    return head + SECRETS.token + bytes(2)


def quoted(kind: str, flow: int, number: int, version: int, options: int = 0) -> bytes:
    """A probe as a router quotes it."""
    inner = transport(kind, flow, number, version)
    protocol = {"udp": 17, "tcp": 6, "icmp": 1 if version == 4 else 58}[kind]
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45 + options, 0, 20 + len(inner), 1, 0x4000, 1, protocol, 0)
        return head + US + TARGET + bytes(4 * options) + inner
    return struct.pack("!IHBB", 6 << 28, len(inner), protocol, 1) + US6 + TARGET6 + inner


def packet4(source: bytes, message: bytes) -> bytes:
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 7, 0, 63, 1, 0) + source + US + message


KINDS = st.sampled_from(["icmp", "udp", "tcp"])
FLOW, NUMBER = st.integers(0, 3), st.integers(0, 2000)


@repeatable
@given(KINDS, FLOW, NUMBER, st.booleans(), st.integers(0, 3))
def test_an_error_names_the_probe_that_it_quotes(
    kind: str, flow: int, number: int, short: bool, options: int
) -> None:
    for version in (4, 6):
        inner = quoted(kind, flow, number, version, options if version == 4 else 0)
        if short:  # RFC 792: eight bytes behind the header
            inner = inner[: (20 + 4 * options if version == 4 else 40) + 8]
        if version == 4:
            found = FOUR.icmp4(packet4(ROUTER, struct.pack("!BBHI", 11, 0, 0, 0) + inner))
            assert found == Reply(flow, number, "10.0.9.1", EXCEEDED, False)
            found = FOUR.icmp4(packet4(ROUTER, struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + inner))
            assert found == Reply(flow, number, "10.0.9.1", TOO_BIG, False, 1400)
            found = FOUR.icmp4(packet4(TARGET, struct.pack("!BBHI", 3, 13, 0, 0) + inner))
            assert found == Reply(flow, number, "10.98.0.1", "prohibited", True)
        else:
            found = SIX.icmp6(struct.pack("!BBHI", 3, 0, 0, 0) + inner, ROUTER6)
            assert found == Reply(flow, number, "fd02::", EXCEEDED, False)
            found = SIX.icmp6(struct.pack("!BBHI", 2, 0, 0, 1400) + inner, ROUTER6)
            assert found == Reply(flow, number, "fd02::", TOO_BIG, False, 1400)
            found = SIX.icmp6(struct.pack("!BBHI", 1, 4, 0, 0) + inner, ROUTER6)
            assert found == Reply(flow, number, "fd02::", PORT_UNREACHABLE, True)


@repeatable
@given(FLOW, NUMBER)
def test_a_target_answers_in_the_words_of_its_protocol(flow: int, number: int) -> None:
    echo = transport("icmp", flow, number, 4)
    assert FOUR.icmp4(packet4(TARGET, b"\0" + echo[1:])) == Reply(flow, number, "10.98.0.1", ECHOED, True)
    assert SIX.icmp6(b"\x81" + echo[1:], TARGET6) == Reply(flow, number, "fd03::", ECHOED, True)
    acknowledged = (SECRETS.tcp_sequence(number) + 1) & 0xFFFFFFFF
    for flags, what in ((0x12, SYN_ACK), (0x14, RESET)):
        answer = struct.pack("!HHIIBBHHH", PORT, FLOWS[flow].port, 5, acknowledged, 0x50, flags, 0, 0, 0)
        assert FOUR.segment(TARGET, answer) == Reply(flow, number, "10.98.0.1", what, True)
        assert FOUR.segment(ROUTER, answer) is None
    sent = identity.udp_payload(SECRETS, number, 0, (FLOWS[flow].port, PORT), (US, TARGET))
    reflected = bytes(24) + sent[:20]
    found = FOUR.datagram(flow, TARGET, PORT, reflected)
    assert found == Reply(flow, number, "10.98.0.1", REFLECTED, True)
    assert FOUR.datagram(flow, TARGET, PORT + 1, reflected) is None
    assert FOUR.datagram(flow, TARGET, PORT, bytes(44)) is None


@pytest.mark.parametrize("place", ["destination", "port", "flow", "token", "kind"])
def test_what_quotes_another_packet_is_nobodys_answer(place: str) -> None:
    inner = bytearray(quoted("icmp" if place in ("token", "kind") else "udp", 1, 5, 4))
    at = {"destination": 16, "port": 23, "flow": 20, "token": 30, "kind": 20}[place]
    inner[at] ^= 0x55
    assert FOUR.icmp4(packet4(ROUTER, struct.pack("!BBHI", 11, 0, 0, 0) + bytes(inner))) is None


@repeatable
@given(st.binary(max_size=120), st.binary(max_size=60))
def test_whatever_comes_nothing_raises_and_nothing_is_believed(data: bytes, rest: bytes) -> None:
    for start in (b"", b"\x45" + bytes(19), struct.pack("!BBHI", 11, 0, 0, 0), b"\x03\x04"):
        for found in (
            FOUR.icmp4(start + data),
            FOUR.icmp4(packet4(ROUTER, start + data)),
            SIX.icmp6(start + data, ROUTER6),
            FOUR.segment(TARGET, start + data),
            FOUR.datagram(0, TARGET, PORT, start + data),
        ):
            assert found is None


@repeatable
@given(st.data())
def test_a_cut_or_damaged_answer_raises_nothing(data: st.DataObject) -> None:
    kind, version = data.draw(KINDS), data.draw(st.sampled_from([4, 6]))
    head = struct.pack("!BBHI", 11 if version == 4 else 3, 0, 0, 0)
    whole = bytearray(head + quoted(kind, 1, 5, version))
    if version == 4:
        whole = bytearray(packet4(ROUTER, bytes(whole)))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    found = FOUR.icmp4(cut) if version == 4 else SIX.icmp6(cut, ROUTER6)
    assert found is None or 0 <= found.flow < 4
