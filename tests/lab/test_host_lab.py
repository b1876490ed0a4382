"""What happens to links, addresses, routes, neighbours and sessions in a namespace in, what is told of it
out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from probe.host import listener
from probe.host.watched import Watched
from tests.lab.netlab import Lab, Namespace
from tests.lab.running import SECOND, LabAgent
from tests.lab.watching import Watching, watching
from tests.system.commands import wait_for

Pair = tuple[Namespace, Namespace]

TAKE = """
import socket
c, _ = socket.create_server(("", 9000)).accept()
while c.recv(9999):
    pass
"""
TALK = """
import socket, sys, time
c = socket.create_connection((sys.argv[1], 9000))
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    c.send(b"x" * 100)
    time.sleep(0.02)
"""


def test_what_happens_to_a_host_is_told_once_each(lab: Lab) -> None:
    near, far = lab.pair(static_neighbours=False)
    near.sysctl("net.ipv4.neigh.veth0.retrans_time_ms", "100")
    targets = [Watched("cme-a", "CME", "A", "10.60.0.7")]

    async def play(stage: Watching) -> None:
        await stage.sh("ip addr add 10.77.0.1/24 dev veth0")
        added = await stage.event("address", "veth0 has the address 10.77.0.1/24 now")
        assert added.tags == {"interface": "veth0"}
        # A route to a target, and another one.
        await stage.sh(f"ip route add 10.60.0.0/16 via {far.ipv4}; ping -c 1 {far.ipv4}")
        route = await stage.event("route", "10.60.0.0/16 is new")
        assert (route.detail["after"], route.detail["targets"]) == (f"by {far.ipv4} on veth0", ["cme-a"])
        await stage.sh("ip route replace 10.60.0.0/16 via 10.99.0.66")
        route = await stage.event("route", "10.60.0.0/16 is by 10.99.0.66 on veth0 now")
        assert route.detail["before"] == f"by {far.ipv4} on veth0"
        # Nobody is there, and then somebody is.
        await stage.sh("ping -c 1 -W 1 10.60.0.7 || true")
        silent = await stage.event("neighbour", "the gateway 10.99.0.66 on veth0 does not answer")
        assert (silent.detail["state"], silent.detail["targets"]) == ("failed", ["cme-a"])
        await stage.sh("ip addr add 10.99.0.66/24 dev veth0", far)
        await stage.sh("ping -c 1 -W 1 10.99.0.66 || true")
        await stage.event("neighbour", "the gateway 10.99.0.66 on veth0 answers again")
        # A second router takes the address over, and says so.
        await stage.sh(
            "ip link set veth0 address 02:00:00:00:00:77; ping -c 1 -I 10.99.0.66 10.99.0.1 || true", far
        )
        over = await stage.event("neighbour", "(failover?)")
        assert (over.detail["address"], over.detail["after"]) == ("10.99.0.66", "02:00:00:00:00:77")
        assert over.detail["before"] == "02:00:00:00:00:02"
        # The line: gone, back, and back before anybody was told.
        await stage.sh("ip link set veth0 down", far)
        down = await stage.event("link", "veth0 lost its carrier")
        assert (down.tags, down.detail["targets"]) == ({"interface": "veth0"}, ["cme-a"])
        await stage.sh("ip link set veth0 up", far)
        await stage.event("link", "veth0 has a carrier again")
        flaps = "link set veth0 down\nlink set veth0 up\n" * 5
        await stage.sh(f"ip -batch - <<END\n{flaps}END", far)
        await stage.event("link", "veth0 flapped")
        expected = down.detail["carrier_changes"] + 1 + 10
        await stage.until(
            lambda: any(e.detail.get("carrier_changes") == expected for e in stage.told.events),
            "every one of the ten changes is in the counter",
        )
        await stage.sh("ip link set veth0 mtu 1400")
        await stage.event("link", "the MTU of veth0 is 1400 now")
        # IPv4 routes go with their interface, and the kernel does not announce it.
        await stage.sh("ip link set veth0 down")
        await stage.event("link", "veth0 was switched off")
        gone = await stage.event("route", "10.60.0.0/16 is gone")
        assert gone.detail["targets"] == ["cme-a"]
        await stage.until(lambda: last_up(stage) is False, "counters of the interface that is down")

    def last_up(stage: Watching) -> object:
        return next((p.fields["up"] for p in reversed(stage.told.of("interface", interface="veth0"))), None)

    told = watching(near, targets, play)
    texts = [event.text for event in told.events if "lost its carrier" not in event.text]
    assert len([text for text in texts if "10.60.0.0/16" in text]) == 3, "nothing is told twice"
    truth = json.loads(near.run(["ip", "-j", "-s", "link", "show", "veth0"]).stdout)[0]
    last = told.of("interface", interface="veth0")[-1].fields
    assert 0 < int(last["rx_packets"]) <= truth["stats64"]["rx"]["packets"]
    assert last["mtu"] == 1400
    for point in told.of("interface", interface="veth0"):
        assert ("speed_bps" in point.fields) == point.fields["up"]
        assert point.fields.get("speed_bps", 10**10) == 10**10, "what a veth says"
    assert int(last["rx_queue_drops"]) == 0
    assert int(told.of("interface", interface="host")[-1].fields["softnet_packets"]) > 0


def test_a_flood_of_routes_is_counted_to_the_last_one_and_told_in_a_few_words(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair
    monkeypatch.setattr(listener, "_BUFFER", 1)  # the kernel makes it 2,304 bytes
    monkeypatch.setattr(listener, "PAUSE", SECOND // 4)
    monkeypatch.setattr(listener, "_SLOWER", 1)
    many = listener.BUDGET + 700

    async def play(stage: Watching) -> None:
        script = "\n".join(f"route add 10.{n >> 8}.{n & 255}.0/24 via {far.ipv4}" for n in range(many))
        # In this thread: nobody reads what is announced meanwhile, and the buffer overflows.
        near.run(["ip", "-batch", "-"], stdin=script)

        def told(what: str) -> int:
            routes = [event.detail for event in stage.told.events if event.kind == "route"]
            assert all(one["what"] in ("added", "removed", "many") for one in routes)
            return sum(one.get(what, 0) if one["what"] == "many" else one["what"] == what for one in routes)

        await stage.until(lambda: told("added") >= many, "all routes")
        await stage.event("host", "more happened to this host's routes")
        again = "\n".join(f"route del 10.{n >> 8}.{n & 255}.0/24" for n in range(many))
        await stage.sh(f"ip -batch - <<END\n{again}\nEND")
        await stage.until(lambda: told("removed") >= many, "all routes again")
        assert (told("added"), told("removed")) == (many, many)
        assert len(stage.told.events) < 200

    watching(near, [], play, every_ns=SECOND // 2)


def test_a_session_is_told_as_ss_has_it_and_its_stall_has_a_beginning_and_an_end(pair: Pair) -> None:
    near, far = pair
    targets = [Watched("cme-a", "CME", "A", far.ipv4, 9000)]

    async def play(stage: Watching) -> None:
        server = far.popen([sys.executable, "-c", TAKE])
        await stage.until(lambda: ":9000" in far.run(["ss", "-Hltn"]).stdout, "the server")
        client = near.popen([sys.executable, "-c", TALK, far.ipv4])

        def field(name: str) -> int:
            points = stage.told.of("session", target="cme-a", remote=f"{far.ipv4}:9000", session="0")
            return int(points[-1].fields.get(name, 0)) if points else 0

        await stage.until(lambda: field("bytes_sent"), "the session")
        assert field("retransmits_total") == 0
        loss = far.rule("drop", every=5, matches=["tcp dport 9000"])
        await stage.until(lambda: field("retransmits_total") >= 2, "what was lost is sent again")
        loss.remove()
        silence = far.rule("drop", matches=["tcp dport 9000"])
        stall = await stage.event("session", "is stalled")
        assert stall.tags == {"target": "cme-a"}
        assert (stall.detail["what"], stall.detail["phase"]) == ("stall", "begin")
        assert stall.detail["waiting_ns"] >= 1_000_000_000
        assert stage.told.of("session")[-1].fields["stalled"] is True
        (shown,) = stage.watch.sessions()
        assert (shown["measurement"], shown["venue"], shown["line"]) == ("session", "CME", "A")
        silence.remove()
        await stage.event("session", "goes on")
        client.send_signal(19)  # it says no more, and its kernel's numbers stay
        ss = re.search(r"retrans:\d+/(\d+)", near.run(["ss", "-Htin", "dport", "=", ":9000"]).stdout)
        assert ss is not None
        await stage.until(lambda: field("retransmits_total") == int(ss[1]), "as many as ss counts")
        client.kill()
        await stage.event("session", "has ended")
        server.wait()

    watching(near, targets, play, every_ns=SECOND // 4)


def test_an_agent_without_privileges_has_it_all_in_its_spool(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    far.popen([sys.executable, "-c", TAKE])
    wait_for(lambda: ":9000" in far.run(["ss", "-Hltn"]).stdout, "the server")
    near.popen([sys.executable, "-c", TALK, far.ipv4])
    rule = far.rule("accept")
    agent = LabAgent(near, tmp_path, {"far": far.ipv4}, agent='user = "nobody"').start()
    wait_for(lambda: rule.counts().seen > 120, "a second of probes")
    near.run(["ip", "route", "add", "10.60.0.0/16", "via", far.ipv4])
    seen = rule.counts().seen
    wait_for(lambda: rule.counts().seen > seen + 120, "another one")
    points = agent.stop()
    sessions = [point for point in points if point.measurement == "session"]
    assert {point.tags["target"] for point in sessions} == {"far"}
    assert all(point.fields["state"] == "ESTABLISHED" for point in sessions)
    interfaces = {point.tags["interface"] for point in points if point.measurement == "interface"}
    assert interfaces == {"veth0", "host"}
    events = [point for point in points if point.measurement == "event" and point.tags["kind"] == "route"]
    assert ["10.60.0.0/16" in str(point.fields["text"]) for point in events] == [True]
