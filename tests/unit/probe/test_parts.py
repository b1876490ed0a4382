"""An agent's surroundings in, what parts are told of its targets, and which of them outlive a reload out."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from probe.clock import SystemClock
from probe.errors import AskError, ResolveError
from probe.host.watched import Watched
from probe.parts import Parts, Surroundings
from probe.settings import AgentSettings, agent_from
from probe.targets import resolve
from probe.telemetry.asks import Options
from probe.telling import Teller

TARGETS = [
    {"name": "ping", "address": "127.0.0.1", "venue": "V", "line": "A", "interface": "lo"},
    {"name": "port", "address": "127.0.0.1", "kind": "tcp", "port": 9000},
    {"name": "stamp", "address": "127.0.0.1", "kind": "stamp"},
    {"name": "nowhere", "address": "192.0.2.1"},
]
QUIET = {"watch": False, "counters": "0s", "sessions": False}


class Around:
    """Settings and a measurement that can be exchanged."""

    def __init__(self, **tables: Any) -> None:
        self.set(**tables)
        here = resolve("127.0.0.1")
        self.measurement = SimpleNamespace(addresses={("127.0.0.1", 0): here})
        clock = SystemClock()
        self.surroundings = Surroundings(
            "agent.toml",
            clock,
            Teller({"agent": "a"}, clock, lambda: None),
            lambda: self.settings,
            lambda: self.measurement,  # type: ignore[arg-type, return-value]
        )

    def set(self, **tables: Any) -> None:
        raw = {"agent": {"id": "a"}, "trace": {"every": "0s"}, "host": QUIET, "target": TARGETS, **tables}
        self.settings: AgentSettings = agent_from(raw, "agent.toml")


def test_targets_are_watched_where_they_have_an_address() -> None:
    around = Around()
    watched = around.surroundings.watched()
    assert watched == (
        Watched("ping", "V", "A", "127.0.0.1", 0, "lo"),
        Watched("port", "", "", "127.0.0.1", 9000),
        Watched("stamp", "", "", "127.0.0.1", 0),  # its port is of UDP
    )
    assert around.surroundings.watched() is watched
    around.set(target=TARGETS[:1])
    assert [one.name for one in around.surroundings.watched()] == ["ping"]


def test_the_host_watch_outlives_a_reload_that_is_none_of_its_business() -> None:
    around = Around()

    async def play() -> None:
        parts = Parts(around.surroundings, dict)
        parts.begin()
        first, task = parts._host, parts._tasks["host watch"]
        around.set(target=TARGETS[:1])
        await parts.restart()
        assert parts._host is first
        assert not task.done()
        around.set(window={"length": "5s"})
        await parts.restart()
        assert parts._host is not first
        assert task.done()
        await parts.end()
        assert parts._tasks == {}

    asyncio.run(play())


def test_a_name_server_that_is_slow_holds_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, asked = threading.Event(), []

    def slow(host: str, family: int) -> Any:
        asked.append(host)
        answers.wait(20)
        raise ResolveError(f"{host!r} has no address")

    monkeypatch.setattr("probe.parts.resolve", slow)
    around = Around()
    (nowhere,) = (target for target in around.settings.target if target.name == "nowhere")

    async def play() -> None:
        parts = Parts(around.surroundings, dict)
        first = asyncio.create_task(anext(parts._traced(nowhere, Options())))
        while not asked:  # noqa: ASYNC110 - a thread, no task
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.wait({first})
        with pytest.raises(AskError, match="a name server has not answered"):
            await anext(parts._traced(nowhere, Options()))
        assert len(asked) == 1
        answers.set()
        await asyncio.wait({cast("Any", parts._resolving)})
        with pytest.raises(ResolveError):
            await anext(parts._traced(nowhere, Options()))

    asyncio.run(play())
