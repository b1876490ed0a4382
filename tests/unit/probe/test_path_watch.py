"""Targets, triggers and what traces say in, lines and events out; traces are one at a time and not too
many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from probe.clock import SECOND, SystemClock
from probe.errors import ChildError, ColoprobeError, MissingPartError
from probe.path_watch import QUEUED, PathWatch
from probe.paths.records import Answer, Done, Hop, Path, Request, Start, Traced
from probe.settings import TraceTable
from probe.telemetry.lines import parse_many
from probe.telling import Teller
from probe.tracing import Records, request_for
from probe.units import Duration

TARGETS = [Traced("a", "192.0.2.1", 2), Traced("b", "192.0.2.2", 2, "tcp", 9000)]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for the whole test."""
    with asyncio.Runner() as runner:
        yield runner


class Tracer:
    """Says what `routes` say; `problem` instead, where there is one."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.routes = {"192.0.2.1": "r1 r2 192.0.2.1", "192.0.2.2": "r1 192.0.2.2"}
        self.problem: ColoprobeError | None = None
        self.running = self.most = 0
        self.identity = 7

    async def __call__(self, request: Request) -> Records:
        self.asked.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.001)
            if self.problem is not None:
                raise self.problem
            yield Start("192.0.2.9", (1,))
            yield Answer(0, 1, "r1", 5, "kernel", "exceeded")
            for flow in range(2):
                names = self.routes[request.address].split()
                hops = [Hop(n + 1, () if who == "*" else (who,), 3, 3, 9) for n, who in enumerate(names)]
                yield Path(flow, tuple(hops), True, "echo reply", 1500, identity=self.identity)
            yield Done(9, 9, 0)
        finally:
            self.running -= 1


class Watching:
    """A watch, and the event loop that it stays in. All of them are gone when the test is over."""

    def __init__(self, runner: asyncio.Runner, **settings: Any) -> None:
        self.runner = runner
        self.tracer = Tracer()
        self.teller = Teller({"agent": "x", "site": "NY4"}, SystemClock(), lambda: None)
        table = TraceTable(**{"every": Duration(0), **settings})
        self.watch = PathWatch(table, self.teller, SystemClock(), lambda: TARGETS, self.tracer)
        self.points: list[Any] = []

    def until(self, done: Callable[[], bool]) -> None:
        async def body() -> None:
            task = asyncio.create_task(self.watch.run())
            async with asyncio.timeout(30):
                while not done():  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.runner.run(body())
        self.points += parse_many("\n".join(self.teller.take()))

    def of(self, measurement: str) -> list[Any]:
        return [point for point in self.points if point.measurement == measurement]


def test_every_target_in_turn_and_again(runner: asyncio.Runner) -> None:
    watching = Watching(runner, every=Duration(SECOND // 10))
    watching.until(lambda: watching.watch.traces >= 4)
    asked = [request.address for request in watching.tracer.asked]
    assert asked[:4] == ["192.0.2.1", "192.0.2.2"] * 2
    assert watching.tracer.most == 1
    first = watching.of("path")[0]
    assert first.tags == {"agent": "x", "site": "NY4", "target": "a", "flow": "0"}
    assert first.fields["hop_list"] == "r1 r2 192.0.2.1"
    assert (first.fields["reached"], first.fields["mtu"], first.fields["protocol"]) == (True, 1500, "icmp")
    hop = watching.of("hop")[1]
    assert hop.tags == {"agent": "x", "site": "NY4", "target": "a", "flow": "0", "ttl": "2"}
    assert hop.fields == {"sent": 3, "received": 3, "loss": 0.0, "address": "r2", "rtt_ns": 9}
    assert hop.time_ns == first.time_ns
    assert watching.of("event") == []


def test_a_change_is_an_event_and_silence_is_not(runner: asyncio.Runner) -> None:
    watching = Watching(runner, every=Duration(SECOND // 50))
    watching.until(lambda: watching.watch.traces >= 2)
    watching.tracer.routes["192.0.2.1"] = "r1 * 192.0.2.1"
    so_far = watching.watch.traces
    watching.until(lambda: watching.watch.traces >= so_far + 4)
    assert watching.of("event") == []
    watching.tracer.routes["192.0.2.1"] = "r1 r9 192.0.2.1"
    so_far = watching.watch.traces
    watching.until(lambda: watching.watch.traces >= so_far + 5)
    (event,) = watching.of("event")
    assert event.tags == {"agent": "x", "site": "NY4", "kind": "path", "target": "a"}
    assert event.fields["text"] == "path changed from hop 2 on: r2 is r9 (flows 0 1 of 4)"
    detail = json.loads(event.fields["detail"])
    ids = list(dict.fromkeys(p.fields["path_id"] for p in watching.of("path") if p.tags["target"] == "a"))
    assert [detail["before"], detail["after"]] == ids
    assert (detail["hop"], detail["flow"], detail["changed"]) == (2, 0, [0, 1])
    assert (detail["hops_before"], detail["hops_after"]) == ("r1 r2 192.0.2.1", "r1 r9 192.0.2.1")


def test_a_flow_by_another_port_is_no_change(runner: asyncio.Runner) -> None:
    watching = Watching(runner, every=Duration(SECOND // 50))
    watching.until(lambda: watching.watch.traces >= 2)
    watching.tracer.routes["192.0.2.1"] = "r1 r9 192.0.2.1"
    watching.tracer.identity = 8
    so_far = watching.watch.traces
    watching.until(lambda: watching.watch.traces >= so_far + 4)
    assert watching.of("event") == []


def test_triggers_are_traced_once_within_a_while_and_only_so_many_wait(runner: asyncio.Runner) -> None:
    watching = Watching(runner)
    for _ in range(5):
        watching.watch.trigger("b", "loss")
    watching.watch.trigger("nobody", "loss")
    watching.until(lambda: watching.watch.traces >= 1)
    for n in range(2 * QUEUED):
        watching.watch.trigger("b", "loss again")
        watching.watch.trigger(f"t{n}", "loss")
    assert len(watching.watch._waiting) == QUEUED
    watching.until(lambda: len(watching.watch._waiting) == 1)
    assert [request.address for request in watching.tracer.asked] == ["192.0.2.2"]
    quiet = Watching(runner, on_event=False)
    quiet.watch.trigger("b", "loss")
    assert not quiet.watch._waiting


def test_what_found_a_change_is_said(runner: asyncio.Runner) -> None:
    watching = Watching(runner, every=Duration(SECOND // 50))
    watching.until(lambda: watching.watch.traces >= 2)
    watching.watch.settings = TraceTable(every=Duration(0))
    watching.watch._traced_at.clear()
    watching.tracer.routes["192.0.2.2"] = "r7 192.0.2.2"
    watching.watch.trigger("b", "latency up")
    so_far = watching.watch.traces
    watching.until(lambda: watching.watch.traces > so_far)
    (event,) = watching.of("event")
    assert event.fields["text"].endswith("(flows 0 1 of 4); traced because: latency up")


@pytest.mark.parametrize(
    ("problem", "tries"),
    [(MissingPartError("scapy", "trace"), 1), (ChildError("probe.paths.child: was killed by signal 9"), 5)],
)
def test_trouble_is_logged_once_and_never_ends_it(
    runner: asyncio.Runner, problem: ColoprobeError, tries: int, caplog: pytest.LogCaptureFixture
) -> None:
    watching = Watching(runner, every=Duration(SECOND // 100))
    watching.tracer.problem = problem
    watching.until(lambda: watching.watch.failures >= tries)
    assert str(problem) in caplog.text
    assert len(caplog.records) <= 2  # of each target
    assert watching.points == []
    assert watching.watch.failures >= len(watching.tracer.asked) - 1


def test_an_answer_for_somebody_else_waits_for_its_turn_and_is_kept_of_our_own(
    runner: asyncio.Runner,
) -> None:
    watching = Watching(runner, every=Duration(SECOND // 100))

    async def body() -> list[bytes]:
        task = asyncio.create_task(watching.watch.run())
        table = TraceTable(flows=2, max_hops=5)
        stranger = Traced("c", "192.0.2.1", 2)
        found = [line async for line in watching.watch.answer(TARGETS[0], table)]
        found += [line async for line in watching.watch.answer(stranger, table)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return found

    lines = [json.loads(line) for line in runner.run(body())]
    assert [line["measurement"] for line in lines[:8]] == ["hop"] * 6 + ["path"] * 2
    assert {line["target"] for line in lines} == {"a", "c"}
    assert lines[6]["hop_list"] == "r1 r2 192.0.2.1"
    assert watching.tracer.most == 1
    told = {point.tags["target"] for point in parse_many("\n".join(watching.teller.take()))}
    assert "c" not in told


def test_what_somebody_asks_otherwise_is_no_trace_of_ours(runner: asyncio.Runner) -> None:
    """A look at the first hops only, or by another protocol, would read as a path that has changed."""
    watching = Watching(runner)

    async def ask(target: Traced, **wishes: Any) -> list[str]:
        table = TraceTable(every=Duration(0), **wishes)
        lines = [line async for line in watching.watch.answer(target, table)]
        assert {bool(json.loads(line).get("path_id")) for line in lines if b'"path"' in line} == {True}
        return watching.teller.take()

    assert runner.run(ask(TARGETS[0]))
    known = dict(watching.watch._memories)
    assert not runner.run(ask(TARGETS[0], max_hops=2))
    assert not runner.run(ask(TARGETS[0], protocol="udp"))
    assert not runner.run(ask(Traced("c", "192.0.2.1", 2)))
    assert watching.watch._memories == known


def test_who_asks_for_the_same_end_gets_the_same_flows() -> None:
    settings = TraceTable()
    one, other = (request_for(Traced(name, "192.0.2.1", 2), settings) for name in ("a", "b"))
    assert one == other
    tcp = request_for(TARGETS[1], settings)
    assert (tcp.protocol, tcp.port) == ("tcp", 9000)
    assert request_for(TARGETS[0], TraceTable(protocol="udp")).port == 33434
    assert request_for(TARGETS[0], TraceTable(protocol="tcp")).protocol == "icmp"
    assert request_for(Traced("s", "192.0.2.1", 2, "stamp", 862, flows=8), settings).flows == 8
    assert request_for(TARGETS[0], settings).seed != tcp.seed
