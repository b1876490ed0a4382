"""A seed, a length of time and a cast in, what is broken, when, for how long out: pure, always the same.

    kill      SIGKILL, started again at the end     drop      a link is cut: packets vanish
    end       SIGTERM, started again at the end     half      ... in one direction: answers vanish
    freeze    SIGSTOP, SIGCONT at the end           reject    ... the sender gets an ICMP error
    reload    SIGHUP: settings are read again       reset     ... the sender gets a TCP RST
    fill      no room on an agent's disk once       flood     ... and what it frees is taken at once
    wipe      the broker is killed, and its persistence deleted before it is started again

Faults of different parts may overlap, faults of one part or one link do not. They are dealt from a shuffled
deck with a card for each kind of fault and part, so that a short run sees as many different ones as it can.
A blackout is a card that kills several parts in the same moment, a storm one that kills a part whenever it is
about to begin.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

PROCESS = ("kill", "end", "freeze")
CUTS = ("drop", "half", "reject", "reset")
FULL = ("fill", "flood")
KINDS = (*PROCESS, "reload", "wipe", *CUTS, *FULL)

_BREATH_S = 0.3  # between two faults of one part
_SHORTEST_S = 0.2
_MANY = ("blackout", "storm")  # cards that are several kills
_KILLS = 5  # of a storm


@dataclass(frozen=True)
class Cast:
    """Who takes part, by name. `bystanders` are never killed (they keep their batches in memory)."""

    agents: tuple[str, ...]
    collectors: tuple[str, ...]
    broker: str = "broker"
    database: str = "database"
    cramped: tuple[str, ...] = ()  # agents with a small disk of their own
    bystanders: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Fault:
    """One fault, in seconds from the beginning of the run; `where`: a part, or two joined by '-'."""

    at_s: float
    until_s: float
    kind: str
    where: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {'-'.join(self.where)} for {self.until_s - self.at_s:.1f} s"


@dataclass(frozen=True)
class Plan:
    """What happens in a run.

    `persistent`: whether the broker keeps its queues on disk. `tight`: whether the queues of broker and
    collectors are so small that they overflow. `protocol`: the version of MQTT that agents and collectors
    speak.
    """

    seed: int
    duration_s: float
    persistent: bool
    tight: bool
    protocol: str
    faults: tuple[Fault, ...]


def draw(seed: int, duration_s: float, cast: Cast, *, pace_s: float = 2.0, longest_s: float = 6.0) -> Plan:
    """The plan of this seed: a fault every `pace_s` on average, each up to `longest_s` long.

    All of them are over by `duration_s`.
    """
    chance = random.Random(seed)
    persistent, tight, five = (chance.random() < share for share in (0.7, 0.5, 0.3))
    cards = _deal(chance, cast)
    busy: dict[tuple[str, ...], float] = defaultdict(float)  # until when a part or link is in a fault
    faults: list[Fault] = []
    now = 0.0
    while True:
        now += chance.uniform(0.2, 2 * pace_s - 0.2)
        if now >= duration_s - _SHORTEST_S:
            return Plan(seed, duration_s, persistent, tight, "5" if five else "3.1.1", tuple(sorted(faults)))
        kind, where = next(cards)
        played = _play(chance, kind, where, longest_s)
        free = max(busy[victim] for victim, _, _ in played)
        for victim, at, length in played:
            begin = max(now, free) + at
            until = min(begin + length, duration_s)
            if until - begin >= _SHORTEST_S:
                busy[victim] = until + _BREATH_S
                fault = "kill" if kind in _MANY else kind
                faults.append(Fault(round(begin, 2), round(until, 2), fault, victim))


def _play(
    chance: random.Random, kind: str, where: tuple[str, ...], longest_s: float
) -> list[tuple[tuple[str, ...], float, float]]:
    """Whom a card meets, how much later, and for how long."""
    if kind == "storm":
        begins = itertools.accumulate(chance.uniform(0.5, 2.0) for _ in range(_KILLS))
        return [(where, begin, _SHORTEST_S) for begin in begins]
    victims = [(name,) for name in where] if kind == "blackout" else [where]
    return [(victim, 0.0, chance.uniform(_SHORTEST_S, longest_s)) for victim in victims]


def _deal(chance: random.Random, cast: Cast) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Cards without end: a kind of fault, and whom it meets."""
    senders = (*cast.agents, *cast.bystanders)
    while True:
        deck: list[tuple[str, tuple[str, ...]]] = []
        for kind in PROCESS:
            deck += [
                (kind, (chance.choice(group),))
                for group in (cast.agents, cast.agents, cast.collectors, (cast.broker,), (cast.database,))
            ]
        deck += [("reload", (chance.choice(group),)) for group in (cast.agents, cast.collectors)]
        deck += [("freeze", (name,)) for name in cast.bystanders]
        deck.append(("wipe", (cast.broker,)))
        everybody = (*cast.agents, *cast.collectors, cast.broker, cast.database)
        deck.append(("blackout", chance.choice((everybody, everybody[len(cast.agents) :], cast.collectors))))
        deck.append(("storm", (chance.choice((*cast.agents, *cast.collectors)),)))
        deck += [(kind, (name, "disk")) for kind in FULL for name in cast.cramped]
        links = (
            (chance.choice(senders), cast.broker),
            (chance.choice(cast.agents), cast.broker),
            (chance.choice(cast.collectors), cast.broker),
            (chance.choice(cast.collectors), cast.database),
        )
        deck += [(chance.choice(CUTS), link) for link in links]
        chance.shuffle(deck)
        yield from deck
