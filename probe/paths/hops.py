"""The time and answers in, the next probe and every flow's hops out. Pure: time is an argument (ns, any
start).

Rounds: each sends one probe to every hop of every flow, nearest hops first, the flows of a hop one after the
other. The first round goes as far as `max_hops`, or to where a flow's target has answered; the others no
further than that, or than what answered last. Hops that stayed silent in the midst of a path are asked once
more, a second later: routers limit how many answers they give.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from probe.clock import SECOND
from probe.paths.records import Hop
from probe.paths.replies import EXCEEDED

BEYOND = 2  # hops behind the last one that answered are asked again
GAP = 8  # hops behind the last one that answered where a port is not tried any further
ALONE = 3  # of those one flow goes before any other one tries
POLITE = SECOND  # between two SYNs that may reach a gateway's port
RETRY_AFTER = SECOND  # a router's limit is about so long (Linux: net.ipv4.icmp_ratelimit)


@dataclass
class Seen:
    """What one flow saw at one TTL so far."""

    sent: int = 0
    received: int = 0
    addresses: Counter[str] = field(default_factory=Counter)
    rtt_ns: int | None = None
    what: str = ""


@dataclass
class _Out:
    """A probe on its way."""

    flow: int
    ttl: int
    until: int  # when it is given up
    answered: bool = False


class Hops:
    """The search for the hops of all flows.

    Args:
        timeout: ns.
        polite: the target is a port of somebody's production: one probe of each flow has to do, and not more
            than one in POLITE. What goes further than anything has answered may reach it as well, so there
            one flow goes ahead, and the others follow where it was answered.
    """

    def __init__(self, flows: int, max_hops: int, probes: int, timeout: int, *, polite: bool = False) -> None:
        self._flows, self._max, self._timeout, self._polite = flows, max_hops, timeout, polite
        self.seen: list[dict[int, Seen]] = [{} for _ in range(flows)]
        self.end: list[int | None] = [None] * flows  # the TTL at which a flow's path ends, as far as known
        self.reached = [False] * flows
        self.answer = [""] * flows
        self._out: dict[int, _Out] = {}
        self._probes = self._left = max(probes, 1)
        self._again = True  # silent hops have not been asked again yet
        self._last = 0  # when the last probe left
        self._not_before = 0
        self._syns: dict[int, int] = {}  # those that may have reached the port, by number, and when
        self._waiting: deque[tuple[int, int]] = deque()
        self._first = True

    def next(self, now: int) -> tuple[int, int] | None:
        """Flow and TTL of a probe to send now; None: wait (see `wake`)."""
        if not self._waiting and not self._refill(now):
            return None
        if now < self._not_before:
            return None
        ahead = max(map(self._last_answer, range(self._flows))) if self._polite else 0
        scout = self._scout(ahead) if self._polite else None
        later: list[tuple[int, int]] = []
        found = None
        while self._waiting and found is None:
            flow, ttl = self._waiting.popleft()
            end = self.end[flow]
            if end is not None and (ttl > end or (ttl == end and self._enough(flow, ttl))):
                continue
            if self._polite and end is None and ttl > ahead + GAP:
                continue
            if self._must_wait(flow, ttl, now, scout):
                later.append((flow, ttl))
            else:
                found = flow, ttl
        if found is None and scout is None and self._shortest() is None and now >= self._polite_at():
            later = []  # nobody goes any further
        self._waiting.extendleft(reversed(later))
        if found is None and not self._waiting:
            return self.next(now)
        return found

    def wake(self, now: int) -> int | None:
        """When to ask `next` again if nothing is answered before; None: all is done."""
        if self._waiting:
            return max(now, self._not_before, self._polite_at())
        pending = [out for out in self._out.values() if not out.answered and out.until > now]
        if self._left:
            blocking = [out.until for out in pending if self.end[out.flow] is None]
            return max(blocking) if blocking and not self._first else now
        if pending:
            return max(out.until for out in pending)
        return now if self._again else None

    def sent(self, number: int, flow: int, ttl: int, now: int) -> None:
        """The probe `number` has left."""
        self._out[number] = _Out(flow, ttl, now + self._timeout)
        self._last = now
        seen = self.seen[flow].setdefault(ttl, Seen())
        seen.sent += 1
        if self._polite and self._may_reach(ttl):
            self._syns[number] = now

    def refused(self, number: int) -> None:
        """That probe has not left after all: this host did not let it out, and no router lost it."""
        out = self._out.pop(number)
        self._syns.pop(number, None)
        self.seen[out.flow][out.ttl].sent -= 1

    def answered(
        self, number: int, now: int, address: str, what: str, reached: bool, rtt_ns: int
    ) -> tuple[int, int] | None:
        """An answer, and when it came. Returns flow and TTL; None: it is nobody's, a second one, or late."""
        out = self._out.get(number)
        if out is None or out.answered or now > out.until:
            return None
        out.answered = True
        seen = self.seen[out.flow][out.ttl]
        seen.received += 1
        seen.addresses[address] += 1
        seen.rtt_ns = rtt_ns if seen.rtt_ns is None else min(seen.rtt_ns, rtt_ns)
        if what != EXCEEDED:
            seen.what = what
            end = self.end[out.flow]
            if end is None or out.ttl <= end:
                self.end[out.flow] = out.ttl
                self.answer[out.flow] = what
                self.reached[out.flow] = reached
        else:
            self._syns.pop(number, None)  # a router has stopped it
        return out.flow, out.ttl

    def length(self, flow: int) -> int:
        """The TTL at which its path ends: at the target, where it is refused, or at the last answer."""
        end = self.end[flow]
        return end if end is not None else self._last_answer(flow)

    def hops(self, flow: int) -> tuple[Hop, ...]:
        """From the first TTL to the last one that answered; those in between that did not are silent."""
        made = []
        for ttl in range(1, self.length(flow) + 1):
            seen = self.seen[flow].get(ttl, Seen())
            who = tuple(sorted(seen.addresses, key=lambda a: (-seen.addresses[a], a)))
            made.append(Hop(ttl, who, seen.sent, seen.received, seen.rtt_ns, seen.what))
        return tuple(made)

    # -- rounds ----------------------------------------------------------------------------------------------

    def _refill(self, now: int) -> bool:
        """Whether another round has begun."""
        if not self._may_go_on(now):
            return False
        if self._left:
            self._left -= 1
            self._waiting.extend(self._round())
            self._first = False
        elif self._again:
            if any(not out.answered and out.until > now for out in self._out.values()):
                return False
            self._again = False
            self._waiting.extend(self._silent())
            self._not_before = self._last + RETRY_AFTER if self._waiting else 0
        return bool(self._waiting)

    def _may_go_on(self, now: int) -> bool:
        """A round that follows wants to know how long the paths are: that waits for flows without an end."""
        if self._first or not self._left:
            return True
        return not any(
            not out.answered and out.until > now and self.end[out.flow] is None for out in self._out.values()
        )

    def _round(self) -> Iterator[tuple[int, int]]:
        for ttl in range(1, self._max + 1):
            for flow in range(self._flows):
                if ttl <= self._furthest(flow):
                    yield flow, ttl

    def _furthest(self, flow: int) -> int:
        end = self.end[flow]
        if end is not None:
            return end
        return self._max if self._first else min(self._last_answer(flow) + BEYOND, self._max)

    def _last_answer(self, flow: int) -> int:
        return max((ttl for ttl, seen in self.seen[flow].items() if seen.received), default=0)

    def _silent(self) -> Iterator[tuple[int, int]]:
        for ttl in range(1, self._max + 1):
            for flow in range(self._flows):
                seen = self.seen[flow].get(ttl)
                if seen is not None and not seen.received and ttl < self.length(flow):
                    yield flow, ttl

    # -- politeness ------------------------------------------------------------------------------------------

    def _enough(self, flow: int, ttl: int) -> bool:
        """A gateway's port has answered this flow: it is not bothered again."""
        return self._polite and self.seen[flow][ttl].received > 0

    def _shortest(self) -> int | None:
        """The TTL at which the shortest path ends; None: none is known to."""
        return min((end for end in self.end if end is not None), default=None)

    def _may_reach(self, ttl: int) -> bool:
        shortest = self._shortest()
        return (
            ttl >= shortest if shortest is not None else ttl > max(map(self._last_answer, range(self._flows)))
        )

    def _scout(self, ahead: int) -> int | None:
        """Whose SYN goes further than anything has answered.

        That of the flow that got furthest; where ALONE of its SYNs end in silence, a little further of each
        other one, because it may be that flow alone that is lost; and then it goes on. In later rounds the
        first alone, and only a little further.
        """
        leader = max(range(self._flows), key=lambda flow: (self._last_answer(flow), -flow))
        first = self._left + 1 == self._probes
        room = {leader: GAP if first else BEYOND}
        willing: dict[int, int] = {}  # flows, and how far each would go
        for flow, ttl in self._waiting:
            if ahead < ttl <= ahead + room.get(flow, BEYOND if first else 0) and self.end[flow] is None:
                willing.setdefault(flow, ttl)
        others = min((flow for flow in willing if flow != leader), default=None)
        if leader in willing and (others is None or willing[leader] <= ahead + ALONE):
            return leader
        return others

    def _must_wait(self, flow: int, ttl: int, now: int, scout: int | None) -> bool:
        if not self._polite or not self._may_reach(ttl):
            return False
        return now < self._polite_at() or (self._shortest() is None and flow != scout)

    def _polite_at(self) -> int:
        """When the next SYN may leave that may reach the port."""
        return max(self._syns.values(), default=-POLITE) + POLITE
