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


@dataclass
class Job:
    """One question that is being answered, or waits for it.

    text: how logs and events call it. about: how the answer begins. heavy: it has a child.
    failed: whether a line says so of the whole.
    """

    ask: Ask
    reply: Reply
    text: str
    source: Source
    about: dict[str, object]
    heavy: bool
    failed: Callable[[bytes], bool]
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
    made = Job(ask, reply, ask.what, _of_lines(()), about, False, lambda _: False)
    if ask.what in asks.NEEDS_TARGET:
        target = rules.target(ask.target)
        made.heavy, made.text = True, f"{ask.what} of {plain(target.name)}"
        address = rules.address_of(target)
        about |= {"target": target.name, "address": address or target.address, "kind": target.kind}
        about |= {"port": target.port, "size": target.size}
        if ask.what == "ping":
            ping = rules.ping(ask, target)
            tags = tags_of(settings, target)
            made.failed = _nothing_received
            made.source = lambda: _tagged(lines_of(ping, timeout_s=limit_s), tags)
        else:
            made.source = lambda: known.trace(target, ask)
    elif ask.what == "check":
        if not Path(known.file).is_file():
            raise AskError(f"{rules.name} runs without a settings file: there is nothing to check")
        check = rules.check(known.file)
        made.heavy, made.failed = True, _found_failed
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


class _Said(msgspec.Struct):
    """What is looked for in a line: of `ping`, and of `check`."""

    measurement: str = ""
    flow: str | int | None = None
    received: int = 1
    state: str = ""


def _nothing_received(line: bytes) -> bool:
    said = _said(line)
    return said.measurement == "probe" and said.flow is None and not said.received


def _found_failed(line: bytes) -> bool:
    return _said(line).state == "failed"


def _said(line: bytes) -> _Said:
    try:
        return msgspec.json.decode(line, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Said()
