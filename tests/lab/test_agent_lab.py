"""An agent in a namespace in, its points held against the packet filter's counters and captures out."""

from __future__ import annotations

import random
import re
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probe.telemetry.lines import Point
from tests.lab.capture import Capture
from tests.lab.netlab import ECHO_REQUESTS, Lab, Namespace, Rule
from tests.lab.running import SECOND, LabAgent, probes, total
from tests.system.commands import coloprobe, wait_for

Pair = tuple[Namespace, Namespace]
CAP_NET_RAW = 1 << 13


def seen(agent: LabAgent, rule: Rule, packets: int) -> None:
    """Return once the rule has seen so many packets."""

    def enough() -> bool:
        assert agent.running(), agent.text()
        return rule.counts().seen >= packets

    wait_for(enough, f"{packets} packets")


def longest_run(lost: list[bool]) -> int:
    longest = run = 0
    for one in lost:
        run = run + 1 if one else 0
        longest = max(longest, run)
    return longest


def assert_each_window_lost(windows: list[Point], is_lost: Callable[[int], bool]) -> None:
    """Whether each window lost exactly the probes that the filter dropped; `is_lost`: of the nth, from 1."""
    number = 0
    for window in windows:
        fields = window.fields
        sent = int(fields["sent"])
        lost = [is_lost(n) for n in range(number + 1, number + 1 + sent)]
        number += sent
        assert (fields["lost"], fields["received"]) == (sum(lost), sent - sum(lost)), window
        assert fields["loss_burst_max"] == longest_run(lost), window
        assert fields["loss"] == pytest.approx(sum(lost) / sent)
        assert (fields["errors"], fields["late"], fields["duplicates"], fields["unstamped"]) == (0, 0, 0, 0)


