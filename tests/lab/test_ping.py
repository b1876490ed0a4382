"""`coloprobe ping` in a namespace in, its words held against the filter, the wire and its peers out."""

from __future__ import annotations

from functools import partial
from statistics import median

import pytest

from tests.lab.capture import Capture, RoundTrip
from tests.lab.netlab import Lab, Namespace
from tests.lab.peers import fping, ping
from tests.lab.running import AS_NOBODY, coloprobe_ping, together
from tests.system.commands import coloprobe

Pair = tuple[Namespace, Namespace]


def address(namespace: Namespace, version: int) -> str:
    return namespace.ipv4 if version == 4 else namespace.ipv6


@pytest.mark.parametrize("version", [4, 6])
def test_every_seventh_is_lost_and_it_says_which(pair: Pair, version: int) -> None:
    near, far = pair
    rule = far.rule(every=7)
    pinged = coloprobe_ping(near, address(far, version), "-c", "60", "-W", "200ms")
    assert pinged.status == 0
    assert pinged.outcomes() == ["received" if n % 7 else "lost" for n in range(1, 61)]
    assert all(("rtt_ns" in probe) == (probe["outcome"] == "received") for probe in pinged.probes)
    assert {probe["stamp"] for probe in pinged.probes} == {"kernel"}
    summary = pinged.summary
    assert (summary["sent"], summary["lost"], summary["loss_burst_max"]) == (60, rule.counts().hit, 1)
    assert (summary["errors"], summary["late"], summary["unstamped"]) == (0, 0, 0)
    assert summary["rtt_max_ns"] == max(pinged.rtts())


def test_two_in_a_row_are_a_burst_of_two(pair: Pair) -> None:
    near, far = pair
    far.nft(
        "table inet twins { chain hooked { type filter hook input priority 0; "
        "icmp type echo-request numgen inc mod 7 >= 5 drop; }; }"
    )
    pinged = coloprobe_ping(near, far.ipv4, "-c", "28", "-W", "200ms")
    assert pinged.outcomes() == (["received"] * 5 + ["lost"] * 2) * 4
    assert (pinged.summary["lost"], pinged.summary["loss_burst_max"]) == (8, 2)


def test_a_target_that_answers_nothing_is_lost_and_the_status_says_so(pair: Pair) -> None:
    near, far = pair
    far.rule("drop")
    pinged = coloprobe_ping(near, far.ipv4, "-c", "5", "-W", "100ms")
    assert pinged.status == 1
    assert pinged.outcomes() == ["lost"] * 5
    assert pinged.summary["loss"] == 1.0
    assert "rtt_p50_ns" not in pinged.summary


def off(measured: list[int], trips: list[RoundTrip]) -> float:
    """The median absolute difference between what a program says and what the capture saw, ns."""
    assert len(measured) == len(trips)
    return median(abs(rtt - (trip.rtt_ns or 0)) for rtt, trip in zip(measured, trips, strict=True))


@pytest.mark.parametrize("version", [4, 6])
def test_it_is_nearer_to_the_wire_than_its_peers(pair: Pair, version: int) -> None:
    """Rounds in turn, so that what the machine does besides happens to all three of them."""
    near, far = pair
    target, count, rounds = address(far, version), 40, 5
    ours, pings, fpings = [], [], []
    with Capture(near) as capture:
        for _ in range(rounds):
            pinged = coloprobe_ping(near, target, "-c", str(count), interval="4ms")
            assert {(probe["stamp"], probe["outcome"]) for probe in pinged.probes} == {("kernel", "received")}
            assert pinged.summary["unstamped"] == 0
            ours.append(pinged.rtts())
            pings.append([row.rtt_ns for row in ping(near, target, count=count, interval_s=0.004)])
            fpings.append([row.rtt_ns for row in fping(near, target, count=count, period_ms=4)])
    trips = capture.round_trips()
    parts = [trips[at : at + count] for at in range(0, len(trips), count)]
    assert len(parts) == 3 * rounds
    by_program = [
        median(off(rtts, part) for rtts, part in zip(measured, parts[first::3], strict=True))
        for first, measured in enumerate((ours, pings, fpings))
    ]
    assert by_program[0] < min(by_program[1:]), f"ours, ping, fping: {by_program} ns from the capture"


@pytest.mark.parametrize("reason", ["host-unreachable", "admin-prohibited"])
@pytest.mark.parametrize("version", [4, 6])
def test_an_icmp_error_is_told_and_is_a_loss(pair: Pair, version: int, reason: str) -> None:
    near, far = pair
    rule = far.rule(f"reject with icmpx {reason}", every=2)
    pinged = coloprobe_ping(near, address(far, version), "-c", "10", "-W", "200ms")
    assert pinged.outcomes() == ["received", "error"] * 5
    summary = pinged.summary
    assert rule.counts().hit == summary["errors"] == summary["lost"] == 5
    assert summary["loss"] == 0.5


