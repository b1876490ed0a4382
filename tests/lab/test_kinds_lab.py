"""One agent with 500 targets of every kind, IPv4 and IPv6, held against the packet filter's counts."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from probe.telemetry.lines import Point
from tests.lab.netlab import Namespace, Rule
from tests.lab.running import LabAgent, probes, total
from tests.system.commands import DEADLINE_S, coloprobe, wait_for

HALF_OPEN, CONNECTED, CLOSED, DROPPED = 9000, 9001, 9002, 9003
NETWORKS = {4: "10.60.0.0/16", 6: "fd60::/64"}
COUNT = 500
# What a target of each sort sees: the kind, its port, and which requests the filter in front of it counts.
SORTS = (
    ("icmp", 0, ("icmp type echo-request", "icmpv6 type echo-request")),
    ("stamp", 862, ("udp dport 862",)),
    ("tcp", HALF_OPEN, (f"tcp dport {HALF_OPEN} tcp flags & (syn|ack|rst) == syn",)),
    ("tcp", CLOSED, (f"tcp dport {CLOSED} tcp flags & (syn|ack|rst) == syn",)),
    ("tcp", DROPPED, (f"tcp dport {DROPPED}",)),
    ("connect", CONNECTED, (f"tcp dport {CONNECTED} tcp flags & (syn|ack|rst) == syn",)),
)
_LISTENING = f"""
import json, select, socket, sys
ports = {HALF_OPEN}, {CONNECTED}
servers = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
           for port in ports]
print("ready", flush=True)
accepted = dict.fromkeys(ports, 0)
while True:
    ready = select.select([*servers, sys.stdin], [], [])[0]
    if sys.stdin in ready:
        break
    for server in ready:
        server.accept()[0].close()
        accepted[server.getsockname()[1]] += 1
print(json.dumps(accepted), flush=True)
"""


@dataclass(frozen=True)
class Sort:
    """Targets that are alike, and the packet filter's count of what was sent to them."""

    kind: str
    port: int
    names: list[str]
    rule: Rule

    def total(self, points: list[Point], field: str) -> int:
        return sum(total(probes(points, name), field) for name in self.names)


def settings(version_of: dict[str, int]) -> str:
    """COUNT targets, their sorts and versions in turn."""
    tables = []
    for n in range(COUNT):
        kind, port, _ = SORTS[n % len(SORTS)]
        version = 4 + n // len(SORTS) % 2 * 2
        address = f"10.60.{n // 250}.{n % 250 + 1}" if version == 4 else f"fd60::{n + 1:x}"
        name = f"{kind}-{port}-{n}"
        version_of[name] = version
        tables.append(
            f'[[target]]\nname = "{name}"\naddress = "{address}"\nkind = "{kind}"\ninterval = "500ms"'
            + (f"\nport = {port}" if port else "")
        )
    return "\n".join(tables) + '\n[host]\nclock_error = "10us"\n'


@contextlib.contextmanager
def listening(far: Namespace) -> Iterator[Counter[int]]:
    """Somebody accepts on both ports; how many connections, by port, stands in the counter afterwards."""
    accepted: Counter[int] = Counter()
    child = far.popen([sys.executable, "-c", _LISTENING], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    try:
        yield accepted
        output, _ = child.communicate("\n", timeout=DEADLINE_S)
        accepted.update({int(port): count for port, count in json.loads(output).items()})
    finally:
        child.kill()
        child.wait()


def test_five_hundred_targets_of_every_kind_in_one_agent(
    pair: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    near, far = pair
    for version, network in NETWORKS.items():
        far.answer_for(network)
        near.route(network, far.ipv4 if version == 4 else far.ipv6)
    version_of: dict[str, int] = {}
    document = settings(version_of)
    far.nft(f"""
        table inet wall {{
          chain dropping {{
            type filter hook input priority 10
            tcp dport {DROPPED} drop
          }}
        }}
    """)
    sorts = []
    for kind, port, matches in SORTS:
        names = [name for name in version_of if name.startswith(f"{kind}-{port}-")]
        sorts.append(Sort(kind, port, names, far.rule("accept", matches=matches)))
    reflector = far.popen(coloprobe("reflect", "--clock-error", "10us"), stderr=subprocess.DEVNULL)
    with listening(far) as accepted:
        wait_for(lambda: "862" in far.run(["ss", "-Hlun"]).stdout, "the reflector")
        agent = LabAgent(near, tmp_path, document).start()

        def enough() -> bool:
            assert agent.running(), agent.text()
            return all(sort.rule.counts().seen >= 8 * len(sort.names) for sort in sorts)

        wait_for(enough, "eight probes to each target")
        points = agent.stop()
    reflector.terminate()
    assert reflector.wait(DEADLINE_S) == 0

    assert accepted[HALF_OPEN] == 0
    measured = {point.tags["target"] for point in points if point.measurement == "probe"}
    assert measured == set(version_of)
    for sort in sorts:
        of = {
            field: sort.total(points, field) for field in ("sent", "received", "lost", "errors", "unstamped")
        }
        what = f"{sort.kind} to port {sort.port}: {of}, the filter saw {sort.rule.counts()}"
        assert of["sent"] == sort.rule.counts().seen, what
        assert of["errors"] == 0, what
        assert (of["lost"], of["received"])[sort.port == DROPPED] == 0, what
        assert of["unstamped"] == 0, what
        if sort.kind in ("tcp", "connect"):
            refused = sort.port == CLOSED
            answers = sort.total(points, "open"), sort.total(points, "closed")
            assert answers == ((0, of["received"]) if refused else (of["received"], 0)), what
        if sort.kind == "connect":
            assert accepted[CONNECTED] == of["received"], what
    # Both versions of each sort answer, and one-way delays are there for STAMP alone.
    for point in (point for point in points if point.measurement == "probe"):
        assert point.tags["kind"] == point.tags["target"].partition("-")[0]
        one_way = "forward_p50_ns" in point.fields
        assert one_way == (point.tags["kind"] == "stamp" and bool(point.fields["received"])), point
