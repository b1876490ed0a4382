"""A whole agent in this process, on loopback and without a broker: changes while it runs, and its end."""

from __future__ import annotations

import asyncio
import gc
import json
import pwd
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import probe.agent
import probe.kinds
import probe.measurement
import probe.naming
import probe.preparing
from probe.agent import Agent
from probe.clock import MILLISECOND, SECOND, ManualClock
from probe.errors import ResolveError, SocketError, SpoolError
from probe.settings import AgentSettings, agent_from, digest
from probe.sockets.opening import open_icmp
from probe.targets import Address, Asked, resolve, resolve_all
from probe.telemetry.batches import HOLD
from probe.telemetry.lines import Point
from tests.system.commands import spooled

pytestmark = pytest.mark.icmp
DEADLINE_S = 30.0
Hosts = dict[Asked, Address | ResolveError]


@pytest.fixture(autouse=True)
def _keep_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be gone for all tests that follow in this process."""
    monkeypatch.setattr(probe.agent, "drop_privileges", lambda _user: None)


def settings(state: Path, *hosts: str, window: str = "100ms", timeout: str = "50ms") -> AgentSettings:
    """What this machine goes through meanwhile is no matter of these tests."""
    return agent_from(
        {
            "agent": {"id": "a", "state_dir": str(state)},
            "window": {"length": window, "timeout": timeout, "histogram": "1s"},
            "engine": {"receive_buffer": "256KiB"},
            "host": {"watch": False, "counters": "0s", "sessions": False},
            "trace": {"every": "0s", "on_event": False},
            "detect": {"enabled": False},
            "defaults": {"interval": "10ms"},
            "mqtt": {"url": "mqtt://127.0.0.1:9"},
            "target": [{"name": host, "address": host} for host in hosts],
        },
        "agent.toml",
    )


async def until(what: Callable[[], object], why: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not what():  # noqa: ASYNC110 - an engine's thread has no event to wait for
            await asyncio.sleep(0.005)
    assert what(), why


def drive(agent: Agent, work: Callable[[], Awaitable[None]]) -> None:
    """Run the agent while `work` does something to it, then stop it."""

    async def both() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        await until(lambda: engines() and agent.spool.depth, "it measures")
        try:
            await work()
        finally:
            stop.set()
            await running

    agent.prepare()
    try:
        asyncio.run(both())
    finally:
        agent.close()
    assert engines() == 0


def engines() -> int:
    return sum(thread.name == "engine" for thread in threading.enumerate())


def probes(state: Path) -> list[Point]:
    return [point for point in spooled(state) if point.measurement == "probe"]


def events(state: Path, kind: str) -> list[Point]:
    """A busy machine has the engine tell of the host, whatever the settings."""
    return [p for p in spooled(state) if p.measurement == "event" and p.tags["kind"] == kind]


def heads(state: Path) -> list[Point]:
    found = [point for point in spooled(state) if point.measurement == "agent"]
    return sorted(found, key=lambda point: int(point.fields["batch"]))


def test_short_windows_are_all_there_at_the_end(tmp_path: Path) -> None:
    """Thirty of them are open when it is told to stop, and closed at once."""

    async def work() -> None:
        await until(lambda: agent.spool.depth > 20, "windows")

    agent = Agent(settings(tmp_path, "127.0.0.1", window="10ms", timeout="10ms"), "agent.toml")
    drive(agent, work)
    assert heads(tmp_path)[-1].fields["windows_dropped"] == 0
    times = [point.time_ns for point in probes(tmp_path)][1:]  # the first begins in the middle
    assert {later - earlier for earlier, later in pairwise(times)} == {10 * MILLISECOND}


def test_what_waits_for_the_disk_is_bounded_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe.agent, "PENDING_CUTS", 0)
    monkeypatch.setattr(probe.agent, "PENDING_PROBES", 0)

    async def both() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        await until(lambda: agent._dropped_cuts > 1, "windows are dropped")
        stop.set()
        await running

    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    agent.prepare()
    asyncio.run(both())
    assert probes(tmp_path) == []


def test_changes_at_the_same_time_leave_one_engine(tmp_path: Path) -> None:
    two = settings(tmp_path, "127.0.0.1", "127.0.0.2")

    async def work() -> None:
        await asyncio.gather(agent._replace(two), agent._replace(None), agent._replace(None))
        assert engines() == 1
        known = agent.spool.last
        await until(lambda: agent.spool.last > known + 3, "it measures on")

    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    drive(agent, work)
    points = probes(tmp_path)
    assert not [key for key, n in Counter((p.tags["target"], p.time_ns) for p in points).items() if n > 1]
    # "The same again" were the changed settings. The very last window may be too short for both targets.
    assert {point.tags["target"] for point in points[-4:]} == {"127.0.0.1", "127.0.0.2"}


def test_a_stop_during_a_change_loses_nothing_and_leaves_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, go_on = threading.Event(), threading.Event()
    real = resolve_all

    def slowly(asked: Any, known: Any) -> Hosts:
        building.set()
        assert go_on.wait(DEADLINE_S)
        return real(asked, known)

    changes: list[asyncio.Task[None]] = []

    async def work() -> None:
        monkeypatch.setattr(probe.measurement, "resolve_all", slowly)
        changes.append(asyncio.create_task(agent._replace(None)))
        await until(building.is_set, "a new engine is being made")
        asyncio.get_running_loop().call_later(0.01, go_on.set)  # after the stop, which follows at once

    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    drive(agent, work)
    histogram = sum(int(p.fields["count"]) for p in spooled(tmp_path) if p.measurement == "probe_histogram")
    assert histogram == sum(int(p.fields["received"]) for p in probes(tmp_path)) > 0


def test_counters_only_grow_while_settings_change(tmp_path: Path) -> None:
    one = settings(tmp_path, "127.0.0.1")

    async def work() -> None:
        for _ in range(3):
            agent._runs[-1].measurement.engine.counters.late_ticks += 100
            known = agent.spool.last
            await agent._replace(one)
            await until(lambda known=known: agent.spool.last > known + 2, "it measures on")  # type: ignore[misc]

    agent = Agent(one, "agent.toml")
    drive(agent, work)
    late = [int(head.fields["late_ticks"]) for head in heads(tmp_path)]
    assert late == sorted(late)
    assert late[-1] >= 300


def test_an_engine_that_has_ended_holds_no_memory(tmp_path: Path) -> None:
    """Its buffers are megabytes, and the garbage collector may not come for hours."""
    one = settings(tmp_path, "127.0.0.1")

    async def work() -> None:
        gc.disable()
        try:
            ledger = weakref.ref(agent._runs[-1].measurement.engine.channels[0].ledger)
            await agent._replace(one)
            await until(lambda: ledger() is None, "its ledger is gone")
        finally:
            gc.enable()

    agent = Agent(one, "agent.toml")
    drive(agent, work)


def test_the_status_says_which_settings_are_in_force(tmp_path: Path) -> None:
    one, two = settings(tmp_path, "127.0.0.1"), settings(tmp_path, "127.0.0.1", "127.0.0.2")

    async def work() -> None:
        assert agent.uplink.settings_sha256 == digest(one)
        await agent._replace(two)
        assert agent.uplink.settings_sha256 == digest(two) != digest(one)

    agent = Agent(one, "agent.toml")
    drive(agent, work)


def test_a_name_is_tried_again_and_a_socket_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where IPv6 is switched off its targets have addresses all the same: trying again would never end."""

    def no_ipv6(options: Any) -> Any:
        if options.family == resolve("::1").family:
            raise SocketError("cannot open an IPv6 probe socket: Address family not supported by protocol")
        return open_icmp(options)

    answers: dict[str, Address | ResolveError] = {"gateway.invalid": ResolveError("no name server")}
    asked: list[set[str]] = []

    def ask(hosts: Any, _known: Any) -> Hosts:
        asked.append({host for host, _ in hosts})
        return {(host, 0): answers.get(host) or resolve(host) for host in asked[-1]}

    monkeypatch.setattr(probe.kinds, "open_icmp", no_ipv6)
    monkeypatch.setattr(probe.measurement, "resolve_all", ask)
    monkeypatch.setattr(probe.naming, "resolve_all", ask)
    monkeypatch.setattr(probe.naming, "EVERY_S", 0.01)
    everything = {"127.0.0.1", "::1", "gateway.invalid"}

    async def work() -> None:
        await until(lambda: len(asked) > 5, "names are asked for")
        assert asked[0] == everything
        assert all(hosts == {"gateway.invalid"} for hosts in asked[1:])
        first = agent._runs[0]
        answers["gateway.invalid"] = resolve("127.0.0.3")
        await until(lambda: first not in agent._runs, "it is measured")
        assert [missing.target.name for missing in agent._runs[-1].measurement.unmeasured] == ["::1"]
        current, known = agent._runs[-1], agent.spool.last
        await until(lambda: agent.spool.last > known + 3, "it measures on")
        assert agent._runs[-1] is current
        assert all(hosts == {"gateway.invalid"} for hosts in asked[1:] if hosts != everything)

    agent = Agent(settings(tmp_path, *sorted(everything)), "agent.toml")
    drive(agent, work)