@pytest.mark.parametrize("version", [4, 6])
def test_what_never_left_is_an_error_and_no_loss(pair: Pair, version: int) -> None:
    near, far = pair
    near.rule(hook="output")
    pinged = coloprobe_ping(near, address(far, version), "-c", "5", "-W", "200ms")
    assert pinged.status == 1
    assert pinged.outcomes() == ["error"] * 5
    assert (pinged.summary["sent"], pinged.summary["lost"], pinged.summary["errors"]) == (0, 0, 5)
    assert "loss" not in pinged.summary
    done = near.run(coloprobe("ping", address(far, version), "-c", "1", "-W", "200ms"), check=False)
    assert "seq=0 not sent: EPERM" in done.stdout


def test_no_neighbour_is_an_error_and_no_loss(pair: Pair) -> None:
    """The kernel says so after three seconds, long after the timeout."""
    near, _ = pair
    targets = ("10.99.0.77", "fd99::77")
    for pinged in together(
        *(partial(coloprobe_ping, near, nobody, "-c", "10", "-W", "100ms") for nobody in targets)
    ):
        assert pinged.status == 1
        assert pinged.outcomes() == ["error"] * 10
        assert (pinged.summary["sent"], pinged.summary["lost"], pinged.summary["errors"]) == (0, 0, 10)
        assert "loss" not in pinged.summary


@pytest.mark.parametrize("version", [4, 6])
def test_asking_for_the_neighbour_is_in_no_rtt(lab: Lab, version: int) -> None:
    near, far = lab.pair(static_neighbours=False)
    # The answer to the question is dropped once, so the probe has to wait for a second.
    far.nft(
        "table inet mute { chain hooked { type filter hook input priority 0; "
        "icmpv6 type nd-neighbor-solicit numgen inc mod 1000 0 drop; }; }\n"
        "table arp mute { chain hooked { type filter hook input priority 0; numgen inc mod 1000 0 drop; }; }"
    )
    near.sysctl(f"net.ipv{version}.neigh.{near.interface}.retrans_time_ms", "500")
    with Capture(near) as capture:
        pinged = coloprobe_ping(near, address(far, version), "-c", "10", interval="100ms")
    assert pinged.outcomes() == ["received"] * 10
    assert {probe["stamp"] for probe in pinged.probes} == {"kernel"}
    trips = capture.round_trips()
    assert [trip.rtt_ns is not None for trip in trips] == [True] * 10
    # It did wait: the first two left together.
    assert trips[1].sent_ns - trips[0].sent_ns < 50_000_000
    for rtt, trip in zip(pinged.rtts(), trips, strict=True):
        assert rtt < 100_000_000
        assert rtt <= (trip.rtt_ns or 0) + 1_000_000


@pytest.mark.parametrize("version", [4, 6])
def test_without_privileges_it_measures_by_ping_sockets(pair: Pair, version: int) -> None:
    near, far = pair
    rule = far.rule(every=7)
    pinged = coloprobe_ping(near, address(far, version), "-c", "21", "-W", "200ms", wrapper=AS_NOBODY)
    assert pinged.outcomes() == ["received" if n % 7 else "lost" for n in range(1, 22)]
    assert {probe["stamp"] for probe in pinged.probes} == {"kernel"}
    assert pinged.summary["unstamped"] == 0
    assert rule.counts().hit == pinged.summary["lost"] == 3
    plain = near.run([*AS_NOBODY, *coloprobe("ping", address(far, version), "-c", "1")])
    assert "ping socket" in plain.stdout


def test_without_any_privilege_it_names_both_ways(pair: Pair) -> None:
    near, far = pair
    near.sysctl("net.ipv4.ping_group_range", "1 0")
    pinged = coloprobe_ping(near, far.ipv4, "-c", "1", wrapper=AS_NOBODY)
    assert pinged.status == 1
    (message,) = pinged.stderr.splitlines()
    assert message.startswith("coloprobe: the kernel refuses probe sockets")
    assert "CAP_NET_RAW" in message
    assert "sysctl -w net.ipv4.ping_group_range='65534 65534' (now: '1 0')" in message


@pytest.mark.parametrize("size", [24, 65, 1400, 8972])
def test_size_and_dscp_are_on_the_wire(lab: Lab, size: int) -> None:
    near, far = lab.pair(mtu=9000)
    with Capture(near, snap=9216) as capture:
        for target in (far.ipv4, far.ipv6):
            if size == 8972 and target == far.ipv6:
                continue  # its header is 20 bytes longer: two fragments
            pinged = coloprobe_ping(near, target, "-c", "3", "-s", str(size), "--dscp", "46")
            assert pinged.outcomes() == ["received"] * 3
    requests = [echo for echo in capture.echoes() if echo.request]
    assert len(requests) >= 3
    assert {(8 + len(echo.payload), echo.dscp) for echo in requests} == {(size, 46)}
