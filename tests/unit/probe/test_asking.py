"""Messages in, answers out: an agent's side of a question, with a reply that is a list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from probe import answer as answers
from probe import asking
from probe.ask_jobs import Known
from probe.asking import Answerer
from probe.clock import SECOND, ManualClock
from probe.errors import ChildError, MqttUnavailable
from probe.settings import AgentSettings, Target, agent_from
from probe.telemetry import asks
from probe.telemetry.asks import Ask
from probe.telemetry.mqtt import Message
from probe.telling import Teller

LINES = [b'{"measurement":"path","flow":"0","reached":true}', b'{"measurement":"path","flow":"1"}']


def settings(**ask: Any) -> AgentSettings:
    raw = {
        "agent": {"id": "ny4-01"},
        "target": [{"name": "gw", "address": "127.0.0.1"}],
        "ask": ask,
    }
    return agent_from(raw, "agent.toml")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


class Rig:
    """One Answerer; `trace` is the only child, and says what it is told to."""

    def __init__(self, **ask: Any) -> None:
        self.clock = ManualClock()
        self.settings = settings(**ask)
        self.teller = Teller({"agent": "ny4-01"}, self.clock, lambda: None)
        self.said: list[dict[str, Any]] = []
        self.tracing = 0
        self.most_tracing = 0
        self.release = asyncio.Event()
        self.release.set()
        self.error: Exception | None = None
        self.lost = False
        known = Known(lambda: [{"target": "gw"}], lambda: [{"interface": "eth0"}], self.trace, dict, "none")
        self.answerer = Answerer(
            lambda: self.settings, lambda target: target.address, known, self.teller, self.clock
        )

    async def trace(self, target: Target, ask: Ask) -> AsyncGenerator[bytes, None]:
        self.tracing += 1
        self.most_tracing = max(self.most_tracing, self.tracing)
        try:
            for line in LINES:
                yield line
                await self.release.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.tracing -= 1

    async def reply(self, payload: bytes) -> None:
        await asyncio.sleep(0)
        if self.lost:
            raise MqttUnavailable("connection lost")
        self.said.append(json.loads(payload))

    def hear(self, payload: bytes, *, retain: bool = False) -> None:
        self.answerer.heard(Message("coloprobe/v1/ny4-01/ask", payload, retain), self.reply)

    def ask(self, what: Any, target: str = "", **more: Any) -> str:
        ask = Ask(id=asks.new_id(), what=what, target=target, who="ops@desk", **more)
        self.hear(asks.encode(ask))
        return ask.id

    def parts(self, asked: str) -> list[dict[str, Any]]:
        return [part for part in self.said if part["id"] == asked]

    async def end(self, asked: str) -> dict[str, Any]:
        """The last part of its answer."""
        await until(lambda: any(part.get("done") for part in self.parts(asked)))
        (only,) = (part for part in self.parts(asked) if part.get("done"))
        assert [part["n"] for part in self.parts(asked)] == list(range(len(self.parts(asked))))
        return only

    def events(self) -> list[str]:
        return self.teller.take()


def drive(main: Callable[[Rig], Coroutine[Any, Any, None]], **ask: Any) -> None:
    async def body() -> None:
        await main(Rig(**ask))

    asyncio.run(body())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "GATHER_S", 0)


def test_an_answer_begins_goes_on_and_ends() -> None:
    async def main(rig: Rig) -> None:
        asked = rig.ask("trace", "gw")
        assert (await rig.end(asked))["status"] == 0  # one of two flows reached it
        begun, *middle, _ = rig.parts(asked)
        assert begun["begun"]["target"] == "gw"
        assert begun["begun"]["ahead"] == 0
        assert [line for part in middle for line in part["lines"]] == [json.loads(line) for line in LINES]
        await asyncio.sleep(0)
        (event,) = rig.events()
        assert "kind=agent" in event
        assert "trace of gw\\, asked for by ops@desk (as it says): 2 lines" in event.replace(", a", "\\, a")
        assert rig.answerer.counters() == {"asks": 1, "asks_refused": 0}

    drive(main)


def test_one_child_at_a_time_and_a_few_wait() -> None:
    async def main(rig: Rig) -> None:
        rig.release.clear()
        first, *others = [rig.ask("trace", "gw") for _ in range(1 + asking.QUEUED)]
        beyond = rig.ask("trace", "gw")
        assert "is busy: 4 others wait" in (await rig.end(beyond))["error"]
        links = rig.ask("links")  # needs no child, and does not wait
        assert (await rig.end(links))["status"] == 0
        assert rig.parts(others[-1])[0]["begun"]["ahead"] == asking.QUEUED
        assert not [part for part in rig.parts(others[0]) if part.get("lines")]
        rig.release.set()
        for asked in (first, *others):
            assert (await rig.end(asked))["error"] == ""
        assert rig.most_tracing == 1

    drive(main, per_minute=100)


def test_who_would_not_wait_so_long_is_told() -> None:
    async def main(rig: Rig) -> None:
        rig.release.clear()
        first = rig.ask("trace", "gw")
        assert "busy with what others asked" in (await rig.end(rig.ask("trace", "gw", wait_ns=0)))["error"]
        rig.release.set()
        await rig.end(first)

    drive(main)


def test_an_ask_that_is_withdrawn_ends_its_child_also_while_it_waits() -> None:
    async def main(rig: Rig) -> None:
        rig.release.clear()
        first, second = rig.ask("trace", "gw"), rig.ask("trace", "gw")
        await until(lambda: rig.tracing)
        for asked in (second, first, first):
            rig.hear(asks.cancel(asked))
        rig.hear(asks.cancel(asks.new_id()))
        for asked in (first, second):
            assert (await rig.end(asked))["error"] == "withdrawn by the asker"
        assert rig.tracing == 0
        third = rig.ask("trace", "gw")
        rig.hear(asks.cancel(third))  # before it was begun
        await asyncio.sleep(0.01)
        assert rig.parts(third) == []
        rig.release.set()
        assert (await rig.end(rig.ask("trace", "gw")))["status"] == 0

    drive(main)


def test_a_lost_connection_ends_the_answer_and_its_child() -> None:
    async def main(rig: Rig) -> None:
        rig.release.clear()
        rig.ask("trace", "gw")
        await until(lambda: rig.tracing)
        rig.lost = True
        rig.release.set()
        await until(lambda: not rig.tracing and rig.answerer.answered)
        assert "the answer is lost: connection lost" in rig.events()[0]

    drive(main)


def test_what_a_child_says_of_its_failure_is_answered() -> None:
    async def main(rig: Rig) -> None:
        rig.error = ChildError("coloprobe trace: ended with status 1: no socket")
        end = await rig.end(rig.ask("trace", "gw"))
        assert (end["status"], end["error"]) == (1, "coloprobe trace: ended with status 1: no socket")

    drive(main)


def test_a_defect_is_answered_and_the_next_one_has_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    async def main(rig: Rig) -> None:
        rig.error = ZeroDivisionError("of all things")
        end = await rig.end(rig.ask("trace", "gw"))
        assert end["status"] == 1
        assert "of all things" in end["error"]
        rig.error = None
        assert (await rig.end(rig.ask("trace", "gw")))["error"] == ""

    drive(main)
    assert "trace of gw has failed by a defect" in caplog.text


def test_only_targets_of_its_own_become_series() -> None:
    async def main(rig: Rig) -> None:
        await rig.end(rig.ask("trace", "gw"))
        await rig.end(rig.ask("trace", "127.0.0.9"))
        await until(lambda: rig.answerer.answered == 2)
        ours, other = rig.events()
        assert ours.split(" ")[0].endswith(",kind=agent,target=gw")
        assert other.split(" ")[0].endswith(",kind=agent")

    drive(main, any_target=True)


def test_so_many_a_minute_and_no_more() -> None:
    async def main(rig: Rig) -> None:
        for _ in range(3):
            assert (await rig.end(rig.ask("links")))["status"] == 0
        error = "ny4-01 is asked too often: it answers 3 a minute (ask.per_minute)"
        assert (await rig.end(rig.ask("links")))["error"] == error
        rig.clock.advance(59 * SECOND)
        assert (await rig.end(rig.ask("sessions")))["error"] == error
        assert (await rig.end(rig.ask("about")))["status"] == 0  # which has a pace of its own
        rig.clock.advance(SECOND)
        assert (await rig.end(rig.ask("sessions", "gw")))["status"] == 0

    drive(main, per_minute=3)


def test_what_is_not_heeded_is_counted_and_a_flood_of_it_is_not_answered() -> None:
    async def main(rig: Rig) -> None:
        good = asks.encode(Ask(id=asks.new_id(), what="links"))
        rig.hear(good, retain=True)
        rig.hear(good)
        await rig.end(asks.id_of(good))
        rig.hear(good)  # again, by the broker or by somebody else
        await asyncio.sleep(0.01)
        assert len([part for part in rig.said if part.get("done")]) == 1
        for n in range(500):
            rig.hear(b'{"id":"%032x","what":"reboot"}' % n)
            rig.hear(b"{" * 2000)
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        told = [part for part in rig.said if part.get("status") == 2]
        assert len(told) == asking.REFUSALS
        assert rig.answerer.refused == {"left at the broker (retained)": 1, "repeated": 1, "malformed": 1000}
        assert rig.answerer.counters() == {"asks": 1, "asks_refused": 1002}

    drive(main)


def test_what_the_settings_forbid_now_is_refused() -> None:
    async def main(rig: Rig) -> None:
        assert (await rig.end(rig.ask("links")))["status"] == 0
        rig.settings = settings(allow=["ping"])
        assert "does not allow links: ask.allow" in (await rig.end(rig.ask("links")))["error"]
        assert "has no target x" in (await rig.end(rig.ask("ping", "x")))["error"]
        rig.settings = settings(allow=[])
        assert "has nothing" in (await rig.end(rig.ask("about")))["error"]

    drive(main)


def test_without_a_file_there_is_nothing_to_check(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        assert "without a settings file" in (await rig.end(rig.ask("check")))["error"]

    drive(main)


def test_whoever_asks_cannot_write_lines_into_the_log_or_the_database(caplog: Any) -> None:
    caplog.set_level("INFO")

    async def main(rig: Rig) -> None:
        asked = Ask(id=asks.new_id(), what="links", who='x\n"\x1b[2J, root@host')
        rig.hear(asks.encode(asked))
        await rig.end(asked.id)
        await asyncio.sleep(0)
        (event,) = rig.events()
        assert "\n" not in event
        assert "\x1b" not in event

    drive(main)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert "root@host (as it says)" in caplog.text


def test_the_end_of_the_agent_ends_every_answer() -> None:
    async def main(rig: Rig) -> None:
        running = asyncio.create_task(rig.answerer.run())
        rig.release.clear()
        rig.ask("trace", "gw")
        rig.ask("trace", "gw")
        await until(lambda: rig.tracing)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert rig.tracing == 0
        assert rig.answerer._jobs == {}

    drive(main)


def test_a_slow_broker_holds_the_child_and_not_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "WAITING", 100)
    monkeypatch.setattr(answers, "CHUNK", 50)

    async def main(rig: Rig) -> None:
        made = 0
        gate = asyncio.Semaphore(0)
        sent: list[bytes] = []

        async def source() -> AsyncGenerator[bytes, None]:
            nonlocal made
            for made in range(100):
                yield b'{"n":%d}' % made

        async def slow(payload: bytes) -> None:
            await gate.acquire()
            sent.append(payload)

        answer = answers.Answer(asks.new_id(), slow)
        sending = asyncio.create_task(answer.send(source()))
        for _ in range(50):
            await asyncio.sleep(0)
        assert made < 20
        for _ in range(200):
            gate.release()
        await sending
        parts = [asks.parse_part(payload) for payload in sent]
        assert [line["n"] for part in parts if part for line in part.lines] == list(range(100))

    drive(main)


def test_an_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST", 40)

    async def main(rig: Rig) -> None:
        end = await rig.end(rig.ask("trace", "gw"))
        assert "the answer is longer than" in end["error"]

    drive(main)