def test_a_name_that_is_measured_stays_so_when_name_servers_fall_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings(tmp_path, "gateway.invalid")
    answer: list[Address | ResolveError] = [resolve("127.0.0.3")]
    monkeypatch.setattr(probe.measurement, "resolve_all", lambda asked, _: dict.fromkeys(asked, answer[0]))

    async def work() -> None:
        answer[0] = ResolveError("no name server")
        await agent._replace(one)
        assert agent._runs[-1].measurement.unmeasured == []

    agent = Agent(one, "agent.toml")
    drive(agent, work)


def test_what_is_not_measured_is_told_once_however_often_settings_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings(tmp_path, "127.0.0.1", "gateway.invalid")
    answers: Hosts = {
        ("127.0.0.1", 0): resolve("127.0.0.1"),
        ("gateway.invalid", 0): ResolveError("no name server"),
    }
    monkeypatch.setattr(
        probe.measurement, "resolve_all", lambda asked, _: {host: answers[host] for host in asked}
    )

    async def work() -> None:
        await agent._replace(one)
        await agent._replace(one)
        answers["gateway.invalid", 0] = ResolveError("no such name")
        await agent._replace(one)

    agent = Agent(one, "agent.toml")
    drive(agent, work)
    texts = [str(event.fields["text"]) for event in events(tmp_path, "unreachable")]
    assert [text.rpartition(": ")[2] for text in texts] == ["no name server", "no such name"]


