"""Batches in, the next write out: what is held, grouped, split, put back or dropped; pure decisions, no I/O.

    fresh ---group---> write --ok------------------> finished
      ^                  |--rejected, too large----> halves (batches), then suspects (lines of one batch)
      |                  `--unavailable, refused---> put back
    offer

A rejected write is halved until the batch, and in it the lines, are known that the sink does not take. These
halves and fresh groups take turns, one write each, and so do the suspects among themselves: a batch of a
thousand bad lines costs its own agent time, not the others.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from collectors.quarantine import Entry
from probe.telemetry.topics import BatchId

GROUP_BYTES = 1 << 20  # one write: some 4,000 lines, where InfluxDB is near its best
OVERHEAD_BYTES = 1024  # what a held batch costs beside its text
GIVE_UP = 5  # failures of a write while at least as many others went through


@dataclass(eq=False)
class Held:
    """A batch that waits for the sink: `body` may be empty where only `aside` (for quarantine) is left."""

    id: BatchId | None  # None: the collector's own, which nobody waits for
    body: bytes
    count: int = 0  # lines in `body`
    newest_ns: int = 0
    aside: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size = OVERHEAD_BYTES + len(self.body) + sum(len(entry.content) for entry in self.aside)


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
    def body(self) -> bytes:
        if self.suspect:
            return b"".join(self.lines)
        return b"".join(held.body for held in self.batches)

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
        self._fresh: deque[Held] = deque()
        self._again: deque[Job] = deque()  # groups to be written once more
        self._suspects: deque[Suspect] = deque()
        self._turn = 0
        self._successes = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._again) + len(self._suspects)

    def holds(self, batch: BatchId) -> bool:
        """Whether this batch waits already: an agent sends it again when it hears nothing."""
        return batch in self._ids

    def offer(self, held: Held) -> bool:
        """Hold a batch; False: there is no room for it, it is dropped."""
        agent = held.id.agent if held.id else ""
        if self.bytes and self.bytes + held.size > self._max:
            return False
        if self._by_agent[agent] and self._by_agent[agent] + held.size > self._max // 2:
            return False
        self.bytes += held.size
        self._by_agent[agent] += held.size
        if held.id:
            self._ids.add(held.id)
        self._fresh.append(held)
        return True

    def next(self) -> Job | None:
        """The next write, taken out; give it back by exactly one of the methods below."""
        for _ in range(3):
            self._turn = (self._turn + 1) % 3
            if self._turn == 0 and self._again:
                return self._again.popleft()
            if self._turn == 1 and self._fresh:
                return self._group()
            if self._turn == 2 and self._suspects:
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
        if job.suspect is None and len(job.batches) > 1:
            middle = len(job.batches) // 2
            self._again.extend((Job(job.batches[:middle]), Job(job.batches[middle:])))
            return []
        if job.suspect is None:
            lines = [line + b"\n" for line in job.batches[0].body.split(b"\n") if line]
            self._suspects.append(Suspect(job.batches[0], [lines]))
            return []
        if len(job.lines) > 1:
            middle = len(job.lines) // 2
            job.suspect.pieces += (job.lines[middle:], job.lines[:middle])
        else:
            self._set_aside(job.suspect.held, job.lines[0], reason)
        return self._progress(job)

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

    def _group(self) -> Job:
        batches = [self._fresh.popleft()]
        size = len(batches[0].body)
        while self._fresh and (size := size + len(self._fresh[0].body)) <= GROUP_BYTES:
            batches.append(self._fresh.popleft())
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
