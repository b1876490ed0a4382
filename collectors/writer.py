"""Batches in, acknowledgements out once the sink holds them: retries, back-off, alarms and quarantine.

What to write next is `collectors.backlog`'s decision; here it is written, two writes at a time so that the
sink never waits for us, and the answer acted upon:

    yes                    acknowledge
    SinkUnavailable        say so once, wait (exponential back-off, or as long as the sink wishes, but not on
                           when one that was away answers), try again
    SinkRefused            say so once, wait, try again slowly: only an operator can help
    SinkTooLarge, Rejected find what is to blame, set it aside with the reason, acknowledge
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from collectors.backlog import Backlog
from collectors.jobs import Held, Job, Suspect
from collectors.quarantine import Quarantine
from collectors.report import Counters
from collectors.sinks import Sink
from probe.clock import SECOND, Clock
from probe.errors import SinkError, SinkRefused, SinkRejected, SinkTooLarge, SinkUnavailable
from probe.telemetry.backoff import Backoff
from probe.telemetry.topics import BatchId

REFUSED_PAUSE_S = 30.0
GATHER_S = 0.1  # between two writes, unless a whole group waits: a write costs as much as a hundred batches
POLL_S = 2.0  # how often a sink that is away is asked whether it is back
MOST_SAID = 5  # different complaints in one outage
LONGEST_WISH_S = 300.0  # of a sink that says how long to wait

log = logging.getLogger(__name__)


class Writer:
    """The one that writes to the sink.

    `acknowledge` is called with a batch once the sink holds it, and what it does not take is on disk.
    `known_good` makes a line that the sink ought to take. Before any other is blamed for a rejection, it is
    tried, so that a sink that rejects everything alike is an alarm and not a quarantine of good lines.
    `recovered` is called when the sink takes writes again after it did not.
    """

    def __init__(
        self,
        sink: Sink,
        quarantine: Quarantine,
        backlog: Backlog,
        counters: Counters,
        clock: Clock,
        *,
        acknowledge: Callable[[BatchId], None],
        known_good: Callable[[], bytes],
        recovered: Callable[[], None] = lambda: None,
        at_once: int = 2,
        gather_s: float = GATHER_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        backoff: Backoff | None = None,
    ) -> None:
        self._sink = sink
        self._quarantine = quarantine
        self._backlog = backlog
        self._counters = counters
        self._clock = clock
        self._acknowledge = acknowledge
        self._known_good = known_good
        self._told_recovered = recovered
        self._at_once = at_once
        self._gather_s = gather_s
        self._sleep = sleep
        self._backoff = backoff or Backoff(0.5, 60.0)
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._said: set[str] = set()  # what this outage has been told of; empty: the sink is fine
        self._fine = asyncio.Event()  # while it is not set, one write at a time tries
        self._fine.set()
        self._plenty = asyncio.Event()  # a whole group waits, or it is time to go
        self._draining = False
        self._under_way = 0
        self._disk_failed = False

    def offer(self, held: Held) -> None:
        """Take a batch to write; what there is no room for is dropped unacknowledged, and counted."""
        if held.id and self._backlog.holds(held.id):
            return
        dropped = self._backlog.offer(held)
        if self._backlog.pressing:
            self._plenty.set()
        self._counters.dropped += len(dropped)
        if held not in dropped:
            self._idle.clear()
            self._news.set()

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._at_once):
                group.create_task(self._work(number > 0))

    async def _work(self, assistant: bool) -> None:
        while True:
            if assistant:
                await self._fine.wait()
            job = self._backlog.next()
            if job is None:
                self._news.clear()
                if not self._under_way:
                    self._idle.set()
                await self._news.wait()
                continue
            self._under_way += 1
            started = self._clock.mono()
            try:
                await self._attempt(job)
            finally:
                self._under_way -= 1
            if len(self._backlog):
                self._news.set()  # it may have been put back, and the other one be the one to try it
            await self._gather(started)

    async def _gather(self, since_ns: int) -> None:
        """Let batches come together after a write that began then (monotonic ns)."""
        left = self._gather_s - (self._clock.mono() - since_ns) / SECOND
        if left <= 0 or self._draining or self._backlog.pressing:
            return
        self._plenty.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._plenty.wait()

    async def drain(self, deadline_s: float) -> None:
        """Return when everything held is written, at the deadline, or at once while the sink is away."""
        self._draining = True
        self._plenty.set()
        if not self._said and not self._idle.is_set():
            try:
                async with asyncio.timeout(deadline_s):
                    await self._idle.wait()
            except TimeoutError:
                pass
        if left := len(self._backlog):
            log.warning("leaving %d batches or groups unacknowledged; their agents keep them", left)

    async def _attempt(self, job: Job) -> None:
        """Write one job, act on the answer, and wait where it says so."""
        finished: list[Held] = []
        try:
            if body := job.body():
                started = self._clock.mono()
                await self._sink.write(body, packed=job.packed)
                took = self._clock.mono() - started
                self._counters.write_latency_ns = max(self._counters.write_latency_ns, took)
                self._recovered()
            finished = self._backlog.written(job)
        except SinkUnavailable as problem:
            await self._unavailable(job, problem)
        except SinkRefused as problem:
            await self._refused(job, problem)
        except (SinkTooLarge, SinkRejected) as problem:
            if job.is_one_line and job.suspect and not job.suspect.vetted:
                await self._vet(job, job.suspect, problem)
            else:
                finished = self._backlog.split(job, str(problem))
        await self._finish(finished)

    async def _vet(self, job: Job, suspect: Suspect, problem: SinkError) -> None:
        """Before a line is blamed: does the sink say the same of one that is known to be good?

        If not, the line gets one more chance, because the sink may have recovered between the two.
        """
        try:
            await self._sink.write(self._known_good())
        except SinkUnavailable as other:
            await self._unavailable(job, other)
            return
        except SinkRefused as other:
            await self._refused(job, other)
            return
        except (SinkTooLarge, SinkRejected) as other:
            if str(other) == str(problem):
                everything = SinkRefused(f"the collector's own line is rejected as well: {problem}")
                await self._refused(job, everything)
                return
        else:
            self._recovered()
        suspect.vetted = True
        self._backlog.put_back(job)

    async def _unavailable(self, job: Job, problem: SinkUnavailable) -> None:
        self._counters.retries += 1
        self._counters.dropped += len(dropped := self._backlog.failed(job))
        if dropped:
            log.warning("a batch fails while others go through; it is left to its agent: %s", problem)
        self._say(problem, "batches wait at their agents; trying again")
        pause = self._backoff.delay_s()
        if problem.retry_after_s is not None:
            await self._sleep(max(pause, min(problem.retry_after_s, LONGEST_WISH_S)))
        else:
            await self._pause(pause, away=problem.away)

    async def _pause(self, pause_s: float, *, away: bool) -> None:
        """Wait, but not on when a sink that was away answers."""
        while pause_s > POLL_S:
            await self._sleep(POLL_S)
            pause_s -= POLL_S
            try:
                await self._sink.check()
            except SinkUnavailable as problem:
                away = away or problem.away
            except SinkError:
                pass
            else:
                if away:
                    self._backoff.reset()
                    return
        await self._sleep(pause_s)

    async def _refused(self, job: Job, problem: SinkRefused) -> None:
        self._counters.retries += 1
        self._backlog.put_back(job)
        self._say(problem, f"batches wait at their agents; trying again every {REFUSED_PAUSE_S:g} s")
        await self._sleep(REFUSED_PAUSE_S)

    def _say(self, problem: SinkError, consequence: str) -> None:
        self._fine.clear()
        text = str(problem)
        if text not in self._said and len(self._said) < MOST_SAID:
            self._said.add(text)
            log.error("%s: %s (%s)", self._sink.name, text, consequence)

    def _recovered(self) -> None:
        self._backoff.reset()
        self._fine.set()
        if self._said:
            self._said.clear()
            log.warning("%s: takes writes again", self._sink.name)
            self._told_recovered()

    async def _finish(self, finished: list[Held]) -> None:
        """Set aside what has to be, then acknowledge; batches without such lines do not wait for the disk."""
        for held in finished:
            if not held.aside:
                self._done(held)
        bad = [held for held in finished if held.aside]
        if not bad:
            return
        items = [entry for held in bad for entry in held.aside]
        try:
            await asyncio.to_thread(self._quarantine.add, items, self._clock.wall())
        except OSError as problem:
            self._counters.dropped += len(bad)
            if not self._disk_failed:
                log.error(
                    "%s: %s; batches with bad lines stay with their agents", self._quarantine.path, problem
                )
            self._disk_failed = True
            return
        self._disk_failed = False
        self._counters.quarantined += sum(entry.lines for entry in items)
        for held in bad:
            self._done(held)

    def _done(self, held: Held) -> None:
        self._counters.over_limit += held.over_limit
        self._counters.lines += held.count
        self._counters.newest_ns = max(self._counters.newest_ns, held.newest_ns)
        if held.id:
            self._counters.batches += 1
            self._acknowledge(held.id)
