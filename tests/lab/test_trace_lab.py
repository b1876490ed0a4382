"""`coloprobe trace` in a network of routers that is known, and agents that trace in it: what they find is
it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probe.clock import MILLISECOND
from probe.paths import identity
from probe.paths.records import Traced as Target
from probe.settings import TraceTable
from probe.telemetry.lines import Point
from probe.tracing import request_for
from tests.lab.link import Constant, Duplicate, Every, Impairments
from tests.lab.netlab import Lab
from tests.lab.reflecting import Reflecting
from tests.lab.routers import Routers
from tests.lab.running import LabAgent
from tests.system.commands import DEADLINE_S, ROOT, coloprobe, wait_for

FLOWS = 12  # of which all by one way are one chance in 2,048
FAST = ("--rate", "1000", "--timeout", "300ms")
FAMILIES = ("4", "6")
PORT = 9000


@dataclass
class Traced:
    """What `coloprobe trace --json` said."""

    status: int
    hops: list[dict[str, Any]]
    paths: list[dict[str, Any]]
    stderr: str

    def route(self, flow: int) -> list[str]:
        """Who answered, nearest first."""
        mine = [hop for hop in self.hops if hop["flow"] == str(flow)]
        assert [hop["ttl"] for hop in mine] == [str(n + 1) for n in range(len(mine))]
        return [hop.get("address", "*") for hop in mine]

    def values(self, name: str) -> set[Any]:
        """Of all paths."""
        return {path.get(name) for path in self.paths}


@pytest.fixture(scope="module")
def net() -> Iterator[Routers]:
    """One network for all tests here: whoever changes it changes it back."""
    with Lab() as lab:
        yield Routers(lab)


def text(net: Routers, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = net["near"].run(coloprobe("trace", *arguments, *FAST), check=False, timeout_s=DEADLINE_S)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def trace(net: Routers, *arguments: str) -> Traced:
    done = text(net, *arguments, "--json")
    points = [json.loads(line) for line in done.stdout.splitlines()]
    hops = [point for point in points if point["measurement"] == "hop"]
    paths = points[len(hops) :]
    assert all(path["measurement"] == "path" for path in paths)
    return Traced(done.returncode, hops, paths, done.stderr)


def side_by_side(net: Routers, commands: Sequence[Sequence[str]]) -> list[Traced]:
    """All of them at once: most of a trace is waiting."""
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda arguments: trace(net, *arguments), commands))


def target(net: Routers, family: str, kind: str = "stamp", port: int = 0) -> str:
    host = net.ipv4 if family == "4" else f"[{net.ipv6}]"
    return f"{kind}://{host}" + (f":{port}" if port else "")


def test_every_flows_way_is_found_and_is_the_one_that_it_takes(net: Routers) -> None:
    flows = ("--flows", str(FLOWS), "--probes", "2", "--no-mtu")
    both = side_by_side(net, [(target(net, family), *flows) for family in FAMILIES])
    for family, found in zip(FAMILIES, both, strict=True):
        assert found.status == 0, found.stderr
        routes = [found.route(flow) for flow in range(FLOWS)]
        upper, lower = net.ways(family)
        # `far` says that the port is closed by the address that is nearest to us, on IPv6.
        assert {tuple(route[:4]) for route in routes} == {tuple(upper[:4]), tuple(lower[:4])}
        assert {len(route) for route in routes} == {5}
        assert found.values("reached") == {True}
        assert found.values("answer") == {"port unreachable"}
        assert all(hop["sent"] == hop["received"] == 2 for hop in found.hops)
        assert all(0 < hop["rtt_ns"] < 10**9 for hop in found.hops)
    # What the routers on both ways say: they see these flows and no others.
    found = both[0]
    request = request_for(Target("", net.ipv4, socket.AF_INET, "stamp", 862), TraceTable())
    ports = [flow.port for flow in identity.flows(request.seed, FLOWS)]
    ways = {
        name: [net.address("4", name) in found.route(n) for n in range(FLOWS)] for name in ("upper", "lower")
    }
    rules = {
        (name, own): net[name].rule("accept", hook="forward", matches=[f"udp sport {{ {which} }}"])
        for name in ways
        for own in (True, False)
        if (which := ", ".join(str(p) for p, here in zip(ports, ways[name], strict=True) if here == own))
    }
    again = trace(net, target(net, "4"), *flows)
    assert [again.route(flow) for flow in range(FLOWS)] == [found.route(flow) for flow in range(FLOWS)]
    assert [path["path_id"] for path in again.paths] == [path["path_id"] for path in found.paths]
    for (name, own), rule in rules.items():
        # Two packets to `join` and two to `far`, at least.
        assert rule.counts().seen >= 4 * sum(ways[name]) if own else rule.counts().seen == 0, (name, own)
        rule.remove()


def test_a_ports_state_is_told_and_nobody_accepts_a_connection(net: Routers) -> None:
    far = net["far"]
    filtered = far.rule("drop", matches=["tcp dport 9999"])
    cases = {
        "syn-ack": (target(net, "4", "tcp", PORT), "--flows", "2"),
        "reset": (target(net, "6", "tcp", PORT + 1), "--flows", "2"),
        "": (target(net, "4", "tcp", 9999), "--flows", "1", "--max-hops", "6", "--no-mtu"),
    }
    with far.call(lambda: socket.create_server(("", PORT), backlog=16)) as server:
        syns = far.rule("accept", matches=[f"tcp dport {PORT} tcp flags & (syn|ack|rst) == syn"])
        acks = far.rule("accept", matches=[f"tcp dport {PORT} tcp flags & (syn|ack|rst) == ack"])
        found = dict(zip(cases, side_by_side(net, list(cases.values())), strict=True))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
        # One SYN of each flow reaches the port, and no handshake comes to its end.
        assert (syns.counts().seen, acks.counts().seen) == (2, 0)
    for rule in (syns, acks, filtered):
        rule.remove()
    for answer in ("syn-ack", "reset"):
        one = found[answer]
        assert (one.status, one.values("answer"), one.values("protocol")) == (0, {answer}, {"tcp"})
        ways = net.ways("4" if answer == "syn-ack" else "6")
        assert all(one.route(flow) in ways for flow in range(2))
        assert one.values("mtu") == {1500}
    silent = found[""]
    assert (silent.status, silent.values("reached")) == (1, {False})
    assert silent.route(0) in [way[:4] for way in net.ways("4")]


def test_a_silent_router_leaves_a_gap_and_a_reflector_answers(net: Routers, tmp_path: Path) -> None:
    rule = net["first"].rule(
        "drop", hook="output", matches=["icmp type time-exceeded", "icmpv6 type time-exceeded"]
    )
    with Reflecting(net["far"], tmp_path), ThreadPoolExecutor(2) as pool:
        running = pool.submit(trace, net, target(net, "6"), "--flows", "1", "--no-mtu")
        drawn = text(net, target(net, "4"), "--flows", str(FLOWS), "--no-mtu").stdout
        found = running.result()
    rule.remove()
    assert found.route(0) in [["*", *way[1:]] for way in net.ways("6")]
    assert found.values("answer") == {"reflected"}
    assert found.paths[0]["hop_list"].split()[0] == "*"
    assert (found.hops[0]["sent"], found.hops[0]["received"], found.hops[0]["loss"]) == (4, 0, 1.0)
    lines = drawn.splitlines()
    assert lines[0].startswith(f"TRACE stamp://{net.ipv4} ({net.ipv4}) port 862: udp, {FLOWS} flows")
    assert lines[1].split() == ["1", "*", "silent"]
    assert sum(line.lstrip().startswith("|-- flow") for line in lines) == 2
    assert "reached by every flow in 5 hops (reflected), on 2 different paths" in drawn
    assert "round-trip times by the kernel's clock" in drawn


def test_the_paths_mtu_is_found_whether_or_not_a_router_tells_it(net: Routers) -> None:
    one = ("--flows", "1", "--probes", "1")
    net.limit(1400)
    told = side_by_side(net, [(target(net, "4", "icmp"), *one), (target(net, "6"), *one)])
    rule = net["join"].rule(
        "drop", hook="output", matches=["icmp type destination-unreachable", "icmpv6 type packet-too-big"]
    )
    cases = [
        (target(net, "4"), *one),
        (target(net, "6", "icmp"), *one),
        (target(net, "4", "tcp", PORT), *one),
    ]
    hidden = side_by_side(net, cases)
    rule.remove()
    net.limit(1500)
    for black_hole, all_of_them in ((False, told), (True, hidden)):
        for found in all_of_them:
            path = found.paths[0]
            assert (path["mtu"], path["mtu_hop"], path["mtu_black_hole"]) == (1400, 4, black_hole), path
            assert [hop["mtu"] for hop in found.hops] == [1500] * 4 + [1400]


@pytest.mark.emulator
def test_answers_that_come_twice_count_once(lab: Lab) -> None:
    """The second ones while the next sizes are tried, when nobody waits for them any more."""
    twice = Duplicate(Every(1), 20 * MILLISECOND)
    link = lab.emulated(Impairments(Constant(2 * MILLISECOND)), Impairments(duplicate=twice))
    link.far.rule("drop", hook="input", matches=["ip length > 1400"])  # so that several sizes are tried
    command = coloprobe("trace", link.far.ipv4, "--flows", "1", "--rate", "200", "--json")
    done = link.near.run(command, check=False, timeout_s=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    hop, path = points
    assert (hop["sent"], hop["received"], hop["address"]) == (3, 3, link.far.ipv4)
    assert (path["reached"], path["mtu"], path["mtu_black_hole"]) == (True, 1400, True)


def agent_of(net: Routers, folder: Path, trace: str) -> LabAgent:
    targets = f"""