def test_a_name_that_moves_is_an_event_and_is_measured_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_at: dict[Asked, Address] = {("gateway.invalid", 0): resolve("127.0.0.3")}

    def answer(asked: Any, _known: Any) -> Hosts:
        return {one: now_at[one] for one in asked}

    monkeypatch.setattr(probe.measurement, "resolve_all", answer)
    monkeypatch.setattr(probe.naming, "resolve_all", answer)
    monkeypatch.setattr(probe.naming, "EVERY_S", 0.01)

    async def work() -> None:
        first = agent._runs[-1]
        now_at["gateway.invalid", 0] = resolve("127.0.0.4")
        await until(lambda: first not in agent._runs, "it is measured anew")
        current, known = agent._runs[-1], agent.spool.last
        assert current.measurement.addresses == now_at
        await until(lambda: agent.spool.last > known + 3, "it measures on")
        assert agent._runs == [current]  # once

    agent = Agent(settings(tmp_path, "gateway.invalid"), "agent.toml")
    drive(agent, work)
    (event,) = events(tmp_path, "address")
    assert event.tags["target"] == "gateway.invalid"
    assert event.fields["text"] == "gateway.invalid is 127.0.0.4 now, and was 127.0.0.3"
    assert all(point.fields["lost"] == 0 for point in probes(tmp_path))


