"""A question to an agent in, its answer out as it comes: `coloprobe ask`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TextIO

from msgspec import UnsetType

from probe.ask_text import display
from probe.asker import Access, Asker, asking, nobody
from probe.clock import SECOND, SystemClock
from probe.errors import AskError, UsageError
from probe.telemetry.asks import MAY_HAVE_TARGET, NEEDS_TARGET, OPTIONS, Options, What, json_line, plain
from probe.telemetry.topics import is_agent
from probe.text import duration

OWN_STATUS_S, ALL_STATUS_S = 0.5, 2.0  # for what the broker has kept of an agent's status, and of everybody's
_CLOCKS = 2 * SECOND  # a larger difference of the clocks is told
_OPTION = {"count": "-n/--count", "interval_ns": "-i/--interval", "timeout_ns": "-W/--reply-timeout"}


@dataclass(frozen=True)
class Question:
    """What the command line asks. patience_s: how long the agent may be silent."""

    agent: str
    what: What
    target: str = ""
    options: Options = field(default_factory=Options)
    as_json: bool = False
    patience_s: float = 10.0


def ask(question: Question, broker: Access, out: TextIO, remarks: TextIO) -> int:
    """Ask, and print what is answered, and what is worth knowing beforehand.

    Returns the exit status that the agent says. Ctrl-C takes the question back.
    Raises: UsageError, MqttError, AskError.
    """
    _check(question)
    return asyncio.run(_until_signal(_ask(question, broker, out, remarks)))


def _check(question: Question) -> None:
    """Raises: UsageError."""
    what = question.what
    if not is_agent(question.agent):
        raise UsageError(f"{question.agent!r} is no agent's id (allowed: a-z, 0-9 and '-')")
    if question.target and what not in MAY_HAVE_TARGET:
        raise UsageError(f"{what} has no TARGET")
    if not question.target and what in NEEDS_TARGET:
        raise UsageError(f"{what} needs a TARGET: one of {question.agent}'s, by its name or address")
    for name in question.options.given():
        if name not in OPTIONS.get(what, ()):
            option = _OPTION.get(name, "--" + name.replace("_", "-"))
            allowed = ", ".join(_OPTION.get(n, "--" + n.replace("_", "-")) for n in OPTIONS.get(what, ()))
            raise UsageError(f"{option}: {what} has no such option (allowed: {allowed or 'none'})")


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Its result; 130 where SIGINT or SIGTERM ends it, after it has tidied up."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return 130


async def _ask(question: Question, broker: Access, out: TextIO, remarks: TextIO) -> int:
    async with asking(broker) as asker:
        await _must_be_online(asker, question.agent)
        await asker.listen(question.agent)
        options = question.options
        flows = 1 if isinstance(options.flows, UnsetType) else options.flows
        shown = display(question.what, flows)

        def show(lines: list[str]) -> None:
            if lines and not question.as_json:
                print("\n".join(lines), file=out, flush=True)

        asked = asker.ask(
            question.agent, question.what, question.target, options, patience_s=question.patience_s
        )
        part = None
        async with aclosing(asked) as parts:
            async for part in parts:
                if not isinstance(part.begun, UnsetType):
                    _remark(part.begun, remarks)
                    show(shown.begun(part.begun))
                for said in part.lines:
                    if question.as_json:
                        print(json_line(said), file=out, flush=True)
                    show(shown.line(said))
                if part.done and not part.error:
                    show(shown.end())
        assert part is not None  # the last one has `done`, or there was an error
        if part.error:
            why = plain(part.error, 500)
            why = why if why.startswith(question.agent) else f"{question.agent}: {why}"
            raise AskError(why, part.status or 1)
        return part.status


async def _must_be_online(asker: Asker, agent: str) -> None:
    """Raises: AskError, MqttError."""
    status = await asker.know(agent, OWN_STATUS_S)
    if status is None:
        status = (await asker.know_all(ALL_STATUS_S)).get(agent)
    if status is None:
        raise AskError(nobody(agent, asker.statuses, asker.broker))
    if status.bridge:
        raise AskError(f"{agent} is the bridge of a site's broker, and no agent")
    if status.state == "offline":
        raise AskError(
            f"{agent} is offline; it stopped, or connected for the last time, at {status.when}. "
            "Look at its host, and at the line to this broker"
        )


def _remark(about: dict[str, Any], remarks: TextIO) -> None:
    """What is worth knowing before the answer comes."""
    agent, ahead, wall = plain(str(about.get("agent"))), about.get("ahead"), about.get("wall_ns")
    if isinstance(ahead, int) and ahead > 0:
        print(f"{agent} answers {ahead} others first", file=remarks)
    if isinstance(wall, int) and abs(off := wall - SystemClock().wall()) > _CLOCKS and abs(off) < 1 << 62:
        which = "ahead of" if off > 0 else "behind"
        print(f"{agent}'s clock is {duration(abs(off))} {which} this host's", file=remarks)
