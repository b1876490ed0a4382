"""Batches in, the next write out: what is held, grouped, split, put back or dropped; pure decisions, no I/O.

    live, old --group--> write --ok------------------> finished
      ^                    |--rejected, too large----> halves (batches), then suspects (lines of one batch)
      |                    `--unavailable, refused---> put back
    offer

Live batches, those of the last minutes, are written first, and where there is no room for one, old ones are
dropped unacknowledged, the last that came first: their agents send them again. The old ones still get one
write of six, or all that nothing live needs.

A server may refuse a write for one member that it cannot read. Those are packed anew before anything else,
and so is whatever that agent sends from then on.

A rejected write is halved until the batch, and in it the lines, are known that the sink does not take. From
then on its agent is `apart`: what it sends is not grouped with what others send, until the sink has taken
some of it. Halves, fresh groups and those who are apart take turns, and so do the latter among themselves: a
batch of a thousand bad lines, and a thousand such batches, cost their own agent time, not the others. Few
of them are taken to pieces at a time, because that needs memory.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from collectors import members
from collectors.jobs import Held, Job, Suspect
from collectors.quarantine import Entry
from probe.clock import SECOND
from probe.telemetry.topics import BatchId

GROUP_BYTES = 4 << 20  # of text in one write: some 9,000 lines, where InfluxDB is near its best
LIVE_NS = 120 * SECOND  # a batch whose newest line is older was kept back by an outage, and is not urgent
GIVE_UP = 5  # failures of a write while at least as many others went through
MOST_UNREADABLE = 10_000  # agents that are remembered for it
LOOKED_AT = 100  # batches, when one has to go
MOST_OPEN = 16  # batches that are in pieces at a time, half a megabyte each
MOST_APART = 1000  # agents that are remembered as such while nothing of theirs waits
FORGIVEN = 8  # whole batches in a row that the sink took, before an agent is grouped with others again
_TURNS = ("live", "again", "live", "again", "live", "again", "live", "again", "live", "apart", "old")


@dataclass(eq=False)
class _Apart:
    """An agent whose batches the sink did not take: they are written one by one."""

    waiting: deque[Held] = field(default_factory=deque)
    open: Suspect | None = None  # the one that is in pieces
    busy: bool = False  # a write of it is under way
    good: int = 0  # whole batches that the sink took, in a row

    def __len__(self) -> int:
        return len(self.waiting) + (self.open is not None and not self.busy)


class Backlog:
    """What the collector holds, at most `max_bytes` of it, and no agent more than half."""

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max = max_bytes
        self._by_agent: Counter[str] = Counter()
        self._ids: set[BatchId] = set()
        self._live: deque[Held] = deque()
        self._old: deque[Held] = deque()
        self._again: deque[Job] = deque()  # groups to be written once more
        self._apart: OrderedDict[str, _Apart] = OrderedDict()  # by agent; the next one first
        self._open = 0  # of them, with a batch in pieces
        self._fresh_bytes = 0  # of text, in `_live` and `_old`
        self._unreadable: set[str] = set()  # agents whose gzip not everybody reads
        self._turn = 0
        self._successes = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._old) + len(self._again) + sum(map(len, self._apart.values()))

    @property
    def pressing(self) -> bool:
        """Whether so much waits that one write cannot take it all, or what was in a rejected one."""
        return self._fresh_bytes >= GROUP_BYTES or bool(self._again)

    def holds(self, batch: BatchId) -> bool:
        """Whether this batch waits already: an agent sends it again when it hears nothing."""
        return batch in self._ids

    def offer(self, held: Held) -> list[Held]:
        """Hold a batch. Returns what is dropped: others to make room for it, or itself."""
        agent = held.agent
        if held.packed and agent in self._unreadable:
            held.pack_anew()
        dropped: list[Held] = []
        while not self._has_room(held, agent):
            share = self._by_agent[agent] + held.size > self._max // 2
            evicted = self._evict(agent if share else None, held.newest_ns) if held.live else None
            if evicted is None:
                return [*dropped, held]
            dropped += self._leave([evicted])
        self.bytes += held.size
        self._by_agent[agent] += held.size
        if held.id:
            self._ids.add(held.id)
        if agent in self._apart:
            self._apart[agent].waiting.append(held)
        else:
            self._enqueue(held)
        return dropped

    def _enqueue(self, held: Held) -> None:
        (self._live if held.live else self._old).append(held)
        self._fresh_bytes += held.text_bytes

    def _has_room(self, held: Held, agent: str) -> bool:
        if self.bytes and self.bytes + held.size > self._max:
            return False
        return not self._by_agent[agent] or self._by_agent[agent] + held.size <= self._max // 2

    def _evict(self, agent: str | None, newest_ns: int) -> Held | None:
        """Take out the old batch that came last (from this agent), or the first that was live and is no more.

        newest_ns: of the batch that needs the room.
        """
        for waiting, places in (
            (self._old, range(len(self._old) - 1, -1, -1)),
            (self._live, range(len(self._live))),
        ):
            # Not all: an agent whose share is used up might have us look through thousands for each it sends.
            for at in places[:LOOKED_AT]:
                held = waiting[at]
                if held.id is None:
                    continue  # nobody would send it again
                if waiting is self._live and held.newest_ns > newest_ns - LIVE_NS:
                    break
                if agent is None or held.agent == agent:
                    del waiting[at]
                    self._fresh_bytes -= held.text_bytes
                    return held
        return None

    def next(self) -> Job | None:
        """The next write, taken out; give it back by exactly one of the methods below."""
        for _ in _TURNS:
            self._turn = (self._turn + 1) % len(_TURNS)
            turn = _TURNS[self._turn]
            if turn == "live" and self._live:
                return self._group(self._live)
            if turn == "old" and self._old:
                return self._group(self._old)
            if turn == "again" and self._again:
                return self._again.popleft()
            if turn == "apart" and (job := self._next_apart()) is not None:
                return job
        return None

    def _next_apart(self) -> Job | None:
        """A whole batch, or a piece of one, of the agent whose turn it is."""
        for agent, apart in self._apart.items():
            if apart.busy or not (apart.open or (apart.waiting and self._open < MOST_OPEN)):
                continue
            self._apart.move_to_end(agent)
            apart.busy = True
            if apart.open is None:
                held = apart.waiting.popleft()
                if not held.rejected:
                    return Job([held], apart=True)
                lines = [line + b"\n" for line in held.text().split(b"\n") if line]
                apart.open = Suspect(held, [lines])
                self._open += 1
            suspect = apart.open
            return Job([suspect.held], suspect, suspect.pieces.pop(), suspect.tries)
        return None

    def written(self, job: Job) -> list[Held]:
        """The sink holds it. Returns the batches that are finished by it."""
        self._successes += 1
        if job.apart:
            agent = job.batches[0].agent
            apart = self._apart[agent]
            apart.busy = False
            apart.good += 1
            if apart.good >= FORGIVEN and not any(held.rejected for held in apart.waiting):
                del self._apart[agent]
                for held in apart.waiting:
                    self._enqueue(held)
        return self._progress(job)

    def split(self, job: Job, reason: str) -> list[Held]:
        """The sink does not take it in one piece. Returns the batches that are finished by it.

        A single line goes aside, with the reason.
        """
        if job.packed and self._packed_anew(job.batches):
            self.put_back(job)
            return []
        if job.suspect is None and len(job.batches) > 1:
            middle = len(job.batches) // 2
            self._again.extend((Job(job.batches[:middle]), Job(job.batches[middle:])))
            return []
        if job.suspect is None:
            self._set_apart(job)
            return []
        if len(job.lines) > 1:
            middle = len(job.lines) // 2
            job.suspect.pieces += (job.lines[middle:], job.lines[:middle])
        else:
            self._set_aside(job.suspect.held, job.lines[0], reason)
        return self._progress(job)

    def _set_apart(self, job: Job) -> None:
        """Its only batch was rejected as a whole."""
        (held,) = job.batches
        held.rejected = True
        if held.agent not in self._apart:
            self._part(held.agent)
        apart = self._apart[held.agent]
        apart.good = 0
        if job.apart:
            apart.busy = False
        apart.waiting.appendleft(held)

    def _part(self, agent: str) -> None:
        """Take what waits of this agent from what waits of the others."""
        apart = _Apart()
        again, self._again = self._again, deque()
        for job in again:
            apart.waiting += [held for held in job.batches if held.agent == agent]
            job.batches = [held for held in job.batches if held.agent != agent]
            if job.batches:
                self._again.append(job)
        for queue in (self._live, self._old):
            mine = [held for held in queue if held.agent == agent]
            if mine:
                others = [held for held in queue if held.agent != agent]
                queue.clear()
                queue.extend(others)
                apart.waiting += mine
                self._fresh_bytes -= sum(held.text_bytes for held in mine)
        self._forget_one_apart()
        self._apart[agent] = apart

    def _forget_one_apart(self) -> None:
        if len(self._apart) >= MOST_APART:
            idle = (agent for agent, apart in self._apart.items() if not apart.busy and not len(apart))
            if (agent := next(idle, None)) is not None:
                del self._apart[agent]

    def _packed_anew(self, batches: list[Held]) -> bool:
        """Whether there was one among them that had to be."""
        found = [held for held in batches if held.packed and held.id and not members.is_strict(held.body)]
        for held in found:
            held.pack_anew()
            if held.id and len(self._unreadable) < MOST_UNREADABLE:
                self._unreadable.add(held.id.agent)
        return bool(found)

    def put_back(self, job: Job) -> None:
        """It was not its fault: write it again, after the others."""
        if job.suspect:
            job.suspect.pieces.append(job.lines)
            self._apart[job.suspect.held.agent].busy = False
        elif job.apart:
            apart = self._apart[job.batches[0].agent]
            apart.busy = False
            apart.waiting.appendleft(job.batches[0])
        else:
            self._again.append(job)

    def failed(self, job: Job) -> list[Held]:
        """The sink was unavailable: put it back. Returns what is dropped.

        A write that fails again and again while others go through is halved, and a single batch dropped
        unacknowledged: it comes again, and does not stand in the way.
        """
        tries = job.tries
        if not tries.failures:
            tries.others = self._successes
        tries.failures += 1
        if tries.failures == 1 and job.packed:
            self._packed_anew(job.batches)  # some servers call gzip that they cannot read their own failure
        if tries.failures < GIVE_UP or self._successes - tries.others < GIVE_UP:
            self.put_back(job)
            return []
        if len(job.batches) > 1:
            return self.split(job, "")
        self._close(job)
        return self._leave(job.batches)

    def _close(self, job: Job) -> None:
        """Its batch leaves, and its agent's next one may be written."""
        if job.suspect or job.apart:
            apart = self._apart.get(job.batches[0].agent)
            if apart is not None:
                apart.busy = False
                if job.suspect:
                    apart.open = None
                    self._open -= 1

    def _group(self, waiting: deque[Held]) -> Job:
        batches = [waiting.popleft()]
        size = batches[0].text_bytes
        while waiting and size + waiting[0].text_bytes <= GROUP_BYTES:
            batches.append(waiting.popleft())
            size += batches[-1].text_bytes
        self._fresh_bytes -= size
        return Job(batches)

    def _progress(self, job: Job) -> list[Held]:
        if job.suspect and job.suspect.pieces:
            self._apart[job.suspect.held.agent].busy = False
            return []
        self._close(job)
        return self._leave(job.batches)

    def _leave(self, batches: list[Held]) -> list[Held]:
        for held in batches:
            agent = held.agent
            self.bytes -= held.size
            self._by_agent[agent] -= held.size
            if not self._by_agent[agent]:
                del self._by_agent[agent]
            if held.id:
                self._ids.discard(held.id)
        return batches

    @staticmethod
    def _set_aside(held: Held, line: bytes, reason: str) -> None:
        held.count -= 1
        if held.id:
            text = line.decode(errors="replace").removesuffix("\n")
            held.aside.append(Entry(held.id, reason, text))
