"""Options and statuses in, how to reach the broker and who is there out."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from probe import asker as asker_module
from probe.agents import table
from probe.ask import Question, ask
from probe.ask_arguments import add_ask, options
from probe.asker import Access, Asker, Status, access, nobody, status_of
from probe.clock import SECOND
from probe.errors import AskError, SettingsError, UsageError
from probe.settings import MqttTable
from probe.telemetry import asks, topics
from probe.telemetry.asks import Options
from probe.telemetry.mqtt import Message

BROKER = Access(MqttTable(), "ops", None)
NOW = 1_795_000_000 * SECOND


def parsed(*arguments: str) -> argparse.Namespace:
    command = argparse.ArgumentParser()
    add_ask(command)
    return command.parse_args(["ny4-01", "links", *arguments])


def test_access_is_taken_from_a_settings_file_and_options_replace_parts_of_it(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hush\n")
    collector = tmp_path / "collector.toml"
    collector.write_text('[collector]\nid = "fanin-1"\n[mqtt]\nurl = "mqtts://b:8883"\nca_file = "/ca"\n')
    agent = tmp_path / "agent.toml"
    agent.write_text(
        '[agent]\nid = "ny4-01"\n[[target]]\nname = "a"\naddress = "::1"\n[mqtt]\nusername = "other"\n'
    )
    found = access(parsed("-c", str(collector)))
    assert (found.mqtt.url, found.mqtt.ca_file, found.username, found.password) == (
        *("mqtts://b:8883", "/ca", "fanin-1"),
        None,
    )
    assert access(parsed("-c", str(agent))).username == "other"
    given = ("--username", "ops", "--password-file", str(tmp_path / "password"))
    found = access(parsed("-c", str(collector), *given))
    assert (found.username, found.password) == ("ops", "hush")
    found = access(parsed("--mqtt", "mqtt://h"))
    assert (found.mqtt.url, found.username, found.password) == ("mqtt://h", "", None)
    assert access(parsed()).mqtt.url == "mqtt://127.0.0.1:1883"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mqtt", "http://h"],
        ["--mqtt", "mqtt://ops:hush@h"],
        ["--cert-file", "/c"],
        ["--password-file", "/does/not/exist"],
        ["-c", "/does/not/exist"],
    ],
)
def test_access_that_cannot_be_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        access(parsed(*arguments))
    assert "hush" not in str(caught.value)


def test_the_password_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOPROBE_MQTT_PASSWORD", "hush")
    assert access(parsed()).password == "hush"


def test_options_of_the_command_line_are_those_of_the_question() -> None:
    given = parsed("-n", "3", "-i", "0.5", "-W", "20ms", "--flows", "2", "--protocol", "udp")
    wanted = Options(count=3, interval_ns=500_000_000, timeout_ns=20_000_000, flows=2, protocol="udp")
    assert options(given) == wanted
    assert options(parsed()) == Options()


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question("NY4/+", "links"), "'NY4/\\+' is no agent's id"),
        (Question("ny4-01", "ping"), "ping needs a TARGET: one of ny4-01's"),
        (Question("ny4-01", "check", "gw"), "check has no TARGET"),
        (
            Question("ny4-01", "trace", "gw", Options(count=3)),
            "-n/--count: trace has no such option .*--max-hops",
        ),
    ],
)
def test_a_question_that_makes_no_sense_is_not_asked(question: Question, words: str, capsys: object) -> None:
    import sys

    with pytest.raises(UsageError, match=words):
        ask(question, BROKER, sys.stdout, sys.stderr)


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b'{"state":"online","since":5,"more":[]}', Status("online", since=5)),
        (b"1", Status("online", bridge=True)),
        (b"0", Status("offline", bridge=True)),
        (b"", None),
        (b'{"state":"asleep"}', None),
        (b'{"state":"online","since":"now"}', None),
        (b'{"state":"online","version":"' + b"x" * 5000 + b'"}', None),
        (b"[" * 3000, None),
    ],
)
def test_a_status_is_understood_or_none(payload: bytes, status: Status | None) -> None:
    assert status_of(payload) == status


def test_who_is_not_there_is_told_from_who_may_not_be_seen() -> None:
    known = {f"ny4-{n:02}": Status("online") for n in range(30)} | {"ld4": Status("offline")}
    text = nobody("ny4-1", known, BROKER)
    assert text.startswith("no agent ny4-1 at mqtt://127.0.0.1:1883; online: ny4-00, ny4-01, ")
    assert text.endswith(", ny4-19 and 10 more")
    bridge = {"bridge-ny4": Status("online", bridge=True)}
    assert "may user 'ops' read coloprobe/v1/+/status" in nobody("ny4-1", bridge, BROKER)
    anonymous = Access(MqttTable(), "", None)
    assert "may this client, which has no user name, read" in nobody("ny4-1", {}, anonymous)


def test_what_an_agent_did_not_say_is_not_guessed() -> None:
    statuses = {
        "ny4-02": Status("offline", "0.1.0", NOW - 3 * 86_400 * SECOND, "ab" * 32),
        "ny4-01": Status("online", "0.2.0", NOW - 90 * SECOND, "cd" * 32),
        "ny4-03": Status("online", "0.2.0", NOW - 7200 * SECOND, "cd" * 32),
        "bridge-ny4": Status("online", bridge=True),
    }
    about = {
        "site": "NY4",
        "batch": 4711,
        "batch_ns": 5 * SECOND,  # by a clock that is wrong
        "wall_ns": 12 * SECOND,
        "targets": 3,
        "unmeasured": 1,
        "spool_batches": 2,
        "uplink": "online",
        "allow": ["ping", "links"],
    }
    _, first, second, third = table(statuses, {"ny4-01": about}, NOW)
    assert " ".join(first.split()) == (
        "ny4-01 NY4 online 0.2.0 cdcdcdcd 2026-11-18 11:05:10 UTC (90 s) 3 (1 not measured) 4711 7 s ago 2 "
        "online ping links"
    )
    assert " ".join(second.split()) == "ny4-02 offline 0.1.0 abababab 2026-11-15 11:06:40 UTC (3 d)"
    assert " ".join(third.split()) == "ny4-03 online 0.2.0 cdcdcdcd 2026-11-18 09:06:40 UTC (2 h) not seen"


# -- an answer, part by part ---------------------------------------------------------------------------------


class Wire:
    """In the place of a connection; `answers` come once something was asked."""

    def __init__(self, *answers: Callable[[str], Message]) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self._answers = answers
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()

    async def publish(self, topic: str, payload: bytes, **more: Any) -> None:
        self.said.append((topic, json.loads(payload)))
        if len(self.said) == 1:
            for answer in self._answers:
                self._inbox.put_nowait(answer(self.said[0][1]["id"]))

    async def messages(self) -> AsyncIterator[Message]:
        while True:
            yield await self._inbox.get()


def part(make: Callable[..., bytes], *rest: Any, agent: str = "ny4-01", retain: bool = False) -> Any:
    return lambda asked: Message(topics.answer(agent), make(asked, *rest), retain)


def status(state: str, since: int) -> Any:
    payload = json.dumps({"state": state, "since": since}).encode()
    return lambda asked: Message(topics.status("ny4-01"), payload, False)


BEGUN, ENDED = part(asks.begun, {}), part(asks.done, 2, 0)


def test_an_answer_without_end_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker_module, "MOST", 300)
    endless = [part(asks.lines, n, [b'{"n":%d}' % n]) for n in range(1, 20)]
    said: list[str] = []
    with pytest.raises(AskError, match="ny4-01 answers more than"):
        answered(said, BEGUN, *endless)
    assert said == ["links", "cancel"]


def answered(said: list[str], *answers: Any) -> list[Any]:
    """The lines that got through; `said` is what was published. Raises what `ask` raises."""
    wire = Wire(*answers)
    asker = Asker(cast("Any", wire), BROKER)
    asker.statuses["ny4-01"] = Status("online", since=5)
    lines: list[Any] = []

    async def main() -> None:
        reading = asyncio.create_task(asker.read())
        try:
            async for one in asker.ask("ny4-01", "links", patience_s=0.2):
                lines.extend(one.lines)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    try:
        asyncio.run(main())
    finally:
        said += [document["what"] for topic, document in wire.said if topic == topics.ask("ny4-01")]
    return lines


def test_parts_that_come_twice_from_elsewhere_or_late_are_passed_over() -> None:
    line = part(asks.lines, 1, [b'{"n":1}'])
    forged = part(asks.lines, 1, [b'{"n":0}'], agent="ld4-02")
    stale = part(asks.done, 0, 1, "left", retain=True)
    other = lambda asked: Message(topics.answer("ny4-01"), asks.done("0" * 32, 0, 1), False)  # noqa: E731
    rubbish = lambda asked: Message(topics.answer("ny4-01"), b"{", False)  # noqa: E731
    said: list[str] = []
    assert answered(said, forged, stale, BEGUN, BEGUN, other, rubbish, line, line, ENDED, ENDED) == [{"n": 1}]
    assert said == ["links"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ((BEGUN, ENDED), "part 1 of what ny4-01 answers got lost on the way"),
        ((BEGUN,), "ny4-01 has fallen silent: no word for 0.2 s"),
        ((), "ny4-01 is online, and does not answer: .* may user 'ops' write coloprobe/v1/ny4-01/ask"),
        ((BEGUN, status("offline", 9)), "ny4-01 went offline before it had answered"),
        ((status("online", 9),), "ny4-01 was started again before it had answered"),
    ],
)
def test_an_answer_that_does_not_come_to_its_end_says_why_and_is_taken_back(
    answers: tuple[Any, ...], words: str
) -> None:
    said: list[str] = []
    with pytest.raises(AskError, match=words) as caught:
        answered(said, *answers)
    assert caught.value.exit_status == 1
    assert said == ["links", "cancel"]
