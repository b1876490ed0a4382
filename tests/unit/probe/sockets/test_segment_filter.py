"""TCP segments in, which of them a raw socket's program lets through out (interpreted)."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.sockets import filters
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.sockets.bpf import Packet, run

FAMILIES = [socket.AF_INET, socket.AF_INET6]
PORT = st.integers(0, 65_535)


def segment(family: int, words: int, source: int, destination: int) -> bytes:
    head = bytes([0x40 | words]) + b"\xa5" * (4 * words - 1) if family == socket.AF_INET else b""
    return head + source.to_bytes(2, "big") + destination.to_bytes(2, "big") + bytes(16)


@repeatable
@given(
    st.sampled_from(FAMILIES), st.integers(5, 15), st.lists(PORT, min_size=1, max_size=64), PORT, st.data()
)
def test_what_comes_to_one_of_the_ports_passes(
    family: int, words: int, ports: list[int], other: int, data: st.DataObject
) -> None:
    program = filters.own_segments(family, ports)
    for destination in (data.draw(st.sampled_from(ports)), other):
        source = data.draw(st.one_of(PORT, st.sampled_from(ports)))  # where from says nothing
        whole = segment(family, words, source, destination)
        assert bool(run(program, Packet(whole))) == (destination in ports)
        assert not run(program, Packet(whole[: len(whole) - 17]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 64, 255])
def test_every_one_of_them_and_no_neighbour(family: int, count: int) -> None:
    ports = list(range(40_000, 40_000 + 3 * count, 3))
    program = filters.own_segments(family, ports)
    passed = [p for p in range(39_990, 40_800) if run(program, Packet(segment(family, 5, p, p)))]
    assert passed == ports
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:  # any kind of socket may have one
        filters.attach(handle, program)
