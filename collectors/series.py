"""Series of agents in, those beyond an agent's limit out: a hundred thousand targets would ruin a database.

Pure, but for what it remembers: 64 bits of each series, at most `TOTAL` of them, and an agent takes the room
of ten. Agents that were not heard of for the longest time are forgotten first, and everybody once a day, so
that targets of last month do not count for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable

from probe.clock import SECOND

TOTAL = 500_000  # series remembered, some 80 bytes each
_AGENT = 10  # what an agent costs, in series
_DAY_NS = 86_400 * SECOND
_PRINTS = 64  # sets of series that an agent sends again and again


class _Agent:
    __slots__ = ("fields", "prints", "series")

    def __init__(self) -> None:
        self.fields: set[int] = set()
        self.series: set[int] = set()
        self.prints: set[int] = set()


class SeriesBook:
    """How many series each agent has; `limit` is what one may have."""

    FIELDS = 64  # that the schema does not have, of one agent

    def __init__(self, limit: int, total: int = TOTAL) -> None:
        self.limit = limit
        self._total = max(total, limit)
        self._agents: OrderedDict[str, _Agent] = OrderedDict()
        self._count = 0
        self._renewed_ns = 0

    def __len__(self) -> int:
        """Series remembered."""
        return self._count

    def knows(self, agent: str, heads: frozenset[bytes]) -> bool:
        """Whether exactly these series came together from this agent before, and were all let in."""
        known = self._agents.get(agent)
        # Python's hash of bytes is keyed by the process: nobody outside can make two alike.
        if known is None or hash(heads) not in known.prints:
            return False
        self._agents.move_to_end(agent)
        return True

    def admit_fields(self, agent: str, names: Collection[str], now_ns: int) -> bool:
        """Count in fields that the schema does not have; whether the agent may have all of them.

        They cost a database as much as series do. An agent that is newer than its collector has a few.
        """
        if not names:
            return True
        known = self._of(agent, now_ns)
        room = self.FIELDS - len(known.fields)
        new = {hash(name) for name in names} - known.fields
        if len(new) > room:
            return False
        known.fields |= new
        self._count += len(new)
        self._forget_some()
        return True

    def admit_all(self, agent: str, heads: frozenset[bytes], now_ns: int) -> bool:
        """Count these series in, or none of them where they are too many for this agent.

        now_ns: wall clock.
        """
        known = self._of(agent, now_ns)
        new = set(map(hash, heads)) - known.series
        if len(known.series) + len(new) > self.limit:
            return False
        known.series |= new
        self._count += len(new)
        if len(known.prints) >= _PRINTS:
            known.prints.clear()
        known.prints.add(hash(heads))
        self._forget_some()
        return True

    def admit(self, agent: str, heads: Iterable[bytes], now_ns: int) -> set[bytes]:
        """Count as many of these series in as an agent may have, the first ones. Returns the others.

        The order is the caller's, so that every collector, and each after a restart, lets the same ones in.
        """
        known = self._of(agent, now_ns)
        refused: set[bytes] = set()
        before = len(known.series)
        for head in heads:
            if len(known.series) < self.limit:
                known.series.add(hash(head))
            elif hash(head) not in known.series:
                refused.add(head)
        self._count += len(known.series) - before
        self._forget_some()
        return refused

    def _forget_some(self) -> None:
        while self._count + _AGENT * len(self._agents) > self._total and len(self._agents) > 1:
            _, gone = self._agents.popitem(last=False)
            self._count -= len(gone.series) + len(gone.fields)

    def _of(self, agent: str, now_ns: int) -> _Agent:
        if not 0 <= now_ns - self._renewed_ns < _DAY_NS:
            self._agents.clear()
            self._count = 0
            self._renewed_ns = now_ns
        known = self._agents.setdefault(agent, _Agent())
        self._agents.move_to_end(agent)
        return known
