"""Nothing in, the sixteen faults out: what each breaks, and what `coloprobe diagnose` should call it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.injections import (
    Closed,
    Dead,
    DroppingInterface,
    Failover,
    Filter,
    Flapping,
    Injection,
    LossyWire,
    Rerouted,
    SlowWire,
    Stalled,
    SteppedClock,
    TinyBuffers,
    Together,
)
from tests.faults.topology import PORT, Site

_MS = 1_000_000
_DETOUR = (
    ("edge-a", "10.60.1.0/24 via 10.65.1.2"),
    ("core", "10.61.1.0/24 via 10.65.2.2"),
    ("core", "10.62.1.0/24 via 10.65.2.2"),
)
_STRAIGHT = (
    ("edge-a", "10.60.1.0/24 via 10.63.1.2"),
    ("core", "10.61.1.0/24 via 10.63.1.1"),
    ("core", "10.62.1.0/24 via 10.63.1.1"),
)
# Frames of 1400 bytes and more that may not be broken up: what a tunnel nobody announced lets fall.
_TOO_LONG = ("ip length > 1400 ip frag-off & 0x4000 == 0x4000",)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    places: what `diagnose` may call the place, `cause`: what it must call the cause.
    what: for the operator who reads the table. hits: what it does harm to, so that two faults of a pair do
    not hide each other.
    """

    id: str
    places: tuple[str, ...]
    what: str
    injection: Injection
    hits: frozenset[str]

    @property
    def cause(self) -> str:
        return self.id

    def begin(self, site: Site) -> None:
        self.injection.begin(site)

    def keep(self, site: Site) -> None:
        self.injection.keep(site)

    def end(self, site: Site) -> None:
        self.injection.end(site)


def _fault(name: str, places: str, what: str, injection: Injection, hits: str) -> Fault:
    return Fault(name, tuple(places.split()), what, injection, frozenset(hits.split()))


def catalogue() -> tuple[Fault, ...]:
    """All of them, new."""
    return (
        _fault(
            "nic-drops",
            "host interface",
            "agent-1's interface xa drops 5 % of what arrives, and counts it",
            DroppingInterface("wire-a", 5),
            "wire-a",
        ),
        _fault(
            "link-flap",
            "interface",
            "agent-1's interface xa loses its carrier for 0.7 s, three times",
            Flapping("wire-a", 0.7, 1.3, 3),
            "wire-a",
        ),
        _fault(
            "neighbour-failover",
            "path",
            "another router takes over edge-a's address: a new MAC, told 0.4 s late",
            Together(
                (
                    Failover("edge-a", "n2", "10.62.1.254", 0.0),
                    Failover("edge-a", "n1", "10.61.1.254", 0.4),
                )
            ),
            "wire-a",
        ),
        _fault(
            "route-change",
            "path",
            "edge-a sends line A a longer way: two routers and 1.5 ms more",
            Rerouted(_DETOUR, _STRAIGHT),
            "line-a",
        ),
        _fault(
            "ecmp-member",
            "path",
            "m2, one of two ECMP members, loses 30 % on the way there",
            Filter("m2", ('iifname "core" ip daddr 10.60.0.0/16',), percent=30),
            "ecmp",
        ),
        _fault(
            "line-loss", "interface", "cross-connect A loses 5 % each way", LossyWire("wire-a", 5), "wire-a"
        ),
        _fault("line-delay", "interface", "the carrier of A adds 2 ms", SlowWire("wire-a", _MS), "wire-a"),
        _fault(
            "gateway-slow",
            "gateway",
            "g1 answers everything 3 ms late",
            SlowWire("wire-g", 3 * _MS // 2),
            "g1",
        ),
        _fault("port-closed", "gateway", f"nobody listens on g1's port {PORT}", Closed("g1"), "g1"),
        _fault("gateway-down", "gateway", "g1 is dead", Dead("g1", "up"), "g1"),
        _fault(
            "firewall",
            "path",
            f"core drops TCP to port {PORT}; everything else passes",
            Filter("core", (f"ip protocol tcp tcp dport {PORT}",)),
            "tcp",
        ),
        _fault(
            "mtu-black-hole",
            "path",
            "core drops DF packets of more than 1400 bytes, and says nothing",
            Filter("core", _TOO_LONG),
            "big",
        ),
        _fault(
            "host-stalled",
            "host",
            "agent-1 is stopped for 0.4 s, again and again",
            Stalled("agent-1", 0.4, 1.0),
            "agent-1",
        ),
        _fault(
            "receive-buffer",
            "instrument",
            "agent-1's sockets have room for a handful of replies",
            TinyBuffers("agent-1", 2048),
            "agent-1",
        ),
        _fault(
            "clock-step",
            "instrument",
            "agent-1's clock is set on by 0.25 s",
            SteppedClock("agent-1"),
            "agent-1",
        ),
        _fault(
            "broker-away",
            "instrument",
            "nobody reaches the broker",
            Filter("station", ('iifname "n*" tcp dport 1883',), hook="input"),
            "broker",
        ),
    )
