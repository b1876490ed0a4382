"""A running agent in, what it does besides measuring out: each part a task that can fail without the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from probe.ask_jobs import Known
from probe.asking import Answerer
from probe.clock import Clock
from probe.errors import AskError
from probe.host.watched import Watched
from probe.host_watch import HostWatch
from probe.measurement import Measurement
from probe.path_watch import PathWatch
from probe.paths.records import Traced
from probe.settings import AgentSettings, Target
from probe.targets import Address, resolve
from probe.telemetry.asks import OPTIONS, Ask, Options
from probe.telling import Teller
from probe.tracing import traced

log = logging.getLogger(__name__)

Work = Callable[
    [], Coroutine[Any, Any, None]
]  # called by its task: one that never runs leaves nothing behind


@dataclass
class Surroundings:
    """What the parts of an agent know of it.

    settings, measurement: those of now; SIGHUP and names that move bring new ones. file: how errors call the
    settings, and where `check` reads them.
    """

    file: str
    clock: Clock
    teller: Teller
    settings: Callable[[], AgentSettings]
    measurement: Callable[[], Measurement]
    _watched: tuple[object, object, tuple[Watched, ...]] = (None, None, ())

    def targets(self) -> Iterator[tuple[Target, Address]]:
        """Every target that has an address, in the order of the settings."""
        addresses = self.measurement().addresses
        for target in self.settings().target:
            if (address := addresses.get((target.address, target.family))) is not None:
                yield target, address

    def watched(self) -> tuple[Watched, ...]:
        """The same for the kernel's tables, which ask with every change of one of them."""
        settings, addresses = self.settings(), self.measurement().addresses
        if self._watched[0] is not settings or self._watched[1] is not addresses:
            made = tuple(_watched(target, address) for target, address in self.targets())
            self._watched = settings, addresses, made
        return self._watched[2]


class Parts:
    """The parts of one agent. In the event loop."""

    def __init__(self, surroundings: Surroundings, about: Callable[[], Mapping[str, object]]) -> None:
        """`about`: what the agent says of itself to whoever asks."""
        self._around = around = surroundings
        # It stays when the settings change: what was asked before counts.
        known = Known(self._sessions, self._links, self._trace, about, around.file)
        self.answerer = Answerer(around.settings, self._address_of, known, around.teller, around.clock)
        self._host: HostWatch | None = None
        # It stays as well: what is known of the paths is not in the settings.
        self.paths = PathWatch(around.settings().trace, around.teller, around.clock, self._traceable)
        self._watching: tuple[object, int] | None = None  # the settings that it has
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._resolving: asyncio.Future[Address] | None = None

    async def run(self) -> None:
        """Run them until cancelled."""
        # What is being answered goes on when the settings change.
        asks = asyncio.create_task(self._kept("asks", self.answerer.run), name="asks")
        try:
            self.begin()
            await asyncio.Event().wait()
        finally:
            asks.cancel()
            await self.end()
            await asyncio.gather(asks, return_exceptions=True)

    def begin(self) -> None:
        """Start every part by the settings of now."""
        around, settings = self._around, self._around.settings()
        length = int(settings.window.length)
        self.paths.settings = settings.trace
        works: dict[str, Work] = {"paths": self.paths.run}
        if (settings.host, length) != self._watching:
            self._watching = settings.host, length
            self._host = HostWatch(settings.host, length, around.teller, around.clock, around.watched)
            works["host watch"] = self._host.run
        for name, work in works.items():
            self._tasks[name] = asyncio.create_task(self._kept(name, work), name=name)

    async def end(self, but: str = "") -> None:
        """Stop them all, or all `but` one."""
        ended = [self._tasks.pop(name) for name in list(self._tasks) if name != but]
        if not self._tasks:
            self._watching = None
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def restart(self) -> None:
        """The settings have changed."""
        settings = self._around.settings()
        # It asks for the targets itself, and would have to learn anew who its neighbours are.
        same = (settings.host, int(settings.window.length)) == self._watching
        await self.end(but="host watch" if same else "")
        self.begin()

    def _address_of(self, target: Target) -> str:
        """Where it is measured now; empty: nowhere."""
        address = self._around.measurement().addresses.get((target.address, target.family))
        return address.text if address is not None else ""

    def _traceable(self) -> list[Traced]:
        return [traced(target, address) for target, address in self._around.targets()]

    def _sessions(self) -> list[dict[str, Any]]:
        if self._host is None or not self._around.settings().host.sessions:
            raise AskError("sessions are not watched: host.sessions is false")
        return self._host.sessions()

    def _links(self) -> list[dict[str, Any]]:
        if self._host is None or not self._host.listening:
            raise AskError("links are not watched: host.watch is false, or netlink is refused")
        return self._host.links()

    def _trace(self, target: Target, ask: Ask) -> AsyncGenerator[bytes, None]:
        return self._traced(target, ask.options)

    async def _traced(self, target: Target, options: Options) -> AsyncGenerator[bytes, None]:
        settings = self._around.settings()
        address = self._around.measurement().addresses.get((target.address, target.family))
        if address is None:
            address = await self._resolved(target)
        rate = min(settings.trace.rate, settings.ask.packets_per_second)
        wishes = {name: getattr(options, name) for name in options.given() if name in OPTIONS["trace"]}
        wanted = msgspec.structs.replace(settings.trace, rate=rate, **wishes)
        async with aclosing(self.paths.answer(traced(target, address), wanted)) as lines:
            async for line in lines:
                yield line

    async def _resolved(self, target: Target) -> Address:
        """Asks a name server. Raises: ResolveError, AskError (it is asked already)."""
        if self._resolving is not None and not self._resolving.done():
            # A thread that asks cannot be stopped, and the spool needs threads as well: questions that are
            # taken back again and again would take them all.
            raise AskError("a name server has not answered what was asked before")
        self._resolving = asyncio.ensure_future(asyncio.to_thread(resolve, target.address, target.family))
        self._resolving.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen
        return await asyncio.shield(self._resolving)

    async def _kept(self, name: str, work: Work) -> None:
        """A part that fails is told of, and everything else goes on."""
        try:
            await work()
        except Exception as problem:
            log.exception("%s has ended by a defect; measuring goes on without it", name)
            text = f"{name} has ended by a defect: {problem!r}"
            self._around.teller.event("agent", text, detail={"part": name})


def _watched(target: Target, address: Address) -> Watched:
    # What else measures a port does so over UDP.
    port = target.port if target.kind in ("tcp", "connect") else 0
    return Watched(target.name, target.venue, target.line, address.text, port, target.interface)
