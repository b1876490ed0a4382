"""A namespace in, a host watch at work in it out, and what it has told so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from probe.clock import SystemClock
from probe.host.watched import Watched
from probe.host_watch import HostWatch
from probe.settings_tables import HostTable
from probe.telemetry.lines import Point, parse
from tests.lab.netlab import Namespace

DEADLINE_S = 60.0
SECOND = 1_000_000_000


@dataclass
class Event:
    kind: str
    text: str
    tags: Mapping[str, str]
    detail: Mapping[str, Any]


@dataclass
class Told:
    """What a teller was told."""

    tags: Mapping[str, str] = field(default_factory=lambda: {"agent": "lab", "site": ""})
    events: list[Event] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def event(
        self,
        kind: str,
        text: str,
        *,
        tags: Mapping[str, str] | None = None,
        detail: Mapping[str, object] | None = None,
        wall_ns: int | None = None,
    ) -> None:
        assert wall_ns is None or abs(wall_ns - time.time_ns()) < DEADLINE_S * SECOND
        self.events.append(Event(kind, text, tags or {}, detail or {}))

    def lines(self, lines: Sequence[str]) -> None:
        self.points += [parse(line) for line in lines]

    def of(self, measurement: str, **tags: str) -> list[Point]:
        return [
            point
            for point in self.points
            if point.measurement == measurement and tags.items() <= dict(point.tags).items()
        ]


@dataclass
class Watching:
    """A watch in a namespace, and hands to do something there."""

    near: Namespace
    watch: HostWatch
    told: Told
    seen: int = 0  # events that were asked for already

    async def sh(self, script: str, namespace: Namespace | None = None) -> str:
        """Run it in the watched namespace, or another one."""
        done = await asyncio.to_thread((namespace or self.near).run, ["sh", "-c", script])
        return done.stdout

    async def until(self, what: Callable[[], Any], why: str) -> Any:
        """The first value that is true."""
        end = time.monotonic() + DEADLINE_S
        while not (value := what()):
            assert time.monotonic() < end, f"not within {DEADLINE_S:.0f} s: {why}; told: {self.told.events}"
            await asyncio.sleep(0.02)
        return value

    async def event(self, kind: str, words: str) -> Event:
        """The next event of this kind with these words; those before it are passed over."""

        def found() -> tuple[int, Event] | None:
            rest = enumerate(self.told.events[self.seen :], self.seen)
            return next(((n, e) for n, e in rest if e.kind == kind and words in e.text), None)

        number, event = await self.until(found, f"{kind}: {words}")
        self.seen = number + 1
        assert isinstance(event, Event)
        return event


def watching(
    near: Namespace,
    targets: Sequence[Watched],
    play: Callable[[Watching], Coroutine[Any, Any, None]],
    *,
    every_ns: int = SECOND,
) -> Told:
    """Watch the namespace for as long as `play` lasts."""
    told = Told()

    async def main() -> None:
        watch = HostWatch(HostTable(), every_ns, told, SystemClock(), lambda: targets)
        running = asyncio.create_task(watch.run())
        stage = Watching(near, watch, told)
        try:
            await stage.until(lambda: told.of("interface"), "the first counters")
            await play(stage)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    near.call(lambda: asyncio.run(main()))
    return told
