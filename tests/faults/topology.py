"""A directory in, a small trading network out: two agents, two lines, routers, gateways and a station.

                 .------.                            .- m1 -.
     agent-1 --a-| wire |--- edge-a ------------.    |      |             .------.
       |         '------'   /    '-- x1 == x2 --core-+      +--- border --| wire |-- g1 (gateway 1)
       |                   /                    |    |      |      |      '------'
       '-----b------------/----- edge-b --------'    '- m2 -'      '--------------- g2 (gateway 2)
                         /          |
     agent-2 -----a-----'           |
       '-----------b----------------'

Lines A and B (10.x.1.0, 10.x.2.0) lead to the same gateways: who asks 10.60.1.10 comes to g1 over A, who asks
10.60.2.10 over B; .20 is g2. Between core and border flows are hashed by their ports onto m1 and m2 (ECMP).
x1 and x2 are a longer way round (+1.5 ms), used by nobody until a route says so. The station and the agents'
broker connections have a network of their own (10.70.x.0), which no measured packet sees. A wire is a bridge
that can be made lossy or slow. Every router speaks ARP as usual.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.parts import Part
from tests.faults.wire import Wire
from tests.lab.link import Constant, Impairments
from tests.lab.netlab import Lab, Namespace
from tests.system.commands import coloprobe, wait_for

WINDOW_S = 2.0
SITE = "LAB"
# Whatever else this machine does shall not look like a fault of the agents' hosts.
FIRST = ("nice", "-n", "-10")
PORT = 9001
STEP_MS = 250
_DETOUR_NS = 750_000  # each way
_ROUTERS = ("edge-a", "edge-b", "core", "x1", "x2", "m1", "m2", "border")
_PLACES = (*_ROUTERS, "agent-1", "agent-2", "wire-a", "wire-g", "g1", "g2", "station")
# place interface [address] - place interface [address]
_LINKS = """
agent-1 xa 10.61.1.1/24 - wire-a near
wire-a far - edge-a n1 10.61.1.254/24
agent-1 xb 10.61.2.1/24 - edge-b n1 10.61.2.254/24
agent-2 xa 10.62.1.1/24 - edge-a n2 10.62.1.254/24
agent-2 xb 10.62.2.1/24 - edge-b n2 10.62.2.254/24
edge-a core 10.63.1.1/30 - core a 10.63.1.2/30
edge-b core 10.63.2.1/30 - core b 10.63.2.2/30
core m1 10.63.11.1/30 - m1 core 10.63.11.2/30
core m2 10.63.12.1/30 - m2 core 10.63.12.2/30
m1 border 10.63.21.1/30 - border m1 10.63.21.2/30
m2 border 10.63.22.1/30 - border m2 10.63.22.2/30
edge-a x1 10.65.1.1/30 - x1 edge-a 10.65.1.2/30
core x2 10.65.2.1/30 - x2 core 10.65.2.2/30
border g1 10.64.1.1/30 - wire-g near
wire-g far - g1 up 10.64.1.2/30
border g2 10.64.2.1/30 - g2 up 10.64.2.2/30
station n1 10.70.1.254/24 - agent-1 mgmt 10.70.1.1/24
station n2 10.70.2.254/24 - agent-2 mgmt 10.70.2.1/24
"""
_ROUTES = """
agent-1 10.60.1.0/24 via 10.61.1.254
agent-1 10.60.2.0/24 via 10.61.2.254
agent-1 10.63.0.0/16 nexthop via 10.61.1.254 nexthop via 10.61.2.254
agent-2 10.60.1.0/24 via 10.62.1.254
agent-2 10.60.2.0/24 via 10.62.2.254
edge-a default via 10.63.1.2
edge-b default via 10.63.2.2
core 10.60.0.0/16 nexthop via 10.63.11.2 nexthop via 10.63.12.2
core 10.61.1.0/24 via 10.63.1.1
core 10.62.1.0/24 via 10.63.1.1
core 10.61.2.0/24 via 10.63.2.1
core 10.62.2.0/24 via 10.63.2.1
m1 10.60.0.0/16 via 10.63.21.2
m1 default via 10.63.11.1
m2 10.60.0.0/16 via 10.63.22.2
m2 default via 10.63.12.1
border default nexthop via 10.63.21.1 nexthop via 10.63.22.1
border 10.60.1.10/32 via 10.64.1.2
border 10.60.2.10/32 via 10.64.1.2
border 10.60.1.20/32 via 10.64.2.2
border 10.60.2.20/32 via 10.64.2.2
g1 default via 10.64.1.1
g2 default via 10.64.2.1
x1 default via 10.99.0.2
x1 10.61.1.0/24 via 10.65.1.1
x1 10.62.1.0/24 via 10.65.1.1
x2 default via 10.65.2.1
x2 10.61.1.0/24 via 10.99.0.1
x2 10.62.1.0/24 via 10.99.0.1
"""
_OWN = {"g1": ("10.60.1.10", "10.60.2.10"), "g2": ("10.60.1.20", "10.60.2.20")}
_ROUTER_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.fib_multipath_hash_policy": "1",
    "net.ipv4.fib_multipath_hash_seed": "7",  # the same flows take the same member in every run
}

_AGENT = """
[agent]
id = "{name}"
site = "{site}"
state_dir = "{state}"
[window]
length = "{window}ms"
timeout = "{timeout}ms"
histogram = "60s"
[defaults]
interval = "20ms"
[host]
counters = "{window}ms"
[trace]
every = "60s"
flows = 4
max_hops = 9
timeout = "500ms"
rate = 200
[mqtt]
url = "mqtt://{broker}:1883"
[uplink]
ack_timeout = "2s"
{targets}
"""
_TARGET = '[[target]]\nname = "{name}"\naddress = "{address}"\nvenue = "{venue}"\nline = "{line}"\n{more}\n'


def _targets(host: int, *, few: bool) -> str:
    made = []
    for line, net in (("A", 1), ("B", 2)):
        tail = line.lower()
        g1, g2, edge = f"10.60.{net}.10", f"10.60.{net}.20", f"10.6{host}.{net}.254"
        tcp = f'kind = "tcp"\nport = {PORT}\ninterval = "100ms"'
        rows = [
            (f"g1-{tail}", g1, "G1", ""),
            (f"g1-{tail}-tcp", g1, "G1", tcp),
            (f"g2-{tail}", g2, "G2", ""),
            (f"g2-{tail}-tcp", g2, "G2", tcp),
        ]
        if not few:
            stamp = 'kind = "stamp"\nflows = 8\ninterval = "100ms"'
            big = 'size = 1450\ndont_fragment = true\ninterval = "50ms"'
            rows += [
                (f"edge-{tail}", edge, "edge", 'interval = "50ms"'),
                (f"g1-{tail}-stamp", g1, "G1", stamp),
                (f"g1-{tail}-big", g1, "G1", big),
            ]
        for name, address, venue, more in rows:
            if few and "kind" not in more:
                more = 'interval = "50ms"'
            made.append(_TARGET.format(name=name, address=address, venue=venue, line=line, more=more))
    return "".join(made)


@dataclass
class Site:
    """Everything, built on entry, running from `start` on; `places` (namespaces) and `parts` by name.

    window_s: of the agents.
    """

    directory: Path
    window_s: float = WINDOW_S
    places: dict[str, Namespace] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._build(stack.enter_context(Lab()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self.parts.values():
            part.kill()
        self._stack.close()

    @property
    def timeout_s(self) -> float:
        """How long the agents wait for a reply."""
        return self.window_s / 4

    @property
    def state(self) -> Path:
        """The station's store is in here."""
        return self.directory / "station"

    def start(self) -> None:
        """Start everything; returns when the station has points of both agents. Raises: AssertionError."""
        for name in ("g1", "g1-reflector", "g2", "station"):
            self.parts[name].start()
        station = self.parts["station"]

        reflector = self.parts["g1-reflector"]

        def up() -> bool:
            self.look()
            return "broker " in station.text() and "reflecting" in reflector.text()

        wait_for(up, "the station and the reflector are up")
        for name in ("session", "agent-1", "agent-2"):
            self.parts[name].start()

    def look(self) -> None:
        """See whether all parts are still there; one that ended by itself is an error."""
        for part in self.parts.values():
            part.look()
            assert not part.deaths, f"{part.name} ended: {part.deaths[0]}"

    # -- building --------------------------------------------------------------------------------------------

    def _build(self, lab: Lab) -> None:
        for name in _PLACES:
            self.places[name] = lab.namespace(name)
        for name in _ROUTERS:
            for key, value in _ROUTER_SYSCTLS.items():
                self.places[name].sysctl(key, value)
        slow = Impairments(delay=Constant(_DETOUR_NS))
        lab.emulated(slow, slow, logging=False, between=(self.places["x1"], self.places["x2"]))
        for place in self.places.values():  # its neighbour discovery would be the only packets not asked for
            for which in ("all", "default"):
                place.sysctl(f"net.ipv6.conf.{which}.disable_ipv6", "1")
        for line in _LINKS.strip().splitlines():
            one, _, other = line.partition(" - ")
            self._link(one.split(), other.split())
        for name, addresses in _OWN.items():
            for address in addresses:
                self._ip(name, f"addr add {address}/32 dev lo")
        for line in _ROUTES.strip().splitlines():
            name, _, route = line.partition(" ")
            self._ip(name, f"route add {route}")
        for name in ("wire-a", "wire-g"):
            self.wires[name] = Wire(self.places[name])
            self.wires[name].join()
        self._add_parts()

    def _link(self, one: list[str], other: list[str]) -> None:
        (place, device, *address), (peer, peer_device, *peer_address) = one, other
        namespace, peer_namespace = self.places[place], self.places[peer]
        self._ip(place, f"link add {device} type veth peer name {peer_device} netns {peer_namespace.name}")
        for name, end, addresses in ((place, device, address), (peer, peer_device, peer_address)):
            for one_address in addresses:
                self._ip(name, f"addr add {one_address} dev {end}")
            self._ip(name, f"link set dev {end} up")
        if not namespace.interface:
            namespace.interface = device

    def _ip(self, place: str, words: str) -> None:
        self.places[place].run(["ip", *words.split()])

    def _add_parts(self) -> None:
        orders = [sys.executable, "-m", "tests.faults.orders"]
        self._add("g1", "g1", [*orders, "serve", str(PORT)])
        self._add("g2", "g2", [*orders, "serve", str(PORT)])
        self._add("session", "agent-1", [*orders, "trade", "10.60.1.10", str(PORT)])
        self._add("g1-reflector", "g1", coloprobe("reflect", "--bind", "0.0.0.0:862"))
        listen = ("--broker", "0.0.0.0:1883", "--board", "127.0.0.1:0", "--state", self.state)
        self._add("station", "station", [*FIRST, *coloprobe("up", "127.0.0.1", *listen)])
        for number, name in enumerate(("agent-1", "agent-2"), 1):
            state = self.directory / name
            file = self.directory / f"{name}.toml"
            file.write_text(
                _AGENT.format(
                    name=name,
                    site=SITE,
                    state=state,
                    window=int(self.window_s * 1000),
                    timeout=int(self.timeout_s * 1000),
                    broker=f"10.70.{number}.254",
                    targets=_targets(number, few=number == 2),
                ),
                encoding="utf-8",
            )
            argv = coloprobe("agent", "-c", file)
            if number == 1:  # whose clock can be stepped
                at = argv.index("probe.cli")
                argv[at : at + 1] = ["tests.faults.stepping_agent", str(STEP_MS)]
            self._add(name, name, [*FIRST, *argv])

    def _add(self, name: str, place: str, argv: list[str]) -> None:
        # Who is killed outright takes the rest along.
        argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        self.parts[name] = Part(name, self.places[place], argv, self.directory / f"{name}.log")
