"""A real agent with every knob set in, a capture of what it sent out: each knob is on every packet of every
kind, and a target's points are those of its flows together."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from probe.telemetry.lines import Point
from tests.lab.capture import Capture, Packet
from tests.lab.netlab import Lab, Namespace
from tests.lab.running import LabAgent, probes, total
from tests.system.commands import coloprobe, wait_for

Pair = tuple[Namespace, Namespace]

PORT, DSCP, TTL, FLOWS, BURST = 9000, 46, 33, 4, 3
SIZES = {"icmp": 1000, "stamp": 1000, "tcp": 24, "connect": 40}
SOURCES = {4: "10.99.0.77", 6: "fd99::77"}
_SYN, _ECHO = 0x02, (8, 128)
_LISTENING = """
import socket, sys
servers = [socket.create_server((host, int(sys.argv[1])), family=family, backlog=4096)
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))]
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Probe:
    """A probe as captured. `path`: the ICMP identifier or source port; `label`: 0 on IPv4."""

    kind: str
    version: int
    path: int
    label: int
    knobs: tuple[object, ...]
    time_ns: int


def probe_of(packet: Packet) -> Probe | None:
    """The probe that an outgoing packet is; None: it is something else."""
    data = packet.data
    if data[0] >> 4 == 4:
        version, body, protocol, label = 4, data[20:], data[9], 0
        length = int.from_bytes(data[2:4], "big") - 20
        knobs = (data[1] >> 2, data[8], data[12:16], bool(data[6] & 0x40), length)
    else:
        first = int.from_bytes(data[:4], "big")
        version, body, protocol, label = 6, data[40:], data[6], first & 0xFFFFF
        knobs = (first >> 22 & 63, data[7], data[8:24], True, int.from_bytes(data[4:6], "big"))
    if protocol in (1, 58) and body[0] in _ECHO:
        kind, at = "icmp", 4
    elif protocol == 17:
        kind, at = "stamp", 0
    elif protocol == 6 and body[13] == _SYN:
        kind, at = ("tcp" if knobs[-1] == SIZES["tcp"] else "connect"), 0
    else:
        return None
    return Probe(kind, version, int.from_bytes(body[at : at + 2], "big"), label, knobs, packet.time_ns)


def table(kind: str, version: int, interface: str) -> str:
    port = f"port = {PORT}\n" if kind in ("tcp", "connect") else ""
    size = f"size = {SIZES[kind]}\n" if kind in ("icmp", "stamp") else ""
    return (
        f'[[target]]\nname = "{kind}{version}"\nkind = "{kind}"\n{port}{size}'
        f'address = "{"10.99.0.2" if version == 4 else "fd99::2"}"\n'
        f'interval = "200ms"\ndscp = {DSCP}\nttl = {TTL}\nflows = {FLOWS}\nburst = {BURST}\n'
        f'source = "{SOURCES[version]}"\ninterface = "{interface}"\ndont_fragment = true\n'
    )


@contextmanager
def answering(near: Namespace, far: Namespace) -> Iterator[None]:
    """`far` answers every kind, and knows both source addresses of `near`."""
    for version, address in SOURCES.items():
        bits = 24 if version == 4 else 64
        nodad = ["nodad"] if version == 6 else []
        near.run(["ip", "addr", "add", f"{address}/{bits}", "dev", near.interface, *nodad])
        words = f"ip neigh replace {address} lladdr 02:00:00:00:00:01 dev {far.interface} nud permanent"
        far.run(words.split())
    reflector = far.popen(coloprobe("reflect"), stderr=subprocess.DEVNULL)
    listener = far.popen(
        [sys.executable, "-c", _LISTENING, str(PORT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    wait_for(lambda: far.run(["ss", "-Hlun"]).stdout.count(":862 ") == 2, "the reflector")
    yield
    reflector.terminate()
    assert reflector.wait(10) == 0


def together(points: list[Point]) -> None:
    """Of each window of one target: its own point is its flows' points together."""
    for when in {point.time_ns for point in points}:
        window = [point for point in points if point.time_ns == when]
        (whole,) = (point.fields for point in window if "flow" not in point.tags)
        flows = [point.fields for point in window if "flow" in point.tags]
        for name in ("sent", "received", "lost", "late", "errors", "duplicates", "reordered", "unstamped"):
            assert whole[name] == sum(int(flow[name]) for flow in flows), name
        for name, extreme in (("rtt_min_ns", min), ("rtt_max_ns", max), ("loss_burst_max", max)):
            # A window at the agent's beginning or end may have no probe of a flow.
            found = [int(flow[name]) for flow in flows if name in flow]
            assert whole.get(name) == (extreme(found) if found else None), name


def test_every_knob_is_on_every_packet_of_every_kind(lab: Lab, tmp_path: Path) -> None:
    near, far = lab.pair()
    sorts = [(kind, version) for kind in SIZES for version in (4, 6)]
    document = "\n".join(table(kind, version, near.interface) for kind, version in sorts)
    with answering(near, far), Capture(near) as capture:
        counted = far.rule("accept", matches=["icmpv6 type echo-request"])
        agent = LabAgent(near, tmp_path, document).start()
        wait_for(lambda: counted.counts().seen >= 10 * FLOWS * BURST, "ten bursts of each flow")
        points = agent.stop()
    sent: defaultdict[tuple[str, int], list[Probe]] = defaultdict(list)
    for packet in capture.packets:
        if packet.outgoing and (probe := probe_of(packet)) is not None:
            sent[probe.kind, probe.version].append(probe)
    for kind, version in sorts:
        found, own = sent[kind, version], probes(points, f"{kind}{version}")
        source = packed(SOURCES[version])
        assert {probe.knobs for probe in found} == {(DSCP, TTL, source, True, SIZES[kind])}, (kind, version)
        whole = [point for point in own if "flow" not in point.tags]
        assert total(whole, "sent") == total(whole, "received") == len(found) >= 5 * FLOWS * BURST, kind
        together(own)
        # Each flow has labels and identifiers or ports that are no other flow's, and keeps them.
        paths = {probe.path for probe in found}
        # TCP wants several ports for bursts; see probe.engine.source_ports.
        assert len(paths) == FLOWS * (2 * BURST if kind == "tcp" else 1), (kind, version, paths)
        if version == 6:
            labels = {path: {probe.label for probe in found if probe.path == path} for path in paths}
            assert all(len(each) == 1 for each in labels.values()), (kind, labels)
            assert len(set.union(*labels.values())) == FLOWS, (kind, labels)
            assert 0 not in set.union(*labels.values())


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
