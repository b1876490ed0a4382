"""A question that is allowed in, a job out: what makes the lines of the answer, and what they say of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from probe import __version__
from probe.ask_rules import Rules
from probe.children import lines_of
from probe.errors import AskError
from probe.measurement import tags_of
from probe.settings import AgentSettings, Target
from probe.telemetry import asks
from probe.telemetry.asks import Ask, plain
from probe.telemetry.uplink import Reply
from probe.units import Duration

GRACE_S = 10.0  # beyond ask.longest: for starting, and for what came last

Source = Callable[[], AsyncGenerator[bytes, None]]
Snapshot = Callable[[], Sequence[Mapping[str, Any]]]
Trace = Callable[[Target, Ask], AsyncGenerator[bytes, None]]


@dataclass
class Known:
    """What an agent can say; each is called when it is asked for.

    sessions, links: objects as `coloprobe show --json` writes points.
    trace: the lines of a trace. about: what the agent says of itself. file: its settings file.
    """

    sessions: Snapshot
    links: Snapshot
    trace: Trace
    about: Callable[[], Mapping[str, object]]
    file: str


class _Said(msgspec.Struct):
    """What is looked for in a line: of `ping`, of `trace`, and of `check`."""

    measurement: str = ""
    flow: str | int | None = None
    received: int = 1
    reached: bool = False
    state: str = ""


class Verdict:
    """What the lines of an answer say of the whole."""

    def __init__(self) -> None:
        self._failed = False
        self._paths = self._reached = 0

    @property
    def failed(self) -> bool:
        """Nothing was received, no path reaches its target, or something does not work."""
        return self._failed or self._paths > self._reached == 0

    def see(self, line: bytes) -> None:
        """One more line."""
        try:
            said = msgspec.json.decode(line, type=_Said)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if said.measurement == "probe" and said.flow is None and not said.received:
            self._failed = True
        elif said.measurement == "path":
            self._paths += 1
            self._reached += said.reached
        elif not said.measurement and said.state == "failed":
            self._failed = True


@dataclass
class Job:
    """One question that is being answered, or waits for it.

    text: how logs and events call it. about: how the answer begins. heavy: it has a child.
    verdict: what its lines say of the whole.
    """

    ask: Ask
    reply: Reply
    text: str
    source: Source
    about: dict[str, object]
    heavy: bool
    verdict: Verdict
    task: asyncio.Task[None] | None = None
    withdrawn: bool = False


def job_for(ask: Ask, reply: Reply, rules: Rules, known: Known, settings: AgentSettings, now: int) -> Job:
    """What answers it; `now`: wall clock. Raises: AskError."""
    about: dict[str, object] = {
        "agent": settings.agent.id,
        "version": __version__,
        "what": ask.what,
        "wall_ns": now,
    }
    mine = {"agent": settings.agent.id} | ({"site": settings.agent.site} if settings.agent.site else {})
    limit_s = settings.ask.longest.seconds + GRACE_S
    made = Job(ask, reply, ask.what, _of_lines(()), about, False, Verdict())
    if ask.what in asks.NEEDS_TARGET:
        target = rules.target(ask.target)
        made.heavy, made.text = True, f"{ask.what} of {plain(target.name)}"
        address = rules.address_of(target)
        about |= {"target": target.name, "address": address or target.address, "kind": target.kind}
        about |= {"port": target.port, "size": target.size}
        if ask.what == "ping":
            ping = rules.ping(ask, target)
            tags = tags_of(settings, target)
            made.source = lambda: _tagged(lines_of(ping, timeout_s=limit_s), tags)
        else:
            made.source = lambda: _until(known.trace(target, ask), settings.ask.longest)
    elif ask.what == "check":
        if not Path(known.file).is_file():
            raise AskError(f"{rules.name} runs without a settings file: there is nothing to check")
        check = rules.check(known.file)
        made.heavy = True
        made.source = lambda: lines_of(check, timeout_s=limit_s, secrets=True)
    elif ask.what == "sessions":
        if not settings.host.sessions:
            raise AskError(f"{rules.name} does not watch sessions: host.sessions in its agent.toml")
        name = rules.target(ask.target).name if ask.target else ""
        rows = [row for row in known.sessions() if not name or row.get("target") == name]
        made.source = _of_lines([{**row, **mine} for row in rows])
    elif ask.what == "links":
        made.source = _of_lines([{**row, **mine} for row in known.links()])
    else:
        made.source = _of_lines([known.about()])
    return made


def _of_lines(rows: Sequence[Mapping[str, Any]]) -> Source:
    async def source() -> AsyncGenerator[bytes, None]:
        for row in rows:
            yield msgspec.json.encode(row, enc_hook=int)

    return source


async def _tagged(lines: AsyncGenerator[bytes, None], tags: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
    """The points among the lines with the tags of this agent's own ones."""
    async with aclosing(lines):
        async for line in lines:
            if b'"measurement"' in line:
                point = msgspec.json.decode(line)
                yield msgspec.json.encode(point | {name: value for name, value in tags.items() if value})
            else:
                yield line


async def _until(lines: AsyncGenerator[bytes, None], longest: Duration) -> AsyncGenerator[bytes, None]:
    """The same lines. Raises: AskError, after `longest`."""
    end = asyncio.get_running_loop().time() + longest.seconds
    async with aclosing(lines):
        while True:
            try:
                async with asyncio.timeout_at(end):
                    line = await anext(lines)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise AskError(f"it takes longer than {longest} (ask.longest): fewer flows or hops") from None
            yield line
