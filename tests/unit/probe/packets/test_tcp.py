"""Ports and sequence numbers in, SYN segments out: equal to golden bytes and to a plain builder, byte for
byte; and what answers them."""

from __future__ import annotations

import struct
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.packets import tcp
from tests.unit.probe.packets.plain import internet_checksum
from tests.unit.probe.repeatable import repeatable

VECTORS = Path(__file__).parents[3] / "vectors" / "tcp.toml"
PORT = st.one_of(st.integers(0, 65_535), st.sampled_from([0, 1, 0x7FFF, 0xFFFF]))
SEQUENCE = st.one_of(st.integers(0, (1 << 32) - 1), st.sampled_from([0, 1, 0xFFFF, 0x1_0000, (1 << 32) - 1]))
FLAGS = {"open": tcp.SYN | tcp.ACK, "closed": tcp.RST | tcp.ACK, "unforgotten": tcp.ACK}


def vectors(kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(VECTORS.read_text(encoding="ascii"))[kind]
    for vector in found:
        vector["bytes"] = bytes.fromhex(vector["hex"])
    return found


def syn(pseudo: bytes, ports: tuple[int, int], sequence: int, mss: int) -> bytes:
    """A SYN of 24 bytes with its checksum, by struct."""
    head = struct.pack("!HHIIBBH", *ports, sequence, 0, 6 << 4, 2, 64_240)
    rest = struct.pack("!HBBH", 0, 2, 4, mss)
    return head + struct.pack("!H", internet_checksum(pseudo + head + b"\0\0" + rest)) + rest


def pseudo_header(source: bytes, destination: bytes) -> bytes:
    if len(source) == 4:
        return source + destination + struct.pack("!BBH", 0, 6, 24)
    return source + destination + struct.pack("!IHBB", 24, 0, 0, 6)


def write(
    probes: list[tuple[int, int, int, int]], mss: int, checksums: bool = True, offset: int = 0
) -> list[bytes]:
    """Segments of (source port, destination port, sequence, pseudo-header's sum), in rows of 64 bytes."""
    rows = np.full((len(probes) + 2, 64), 0xA5, np.uint8)
    writer = tcp.SynWriter(rows, mss, checksums, offset)
    where = slice(1, len(probes) + 1)
    sources, destinations, sequences, sums = (np.array(column) for column in zip(*probes, strict=True))
    writer.write(
        where,
        sequences.astype(np.uint32),
        sources.astype(np.uint16),
        destinations.astype(np.uint16),
        sums.astype(np.int64),
    )
    return [row[offset : offset + tcp.SIZE].tobytes() for row in rows[where]]


@pytest.mark.parametrize("vector", vectors("syn"), ids=lambda v: f"ipv{v['version']}-{v['sequence']:x}")
def test_golden_segments(vector: dict[str, Any]) -> None:
    golden = vector["bytes"]
    mss = tcp.MSS4 if vector["version"] == 4 else tcp.MSS6
    source, destination = (ip_address(vector[name]).packed for name in ("source", "destination"))
    probe = *vector["ports"], vector["sequence"], tcp.pseudo_sum(source, destination)
    assert write([probe], mss) == [golden]
    # Where the kernel writes the checksum it stays empty.
    assert write([probe], mss, checksums=False) == [golden[:16] + b"\0\0" + golden[18:]]
    assert internet_checksum(pseudo_header(source, destination) + golden) == 0


@repeatable
@given(
    st.lists(
        st.tuples(PORT, PORT, SEQUENCE, st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([tcp.MSS4, tcp.MSS6]),
    st.sampled_from([0, 8, 34]),
)
def test_as_a_plain_builder_makes_them(
    probes: list[tuple[int, int, int, bytes, bytes]], mss: int, offset: int
) -> None:
    wanted = [
        syn(pseudo_header(source, there), (here, port), number, mss)
        for here, port, number, source, there in probes
    ]
    rows = [
        (here, port, number, tcp.pseudo_sum(source, there)) for here, port, number, source, there in probes
    ]
    assert write(rows, mss, offset=offset) == wanted


@repeatable
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), PORT, SEQUENCE)
def test_ipv6s_pseudo_header_is_summed_as_its_bytes_are(
    source: bytes, there: bytes, port: int, sequence: int
) -> None:
    [segment] = write([(port, port, sequence, tcp.pseudo_sum(source, there))], tcp.MSS6)
    assert internet_checksum(pseudo_header(source, there) + segment) == 0


def test_rows_are_written_again_and_others_left_alone() -> None:
    rows = np.zeros((3, 64), np.uint8)
    writer = tcp.SynWriter(rows, 1460, True)
    numbers = np.array([7, 8], np.uint32)
    ports = np.array([1, 2], np.uint16), np.array([3, 4], np.uint16)
    writer.write(slice(0, 2), numbers, *ports)
    before = rows[0].tobytes()
    writer.write(slice(1, 3), numbers[::-1], ports[0][::-1], ports[1][::-1])
    assert rows[0].tobytes() == before
    assert [int(row) for row in tcp.segment_view(rows)["sequence"]] == [7, 8, 7]


@pytest.mark.parametrize("vector", vectors("answer"), ids=lambda v: f"ipv{v['version']}-{v['kind']}")
def test_the_columns_of_what_linux_answers(vector: dict[str, Any]) -> None:
    rows = np.zeros((2, 128), np.uint8)
    rows[1, 20 : 20 + len(vector["bytes"])] = np.frombuffer(vector["bytes"], np.uint8)
    segment = tcp.segment_view(rows, 20)[1]
    assert [segment["source"], segment["destination"]] == vector["ports"]
    assert int(segment["acknowledgment"]) - 1 == vector["sequence"]
    assert segment["flags"] == FLAGS[vector["kind"]]


@pytest.mark.parametrize("vector", vectors("error"), ids=lambda v: f"ipv{v['version']}")
def test_what_an_error_quotes(vector: dict[str, Any]) -> None:
    quoted = vector["bytes"][20 if vector["version"] == 4 else 40 :]
    source, destination = vector["ports"]
    wanted = tcp.QuotedSyn(source, destination, vector["sequence"])
    assert tcp.parse_quoted(quoted) == tcp.parse_quoted(quoted[:8]) == wanted
    assert tcp.parse_quoted(quoted[:7]) is tcp.parse_quoted(b"") is None


NUMBER = st.one_of(st.integers(0, 1 << 40), st.integers(0, 5000))


@repeatable
@given(st.integers(2048, 1 << 21), SEQUENCE, NUMBER, st.lists(SEQUENCE, min_size=1, max_size=20), st.data())
def test_a_sequence_number_leads_back_to_every_probe_that_is_remembered(
    remembered: int, secret: int, last: int, noise: list[int], data: st.DataObject
) -> None:
    numbering = tcp.Numbering(remembered, secret)
    oldest = max(0, last - remembered + 1)
    numbers = np.array([data.draw(st.integers(oldest, last)) for _ in noise], np.int64)
    sequences = numbering.sequences(numbers, np.array(noise, np.uint32))
    assert numbering.numbers(sequences, last).tolist() == numbers.tolist()


@repeatable
@given(st.integers(2048, 1 << 21), SEQUENCE, NUMBER, SEQUENCE, SEQUENCE, st.data())
def test_sequence_numbers_grow_with_the_probes_numbers(
    remembered: int, secret: int, number: int, one: int, other: int, data: st.DataObject
) -> None:
    """By less than half of their range (RFC 1982), as long as no more probes lie between them than are
    remembered."""
    later = number + data.draw(st.integers(1, remembered - 1))
    pair = tcp.Numbering(remembered, secret).sequences(
        np.array([number, later], np.int64), np.array([one, other], np.uint32)
    )
    assert 0 < (int(pair[1]) - int(pair[0])) % (1 << 32) < 1 << 31


def test_nobody_can_tell_them_beforehand() -> None:
    """They begin at the secret, and the lower bits of each are its own."""
    numbers, noise = np.arange(1000, dtype=np.int64), np.random.default_rng(1)
    drawn = [noise.integers(0, 1 << 32, 1000, np.uint32) for _ in range(2)]
    first = tcp.Numbering(2048, 0).sequences(numbers, drawn[0])
    assert len(set((first ^ tcp.Numbering(2048, 0).sequences(numbers, drawn[1])).tolist())) > 990
    assert (tcp.Numbering(2048, 77).sequences(numbers, drawn[0]) - first == 77).all()
    # Nearly 20 random bits of each where 2,048 probes are remembered, 11 where half a million are.
    assert len({int(each) & 0xFFFFF for each in first}) > 990
    many = tcp.Numbering(500_000, 0).sequences(np.zeros(1000, np.int64), drawn[0])
    assert 1 << 10 < int(many.max()) < 1 << 11


@repeatable
@given(st.integers(2, 1 << 15), SEQUENCE, NUMBER, SEQUENCE, SEQUENCE)
def test_a_step_is_more_than_a_targets_window(
    remembered: int, secret: int, number: int, one: int, other: int
) -> None:
    """Or a target that still remembers the last probe would answer by RST, as if nobody listened."""
    pair = tcp.Numbering(remembered, secret).sequences(
        np.array([number, number + 1], np.int64), np.array([one, other], np.uint32)
    )
    assert (int(pair[1]) - int(pair[0])) % (1 << 32) > 64_240
