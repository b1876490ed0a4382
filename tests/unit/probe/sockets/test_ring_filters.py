"""Packets in, which of the two programs takes them out: each reply by exactly one way (interpreted)."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from probe.packets import ethernet
from probe.sockets.ring_filters import other_program, ring_program
from tests.unit.probe.sockets.bpf import OUTGOING, TO_OTHERS, TO_US, Packet, run

TOKEN = bytes.fromhex("0123456789abcdef")
OURS = 3  # index of the ring's interface
FIRST, IDS = 0xFFFE, 4  # identifiers 0xfffe, 0xffff, 0, 1


def packet(
    v6: bool, *, reply: bool, identifier: int = 0, token: bytes = TOKEN, options: bytes = b"", offset: int = 0
) -> Packet:
    here, there = (bytes(16), bytes(16)) if v6 else (bytes(4), bytes(4))
    head = ethernet.header(bytes(6), bytes(6), here, there, 0, 64)
    kind = (129 if v6 else 0) if reply else (128 if v6 else 8)
    icmp = bytes((kind, 0, 0, 0)) + identifier.to_bytes(2, "big") + bytes(2) + token + bytes(48)
    if not v6:
        ip = bytearray(head[14:])
        ip[0] = 0x45 + len(options) // 4
        ip[6:8] = offset.to_bytes(2, "big")
        head = head[:14] + bytes(ip) + options
    return Packet(head + icmp, TO_US if reply else OUTGOING, OURS)


def ways(v6: bool, given: Packet) -> tuple[bool, bool]:
    """(whether the ring takes it, whether the other socket does); the other one sees nothing that leaves."""
    family = socket.AF_INET6 if v6 else socket.AF_INET
    ring = run(ring_program(family, TOKEN, FIRST, IDS), given, 0) if given.interface == OURS else 0
    assert ring in (0, 14 + (40 if v6 else 20) + 24)
    other = given.kind != OUTGOING and run(other_program(family, OURS, TOKEN, FIRST, IDS), given, 14)
    return bool(ring), bool(other)


@pytest.mark.parametrize("v6", [False, True])
def test_our_probes_and_their_replies_go_into_the_ring(v6: bool) -> None:
    for identifier in (0xFFFE, 0xFFFF, 0, 1, 500):  # the last one is not ours, but the secret is
        for reply in (False, True):
            assert ways(v6, packet(v6, reply=reply, identifier=identifier)) == (True, False)


@pytest.mark.parametrize("v6", [False, True])
def test_a_reply_with_our_identifier_and_a_wrong_secret_is_there_to_be_counted(v6: bool) -> None:
    for token in (bytes(8), TOKEN[:7] + b"\0", b"\0" + TOKEN[1:]):
        assert ways(v6, packet(v6, reply=True, token=token)) == (True, False)
        assert ways(v6, packet(v6, reply=True, token=token, identifier=2)) == (False, False)
        assert ways(v6, packet(v6, reply=True, token=token, identifier=0xFFFD)) == (False, False)


@pytest.mark.parametrize("v6", [False, True])
def test_what_others_send_stays_out(v6: bool) -> None:
    assert ways(v6, packet(v6, reply=False, token=bytes(8))) == (False, False)
    reply = packet(v6, reply=True)
    assert ways(v6, replace(reply, kind=TO_OTHERS)) == (False, False)
    assert ways(v6, replace(packet(v6, reply=False), kind=TO_US)) == (False, False)  # a request to us
    assert ways(v6, replace(reply, data=reply.data[:12] + b"\x86\xdd\x08\x00"[2 * (not v6) :])) == (
        False,
        False,
    )


@pytest.mark.parametrize("v6", [False, True])
def test_a_reply_by_another_interface_comes_by_the_other_socket(v6: bool) -> None:
    assert ways(v6, replace(packet(v6, reply=True), interface=9)) == (False, True)
    assert ways(v6, replace(packet(v6, reply=True, identifier=500), interface=9)) == (False, True)
    stranger = packet(v6, reply=True, identifier=500, token=bytes(8))
    assert ways(v6, replace(stranger, interface=9)) == (False, False)


def test_options_and_fragments() -> None:
    optioned = packet(False, reply=True, options=bytes(12))
    assert ways(False, optioned) == (False, True)
    first = packet(False, reply=True, offset=0x2000)  # more follows
    assert ways(False, first) == (True, False)
    assert ways(False, packet(False, reply=True, offset=1)) == (False, False)
    assert ways(False, replace(packet(False, reply=True, offset=1), interface=9)) == (False, False)


def test_a_tag_is_another_interfaces_matter_but_a_mere_priority_is_not() -> None:
    reply = packet(False, reply=True)
    assert ways(False, replace(reply, vlan=0x6000)) == (True, False)
    assert ways(False, replace(reply, vlan=0x6064))[0] is False


@pytest.mark.parametrize("v6", [False, True])
def test_packets_of_every_length_are_no_trouble(v6: bool) -> None:
    whole = packet(v6, reply=True, token=bytes(8), identifier=2)
    for length in range(15 + (0 if v6 else 20), len(whole.data)):
        assert ways(v6, replace(whole, data=whole.data[:length])) == (False, False)
