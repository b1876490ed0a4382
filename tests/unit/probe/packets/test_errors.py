"""ICMP errors as routers send them in, the probe they quote out; anything else gives None."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.packets.icmp import (
    ECHO6_REQUEST,
    ECHO_REQUEST,
    IcmpError,
    parse_error4,
    parse_error6,
    parse_quoted,
)
from tests.unit.probe.packets.plain import TOKEN, vectors
from tests.unit.probe.repeatable import repeatable

ERRORS = vectors("error")
V4 = [vector for vector in ERRORS if vector["version"] == 4]
V6 = [vector for vector in ERRORS if vector["version"] == 6]


def expected(vector: dict[str, Any], *, whole: bool = True, local: bool = False) -> IcmpError:
    family = socket.AF_INET if vector["version"] == 4 else socket.AF_INET6
    return IcmpError(
        type=vector["type"],
        code=vector["code"],
        id=vector["id"],
        sequence=vector["number"] % (1 << 16),
        token=TOKEN if whole else None,
        number=vector["number"] if whole else None,
        destination=socket.inet_pton(family, vector["destination"]),
        local=local,
    )


def parse(vector: dict[str, Any], packet: bytes) -> IcmpError | None:
    """As the sockets deliver it: IPv6 without its header."""
    return parse_error4(packet) if vector["version"] == 4 else parse_error6(packet[40:], packet[8:24])


def quoted_at(vector: dict[str, Any]) -> int:
    """Where the quoted ICMP message begins."""
    packet: bytes = vector["bytes"]
    if vector["version"] == 6:
        return 40 + 8 + 40
    outer = (packet[0] & 15) * 4
    return outer + 8 + (packet[outer + 8] & 15) * 4


@pytest.mark.parametrize("vector", ERRORS, ids=lambda v: v["name"])
def test_golden_errors(vector: dict[str, Any]) -> None:
    assert parse(vector, vector["bytes"]) == expected(vector)


@pytest.mark.parametrize("vector", ERRORS, ids=lambda v: v["name"])
def test_a_router_may_quote_eight_bytes_and_no_more(vector: dict[str, Any]) -> None:
    at = quoted_at(vector)
    for length in range(8, 24):
        assert parse(vector, vector["bytes"][: at + length]) == expected(vector, whole=False)
    assert parse(vector, vector["bytes"][: at + 24]) == expected(vector)
    for length in range(at + 8):
        assert parse(vector, vector["bytes"][:length]) is None


@pytest.mark.parametrize("vector", ERRORS, ids=lambda v: v["name"])
def test_only_a_quoted_echo_request_counts(vector: dict[str, Any]) -> None:
    at = quoted_at(vector)
    for place, value in ((at, 0), (at, 129), (at, 13), (at + 1, 1)):
        packet = bytearray(vector["bytes"])
        packet[place] = value
        assert parse(vector, bytes(packet)) is None


def test_other_protocols_and_broken_headers_are_none() -> None:
    packet = V4[0]["bytes"]
    udp = bytearray(packet)
    udp[28 + 9] = 17
    assert parse_error4(bytes(udp)) is None
    for place, value in ((0, 0x44), (28, 0x44), (28, 0x65)):
        broken = bytearray(packet)
        broken[place] = value
        assert parse_error4(bytes(broken)) is None
    message, source = V6[0]["bytes"][40:], V6[0]["bytes"][8:24]
    for place, value in ((8, 0x45), (8 + 6, 17)):
        broken = bytearray(message)
        broken[place] = value
        assert parse_error6(bytes(broken), source) is None


def test_an_error_from_the_probes_own_source_is_local() -> None:
    packet = bytearray(V4[0]["bytes"])
    packet[12:16] = packet[28 + 12 : 28 + 16]
    assert parse_error4(bytes(packet)) == expected(V4[0], local=True)
    whole = V6[0]["bytes"]
    assert parse_error6(whole[40:], whole[48 + 8 : 48 + 24]) == expected(V6[0], local=True)


def test_an_error_queue_quotes_the_message_alone() -> None:
    vector = V4[0]
    quoted = vector["bytes"][quoted_at(vector) :]
    error = parse_quoted(11, 0, quoted, ECHO_REQUEST, local=False)
    assert error is not None
    assert (error.id, error.number, error.destination) == (vector["id"], vector["number"], b"")
    assert parse_quoted(11, 0, quoted, ECHO6_REQUEST, local=False) is None
    short = parse_quoted(11, 0, quoted[:8], ECHO_REQUEST, local=True)
    assert short is not None
    assert (short.sequence, short.token, short.local) == (vector["number"] % (1 << 16), None, True)
    assert parse_quoted(11, 0, quoted[:7], ECHO_REQUEST, local=True) is None


@repeatable
@given(st.binary(max_size=200), st.binary(max_size=16))
def test_random_bytes_never_raise(data: bytes, source: bytes) -> None:
    parse_error4(data)
    parse_error6(data, source)
    parse_quoted(3, 1, data, ECHO_REQUEST, local=False)


@repeatable
@given(
    st.sampled_from(ERRORS),
    st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 200),
)
def test_damaged_errors_never_raise(
    vector: dict[str, Any], damage: list[tuple[int, int]], length: int
) -> None:
    packet = bytearray(vector["bytes"])
    for place, value in damage:
        packet[place % len(packet)] = value
    found = parse(vector, bytes(packet[:length]))
    assert found is None or 0 <= found.sequence <= 0xFFFF
