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

A rejected write is halved until the batch, and in it the lines, are known that the sink does not take. These
halves and fresh groups take turns, one write each, and so do the suspects among themselves: a batch of a
thousand bad lines costs its own agent time, not the others.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from collectors import members
from collectors.quarantine import Entry
from probe.clock import SECOND
from probe.telemetry.topics import BatchId

GROUP_BYTES = 4 << 20  # of text in one write: some 9,000 lines, where InfluxDB is near its best
OVERHEAD_BYTES = 1024  # what a held batch costs beside its text
LIVE_NS = 120 * SECOND  # a batch whose newest line is older was kept back by an outage, and is not urgent
GIVE_UP = 5  # failures of a write while at least as many others went through
MOST_UNREADABLE = 10_000  # agents that are remembered for it
_TURNS = ("live", "again", "live", "suspects", "live", "old")


@dataclass(eq=False)
class Held:
    """A batch that waits for the sink: `body` may be empty where only `aside` (for quarantine) is left.

    packed: `body` is one gzip member; text_bytes: its length unpacked (taken from `body` where it is text).
    """

    id: BatchId | None  # None: the collector's own, which nobody waits for
    body: bytes
    count: int = 0  # lines in `body`
    newest_ns: int = 0
    aside: list[Entry] = field(default_factory=list)
    packed: bool = False
    text_bytes: int = 0
    live: bool = True  # of the last minutes
    over_limit: int = 0  # lines in `aside` because of their agent's too many series

    def __post_init__(self) -> None:
        self.size = OVERHEAD_BYTES + len(self.body) + sum(len(entry.content) for entry in self.aside)
        if not self.packed:
            self.text_bytes = len(self.body)

    def text(self) -> bytes:
        """Its lines."""
        return members.unpacked(self.body) if self.packed else self.body

    def pack_anew(self) -> None:
        """Replace the agent's gzip by ours."""
        self.body = members.member(self.text())


@dataclass
class Tries:
    """How often something failed, and how much else had gone through when it first did."""

    failures: int = 0
    others: int = 0


@dataclass(eq=False)
class Suspect:
    """One batch that was rejected as a whole, on its way to the lines that are to blame."""

    held: Held
    pieces: list[list[bytes]]  # not written yet
    tries: Tries = field(default_factory=Tries)
    vetted: bool = False  # whether the sink is known to take other lines at this moment


@dataclass(eq=False)
class Job:
    """One write: whole batches, or some lines of a suspect."""

    batches: list[Held]
    suspect: Suspect | None = None
    lines: list[bytes] = field(default_factory=list)
    tries: Tries = field(default_factory=Tries)

    @property
    def packed(self) -> bool:
        """Whether `body` is gzip."""
        return self.suspect is None and any(held.packed for held in self.batches)

    def body(self) -> bytes:
        """What to write: lines, or gzip of one or more members."""
        if self.suspect:
            return b"".join(self.lines)
        if not self.packed:
            return b"".join(held.body for held in self.batches)
        return b"".join(
            held.body if held.packed else members.member(held.body) for held in self.batches if held.body
        )

    @property
    def is_one_line(self) -> bool:
        """Whether there is nothing left to split."""
        return self.suspect is not None and len(self.lines) == 1


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
        self._suspects: deque[Suspect] = deque()
        self._fresh_bytes = 0  # of text, in the two above
        self._unreadable: set[str] = set()  # agents whose gzip not everybody reads
        self._turn = 0
        self._successes = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._old) + len(self._again) + len(self._suspects)

    @property
    def full_group(self) -> bool:
        """Whether so much waits that one write cannot take it all."""
        return self._fresh_bytes >= GROUP_BYTES

    def holds(self, batch: BatchId) -> bool:
        """Whether this batch waits already: an agent sends it again when it hears nothing."""
        return batch in self._ids

    def offer(self, held: Held) -> list[Held]:
        """Hold a batch. Returns what is dropped: others to make room for it, or itself."""
        agent = held.id.agent if held.id else ""
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
        (self._live if held.live else self._old).append(held)
        self._fresh_bytes += held.text_bytes
        return dropped

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
            for at in places:
                held = waiting[at]
                if waiting is self._live and held.newest_ns > newest_ns - LIVE_NS:
                    break
                if agent is None or (held.id and held.id.agent == agent):
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
            if turn == "suspects" and self._suspects:
                suspect = self._suspects.popleft()
                return Job([suspect.held], suspect, suspect.pieces.pop(), suspect.tries)
        return None

    def written(self, job: Job) -> list[Held]:
        """The sink holds it. Returns the batches that are finished by it."""
        self._successes += 1
        return self._progress(job)

    def split(self, job: Job, reason: str) -> list[Held]:
        """The sink does not take it in one piece. Returns the batches that are finished by it.

        A single line goes aside, with the reason.
        """
        if job.packed and self._packed_anew(job.batches):
            self._again.append(job)
            return []
        if job.suspect is None and len(job.batches) > 1:
            middle = len(job.batches) // 2
            self._again.extend((Job(job.batches[:middle]), Job(job.batches[middle:])))
            return []
        if job.suspect is None:
            lines = [line + b"\n" for line in job.batches[0].text().split(b"\n") if line]
            self._suspects.append(Suspect(job.batches[0], [lines]))
            return []
        if len(job.lines) > 1:
            middle = len(job.lines) // 2
            job.suspect.pieces += (job.lines[middle:], job.lines[:middle])
        else:
            self._set_aside(job.suspect.held, job.lines[0], reason)
        return self._progress(job)

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
            self._suspects.append(job.suspect)
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
        if tries.failures < GIVE_UP or self._successes - tries.others < GIVE_UP:
            self.put_back(job)
            return []
        if len(job.batches) > 1:
            return self.split(job, "")
        return self._leave(job.batches)

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
            self._suspects.append(job.suspect)
            return []
        return self._leave(job.batches)

    def _leave(self, batches: list[Held]) -> list[Held]:
        for held in batches:
            agent = held.id.agent if held.id else ""
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