[trace]
{trace}
timeout = "300ms"
rate = 1000
[[target]]
name = "gateway"
address = "{net.ipv4}"
kind = "tcp"
port = {PORT}
flows = 2
[[target]]
name = "six"
address = "{net.ipv6}"
"""
    return LabAgent(net["near"], folder, targets, window="500ms")


def paths_of(points: Sequence[Point], name: str, measurement: str = "path") -> list[Point]:
    found = [p for p in points if p.measurement == measurement and p.tags["target"] == name]
    return sorted(found, key=lambda point: point.time_ns)


def test_an_agent_traces_in_turn_and_tells_of_a_change(net: Routers, tmp_path: Path) -> None:
    agent = agent_of(net, tmp_path, 'every = "1s"\nflows = 2\nprotocol = "auto"')
    syn = net["far"].rule("accept", matches=[f"tcp dport {PORT}"])
    net.fork("4", upper=True, lower=False)
    agent.start()
    log = agent.text
    wait_for(lambda: syn.counts().seen >= 2 or not agent.running(), log())
    before = syn.counts().seen
    wait_for(lambda: syn.counts().seen >= before + 4, log())
    net.fork("4", upper=False, lower=True)
    wait_for(lambda: "path changed" in log() or not agent.running(), log())
    points = agent.stop()
    net.fork("4", upper=True, lower=True)
    syn.remove()
    upper, lower = net.ways("4")
    paths = paths_of(points, "gateway")
    assert {point.tags["flow"] for point in paths} == {"0", "1"}
    lists = list(dict.fromkeys(point.fields["hop_list"] for point in paths))
    assert lists[0] == " ".join(upper)
    assert lists[-1] == " ".join(lower)
    events = [p for p in points if p.measurement == "event" and p.tags["kind"] == "path"]
    assert {event.tags["target"] for event in events} == {"gateway"}
    detail = json.loads(str(events[0].fields["detail"]))
    assert (detail["hop"], detail["hops_before"], detail["hops_after"]) == (
        3,
        " ".join(upper),
        " ".join(lower),
    )
    ids = list(dict.fromkeys(point.fields["path_id"] for point in paths))
    assert ids == [detail["before"], detail["after"]]
    hops = paths_of(points, "gateway", "hop")
    assert {point.fields["address"] for point in hops if point.tags["ttl"] == "1"} == {upper[0]}
    assert {point.fields["protocol"] for point in paths_of(points, "six")} == {"icmp"}
    assert paths_of(points, "six")[0].fields["reached"] is True


def test_a_trace_ends_with_who_asked_for_it(net: Routers) -> None:
    silence = net["far"].rule("drop", matches=["udp dport 862"])
    # By itself it would wait for minutes.
    patient = coloprobe("trace", target(net, "4"), "--timeout", "60s")
    parent = net["near"].popen(patient, stdout=subprocess.DEVNULL)
    wait_for(lambda: silence.counts().seen >= 5, "packets come to the target")
    (child,) = children_of(parent.pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_running(child), "the trace has ended")
    silence.remove()


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_without_scapy_or_privileges_the_way_out_is_said(net: Routers) -> None:
    blocked = (
        "import sys; sys.modules['scapy'] = None; sys.argv[0] = 'x'; import probe.paths.child as c; c.main()"
    )
    request = json.dumps({"address": "127.0.0.1", "family": socket.AF_INET, "protocol": "icmp"})
    done = net["near"].run(
        [coloprobe()[0], "-c", f"import os; os.chdir({str(ROOT)!r}); {blocked}"], stdin=request
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "type": "failed",
        "error": "MissingPartError",
        "text": "scapy",
    }
    without = net["near"].run(
        ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *coloprobe("trace", net.ipv4)],
        check=False,
    )
    assert without.returncode == 1
    assert "tracing paths needs CAP_NET_RAW: run it as root, or with AmbientCapabilities" in without.stderr
    nowhere = text(net, "203.0.113.1")
    assert nowhere.returncode == 1
    assert "coloprobe: no route to 203.0.113.1: Network is unreachable" in nowhere.stderr
