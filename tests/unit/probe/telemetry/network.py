"""Agents' outboxes and a collector that holds and writes so much, in; what was published and when it arrived
out: a network of numbers, with a clock of its own.

    outboxes --delay--> queue of `capacity` --one in 1/rate s, while there is a sink--> acknowledged

What finds the queue full is let go without a word, as a broker and a collector do; a new batch pushes an old
one out of it. When the sink is back, the collector notices within two seconds and hints.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from probe.clock import MILLISECOND, SECOND
from probe.telemetry.outbox import PAGE, Outbox

NOTICE = 2 * SECOND


@dataclass
class Agent:
    """One agent: its spool's numbers, its outbox, and what became of each batch."""

    outbox: Outbox
    last: int = 0
    waiting: set[int] = field(default_factory=set)
    made: dict[int, int] = field(default_factory=dict)  # when, ns
    arrived: dict[int, int] = field(default_factory=dict)  # in the database
    published: Counter[int] = field(default_factory=Counter)
    due: int | None = None


class Network:
    """All of them and a collector; `run` until a time."""

    def __init__(
        self,
        agents: int,
        *,
        rate: float,
        capacity: int,
        window: int = 64,
        timeout: int = 30 * SECOND,
        every: int = 10 * SECOND,
        delay: int = 10 * MILLISECOND,
        hints: bool = True,
        evicts: bool = True,
    ) -> None:
        self.now = 0
        self.window, self.every, self.delay, self.capacity = window, every, delay, capacity
        self.hints, self.evicts = hints, evicts
        self.service = int(SECOND / rate)
        self.agents = [Agent(Outbox(window, timeout, 0)) for _ in range(agents)]
        self.queue: dict[tuple[int, int], bool] = {}  # (agent, number): whether it is a recent one
        self.away: list[tuple[int, int]] = []
        self.writing = False
        self.published = 0
        self.dropped = 0
        self.most_in_flight = 0
        self.log: list[int] = []  # when each batch was published
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        for index, agent in enumerate(self.agents):
            agent.outbox.restart(0)
            self.at(every * index // agents, partial(self._append, index))

    def at(self, when: int, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what))

    def run(self, until: int) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    def outage(self, begin: int, end: int) -> None:
        """The sink is away in this time."""
        self.away.append((begin, end))
        self.at(end + NOTICE, self._back)

    def connect_all(self) -> None:
        """Every agent's connection begins anew, within a quarter of a second."""
        for index in range(len(self.agents)):
            self.at(self.now + SECOND * index // (4 * len(self.agents)), partial(self._connect, index))

    def _connect(self, index: int) -> None:
        self.agents[index].outbox.restart(self.now)
        self._pump(index)

    def sink_is_there(self) -> bool:
        return not any(begin <= self.now < end + NOTICE for begin, end in self.away)

    @property
    def waiting(self) -> int:
        return sum(len(agent.waiting) for agent in self.agents)

    @property
    def oldest(self) -> int:
        """When the oldest batch was made that still waits; in a second where none does."""
        made = (agent.made[number] for agent in self.agents for number in agent.waiting)
        return min(made, default=self.now + SECOND)

    def lags(self, since: int, until: int | None = None) -> list[int]:
        """From its making to the database, of each batch made in this time, ns; or to now."""
        end = self.now if until is None else until
        return [
            agent.arrived.get(number, self.now) - made
            for agent in self.agents
            for number, made in agent.made.items()
            if since <= made < end
        ]

    def _append(self, index: int) -> None:
        agent = self.agents[index]
        agent.last += 1
        agent.waiting.add(agent.last)
        agent.made[agent.last] = self.now
        self.at(self.now + self.every, lambda: self._append(index))
        self._pump(index)

    def _pump(self, index: int) -> None:
        agent = self.agents[index]
        outbox = agent.outbox
        outbox.appended(agent.last)
        while True:
            number = outbox.take(self.now)
            self.most_in_flight = max(self.most_in_flight, outbox.in_flight)
            assert outbox.in_flight <= self.window
            if number is None:
                after = outbox.wanted()
                if after is None:
                    break
                outbox.supply(
                    after, [n for n in range(after + 1, agent.last + 1) if n in agent.waiting][:PAGE]
                )
            elif number in agent.waiting:
                agent.published[number] += 1
                self.published += 1
                self.log.append(self.now)
                outbox.delivered(number, self.now)
                self.at(self.now + self.delay, partial(self._reach, index, number))
            else:
                outbox.missing(number)
        due = outbox.due()
        if due is not None and due != agent.due:
            agent.due = due
            self.at(max(due, self.now), lambda: self._wake(index, due))

    def _wake(self, index: int, due: int) -> None:
        if self.agents[index].due == due:
            self.agents[index].due = None
            self._pump(index)

    def _reach(self, index: int, number: int) -> None:
        agent = self.agents[index]
        recent = self.now - agent.made[number] < 2 * self.every
        if (index, number) in self.queue:
            return
        if len(self.queue) >= self.capacity:
            self.dropped += 1
            old = next((key for key, new in reversed(self.queue.items()) if not new), None)
            if not (recent and self.evicts and old):
                return
            del self.queue[old]
        self.queue[index, number] = recent
        self._write()

    def _write(self) -> None:
        if self.writing or not self.queue or not self.sink_is_there():
            return
        self.writing = True
        key = next((key for key, recent in self.queue.items() if recent), next(iter(self.queue)))
        self.at(self.now + self.service, lambda: self._written(key))

    def _written(self, key: tuple[int, int]) -> None:
        self.writing = False
        if self.sink_is_there() and key in self.queue:
            del self.queue[key]
            self.agents[key[0]].arrived.setdefault(key[1], self.now)
            self.at(self.now + self.delay, lambda: self._acknowledge(*key))
        self._write()

    def _acknowledge(self, index: int, number: int) -> None:
        agent = self.agents[index]
        forgotten = int(number in agent.waiting)
        agent.waiting.discard(number)
        agent.outbox.acknowledged([(number, number)], forgotten, self.now)
        self._pump(index)

    def _back(self) -> None:
        if self.hints:
            for index, agent in enumerate(self.agents):
                agent.outbox.hinted(self.now)
                self._pump(index)
        self._write()
