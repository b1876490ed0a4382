"""`[engine] backend = "ring"` on the real kernel: counts, stamps, fallbacks, neighbours."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from pyroute2 import NetNS

from probe.telemetry.lines import Point
from tests.lab.capture import Capture
from tests.lab.netlab import ECHO_REQUESTS, Lab, Namespace, Rule
from tests.lab.running import LabAgent, probes, total
from tests.system.commands import wait_for

Pair = tuple[Namespace, Namespace]
RING = '[engine]\nbackend = "ring"'


def ring(near: Namespace, directory: Path, targets: dict[str, str], *, interval: str = "2ms") -> LabAgent:
    return LabAgent(near, directory, targets, interval=interval, agent=RING).start()


def seen(agent: LabAgent, rule: Rule, packets: int) -> None:
    """Return once the rule has seen so many packets."""

    def enough() -> bool:
        assert agent.running(), agent.text()
        return rule.counts().seen >= packets

    wait_for(enough, f"{packets} packets")


def texts(points: list[Point]) -> list[str]:
    return [str(p.fields["text"]) for p in points if p.measurement == "event" and p.tags["kind"] == "host"]


def clean(windows: list[Point]) -> bool:
    return all(total(windows, name) == 0 for name in ("errors", "late", "duplicates", "unstamped"))


def test_every_seventh_dropped_is_lost_and_nothing_else(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rules = {
        "four": far.rule(every=7, matches=ECHO_REQUESTS[:1]),
        "six": far.rule(every=7, matches=ECHO_REQUESTS[1:]),
    }
    agent = ring(near, tmp_path, {"four": far.ipv4, "six": far.ipv6})
    for rule in rules.values():
        seen(agent, rule, 250)
    points = agent.stop()
    assert "whole frames on veth0 to four" in agent.text()
    assert texts(points) == []
    for target, rule in rules.items():
        windows, counts = probes(points, target), rule.counts()
        assert (total(windows, "sent"), total(windows, "lost")) == (counts.seen, counts.hit)
        assert total(windows, "received") == counts.seen - counts.hit
        assert clean(windows)


def test_many_targets_behind_a_router_and_beside_it(lab: Lab, tmp_path: Path) -> None:
    near, router, far = lab.namespace("near"), lab.namespace("router"), lab.namespace("far")
    lab.link(near, router)
    lab.link(router, far)
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        router.sysctl(key, "1")
    near.route("10.99.1.0/24", router.ipv4)
    near.route("fd99:0:0:1::/64", router.ipv6)
    far.route("10.99.0.0/24", "10.99.1.1")
    far.route("fd99::/64", "fd99:0:0:1::1")
    targets = {"router": router.ipv4, "six": router.ipv6, "far": far.ipv4, "far-six": far.ipv6}
    rule = far.rule(every=5)
    agent = ring(near, tmp_path, targets)
    seen(agent, rule, 400)
    points = agent.stop()
    behind = [*probes(points, "far"), *probes(points, "far-six")]
    counts = rule.counts()
    assert (total(behind, "sent"), total(behind, "lost")) == (counts.seen, counts.hit)
    assert clean(behind)
    beside = [*probes(points, "router"), *probes(points, "six")]
    assert total(beside, "received") == total(beside, "sent") > 300
    assert texts(points) == []


def test_round_trip_times_are_those_of_a_capture(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rules = [far.rule("accept", matches=[request]) for request in ECHO_REQUESTS]
    with Capture(near) as capture:
        agent = ring(near, tmp_path, {"four": far.ipv4, "six": far.ipv6})
        for rule in rules:
            seen(agent, rule, 200)
        points = agent.stop()
        time.sleep(0.1)
    trips = capture.round_trips()
    for target, address in (("four", far.ipv4), ("six", far.ipv6)):
        windows = probes(points, target)
        wire = np.array([t.rtt_ns for t in trips if t.rtt_ns is not None and t.target == address])
        assert total(windows, "received") == len(wire)
        longest, least = (f"rtt_{name}_ns" for name in ("max", "min"))
        # Two taps look at one packet one after the other.
        assert max(int(w.fields[longest]) for w in windows) == pytest.approx(wire.max(), abs=50_000)
        assert min(int(w.fields[least]) for w in windows) == pytest.approx(wire.min(), abs=20_000)


def test_what_it_cannot_be_done_for_gets_a_raw_socket_and_a_reason(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule("accept")
    targets = {
        "far": far.ipv4,
        "here": near.ipv4,
        "lo": "127.0.0.1",
        "nobody": "10.99.0.77",
        "no": "192.0.2.1",
    }
    agent = ring(near, tmp_path, targets)
    seen(agent, rule, 150)
    points = agent.stop()
    said = "\n".join(texts(points))
    for reason in (
        "to here, lo: it is this host itself",
        "to nobody: the neighbour 10.99.0.77 on veth0 has not answered yet",
        "to no: no route (Network is unreachable)",
    ):
        assert f"a raw socket in place of whole frames {reason}" in said
    for name in ("far", "here", "lo"):
        windows = probes(points, name)
        assert total(windows, "received") == total(windows, "sent") > 100
        assert clean(windows)
    for name in ("nobody", "no"):
        assert total(probes(points, name), "errors") > 100


def test_replies_with_a_wrong_secret_are_counted_and_change_nothing(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule("accept")
    agent = ring(near, tmp_path, {"far": far.ipv4})
    with Capture(near) as capture:
        seen(agent, rule, 20)
        time.sleep(0.05)
    identifier = capture.echoes()[0].identifier

    def throw() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            for number in range(30):
                forged = struct.pack("!BBHHH8sQ", 0, 0, 0, identifier, number, b"no token", number)
                raw.sendto(forged.ljust(64, b"\0"), (near.ipv4, 0))
                raw.sendto(struct.pack("!BBHHH", 0, 0, 0, identifier, number), (near.ipv4, 0))

    far.call(throw)
    seen(agent, rule, rule.counts().seen + 150)
    points = agent.stop()
    windows = probes(points, "far")
    assert total(windows, "received") == total(windows, "sent") == rule.counts().seen
    assert clean(windows)
    agents = [point for point in points if point.measurement == "agent"]
    assert max(int(point.fields["foreign_packets"]) for point in agents) == 60


def test_a_reply_by_another_interface_is_a_reply(lab: Lab, tmp_path: Path) -> None:
    near, far = lab.namespace("near"), lab.namespace("far")
    lab.link(near, far)
    lab.link(near, far)
    for key in ("all", "default", "veth0", "veth1"):
        near.sysctl(f"net.ipv4.conf.{key}.rp_filter", "0")
        far.sysctl(f"net.ipv4.conf.{key}.rp_filter", "0")
    with NetNS(far.name) as ip:  # back by the second line
        ip.route("add", dst=f"{near.ipv4}/32", gateway="10.99.1.1")
    arrived = near.rule("accept", matches=['iifname "veth1" icmp type echo-reply'])
    agent = ring(near, tmp_path, {"far": far.ipv4})
    seen(agent, arrived, 150)
    windows = probes(agent.stop(), "far")
    assert total(windows, "received") == total(windows, "sent") == arrived.counts().seen
    assert clean(windows)


def replace_mac(near: Namespace, far: Namespace, mac: str) -> None:
    """The far end gets another MAC address, and the near end's kernel is told."""
    with NetNS(far.name) as ip:
        ip.link("set", index=ip.link_lookup(ifname="veth0")[0], address=mac)
    with NetNS(near.name) as ip:
        index = ip.link_lookup(ifname="veth0")[0]
        ip.neigh("replace", dst=far.ipv4, lladdr=mac, ifindex=index, state=0x80)


