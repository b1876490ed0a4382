"""A kernel that tells, refuses or is slow in, events and lines of the host watch out."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from probe import host_watch
from probe.clock import SECOND, ManualClock, SystemClock
from probe.host.clock import ClockState
from probe.host.counters import Softnet
from probe.host.listener import Listener
from probe.host.watched import Watched
from probe.host_watch import MOST_INTERFACES, HostWatch
from probe.settings_tables import HostTable
from probe.telemetry.lines import Point, parse
from probe.telemetry.schema import INTERFACE
from probe.units import Duration
from tests.unit.probe.host.kernel import link, read, route

EVERY = SECOND // 20
HERE = [Watched("here", "", "", "127.0.0.1", 9)]


class Told:
    def __init__(self) -> None:
        self.tags: Mapping[str, str] = {"agent": "a", "site": "s"}
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.points: list[Point] = []

    def event(self, kind: str, text: str, **more: Any) -> None:
        self.events.append((kind, text, more.get("detail") or {}))

    def lines(self, lines: Sequence[str]) -> None:
        self.points += [parse(line) for line in lines]

    def of_interfaces(self) -> list[Point]:
        return [point for point in self.points if point.tags["interface"] != "host"]

    def texts(self) -> list[str]:
        return [text for _, text, _ in self.events]


def watched(
    told: Told,
    until: Callable[[HostWatch], bool],
    table: HostTable | None = None,
    state: Callable[[], ClockState] = lambda: ClockState(True, 1),
) -> HostWatch:
    """Of this very host, for as long as it takes."""

    async def main() -> HostWatch:
        watch = HostWatch(table or HostTable(), EVERY, told, SystemClock(), lambda: HERE, state)
        running = asyncio.create_task(watch.run())
        end = time.monotonic() + 60
        try:
            while not until(watch):
                assert not running.done(), running
                assert time.monotonic() < end, (told.events, told.points)
                await asyncio.sleep(0.01)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return watch

    return asyncio.run(main())


def test_a_host_that_is_quiet_has_counters_and_no_events() -> None:
    told = Told()
    watched(told, lambda _: len(told.points) > 2)
    assert {point.measurement for point in told.points} == {"interface"}
    kinds = {field.name: field.kind for field in INTERFACE.fields}
    for point in told.points:
        assert (point.tags["agent"], point.tags["site"]) == ("a", "s")
        assert {name: kinds[name] for name in point.fields} == {
            name: type(value).__name__ for name, value in point.fields.items()
        }
    assert "lo" not in {point.tags["interface"] for point in told.points}


def test_the_clock_is_told_of_when_it_loses_and_finds_its_master() -> None:
    told = Told()
    states = iter([True, True, False, False])
    watched(
        told,
        lambda _: len(told.events) >= 2,
        HostTable(watch=False, counters=Duration(0), sessions=False),
        lambda: ClockState(next(states, True), 7_000),
    )
    assert told.events == [
        (
            *("clock", "the kernel calls the wall clock synchronised no more"),
            {"what": "synchronised", "after": False, "error_ns": 7_000},
        ),
        (
            *("clock", "the kernel calls the wall clock synchronised again"),
            {"what": "synchronised", "after": True, "error_ns": 7_000},
        ),
    ]
    assert told.points == []


def test_a_backlog_that_is_full_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    counts = iter([Softnet(100, 7, 0), Softnet(200, 7, 0), Softnet(300, 19, 0)])
    monkeypatch.setattr(host_watch, "softnet", lambda: next(counts, Softnet(400, 19, 0)))
    watched(
        told,
        lambda _: any(point.fields.get("softnet_packets") == 400 for point in told.points),
        HostTable(watch=False),  # nothing else that happens to this host
    )
    assert told.texts() == ["the kernel dropped 12 received packets: the backlog of a processor was full"]


def test_what_is_refused_is_said_once_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()

    def refused(*_: object) -> Any:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(host_watch, "Listener", refused)
    monkeypatch.setattr(host_watch, "Connections", refused)
    watch = watched(told, lambda _: len(told.points) > 3)
    assert sorted(told.texts()) == [
        "links and routes are not watched: netlink is refused (Operation not permitted)",
        "sessions are not read: the kernel refuses inet_diag (Operation not permitted)",
    ]
    assert {point.tags["interface"] for point in told.points} == {"host"}
    assert not watch.listening


def test_a_defect_ends_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    told = Told()

    def broken() -> Softnet:
        raise ZeroDivisionError

    monkeypatch.setattr(host_watch, "softnet", broken)
    watched(told, lambda _: caplog.text.count("the host cannot be read; tried again") > 2)


def test_a_driver_that_is_slow_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    asked: list[str] = []

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        def speed(self) -> int:
            return 10**9

        def drops(self) -> tuple[int, int]:
            asked.append(self.name)
            monkeypatch.setattr(SystemClock, "mono", lambda _: time.monotonic_ns() + len(asked) * SECOND)
            return 1, 2

    monkeypatch.setattr(host_watch, "Driver", Slow)
    watched(told, lambda watch: len(told.of_interfaces()) > 3 * max(1, len(watch.links())))
    assert len(asked) == len(set(asked))


def test_interfaces_that_lead_to_targets_come_first() -> None:
    watch = HostWatch(HostTable(), EVERY, Told(), SystemClock(), lambda: [Watched("t", "", "", "10.60.0.7")])
    rows = [link(n, f"veth{n}", veth=1) for n in range(2, 60)] + [link(n, f"eth{n}") for n in range(60, 99)]
    rows += [link(99, "down0", up=0, carrier=0), route("10.60.0.0/16", "10.99.0.2", index=50)]
    read(watch._picture, *rows)
    names = [str(row["interface"]) for row in watch.links()]
    assert names == ["veth50", *(f"eth{n}" for n in range(60, 60 + MOST_INTERFACES - 1))]


def test_a_sooner_date_moves_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows under way have ten seconds; what is found out meanwhile need not wait for that."""
    called: list[int] = []
    dates = iter([10 * SECOND, SECOND // 20, 10 * SECOND])
    monkeypatch.setattr(
        Listener, "next", property(lambda self: time.monotonic_ns() + next(dates, 10 * SECOND))
    )
    monkeypatch.setattr(Listener, "due", lambda self, now: called.append(now))
    began = time.monotonic_ns()
    watched(Told(), lambda _: bool(called), HostTable(sessions=False))
    assert called[0] - began < 9 * SECOND


def test_a_wall_clock_that_is_slowed_down_brings_no_second_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer goes by the other clock, and wakes before the hour."""
    clock = ManualClock(wall_ns=1_700_000_000 * SECOND + SECOND // 3)
    read_at: list[int] = []

    async def sleep(seconds: float) -> None:
        clock.wall_ns += round(seconds * SECOND * 0.995)

    async def work() -> None:
        read_at.append(clock.wall_ns)
        if len(read_at) == 20:
            raise asyncio.CancelledError

    watch = HostWatch(HostTable(), EVERY, Told(), clock, lambda: HERE)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch._keep(10 * SECOND, work))
    assert [round(at / (10 * SECOND)) for at in read_at] == list(range(170_000_001, 170_000_021))
