"""A running agent in, what it does besides measuring out: each part a task that can fail without the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from probe.clock import Clock
from probe.measurement import Measurement
from probe.settings import AgentSettings, Target
from probe.targets import Address
from probe.telling import Teller

log = logging.getLogger(__name__)


@dataclass(frozen=True)
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

    def targets(self) -> Iterator[tuple[Target, Address]]:
        """Every target that has an address, in the order of the settings."""
        addresses = self.measurement().addresses
        for target in self.settings().target:
            if (address := addresses.get((target.address, target.family))) is not None:
                yield target, address


class Parts:
    """The parts of one agent. In the event loop."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Run them until cancelled."""
        try:
            self.begin()
            await asyncio.Event().wait()
        finally:
            await self.end()

    def begin(self) -> None:
        """Start every part by the settings of now."""
        works: dict[str, Coroutine[Any, Any, None]] = {}
        self._tasks = [asyncio.create_task(self._kept(name, work), name=name) for name, work in works.items()]

    async def end(self) -> None:
        """Stop them all."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restart(self) -> None:
        """The settings have changed."""
        await self.end()
        self.begin()

    async def _kept(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """A part that fails is told of, and everything else goes on."""
        try:
            await work
        except Exception as problem:
            log.exception("%s has ended by a defect; measuring goes on without it", name)
            text = f"{name} has ended by a defect: {problem!r}"
            self._around.teller.event("agent", text, detail={"part": name})
