"""Flows of targets, before they have sockets: labels that stay and differ."""

from __future__ import annotations

import socket

from probe.settings import Target
from probe.streams import streams_of
from probe.targets import resolve

SIX, FOUR = resolve("::1"), resolve("127.0.0.1")


def labels(name: str, flows: int) -> list[int]:
    return [stream.label for stream in streams_of([(Target(name=name, address="x", flows=flows), SIX)])]


def test_each_flow_has_a_label_of_its_own_and_keeps_it() -> None:
    first = labels("a", 64)
    assert len(set(first)) == 64
    assert all(0 < label < 1 << 20 for label in first)
    # Read again, with fewer flows, or as another target.
    assert labels("a", 64) == first
    assert labels("a", 3) == first[:3]
    assert labels("b", 64) != first


def test_one_flow_and_ipv4_leave_it_to_the_kernel() -> None:
    assert labels("a", 1) == [0]
    four = streams_of([(Target(name="a", address="x", flows=2), FOUR)])
    assert [stream.label for stream in four] == [0, 0]
    assert [stream.lane for stream in four] == [0, 1]


def test_a_label_stands_where_the_kernel_reads_it() -> None:
    stream = streams_of([(Target(name="a", address="x", flows=2), SIX)])[1]
    there = stream.destination(9000)
    assert int.from_bytes(there[:2], "little") == socket.AF_INET6
    assert (there[2:4], there[4:8]) == ((9000).to_bytes(2, "big"), stream.label.to_bytes(4, "big"))
    assert there[8:] == SIX.sockaddr[8:]