def test_settings_whose_code_cannot_be_read_any_more_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # An agent that has become another user imports what new settings need, where only root may read.
    def unreadable(*_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError("No module named 'multiprocessing'")

    async def work() -> None:
        monkeypatch.setattr("probe.agent.build", unreadable)
        monkeypatch.setattr("probe.agent.load_agent", lambda _: one)
        agent.reload()
        stays = "settings not reloaded, the old ones stay: No module named 'multiprocessing'"
        await until(lambda: stays in caplog.text, "it says so")
        known = agent.spool.last
        await until(lambda: agent.spool.last > known + 3, "it measures on")

    one = settings(tmp_path, "127.0.0.1")
    agent = Agent(one, "agent.toml")
    drive(agent, work)


def test_a_part_that_fails_is_told_of_and_everything_else_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_watch: Any) -> None:
        raise ZeroDivisionError("a defect")

    async def work() -> None:
        await until(lambda: "host watch has ended by a defect" in caplog.text, "it says so")
        known = agent.spool.last
        await until(lambda: agent.spool.last > known + 3, "it measures on")

    monkeypatch.setattr("probe.host_watch.HostWatch.run", broken)
    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    drive(agent, work)
    [event] = [e.fields for e in events(tmp_path, "agent") if "defect" in str(e.fields["text"])]
    assert event["detail"] == '{"part":"host watch"}'


def test_lines_that_cannot_be_spooled_to_the_end_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_make: Any) -> int:
        raise SpoolError("the disk is gone")

    async def work() -> None:
        monkeypatch.setattr(agent.spool, "append", broken)

    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    with pytest.raises(SpoolError, match=r"[0-9]+ bytes of lines are lost: the disk is gone"):
        drive(agent, work)


def test_lines_that_were_let_go_are_published(tmp_path: Path) -> None:
    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    agent.prepare()
    try:
        agent._outgoing.batcher.dropped, agent._outgoing.batcher.oversized = 3, 1
        assert "lines_dropped=3i,lines_oversized=1i," in agent._outgoing.head(1)
    finally:
        agent.close()


def test_a_damaged_spool_is_an_event_and_the_agent_goes_on(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite3").write_bytes(b"no database" * 1000)

    async def work() -> None:
        await until(lambda: agent.spool.depth > 2, "windows")

    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    drive(agent, work)
    (event,) = events(tmp_path, "agent")
    assert event.tags["agent"] == "a"
    assert event.fields["text"] == "the spool was damaged and was set aside as spool.sqlite3.corrupt-1"
    assert json.loads(str(event.fields["detail"])) == {"what": "spool_damaged", "phase": "begun", "count": 1}
    uplink = ("published", "republished", "acknowledged", "reconnects", "bad_acks")
    assert [heads(tmp_path)[-1].fields[name] for name in uplink] == [0] * 5


def test_a_clock_set_back_holds_no_line_at_the_old_time(tmp_path: Path) -> None:
    clock = ManualClock()
    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml", clock)
    agent.prepare()

    def head() -> int:
        return int(agent._outgoing.head(1).rpartition(" ")[2])

    try:
        first = head()
        assert (first, head()) == (clock.wall_ns, clock.wall_ns + 1)
        clock.step(-MILLISECOND)
        assert head() == first + 2
        clock.step(-3600 * SECOND)
        assert head() == clock.wall_ns < first
    finally:
        agent.close()


@pytest.mark.root
def test_only_a_folder_that_is_made_is_given_away(tmp_path: Path) -> None:
    """`state_dir` may be a folder that others use too, or a mistake."""
    probe.preparing.own_state_dir(tmp_path, "nobody", "agent.toml")
    assert tmp_path.stat().st_uid == 0
    made = tmp_path / "parent" / "state"
    probe.preparing.own_state_dir(made, "nobody", "agent.toml")
    assert made.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert made.parent.stat().st_uid == 0


def test_more_text_at_once_than_is_held_is_spooled_whole(tmp_path: Path) -> None:
    agent = Agent(settings(tmp_path, "127.0.0.1"), "agent.toml")
    count = 2 * HOLD // 200
    lines = [f'event,agent=a,kind=text text="{"x" * 200}" {n}' for n in range(count)]

    async def work() -> None:
        agent._queue.put_nowait((lambda: lines, 0))
        await agent._queue.join()

    drive(agent, work)
    assert agent._outgoing.batcher.dropped == 0
    times = [point.time_ns for point in events(tmp_path, "text")]
    assert times == list(range(count))
