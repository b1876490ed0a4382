"""Flows and numbers in, packets whose flow fields stand still out: compared with a plain checksum and
scapy."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from probe.paths import identity
from probe.paths.identity import FIRST_PORT, MOST_NUMBERS, PORTS, Secrets
from tests.unit.probe.repeatable import repeatable

NUMBERS = st.integers(0, MOST_NUMBERS - 1)
SECRETS = st.builds(Secrets.of, st.binary(min_size=16, max_size=16), st.integers(0, 1 << 62))
SIZES = st.integers(0, 2000)
ENDS = {4: (b"\x0a\x00\x00\x01", b"\x0a\x62\x00\x01"), 6: (b"\xfd" + bytes(15), b"\xfd\x98" + bytes(14))}


def checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@repeatable
@given(st.text(), st.integers(1, 64))
def test_flows_of_a_target_differ_and_are_the_same_the_next_time(seed: str, count: int) -> None:
    flows = identity.flows(seed, count)
    assert flows == identity.flows(seed, count)
    assert flows[: count // 2] == identity.flows(seed, count // 2)
    for name in ("ident", "checksum", "port", "label"):
        assert len({getattr(flow, name) for flow in flows}) == count, name
    assert all(FIRST_PORT <= flow.port < FIRST_PORT + PORTS for flow in flows)
    assert all(0 < flow.checksum < 0xFFFF and 0 < flow.label < 1 << 20 for flow in flows)


@repeatable
@given(SECRETS, NUMBERS, SIZES, st.text(max_size=4), st.sampled_from([4, 6]))
def test_the_checksum_of_an_echo_is_its_flows(
    secrets: Secrets, number: int, size: int, seed: str, version: int
) -> None:
    flow = identity.flows(seed, 3)[2]
    source, destination = ENDS[version]
    kind, length = (8 if version == 4 else 128), max(size, identity.ECHO_HEAD + identity.TOKEN + 2)
    besides = identity.pseudo(source, destination, 58, length) if version == 6 else 0
    payload = identity.echo_payload(flow, secrets, number, length, kind, besides)
    head = struct.pack("!BBHHH", kind, 0, 0, flow.ident, secrets.echo_sequence(number))
    whole = head + payload
    assert len(whole) == length
    pseudo = source + destination + struct.pack("!II", length, 58) if version == 6 else b""
    assert checksum(pseudo + whole) == flow.checksum
    assert secrets.echo_number(secrets.echo_sequence(number)) == number


@repeatable
@given(SECRETS, NUMBERS, SIZES, st.sampled_from([4, 6]))
def test_the_checksum_of_a_datagram_is_its_number(
    secrets: Secrets, number: int, size: int, version: int
) -> None:
    ports, ends = (61000, 862), ENDS[version]
    payload = identity.udp_payload(secrets, number, size, ports, ends)
    length = identity.UDP_HEAD + len(payload)
    assert length == max(size, 52)
    pseudo = (
        ends[0]
        + ends[1]
        + (struct.pack("!BBH", 0, 17, length) if version == 4 else struct.pack("!II", length, 17))
    )
    found = checksum(pseudo + struct.pack("!HHHH", *ports, length, 0) + payload)
    assert found == secrets.udp_checksum(number)
    assert 0 < found < 0xFFFF
    assert secrets.udp_number(found) == number


@repeatable
@given(SECRETS, NUMBERS, st.integers(0, 0xFFFFFFFF))
def test_tcp_numbers_come_back_and_nothing_else_does(secrets: Secrets, number: int, other: int) -> None:
    assert secrets.tcp_number(secrets.tcp_sequence(number)) == number
    found = secrets.tcp_number(other)
    assert found == -1 or secrets.tcp_sequence(found) == other


def test_a_later_trace_begins_with_a_greater_sequence_number() -> None:
    first, later = (Secrets.of(bytes(16), wall) for wall in (10**18, 10**18 + 10 * 10**9))
    assert (later.tcp_sequence(0) - first.tcp_sequence(400)) & 0xFFFFFFFF < 1 << 31
