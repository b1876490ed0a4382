"""Probe numbers in, echo requests out: equal to golden bytes and to a plain builder, byte for byte."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.packets.checksum import checksum
from probe.packets.icmp import ECHO6_REQUEST, ECHO_REQUEST, HEADER, EchoWriter, echo_view
from tests.unit.probe.packets.plain import TOKEN, echo_request, vectors
from tests.unit.probe.repeatable import repeatable

NUMBERS = st.one_of(
    st.integers(0, (1 << 63) - 1),
    st.sampled_from([0, 1, 0xFFFF, 0x1_0000, 0xFFFF_FFFF, 0x1_0000_0000, (1 << 48) - 1, (1 << 63) - 1]),
)


def write(
    pitch: int, kind: int, probes: list[tuple[int, int, int]], token: bytes = TOKEN, checksums: bool = True
) -> list[bytes]:
    """Packets of (number, id, size), written into a matrix of rows of `pitch` bytes."""
    rows = np.zeros((len(probes) + 2, pitch), np.uint8)
    writer = EchoWriter(rows, token, kind, checksums)
    numbers, ids, sizes = (list(column) for column in zip(*probes, strict=True))
    writer.write(
        slice(1, len(probes) + 1), np.array(numbers, np.int64), np.array(ids, np.uint16), np.array(sizes)
    )
    return [rows[n + 1, :size].tobytes() for n, size in enumerate(sizes)]


@pytest.mark.parametrize("vector", vectors("request"), ids=lambda v: f"ipv{v['version']}-{v['size']}")
def test_golden_requests(vector: dict[str, Any]) -> None:
    golden = vector["bytes"]
    probe = (vector["number"], vector["id"], vector["size"])
    if vector["version"] == 4:
        assert write(192, ECHO_REQUEST, [probe]) == [golden]
        assert checksum(golden) == 0
        return
    # The kernel fills in the checksum of ICMPv6; that of the golden packet says that we read it right.
    assert write(192, ECHO6_REQUEST, [probe], checksums=False) == [golden[:2] + b"\0\0" + golden[4:]]
    pseudo_header = (
        IPv6Address(vector["source"]).packed
        + IPv6Address(vector["destination"]).packed
        + len(golden).to_bytes(4, "big")
        + (58).to_bytes(4, "big")
    )
    assert checksum(pseudo_header + golden) == 0


@repeatable
@given(
    st.lists(st.tuples(NUMBERS, st.integers(0, 0xFFFF), st.integers(HEADER, 320)), min_size=1, max_size=8),
    st.binary(min_size=8, max_size=8),
)
def test_as_a_plain_builder_makes_them(probes: list[tuple[int, int, int]], token: bytes) -> None:
    expected = [echo_request(ECHO_REQUEST, ident, number, size, token) for number, ident, size in probes]
    assert write(320, ECHO_REQUEST, probes, token) == expected


@pytest.mark.parametrize("size", [HEADER, 63, 64, 65, 1471, 1472, 9000, 65507])
def test_every_size_of_a_row(size: int) -> None:
    pitch = -(-size // 64) * 64
    assert write(pitch, ECHO_REQUEST, [(77, 3, size)]) == [echo_request(ECHO_REQUEST, 3, 77, size)]


def test_rows_are_written_again_and_others_left_alone() -> None:
    rows = np.zeros((4, 64), np.uint8)
    writer = EchoWriter(rows, TOKEN, ECHO_REQUEST, True)
    ids, sizes = np.array([1, 2], np.uint16), np.array([64, 64])
    writer.write(slice(0, 2), np.array([10, 11]), ids, sizes)
    before = rows[0].tobytes()
    writer.write(slice(1, 3), np.array([1 << 40, 5]), ids[::-1].copy(), sizes)
    assert rows[0].tobytes() == before == echo_request(8, 1, 10, 64)
    assert rows[1].tobytes() == echo_request(8, 2, 1 << 40, 64)
    assert rows[2].tobytes() == echo_request(8, 1, 5, 64)


def test_the_columns_of_received_rows() -> None:
    packet = echo_request(ECHO_REQUEST, 0xBEEF, 0x0123_4567_89AB_CDEF, 64)
    rows = np.zeros((2, 192), np.uint8)
    rows[1, 20:84] = np.frombuffer(packet, np.uint8)
    row = echo_view(rows, 20)[1]
    assert (row["type"], row["code"], row["id"], row["seq"]) == (8, 0, 0xBEEF, 0xCDEF)
    assert row["number"] == 0x0123_4567_89AB_CDEF
    assert row["token"].tobytes() == TOKEN
    # A view: what is written through it stands in the rows.
    echo_view(rows, 20)["seq"][1] = 0x0102
    assert rows[1, 26:28].tolist() == [1, 2]
