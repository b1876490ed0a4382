"""Faults in, the points of a made-up site out: two agents, lines A and B, two gateways, six kinds of targets.

Nothing here knows the rules: a fault says what it does to packets (loss, delay, RST, silence) of which flows,
and which counters and events a host would show. Windows come out as an agent would summarise them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from probe.clock import SECOND
from probe.telemetry.lines import Point, Value

T = 1_700_000_000 * SECOND
L = 2 * SECOND
QUIET, FAULTY = 12, 4  # windows


@dataclass(frozen=True)
class Flow:
    """What a packet has."""

    agent: str
    target: str
    line: str
    gateway: str
    kind: str
    large: bool
    flow: int
    path: int  # which of two ECMP members it takes


@dataclass
class Packets:
    """What becomes of a flow's packets in one window."""

    loss: float = 0.0
    delay_ns: int = 0
    closed: bool = False
    unsent: float = 0.0
    forward: float = 0.5  # of loss and delay: on the way there


Hits = Callable[[Flow, Packets], None]
Tells = Callable[[], Iterator[Point]]


@dataclass
class Fault:
    """One fault from window `begin` to before `end`. hits: what it does to packets; tells: what hosts say."""

    hits: Hits = lambda flow, packets: None
    tells: Tells = lambda: iter(())
    agent: dict[str, int] = field(default_factory=dict)  # counters of agent-1 that grow by so much a window
    interface: dict[str, int] = field(default_factory=dict)  # the same of its xa
    silent: bool = False
    begin: int = QUIET
    end: int = QUIET + FAULTY


def flows_of(line: str, agent: str) -> Iterator[tuple[str, str, str, bool, int, int]]:
    """(target, gateway, kind, large, flows, probes a window) of one line of an agent."""
    low = line.lower()
    yield f"edge-{low}", "edge", "icmp", False, 1, 40
    for gateway in ("g1", "g2"):
        yield f"{gateway}-{low}", gateway, "icmp", False, 1, 100
        yield f"{gateway}-{low}-tcp", gateway, "tcp", False, 1, 20
    if agent == "agent-1":
        yield f"g1-{low}-stamp", "g1", "stamp", False, 8, 40
        yield f"g1-{low}-big", "g1", "icmp", True, 1, 40


def points(*faults: Fault, seed: int = 1, windows: int = QUIET + FAULTY) -> list[Point]:
    """All points of a run; `now` is when the last window's points have come: (windows + 1) L after T."""
    dice = random.Random(seed)
    made: list[Point] = []
    for agent in ("agent-1", "agent-2"):
        base = {"agent": agent, "site": "LAB"}
        counters = dict.fromkeys(("stalls", "skipped", "socket_drops", "clock_steps", "spool_batches"), 0)
        card = dict.fromkeys(("rx_dropped", "rx_errors", "tx_dropped", "carrier_changes", "rx_packets"), 0)
        for window in range(windows):
            active = [fault for fault in faults if fault.begin <= window < fault.end]
            if any(fault.silent for fault in active):
                continue
            start = T + window * L
            for line in "AB":
                made += _line(base, line, start, active, dice)
            if agent == "agent-1":
                for fault in active:
                    for name, by in fault.agent.items():
                        counters[name] += by
                    for name, by in fault.interface.items():
                        card[name] += by
            card["rx_packets"] += 500
            at = start + L + SECOND // 2
            made.append(Point("agent", base, {**counters, "batch": window, "host_busy": 0.2}, at))
            for name, numbers in (("xa", card), ("xb", dict.fromkeys(card, 7))):
                made.append(Point("interface", {**base, "interface": name}, {**numbers, "up": True}, at))
    for fault in faults:
        made += fault.tells()
    return made


def now(windows: int = QUIET + FAULTY) -> int:
    return T + (windows + 1) * L


def event(window: float, kind: str, text: str, **detail: object) -> Point:
    """An event of agent-1 on xa."""
    tags = {"agent": "agent-1", "site": "LAB", "kind": kind, "interface": "xa"}
    return Point("event", tags, {"text": text, "detail": json.dumps(detail)}, T + int(window * L))


def paths(window: float, *hops: str, agent: str = "agent-1", target: str = "g1-a") -> Point:
    """One path."""
    fields: dict[str, Value] = {
        "hops": len(hops),
        "path_id": str(hash(hops)),
        "reached": True,
        "hop_list": " ".join(hops),
    }
    return Point("path", {"agent": agent, "target": target, "flow": "0"}, fields, T + int(window * L))


def _line(
    base: dict[str, str], line: str, start: int, active: list[Fault], dice: random.Random
) -> Iterator[Point]:
    agent = base["agent"]
    for target, gateway, kind, large, count, sent in flows_of(line, agent):
        tags = {**base, "target": target, "venue": gateway.upper(), "line": line, "kind": kind, "dscp": "0"}
        # ECMP goes by addresses and ports: the same flow takes the same path in every window.
        fate = random.Random(f"{agent} {target}")
        parts = []
        for number in range(count):
            packets = Packets()
            path = fate.randrange(2) if count == 1 else number % 2
            for fault in active:
                fault.hits(Flow(agent, target, line, gateway, kind, large, number, path), packets)
            rtt = (60_000 if gateway == "edge" else 150_000) + dice.randrange(20_000)
            parts.append(_window(packets, sent, rtt, kind, dice))
            if count > 1:
                yield Point("probe", {**tags, "flow": str(number)}, parts[-1], start)
        yield Point("probe", tags, _together(parts), start)


def _window(packets: Packets, due: int, rtt: int, kind: str, dice: random.Random) -> dict[str, Value]:
    errors = sum(dice.random() < packets.unsent for _ in range(due))
    sent = due - errors
    lost = sum(dice.random() < packets.loss for _ in range(sent))
    there = sum(dice.random() < packets.forward for _ in range(lost))
    got = sent - lost
    made: dict[str, Value] = {"sent": sent, "received": got, "lost": lost, "errors": errors}
    if sent:
        made["loss"] = lost / sent
    if got:
        made["rtt_p50_ns"] = rtt + packets.delay_ns
    if kind == "tcp":
        made |= {"open": 0 if packets.closed else got, "closed": got if packets.closed else 0}
    if kind == "stamp":
        made |= {"forward_lost": there, "backward_lost": lost - there}
        if got:
            forward = int(packets.forward * packets.delay_ns)
            made["forward_p50_ns"] = rtt // 2 + forward
            made["backward_p50_ns"] = rtt // 2 + packets.delay_ns - forward
    return made


def _together(parts: list[dict[str, Value]]) -> dict[str, Value]:
    made: dict[str, Value] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part[name] for part in parts if name in part]
        numbers = [value for value in values if isinstance(value, int | float)]
        made[name] = (
            sorted(numbers)[len(numbers) // 2]
            if name.endswith("_ns")
            else sum(numbers)
            if name != "loss"
            else 0.0
        )
    if made.get("sent"):
        made["loss"] = float(made["lost"]) / float(made["sent"])
    return made
