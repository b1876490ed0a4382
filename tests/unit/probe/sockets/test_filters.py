"""Packets in, which of them a raw socket's programs let through out (interpreted), by plain rules."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.packets import icmp
from probe.sockets import filters
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.sockets.bpf import Packet, run

WHOLE = 0xFFFFFFFF
FAMILIES = [socket.AF_INET, socket.AF_INET6]
REPLY = {socket.AF_INET: icmp.ECHO_REPLY, socket.AF_INET6: icmp.ECHO6_REPLY}
ERRORS = {socket.AF_INET: icmp.ERRORS4, socket.AF_INET6: icmp.ERRORS6}


@dataclass(frozen=True)
class Drawn:
    """A packet as the kernel shows it to a raw socket's program, and the identifiers that are asked for."""

    family: socket.AddressFamily
    type: int
    identifier: int
    data: bytes
    first: int
    ids: int

    @property
    def header(self) -> int:
        return 0 if self.family == socket.AF_INET6 else 4 * (self.data[0] & 0xF)

    @property
    def asked_for(self) -> bool:
        return self.identifier in {(self.first + n) % 65_536 for n in range(self.ids)}


def packet(family: int, kind: int, identifier: int, *, words: int = 5, rest: bytes = bytes(58)) -> bytes:
    """An ICMP message; on IPv4 behind a header of `words` times 4 bytes."""
    head = bytes([0x40 | words]) + b"\xa5" * (4 * words - 1) if family == socket.AF_INET else b""
    return head + bytes([kind, 0, 0xFF, 0xFF]) + identifier.to_bytes(2, "big") + rest


@st.composite
def packets(draw: st.DrawFn) -> Drawn:
    family = draw(st.sampled_from(FAMILIES))
    kind = draw(st.one_of(st.just(REPLY[family]), st.sampled_from(ERRORS[family]), st.integers(0, 255)))
    first = draw(st.one_of(st.integers(0, 65_535), st.sampled_from([0, 1, 65_535, 65_534])))
    ids = draw(st.one_of(st.integers(1, 5), st.integers(1, 65_536), st.just(65_536)))
    near = st.integers(-2, 2)
    identifier = draw(
        st.one_of(
            st.integers(0, 65_535),
            near.map(lambda n: (first + n) % 65_536),
            near.map(lambda n: (first + ids + n) % 65_536),
        )
    )
    whole = packet(
        family, kind, identifier, words=draw(st.integers(5, 15)), rest=draw(st.binary(max_size=70))
    )
    return Drawn(family, kind, identifier, whole, first, ids)


Maker = Callable[[int, int, int], filters.Program]
PROGRAMS: list[tuple[Maker, bool]] = [(filters.own_replies, True), (filters.other_replies, False)]


@pytest.mark.parametrize(("program", "kept"), PROGRAMS)
@repeatable
@given(packets())
def test_echo_replies_are_told_apart_by_identifier_and_all_else_passes(
    program: Maker, kept: bool, drawn: Drawn
) -> None:
    passes = drawn.type != REPLY[drawn.family] or drawn.asked_for is kept
    given_program = program(drawn.family, drawn.first, drawn.ids)
    assert run(given_program, Packet(drawn.data)) == (WHOLE if passes else 0)


@pytest.mark.parametrize(("program", "kept"), PROGRAMS)
@repeatable
@given(packets(), st.integers(0, 80))
def test_a_truncated_packet_passes_only_where_what_decides_is_there(
    program: Maker, kept: bool, drawn: Drawn, length: int
) -> None:
    cut = drawn.data[:length]
    is_reply = drawn.type == REPLY[drawn.family]
    enough = len(cut) >= drawn.header + (6 if is_reply else 1)
    passes = enough and (not is_reply or drawn.asked_for is kept)
    given_program = program(drawn.family, drawn.first, drawn.ids)
    assert run(given_program, Packet(cut)) == (WHOLE if passes else 0)


@pytest.mark.parametrize(("program", "kept"), PROGRAMS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("first", "ids"), [(0xFFFE, 4), (0, 1), (65_535, 1), (100, 65_536), (70_000, 3)])
def test_every_identifier(
    program: Maker, kept: bool, family: socket.AddressFamily, first: int, ids: int
) -> None:
    code = program(family, first, ids)
    asked_for = {(first + n) % 65_536 for n in range(ids)}
    edges = {n % 65_536 for at in (0, first, first + ids) for n in range(at - 3, at + 3)}
    for identifier in sorted(edges | set(range(0, 65_536, 997))):
        passed = run(code, Packet(packet(family, REPLY[family], identifier)))
        assert passed == (WHOLE if (identifier in asked_for) is kept else 0), identifier


@pytest.mark.parametrize(("program", "kept"), PROGRAMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_program_is_one_that_the_kernel_takes(
    program: Maker, kept: bool, family: socket.AddressFamily
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:  # any kind of socket may have one
        filters.attach(handle, program(family, 0xFFFE, 4))
        with pytest.raises(OSError, match="Invalid argument"):
            filters.attach(handle, program(family, 0xFFFE, 4)[:-2])