def test_a_neighbour_that_moves_is_followed(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule("accept")
    agent = ring(near, tmp_path, {"far": far.ipv4})
    seen(agent, rule, 50)
    replace_mac(near, far, "02:00:00:00:0f:0f")
    wait_for(lambda: "is 02:00:00:00:0f:0f now" in agent.text(), "the new neighbour")
    seen(agent, rule, rule.counts().seen + 600)  # more than the last window has
    points = agent.stop()
    windows = probes(points, "far")
    assert any("is 02:00:00:00:0f:0f now" in text for text in texts(points))
    assert windows[-1].fields["lost"] == 0
    assert total(windows, "received") == rule.counts().seen
    assert clean(windows)


def test_a_neighbour_that_the_kernel_has_forgotten_is_asked_for_again(lab: Lab, tmp_path: Path) -> None:
    """No probe passes the kernel's neighbour table, but one now and then."""
    near, far = lab.pair(static_neighbours=False)
    addresses = {socket.AF_INET: far.ipv4, socket.AF_INET6: far.ipv6}
    rule = far.rule("accept")
    agent = ring(near, tmp_path, {"four": far.ipv4, "six": far.ipv6})
    seen(agent, rule, 100)

    with NetNS(near.name) as ip:
        index = ip.link_lookup(ifname="veth0")[0]

        def known() -> bool:
            return all(
                any(
                    entry.get("dst") == address and entry.get("lladdr")
                    for entry in ip.get_neighbours(family=family, ifindex=index)
                )
                for family, address in addresses.items()
            )

        assert known()  # as it was asked for when the ring was opened
        for address in addresses.values():
            ip.neigh("del", dst=address, ifindex=index)
        wait_for(known, "the kernel to know the neighbours again")
    seen(agent, rule, rule.counts().seen + 300)
    points = agent.stop()
    windows = [*probes(points, "four"), *probes(points, "six")]
    assert total(windows, "received") == total(windows, "sent") == rule.counts().seen
    assert clean(windows)


def test_another_route_is_taken_over(lab: Lab, tmp_path: Path) -> None:
    near, far = lab.namespace("near"), lab.namespace("far")
    lab.link(near, far)
    lab.link(near, far)
    far.answer_for("10.50.0.0/24")
    near.route("10.50.0.0/24", "10.99.0.2")
    rule = far.rule("accept")
    second = far.rule("accept", matches=['iifname "veth1" icmp type echo-request'])
    agent = ring(near, tmp_path, {"far": "10.50.0.1"})
    seen(agent, rule, 100)
    assert second.counts().seen == 0
    with NetNS(near.name) as ip:
        ip.route("replace", dst="10.50.0.0/24", gateway="10.99.1.2")
    wait_for(lambda: "whole frames on veth1 to far" in agent.text(), "a ring on the other line")
    seen(agent, second, 300)
    points = agent.stop()
    assert any("the route to far has changed: by 10.99.1.2 on veth1" in text for text in texts(points))
    windows = probes(points, "far")
    # Until it is seen, probes leave the old way, which still leads there.
    assert total(windows, "received") == total(windows, "sent") == rule.counts().seen
    assert clean(windows)


def test_a_target_that_appears_later_gets_a_ring_then(lab: Lab, tmp_path: Path) -> None:
    near, far = lab.pair(static_neighbours=False)
    agent = ring(near, tmp_path, {"late": "10.99.0.77"})
    wait_for(lambda: "has not answered yet" in agent.text(), "the reason")
    with NetNS(far.name) as ip:
        ip.addr("add", index=ip.link_lookup(ifname="veth0")[0], address="10.99.0.77", prefixlen=24)
    wait_for(lambda: "whole frames on veth0 to late" in agent.text(), "a ring")
    rule = far.rule("accept")
    seen(agent, rule, 100)
    points = agent.stop()
    assert any("there is a way for whole frames to late now" in text for text in texts(points))
    assert total(probes(points, "late"), "received") >= 100


def test_icmp_errors_and_a_line_that_was_down(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    matches = ["ip protocol icmp icmp type echo-request", "icmpv6 type echo-request"]
    rule = far.rule("reject with icmpx host-unreachable", every=4, matches=matches)
    agent = ring(near, tmp_path, {"far": far.ipv4, "six": far.ipv6})
    seen(agent, rule, 300)
    with NetNS(near.name) as ip:
        index = ip.link_lookup(ifname="veth0")[0]
        ip.link("set", index=index, state="down")
        time.sleep(0.3)
        ip.link("set", index=index, state="up")
        for address, mac in ((far.ipv4, "02:00:00:00:00:02"), (far.ipv6, "02:00:00:00:00:02")):
            ip.neigh("replace", dst=address, lladdr=mac, ifindex=index, state=0x80)
        ip.addr("replace", index=index, address=near.ipv6, prefixlen=64, flags=0x02)
    seen(agent, rule, rule.counts().seen + 300)
    windows = [*probes(points := agent.stop(), "far"), *probes(points, "six")]
    counts = rule.counts()
    assert total(windows, "received") == counts.seen - counts.hit
    assert total(windows, "sent") >= counts.seen
    # What was refused while the line was down is an error that was not sent; what was rejected, one that was.
    assert total(windows, "errors") >= counts.hit
