"""Targets and triggers in, `hop` and `path` lines and an event for every path that changed out.

Traces run one at a time, each in a process of its own: every target in turn once in `trace.every`, and one at
once when something was detected there. What waits is bounded, a target waits only once, and is not traced
again within a while, however often it is asked for. Paths are remembered as long as the agent runs, each as
its flows have seen it; a flow that had to take another port has another path, and begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from probe.clock import SECOND, Clock
from probe.errors import ColoprobeError, MissingPartError, PrivilegeError
from probe.path_points import observed, points
from probe.paths.memory import PathMemory, Verdict, text
from probe.paths.records import Path, Request, Traced
from probe.settings import TraceTable
from probe.telemetry.lines import Point, encode, series_text
from probe.telling import Teller
from probe.tracing import Records, request_for, trace

QUEUED = 64  # targets that wait for a trace that was triggered
APART = 10 * SECOND  # between two traces of one target that are triggered
FIRST = 30 * SECOND  # the first round begins not later than that; an agent has other things to do at first
_RETRY = 600 * SECOND  # where traces cannot be had at all
_REMEMBERED = 4096  # flows

log = logging.getLogger(__name__)
Tracer = Callable[[Request], Records]


class PathWatch:
    """Knows the paths of an agent's targets. `run` it in one task; in the event loop only.

    Args:
        targets: those of now.
        tracer: how to trace, for tests.
    """

    def __init__(
        self,
        settings: TraceTable,
        teller: Teller,
        clock: Clock,
        targets: Callable[[], Sequence[Traced]],
        tracer: Tracer = trace,
    ) -> None:
        self.settings = settings
        self.traces = self.failures = 0
        self._teller, self._clock, self._targets, self._tracer = teller, clock, targets, tracer
        self._waiting: OrderedDict[str, str] = OrderedDict()  # names, and why
        self._traced_at: dict[str, int] = {}  # by name, monotonic: when the last one that was triggered ended
        self._memories: OrderedDict[tuple[str, str, int, int], PathMemory] = OrderedDict()
        self._woken = asyncio.Event()
        self._told = ""  # the trouble that was last logged
        self._not_before = 0
        self._one_at_a_time = asyncio.Lock()

    def trigger(self, target: str, why: str) -> None:
        """Trace it as soon as possible, where it was not traced just now."""
        if not self.settings.on_event:
            return
        if target in self._waiting or len(self._waiting) >= QUEUED:
            return
        self._waiting[target] = why
        self._woken.set()

    async def answer(self, target: Traced, settings: TraceTable) -> AsyncGenerator[bytes, None]:
        """A trace for somebody else, when no other one runs: its points, each a JSON object, as they are
        known.

        settings: `flows`, `max_hops`, `protocol` and `rate` may be others. Raises: MissingPartError,
        PrivilegeError, SocketError, ChildError.
        """
        request = request_for(target, settings)
        async with self._one_at_a_time:
            began = self._clock.wall()
            async with contextlib.aclosing(self._tracer(request)) as records:
                paths = [record async for record in records if isinstance(record, Path)]
        # With fewer hops, or as other packets, it is no trace as ours are.
        own = request_for(target, self.settings)
        alike = (request.protocol, request.port) == (
            own.protocol,
            own.port,
        ) and request.max_hops >= own.max_hops
        ours = alike and any(one == target for one in self._targets())
        for point in self._learn(target, request, paths, began, "somebody asked", ours):
            head = {"time": point.time_ns, "measurement": point.measurement}
            yield msgspec.json.encode({**head, **point.tags, **point.fields})

    async def run(self) -> None:
        """Trace until cancelled."""
        every = int(self.settings.every)
        turn = self._clock.mono() + min(every // 10, FIRST)
        while True:
            now = self._clock.mono()
            if every and now >= turn:
                await self._round(every)
                turn += max(every * (1 + (self._clock.mono() - turn) // every), 1)
                continue
            await self._triggered()
            pause = max(turn - self._clock.mono(), 0) if every else 3600 * SECOND
            if self._waiting:
                pause = min(pause, self._soonest())
            await self._pause(pause)

    async def _pause(self, ns: int) -> None:
        """At most so long, or until something is triggered."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ns / SECOND):
                await self._woken.wait()
        self._woken.clear()

    async def _round(self, every: int) -> None:
        """Every target once, spread over half of the time there is; what is triggered goes first."""
        targets = list(self._targets())
        begun = self._clock.mono()
        for place, target in enumerate(targets):
            due = begun + every * place // (2 * len(targets))
            while (wait := due - self._clock.mono()) > 0:
                await self._triggered()
                await self._pause(min(wait, self._soonest()) if self._waiting else wait)
            await self._triggered()
            await self._trace(target, "")

    async def _triggered(self) -> None:
        """Everything that waits and may be traced now."""
        for name in list(self._waiting):
            if self._wait_for(name) > 0:
                continue
            why = self._waiting.pop(name)
            target = next((one for one in self._targets() if one.name == name), None)
            if target is not None:
                await self._trace(target, why)

    def _soonest(self) -> int:
        """How long until one of those that wait may be traced, ns."""
        return max(min((self._wait_for(name) for name in self._waiting), default=0), SECOND // 100)

    def _wait_for(self, name: str) -> int:
        last = self._traced_at.get(name)
        return 0 if last is None else last + APART - self._clock.mono()

    # -- one trace -------------------------------------------------------------------------------------------

    async def _trace(self, target: Traced, why: str) -> None:
        if self._clock.mono() < self._not_before:
            return
        request = request_for(target, self.settings)
        began = self._clock.wall()
        paths: list[Path] = []
        try:
            async with self._one_at_a_time, contextlib.aclosing(self._tracer(request)) as records:
                paths = [record async for record in records if isinstance(record, Path)]
        except ColoprobeError as problem:
            self.failures += 1
            self._complain(target, problem)
        else:
            self.traces += 1
            self._told = ""
        if why:
            self._traced_at[target.name] = self._clock.mono()
        while len(self._traced_at) > _REMEMBERED:
            del self._traced_at[next(iter(self._traced_at))]
        self._learn(target, request, paths, began, why, True)

    def _complain(self, target: Traced, problem: ColoprobeError) -> None:
        """Once in the log for each trouble; what concerns all traces is tried again only after a while."""
        said = f"{type(problem).__name__} {problem}"
        if isinstance(problem, MissingPartError | PrivilegeError):
            self._not_before = self._clock.mono() + _RETRY
            if said != self._told:
                log.warning("paths are not traced: %s", problem)
        elif said != self._told:
            log.warning("the path of %s is not traced: %s", target.name, problem)
        self._told = said

    def _learn(
        self, target: Traced, request: Request, paths: Sequence[Path], began: int, why: str, ours: bool
    ) -> list[Point]:
        """The points of a trace; where it was of a target of ours, they are told, and what changed is."""
        verdicts = {}
        for path in paths:
            # Others' paths would push ours out.
            memory = self._memory(target, request, path) if ours else PathMemory()
            verdicts[path.flow] = memory.observe(observed(path), path.reached)
        tags = {**self._teller.tags, "target": target.name}
        ids = {flow: verdict.path_id for flow, verdict in verdicts.items()}
        made = list(points(paths, ids, request.protocol, tags, began))
        if ours:
            told = [encode(series_text(one.measurement, one.tags), one.fields, one.time_ns) for one in made]
            self._teller.lines(told)
            changed = {flow: verdict for flow, verdict in verdicts.items() if verdict.changed}
            if changed:
                self._tell_change(target, request, changed, why)
        return made

    def _memory(self, target: Traced, request: Request, path: Path) -> PathMemory:
        key = (target.name, request.seed, path.flow, path.identity)
        memory = self._memories.setdefault(key, PathMemory())
        self._memories.move_to_end(key)
        while len(self._memories) > _REMEMBERED:
            self._memories.popitem(last=False)
        return memory

    def _tell_change(self, target: Traced, request: Request, changed: dict[int, Verdict], why: str) -> None:
        flow, first = next(iter(changed.items()))
        flows = f"flow{'s' * (len(changed) > 1)} {' '.join(map(str, changed))} of {request.flows}"
        differs = f"{_at(first.before, first.hop)} is {_at(text(first.hops), first.hop)}"
        detail = {
            "before": first.before_id,
            "after": first.path_id,
            "hop": first.hop,
            "hops_before": first.before,
            "hops_after": first.after,
            "flow": flow,
            "flows": request.flows,
            "changed": list(changed),
            "protocol": request.protocol,
        }
        said = f"path changed from hop {first.hop} on: {differs} ({flows})"
        if why:
            said += f"; traced because: {why}"
            detail["why"] = why
        log.info("%s: %s", target.name, said)
        self._teller.event("path", said, tags={"target": target.name}, detail=detail)


def _at(hops: str, ttl: int) -> str:
    """Who is at a TTL of a path that is written as text."""
    routers = hops.split()
    return routers[ttl - 1] if ttl <= len(routers) else "nobody"
