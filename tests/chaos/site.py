"""A directory in, agents, broker, collectors and database in namespaces of their own out, joined by a router.

    agent-1 ... agent-5 --.            .-- broker (mosquitto)
    fleet ----------------- router ----+-- collector-1, collector-2
    targets --------------'            '-- database (InfluxDB 1.6)

Everything passes the router, which therefore can cut the way between any two of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos.parts import Part
from tests.chaos.plan import Cast, Plan
from tests.chaos.wire import PORT, WireCapture
from tests.lab.netlab import Lab, Namespace
from tests.system.commands import coloprobe, wait_for
from tests.system.servers import Influx, influxdb_settings, program

INFLUX_PORT = 8086
DATABASE = "coloprobe"
TARGETS = ("10.50.0.1", "10.50.0.2", "10.50.0.3")
WINDOW_NS = 1_000_000_000
INTERVAL_NS = 50_000_000
_FLEET_PATIENCE_S = 180
CRAMPED_DISK = 12 << 20  # bytes
_CUTTING = """
table inet cut {
  chain forward {
    type filter hook forward priority 0; policy accept;
  }
}
"""
_TIGHT_QUEUE, _TIGHT_HELD = 20, "300KiB"  # messages of the broker's queues, bytes that a collector holds
_REJECT = {
    "half": "drop",
    "drop": "drop",
    "reject": "reject with icmpx host-unreachable",
    "reset": "meta l4proto tcp reject with tcp reset",
}

_AGENT = """
[agent]
id = "{name}"
site = "chaos"
state_dir = "{state}"
[window]
length = "1s"
timeout = "200ms"
histogram = "2s"
[defaults]
interval = "50ms"
[trace]
every = "0s" # what targets see is held against what was sent to them
on_event = false
[mqtt]
url = "mqtt://{broker}:{port}"
protocol = "{protocol}"
[uplink]
ack_timeout = "2s"
{targets}
"""
_COLLECTOR = """
[collector]
id = "{name}"
state_dir = "{state}"
[mqtt]
url = "mqtt://{broker}:{port}"
protocol = "{protocol}"
share_group = "collectors"
[influx]
url = "http://{database}:8086"
api = "v1"
database = "coloprobe"
timeout = "3s"
[limits]
held_bytes = "{held}"
"""
_MOSQUITTO = """
listener {port} 0.0.0.0
log_dest stderr
user root
allow_anonymous true
persistence {persistent}
persistence_location {state}/
autosave_interval 2
max_queued_messages {queue}
max_queued_bytes 67108864
max_packet_size 270336
"""


@dataclass(frozen=True)
class FleetSize:
    """Of the fleet simulator, a process of its own; `length_s`: how long it sends."""

    agents: int
    targets: int
    length_s: float


def cast(agents: int = 5, collectors: int = 2, *, fleet: bool = False) -> Cast:
    """Who takes part: the last agent has a small disk."""
    names = tuple(f"agent-{number}" for number in range(1, agents + 1))
    return Cast(
        agents=names,
        collectors=tuple(f"collector-{number}" for number in range(1, collectors + 1)),
        cramped=names[-1:],
        bystanders=("fleet",) if fleet else (),
    )


@dataclass
class Disk:
    """A small file system: filled to the brim with a ballast file, and emptied again."""

    path: Path

    def fill(self) -> None:
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        ballast.write(bytes(size))
                except OSError:
                    continue

    def empty(self) -> None:
        (self.path / "ballast").unlink(missing_ok=True)


@dataclass
class Site:
    """All parts, started by `start`; `parts`, `disks` and `links` by name."""

    directory: Path
    plan: Plan  # of which the setup counts here, not the faults
    agents: int = 5
    collectors: int = 2
    fleet: FleetSize | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._lab = stack.enter_context(Lab())
            self.router = self._lab.namespace("router")
            self.router.sysctl("net.ipv4.ip_forward", "1")
            self.router.nft(_CUTTING)
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self.parts.values():
            part.kill()
        self._stack.close()

    @property
    def cast(self) -> Cast:
        return cast(self.agents, self.collectors, fleet=self.fleet is not None)

    # -- building --------------------------------------------------------------------------------------------

    def _build(self, stack: ExitStack) -> None:
        self.targets = self._place("targets")
        self.targets.answer_for("10.50.0.0/16")
        self.router.route("10.50.0.0/16", self.targets.ipv4)
        broker, database = self._place("broker"), self._place("database")
        self.wire = WireCapture(broker, self.directory / "wire.pcap")
        state = self._folder("broker")
        file = self._write(
            "mosquitto.conf",
            _MOSQUITTO.format(
                port=PORT,
                persistent=str(self.plan.persistent).lower(),
                queue=_TIGHT_QUEUE if self.plan.tight else 1000,
                state=state,
            ),
        )
        self._add("broker", broker, [program("mosquitto"), "-c", str(file)])
        file = self._write(
            "influxdb.conf", influxdb_settings(self._folder("database"), "0.0.0.0:8086", "127.0.0.1:8088")
        )
        self._add("database", database, [program("influxd"), "-config", str(file)])
        self.influx = Influx("database", [], INFLUX_PORT, self.directory, health="/ping")
        addresses = {"broker": broker.ipv4, "database": database.ipv4, "port": PORT}
        addresses["protocol"] = self.plan.protocol
        for number in range(1, self.collectors + 1):
            name = f"collector-{number}"
            held = _TIGHT_HELD if self.plan.tight else "32MiB"
            text = _COLLECTOR.format(name=name, state=self._folder(name), held=held, **addresses)
            file = self._write(f"{name}.toml", text)
            self._add(name, self._place(name), coloprobe("collect", "-c", file))
        rows = "".join(f'[[target]]\nname = "t{n}"\naddress = "{a}"\n' for n, a in enumerate(TARGETS, 1))
        for number in range(1, self.agents + 1):
            name = f"agent-{number}"
            folder = self._folder(name)
            if number == self.agents:
                self._small_disk(stack, name, folder)
            text = _AGENT.format(name=name, state=folder, targets=rows, **addresses)
            file = self._write(f"{name}.toml", text)
            self._add(name, self._place(name), coloprobe("agent", "-c", file))
        if self.fleet is not None:
            self._add_fleet(self.fleet, f"mqtt://{broker.ipv4}:{PORT}")
        self._count_probes()

    def _add_fleet(self, size: FleetSize, url: str) -> None:
        argv = [sys.executable, "-W", "error", "-m", "benchmarks.fleet", "--mqtt", url, "--histograms"]
        argv += ["--agents", str(size.agents), "--targets", str(size.targets), "--window", "2s"]
        argv += ["--for", f"{size.length_s:.0f}s", "--wait", f"{_FLEET_PATIENCE_S}s", "--ack-timeout", "2s"]
        self._add("fleet", self._place("fleet"), [*argv, "--json", str(self.directory / "fleet.json")])
        self.parts["fleet"].once = True

    def fleet_told(self) -> list[dict[str, Any]]:
        """What the simulator says of each of its agents at its end; nothing where it did not come to it."""
        file = self.directory / "fleet.json"
        if not file.exists():
            return []
        return list(json.loads(file.read_text(encoding="utf-8"))["agents"])

    def _place(self, name: str) -> Namespace:
        """A namespace behind the router."""
        namespace = self._lab.namespace(name)
        self._lab.link(namespace, self.router)
        gateway = namespace.ipv4.rpartition(".")[0] + ".2"
        namespace.route("10.0.0.0/8", gateway)
        return namespace

    def _small_disk(self, stack: ExitStack, name: str, folder: Path) -> None:
        size = f"size={CRAMPED_DISK}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "coloprobe-chaos", folder], check=True)
        stack.callback(lambda: subprocess.run(["umount", "-l", folder], check=True))
        self.disks[name] = Disk(folder)

    def _count_probes(self) -> None:
        """Have the targets' packet filter count what each agent really sent to each of them."""
        pairs = [(name, target) for name in self.cast.agents for target in TARGETS]
        counters = "\n".join(f"counter {_counter(*pair)} {{ }}" for pair in pairs)
        rules = "\n".join(
            f"ip saddr {self.parts[name].namespace.ipv4} ip daddr {target} icmp type echo-request "
            f"counter name {_counter(name, target)}"
            for name, target in pairs
        )
        self.targets.nft(
            f"table inet seen {{\n{counters}\nchain hooked {{\n"
            f"type filter hook input priority 0; policy accept;\n{rules}\n}}\n}}"
        )

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir()
        return folder

    def _write(self, name: str, text: str) -> Path:
        file = self.directory / name
        file.write_text(text, encoding="utf-8")
        return file

    def _add(self, name: str, namespace: Namespace, argv: list[str]) -> None:
        self.parts[name] = Part(name, namespace, argv, self.directory / f"{name}.log")

    # -- running ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; returns once a batch of each agent is in the database. Raises: AssertionError."""
        self.wire.start()
        self.parts["database"].start()
        self.parts["broker"].start()
        wait_for(self._create_database, "InfluxDB serves")
        for name, part in self.parts.items():
            if name.startswith(("collector-", "agent-", "fleet")):
                part.start()
        wait_for(self._begun, "batches of every agent are in the database")

    def _begun(self) -> bool:
        self.look()
        died = [death for part in self.parts.values() for death in part.deaths]
        assert not died, f"{died[0].part} does not start: {died[0].words}"
        rows = self.query("SELECT last(batch) FROM agent GROUP BY agent")
        return {row["agent"] for row in rows} >= set(self.cast.agents)

    def _create_database(self) -> bool:
        try:
            self.parts["database"].namespace.call(lambda: self.influx.create_database(DATABASE))
        except (OSError, HTTPException, RuntimeError, ValueError):
            return False
        return True

    def query(self, influxql: str) -> list[dict[str, Any]]:
        """Raises: OSError, HTTPException, RuntimeError or ValueError while the database is not well."""
        return self.parts["database"].namespace.call(lambda: self.influx.query(influxql))

    def look(self) -> None:
        """See after every part."""
        for part in self.parts.values():
            part.look()

    def cut(self, how: str, one: str, other: str) -> None:
        """Cut the way between two parts, until `join`; "half": what `other` says does not arrive."""
        a, b = (self.parts[name].namespace.ipv4 for name in (one, other))
        rules = "\n".join(
            f'add rule inet cut forward ip saddr {x} ip daddr {y} {_REJECT[how]} comment "{one}-{other}"'
            for x, y in (((b, a),) if how == "half" else ((a, b), (b, a)))
        )
        self.router.nft(rules)

    def join(self, one: str, other: str) -> None:
        """Let packets pass again."""
        listing = self.router.run(["nft", "-a", "list", "chain", "inet", "cut", "forward"]).stdout
        for line in listing.splitlines():
            if f'comment "{one}-{other}"' in line:
                handle = line.rpartition("# handle ")[2]
                self.router.run(["nft", "delete", "rule", "inet", "cut", "forward", "handle", handle])

    def wipe_broker(self) -> int:
        """Delete what the broker keeps on disk while it is down. Returns how many bytes there were."""
        files = [file for file in (self.directory / "broker").iterdir() if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        return size

    def probes_seen(self) -> dict[tuple[str, str], int]:
        """How many probes of each agent each target got, by the packet filter; keys: agent, target's name."""
        listing = self.targets.run(["nft", "-j", "list", "counters", "table", "inet", "seen"]).stdout
        packets = {
            item["counter"]["name"]: int(item["counter"]["packets"])
            for item in json.loads(listing)["nftables"]
            if "counter" in item
        }
        return {
            (name, f"t{number}"): packets[_counter(name, target)]
            for name in self.cast.agents
            for number, target in enumerate(TARGETS, 1)
        }


def _counter(agent: str, target: str) -> str:
    return f"{agent}_{target}".replace("-", "_").replace(".", "_")
