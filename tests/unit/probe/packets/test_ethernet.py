"""Addresses in, link and IP headers out: held against the checksum's own rule and golden echo requests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest

from probe.packets import ethernet
from probe.packets.checksum import checksum
from probe.packets.icmp import ECHO6_REQUEST, ECHO_REQUEST, EchoWriter
from tests.unit.probe.packets.plain import TOKEN, vectors

MAC, OWN = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
FOUR = IPv4Address("10.99.0.1").packed, IPv4Address("203.0.113.250").packed
SIX = IPv6Address("fd99::1").packed, IPv6Address("2001:db8:ffff::ffff").packed


@pytest.mark.parametrize(("size", "dscp"), [(24, 0), (64, 46), (1480, 63)])
def test_ipv4(size: int, dscp: int) -> None:
    head = ethernet.header(MAC, OWN, *FOUR, dscp, size)
    assert head[:14] == MAC + OWN + b"\x08\x00"
    ip = head[14:]
    assert len(ip) == ethernet.IPV4
    assert (ip[0], ip[1], ip[8], ip[9]) == (0x45, dscp << 2, 64, 1)
    assert int.from_bytes(ip[2:4], "big") == 20 + size
    assert ip[4:8] == b"\0\0\x40\0"
    assert ip[12:] == FOUR[0] + FOUR[1]
    assert checksum(ip) == 0


@pytest.mark.parametrize(("size", "dscp"), [(24, 0), (64, 46), (1440, 63)])
def test_ipv6(size: int, dscp: int) -> None:
    head = ethernet.header(MAC, OWN, *SIX, dscp, size)
    assert head[:14] == MAC + OWN + b"\x86\xdd"
    ip = head[14:]
    assert len(ip) == ethernet.IPV6
    assert int.from_bytes(ip[:4], "big") == 6 << 28 | dscp << 22
    assert (int.from_bytes(ip[4:6], "big"), ip[6], ip[7]) == (size, 58, 64)
    assert ip[8:] == SIX[0] + SIX[1]


def test_a_message_behind_a_header_has_the_checksum_that_a_receiver_finds_right() -> None:
    for addresses, kind in ((FOUR, ECHO_REQUEST), (SIX, ECHO6_REQUEST)):
        pseudo = ethernet.pseudo_sum(*addresses)
        for size in (24, 25, 63, 64, 200):
            offset = 14 + (20 if len(addresses[0]) == 4 else 40)
            rows = np.zeros((3, 320), np.uint8)
            writer = EchoWriter(rows, TOKEN, kind, True, offset)
            numbers = np.array([0, 65535, 1 << 40], np.int64)
            besides = np.full(3, pseudo + size) if pseudo else 0
            writer.write(slice(0, 3), numbers, np.full(3, 9, np.uint16), size, besides)
            for row in rows:
                message = row[offset : offset + size].tobytes()
                covered = b"" if not pseudo else b"".join(addresses) + size.to_bytes(4, "big") + b"\0\0\0\x3a"
                assert checksum(covered + message) == 0
                assert not row[:offset].any()


@pytest.mark.parametrize("vector", [v for v in vectors("request") if v["version"] == 6], ids=str)
def test_golden_ipv6_requests(vector: dict[str, object]) -> None:
    golden = vector["bytes"]
    assert isinstance(golden, bytes)
    source, destination = (IPv6Address(str(vector[key])).packed for key in ("source", "destination"))
    rows = np.zeros((1, 512), np.uint8)
    writer = EchoWriter(rows, golden[8:16], ECHO6_REQUEST, True, 54)
    numbers = np.array([vector["number"]], np.int64)
    besides = np.array([ethernet.pseudo_sum(source, destination) + len(golden)])
    writer.write(slice(0, 1), numbers, np.array([vector["id"]], np.uint16), len(golden), besides)
    assert rows[0, 54 : 54 + len(golden)].tobytes() == golden
