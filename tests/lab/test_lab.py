"""The lab in, its own counts out, held against each other: filter, capture and peers must tell one story."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.capture import Capture
from tests.lab.netlab import ECHO_REPLIES, Counts, Lab, Namespace, remove_leftovers
from tests.lab.peers import fping, ping

Pair = tuple[Namespace, Namespace]


def address(namespace: Namespace, version: int) -> str:
    return namespace.ipv4 if version == 4 else namespace.ipv6


@pytest.mark.parametrize("version", [4, 6])
def test_every_seventh_request_is_dropped_and_all_agree_on_which(pair: Pair, version: int) -> None:
    near, far = pair
    rule = far.rule(every=7)
    with Capture(near) as capture:
        rows = ping(near, address(far, version), count=30, timeout_s=0.2)
    assert rule.counts() == Counts(seen=30, hit=4)
    assert [row.sequence for row in rows] == [n for n in range(1, 31) if n % 7]
    trips = capture.round_trips()
    assert [trip.sequence for trip in trips] == list(range(1, 31))
    assert [trip.sequence for trip in trips if trip.rtt_ns is None] == [7, 14, 21, 28]


@pytest.mark.parametrize("version", [4, 6])
def test_the_wire_is_quicker_than_what_peers_measure_over_it(pair: Pair, version: int) -> None:
    near, far = pair
    with Capture(near) as capture:
        measured = ping(near, address(far, version), count=20) + fping(near, address(far, version), count=20)
    wire = capture.round_trips()
    assert len(wire) == len(measured) == 40
    for row, trip in zip(measured, wire, strict=True):
        assert row.sequence == trip.sequence
        assert trip.rtt_ns is not None
        # A peer prints whole microseconds and rounds.
        assert 0 < trip.rtt_ns <= row.rtt_ns + 1_000


def test_both_ends_of_the_wire_see_the_same_packets(pair: Pair) -> None:
    near, far = pair
    with Capture(near) as here, Capture(far) as there:
        ping(near, far.ipv4, count=10, size=100)
    ours, theirs = here.echoes(), there.echoes()
    assert len(ours) == len(theirs) == 20
    for a, b in zip(ours, theirs, strict=True):
        assert (a.request, a.sequence, a.payload, a.outgoing) == (
            b.request,
            b.sequence,
            b.payload,
            not b.outgoing,
        )
        assert len(a.payload) == 100
        # One hop, in the direction of the packet.
        assert (b.time_ns >= a.time_ns) == a.outgoing


def test_a_rule_at_output_makes_the_senders_call_fail(pair: Pair) -> None:
    near, far = pair
    rule = near.rule(hook="output")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (far.ipv4, 0))

    with pytest.raises(PermissionError):
        near.call(send)
    assert rule.counts() == Counts(1, 1)
    rule.remove()
    near.call(send)


@pytest.mark.parametrize("version", [4, 6])
def test_a_rejected_request_comes_back_as_an_icmp_error(pair: Pair, version: int) -> None:
    near, far = pair
    rule = far.rule("reject with icmpx host-unreachable", every=2)
    with Capture(near) as capture:
        rows = ping(near, address(far, version), count=6, timeout_s=0.2)
    assert rule.counts() == Counts(6, 3)
    assert [row.sequence for row in rows] == [1, 3, 5]
    header, unreachable = (20, 3) if version == 4 else (40, 1)
    errors = [
        p
        for p in capture.packets
        if not p.outgoing and p.data[0] >> 4 == version and p.data[header] == unreachable
    ]
    assert len(errors) == 3


def test_replies_can_be_dropped_too_and_are_counted_apart(pair: Pair) -> None:
    near, far = pair
    requests = far.rule("accept")
    replies = near.rule(every=3, matches=ECHO_REPLIES)
    assert len(ping(near, far.ipv4, count=9, timeout_s=0.2)) == 6
    assert requests.counts() == Counts(9, 9)
    assert replies.counts() == Counts(9, 3)


def test_one_route_makes_any_number_of_targets(pair: Pair) -> None:
    near, far = pair
    for network, gateway, targets in (
        ("10.50.0.0/16", far.ipv4, [f"10.50.7.{n}" for n in range(1, 101)]),
        ("fd50::/64", far.ipv6, [f"fd50::{n:x}" for n in range(1, 101)]),
    ):
        far.answer_for(network)
        near.route(network, gateway)
        rows = fping(near, *targets, count=2)
        assert sorted((row.target, row.sequence) for row in rows) == sorted(
            (t, n) for t in targets for n in (0, 1)
        )


def test_the_responder_is_not_throttled(pair: Pair) -> None:
    near, far = pair
    rule = far.rule("accept")
    assert len(fping(near, far.ipv4, count=3000, period_ms=0)) == 3000
    assert rule.counts().seen == 3000


def test_neighbours_can_be_left_to_be_asked_for(lab: Lab) -> None:
    near, far = lab.pair(static_neighbours=False)
    assert "lladdr" not in near.run(["ip", "-4", "neigh"]).stdout
    assert len(ping(near, far.ipv4, count=1)) == 1
    assert "lladdr 02:00:00:00:00:02" in near.run(["ip", "-4", "neigh"]).stdout


def test_inside_and_call_leave_the_thread_where_it_was(pair: Pair) -> None:
    near, _ = pair
    home = Path("/proc/thread-self/ns/net").readlink()
    there = near.call(lambda: Path("/proc/thread-self/ns/net").readlink())
    assert there != home
    with near.inside():
        assert Path("/proc/thread-self/ns/net").readlink() == there
    assert Path("/proc/thread-self/ns/net").readlink() == home
    with pytest.raises(ZeroDivisionError):
        near.call(lambda: 1 // 0)


def test_nothing_is_left_behind() -> None:
    things: list[Any] = []

    def fail_half_way() -> None:
        with Lab() as lab:
            near, _ = lab.pair()
            things.extend([near, near.popen(["sleep", "600"])])
            assert near.path.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    near, child = things
    assert not near.path.exists()
    assert child.poll() is not None


def test_what_a_killed_process_left_behind_is_removed_by_the_next() -> None:
    program = (
        "import os\nfrom tests.lab.netlab import Lab\n"
        "lab = Lab().__enter__(); print(lab.namespace('lost').name, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    name = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False
    ).stdout
    path = Path("/run/netns", name.strip())
    assert path.exists()
    own = Lab()
    kept = own.namespace("kept")
    try:
        remove_leftovers()
        assert not path.exists()
        assert kept.path.exists(), f"removed the namespace of a living process ({os.getpid()})"
    finally:
        own.close()