def test_every_seventh_dropped_is_lost_and_nothing_else(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rules = {
        "four": far.rule(every=7, matches=ECHO_REQUESTS[:1]),
        "six": far.rule(every=7, matches=ECHO_REQUESTS[1:]),
    }
    agent = LabAgent(near, tmp_path, {"four": far.ipv4, "six": far.ipv6}).start()
    for rule in rules.values():
        seen(agent, rule, 250)
    points = agent.stop()
    for target, rule in rules.items():
        windows, counts = probes(points, target), rule.counts()
        assert (total(windows, "sent"), total(windows, "lost")) == (counts.seen, counts.hit)
        assert_each_window_lost(windows, lambda n: n % 7 == 0)
        # All but the first and the last, which the agent's own beginning and end cut short.
        for window in windows[1:-1]:
            assert window.time_ns % SECOND == 0
            assert window.fields["sent"] == 100
        buckets = [p for p in points if p.measurement == "probe_histogram" and p.tags["target"] == target]
        assert total(buckets, "count") == total(windows, "received")


def test_two_in_a_row_dropped_are_a_burst_of_two(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    far.nft(
        """
        table inet twins {
          counter seen { }
          counter hit { }
          chain hooked {
            type filter hook input priority 0; policy accept;
            icmp type echo-request counter name seen numgen inc mod 7 >= 5 counter name hit drop
          }
        }
        """
    )
    rule = Rule(far, "twins")
    agent = LabAgent(near, tmp_path, {"far": far.ipv4}, interval="5ms", window="500ms").start()
    seen(agent, rule, 250)
    windows, counts = probes(agent.stop(), "far"), rule.counts()
    assert (total(windows, "sent"), total(windows, "lost")) == (counts.seen, counts.hit)
    assert_each_window_lost(windows, lambda n: n % 7 in (6, 0))
    assert max(int(window.fields["loss_burst_max"]) for window in windows) == 2


@pytest.mark.parametrize("reason", ["host-unreachable", "admin-prohibited"])
def test_icmp_errors_belong_to_their_target_and_are_losses(pair: Pair, tmp_path: Path, reason: str) -> None:
    near, far = pair
    far.answer_for("10.50.0.0/16")
    far.answer_for("fd50::/64")
    near.route("10.50.0.0/16", far.ipv4)
    near.route("fd50::/64", far.ipv6)
    matches = [
        "ip daddr 10.50.0.1 icmp type echo-request",
        "ip6 daddr fd50::1 icmpv6 type echo-request",
    ]
    rule = far.rule(f"reject with icmpx {reason}", matches=matches)
    good = far.rule("accept", matches=["ip daddr 10.50.0.2 icmp type echo-request"])
    targets = {"four": "10.50.0.1", "six": "fd50::1", "good": "10.50.0.2"}
    agent = LabAgent(near, tmp_path, targets).start()
    seen(agent, rule, 300)
    points = agent.stop()
    refused = [*probes(points, "four"), *probes(points, "six")]
    for window in refused:
        fields = window.fields
        assert fields["loss"] == 1.0
        assert fields["errors"] == fields["lost"] == fields["sent"]
        assert "rtt_p50_ns" not in fields
    assert total(refused, "errors") == rule.counts().hit == rule.counts().seen
    windows = probes(points, "good")
    assert total(windows, "received") == total(windows, "sent") == good.counts().seen
    assert total(windows, "errors") == 0


def test_what_this_host_refuses_to_send_is_an_error_and_no_loss(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    # By its number, so that a probe stays refused where sendmmsg stops in front of it and is called again.
    near.rule(hook="output", matches=["icmp type echo-request icmp sequence & 1 == 1"])
    passed = far.rule("accept")
    agent = LabAgent(near, tmp_path, {"far": far.ipv4}, interval="5ms", window="500ms").start()
    seen(agent, passed, 150)
    windows = probes(agent.stop(), "far")
    sent, errors = total(windows, "sent"), total(windows, "errors")
    assert errors == (sent + errors) // 2
    assert sent == total(windows, "received") == passed.counts().seen
    assert total(windows, "lost") == total(windows, "unstamped") == 0


def test_a_target_without_neighbour_is_an_error_and_no_loss(pair: Pair, tmp_path: Path) -> None:
    near, _ = pair
    rule = near.rule(
        "accept", matches=["icmp type destination-unreachable", "icmpv6 type destination-unreachable"]
    )
    for version in (4, 6):
        near.sysctl(f"net.ipv{version}.neigh.{near.interface}.retrans_time_ms", "600")
    agent = LabAgent(near, tmp_path, {"nobody": "10.99.0.77", "nobody-six": "fd99::77"}, interval="50ms")
    agent.start()
    # The kernel asks for 1.8 s (three, where nobody says otherwise), which is longer than a window is open;
    # then it tells the senders of what waited, and begins again.
    seen(agent, rule, 140)
    points = agent.stop()
    for target in ("nobody", "nobody-six"):
        windows = probes(points, target)
        assert total(windows, "errors") > 60
        assert len(windows) >= 4
        for window in windows[1:-1]:
            # Each probe once, whether the kernel told of it in time or not.
            assert window.fields["errors"] == 20
        # Already before the kernel gave up for the first time: its drivers stamp what leaves.
        for window in windows:
            assert (window.fields["sent"], window.fields["lost"]) == (0, 0), window
            assert "loss" not in window.fields


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody can reach, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="coloprobe-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def status(pid: int) -> list[dict[str, str]]:
    """/proc/PID/status of every thread."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return [dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE)) for text in texts]


@pytest.mark.parametrize("user", ["", "nobody"])
def test_it_keeps_one_capability_and_goes_on_measuring(pair: Pair, public_folder: Path, user: str) -> None:
    near, far = pair
    rule = far.rule("accept")
    settings = f'user = "{user}"' if user else ""
    agent = LabAgent(near, public_folder, {"far": far.ipv4}, interval="5ms", agent=settings).start()
    seen(agent, rule, 50)
    threads = status(agent.pid)
    assert len(threads) >= 2  # the engine has one of its own
    for thread in threads:
        assert int(thread["CapPrm"], 16) == int(thread["CapEff"], 16) == CAP_NET_RAW
        assert int(thread["CapInh"], 16) == int(thread["CapAmb"], 16) == 0
        assert int(thread["CapBnd"], 16) == CAP_NET_RAW
        assert thread["NoNewPrivs"] == "1"
        if user:
            assert set(thread["Uid"].split()) == set(thread["Gid"].split()) == {"65534"}
            assert not thread["Groups"].split()
    before = rule.counts().seen
    seen(agent, rule, before + 150)
    windows = probes(agent.stop(), "far")
    assert total(windows, "received") == total(windows, "sent") == rule.counts().seen
    assert total(windows, "unstamped") == 0


def strange_packets() -> list[bytes]:
    """ICMP messages that are no reply to any probe: forged, random, cut short."""
    chance = random.Random(7)
    forged = [
        struct.pack("!BBHHH8sQ", 0, 0, 0, identifier, number & 0xFFFF, chance.randbytes(8), number)
        for number, identifier in enumerate(range(0, 65536, 4096))
    ]
    cut = [bytes(length) for length in range(8, 33)]  # echo replies (type 0) of all short lengths
    noise = [bytes([0]) + chance.randbytes(chance.randrange(7, 1400)) for _ in range(50)]
    errors = [bytes([kind, 1]) + chance.randbytes(length) for kind in (3, 11, 12) for length in range(6, 60)]
    # A quoted packet whose header claims to be longer than what is there.
    lies = [bytes([3, 1, 0, 0, 0, 0, 0, 0, 0x4F]) + bytes(8) + b"\x01" + bytes(18)]
    return forged + cut + noise + errors + lies


def about_others(packet: bytes) -> bool:
    """Whether it is an ICMP error that quotes a whole IPv4 header of a packet that is no ICMP."""
    quoted = packet[8:]
    return packet[0] in (3, 11, 12) and len(quoted) >= 20 and quoted[0] >> 4 == 4 and quoted[9] != 1


def test_foreign_packets_are_counted_and_change_nothing_else(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule("accept")
    packets = strange_packets()
    arrived = near.rule("accept", matches=["icmp type { 0, 3, 11, 12 } ip saddr 10.99.0.99"])
    agent = LabAgent(near, tmp_path, {"far": far.ipv4, "six": far.ipv6}).start()
    seen(agent, rule, 50)

    def throw() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for packet in packets:
                source, destination = socket.inet_aton("10.99.0.99"), socket.inet_aton(near.ipv4)
                # The kernel fills in length, identification and checksum.
                header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 1, 0, source, destination)
                raw.sendto(header + packet, (near.ipv4, 0))
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            for length in range(8, 33):
                raw.sendto(bytes([129]) + bytes(length - 1), (near.ipv6, 0))

    far.call(throw)
    seen(agent, arrived, len(packets))
    seen(agent, rule, rule.counts().seen + 200)
    points = agent.stop()
    agents = [point for point in points if point.measurement == "agent"]
    # What is about this host's other traffic is nothing foreign.
    foreign = sum(not about_others(packet) for packet in packets)
    assert 0 < len(packets) - foreign < 20
    assert agents[-1].fields["foreign_packets"] == foreign + 25
    for target in ("far", "six"):
        windows = probes(points, target)
        assert total(windows, "received") == total(windows, "sent")
        for field in ("lost", "late", "duplicates", "reordered", "errors", "unstamped"):
            assert total(windows, field) == 0, field
    assert total(probes(points, "far") + probes(points, "six"), "sent") == rule.counts().seen


SHAPES = """
[[target]]
name = "plain"
address = "{far4}"
size = 24
[[target]]
name = "odd"
address = "{far4}"
size = 65
dscp = 46
[[target]]
name = "large"
address = "{far4}"
size = 1400
dscp = 10
[[target]]
name = "jumbo"
address = "{far4}"
size = 8972
dscp = 46
[[target]]
name = "jumbo-six"
address = "{far6}"
size = 8952
dscp = 34
"""


def test_sizes_and_dscp_are_on_the_wire_and_nobodys_replies_are_foreign(lab: Lab, tmp_path: Path) -> None:
    near, far = lab.pair(mtu=9000)
    rule = far.rule("accept")
    agent = LabAgent(near, tmp_path, SHAPES.format(far4=far.ipv4, far6=far.ipv6), interval="20ms")
    with Capture(near, snap=9216) as capture:
        agent.start()
        seen(agent, rule, 300)
        points = agent.stop()
    wanted = {
        (far.ipv4, 24, 0): "plain",
        (far.ipv4, 65, 46): "odd",
        (far.ipv4, 1400, 10): "large",
        (far.ipv4, 8972, 46): "jumbo",
        (far.ipv6, 8952, 34): "jumbo-six",
    }
    requests = [echo for echo in capture.echoes() if echo.request]
    shapes = [(echo.destination, 8 + len(echo.payload), echo.dscp) for echo in requests]
    assert set(shapes) == set(wanted)
    for shape, target in wanted.items():
        windows = probes(points, target)
        assert {window.tags["dscp"] for window in windows} == {str(shape[2])}
        assert total(windows, "received") == total(windows, "sent") == shapes.count(shape)
        assert total(windows, "errors") == total(windows, "unstamped") == 0
    agents = [point for point in points if point.measurement == "agent"]
    assert {point.fields["foreign_packets"] for point in agents} == {0}
    assert {point.fields["socket_drops"] for point in agents} == {0}


def test_a_name_without_address_stops_nobody_else(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule("accept")
    agent = LabAgent(near, tmp_path, {"far": far.ipv4, "nowhere": "gateway.invalid"}).start()
    seen(agent, rule, 100)
    points = agent.stop()
    windows = probes(points, "far")
    assert total(windows, "received") == total(windows, "sent") == rule.counts().seen
    assert probes(points, "nowhere") == []
    (event,) = [point for point in points if point.measurement == "event"]
    assert (event.tags["kind"], event.tags["target"]) == ("unreachable", "nowhere")
    reason = "'gateway.invalid' has no address: "
    assert str(event.fields["text"]).startswith(f"not measured: {reason}")
    assert agent.text().count(f"target nowhere is not measured: {reason}") == 1
    checked = near.run(coloprobe("check", "-c", tmp_path / "agent.toml"), check=False)
    assert checked.returncode == 1
    assert f"failed  target nowhere: {reason}" in checked.stdout
    assert "correct the address; the agent retries it every 30 s" in checked.stdout
    assert "ok      target far: " in checked.stdout
