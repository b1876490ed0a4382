"""Agents with an hour of windows each and a database that comes back in; what everybody held meanwhile, how
soon the newest windows are in it, and how long the rest takes, out.

    python -m benchmarks.backlog                      five agents, 360 windows of 200 lines
    python -m benchmarks.backlog --agents 20 --lines 400 --json FILE

Real spools and uplinks, mosquitto, a collector's process and InfluxDB. The hour is in the windows' times:
they are made as fast as the disk takes them, while the database is away. Before it comes back every agent's
pauses are what they are after an hour: a minute. Exit status: 0 the bars are met, 1 they are not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.processes import memory_bytes
from benchmarks.report import Bar
from probe.clock import SECOND, ManualClock, SystemClock
from probe.outgoing import Outgoing
from probe.settings import MqttTable, UplinkTable
from probe.telemetry.outbox import LAST_PAUSE_NS
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink
from probe.units import Duration
from tests.system.collecting import CollectorProcess
from tests.system.servers import Influx, influxdb, mosquitto

WINDOW = 10 * SECOND
LIVE_S = 5.0  # the bar: until the newest windows are in the database that has just come back
SPOOL_BYTES = 512 << 20
LIVE_DEADLINE_S = 30.0  # nobody who waits for the end of a pause of a minute makes it
_DEADLINE_S = 600.0


@dataclass
class Outcome:
    """What was seen. Bytes are resident memory; `away`: while there was no database."""

    agents: int
    windows: int  # of each
    published_away: int = 0  # batches, all agents together
    most_in_flight: int = 0  # of one agent, away
    in_flight_narrow: int = 0  # of one agent, once it had noticed
    broker_before: int = 0
    broker_away: int = 0
    broker_peak: int = 0
    collector_before: int = 0
    collector_away: int = 0
    collector_peak: int = 0
    live_s: list[float] = field(default_factory=list)  # from when the database serves, for each agent
    live_place: list[int] = field(default_factory=list)  # of that window among all that were acknowledged
    drained_s: float = 0.0
    published: int = 0
    in_database: list[int] = field(default_factory=list)  # batch numbers of each agent that are there
    twice: int = 0  # of them, more than once
    missing: int = 0


class Ordered(Spool):
    """A spool that remembers in which order its batches were acknowledged."""

    def __init__(self, path: Path) -> None:
        self.order: list[int] = []
        super().__init__(path, SPOOL_BYTES)

    def forget(self, ranges: Iterable[tuple[int, int]], of: str = "") -> int:
        ranges = list(ranges)
        self.order += (number for low, high in ranges for number in range(low, high + 1))
        return super().forget(ranges, of)


class Site:
    """One agent: all of it but the engine, with a clock for its windows that is moved by hand."""

    def __init__(self, name: str, directory: Path, mqtt_port: int, lines: int, ack_timeout: str) -> None:
        self.name, self._lines = name, lines
        self.spool = Ordered(directory / name / "spool.sqlite3")
        self.clock = ManualClock()
        self._outgoing = Outgoing(self.spool, f"agent,agent={name}", self.clock, dict)
        self.uplink = Uplink(
            agent=name,
            mqtt=MqttTable(url=f"mqtt://127.0.0.1:{mqtt_port}"),
            uplink=UplinkTable(ack_timeout=Duration.parse(ack_timeout)),
            spool=self.spool,
            clock=SystemClock(),
            password=None,
            version="0",
            settings_sha256="",
        )

    @property
    def in_flight(self) -> int:
        return self.uplink._outbox.in_flight

    def window(self, wall_ns: int) -> None:
        """Spool a window that began then."""
        self.clock.wall_ns = wall_ns
        self._outgoing.store(
            f"probe,agent={self.name},target=gateway-{n},kind=icmp sent=100i,received=100i,lost=0i,loss=0,"
            f"rtt_min_ns={random.randrange(10**6)}i,rtt_p50_ns={random.randrange(10**6)}i,"
            f"rtt_p99_ns={random.randrange(10**7)}i,rtt_max_ns={random.randrange(10**8)}i {wall_ns}"
            for n in range(self._lines)
        )
        self.uplink.wake()

    def as_after_an_hour(self) -> None:
        """The next pause is the longest one."""
        self.uplink._outbox._pause = LAST_PAUSE_NS


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll until it holds. Raises: TimeoutError."""
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"never happened: {what}")
        await asyncio.sleep(0.01)


async def scenario(
    directory: Path,
    *,
    agents: int = 5,
    windows: int = 360,
    lines: int = 200,
    ack_timeout: str = "1s",
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """An hour without the database, its return, and all that follows. Raises: TimeoutError."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        influx = stack.enter_context(influxdb(directory))
        influx.create_database("coloprobe")
        collector = CollectorProcess(
            directory,
            f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\n'
            f'[influx]\nurl = "http://127.0.0.1:{influx.port}"\napi = "v1"\n',
        )
        stack.callback(collector.kill)
        await asyncio.to_thread(collector.start)
        sites = [Site(f"site-{n}", directory, broker.port, lines, ack_timeout) for n in range(agents)]
        for site in sites:
            stack.callback(site.spool.close)
        running = [asyncio.create_task(site.uplink.run()) for site in sites]
        try:
            outcome = Outcome(agents, windows)
            await _away(outcome, sites, broker.pid, collector.pid, influx, say)
            await _back(outcome, sites, influx, say)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        outcome.broker_peak = memory_bytes(broker.pid)["VmHWM"]
        outcome.collector_peak = memory_bytes(collector.pid)["VmHWM"]
        outcome.published = sum(site.uplink.published for site in sites)
        _count(outcome, sites, influx)
        return outcome


async def _away(
    outcome: Outcome,
    sites: list[Site],
    broker: int,
    collector: int,
    influx: Influx,
    say: Callable[[str], None],
) -> None:
    now = time.time_ns() // WINDOW * WINDOW
    first = now - (outcome.windows - 1) * WINDOW
    for site in sites:  # while all is well
        await asyncio.to_thread(site.window, first)
    await until(lambda: not any(site.spool.depth for site in sites), "the first window is acknowledged")
    outcome.broker_before = memory_bytes(broker)["VmRSS"]
    outcome.collector_before = memory_bytes(collector)["VmRSS"]
    influx.kill()
    before = sum(site.uplink.published for site in sites)
    say(f"the database is away, and {len(sites)} agents spool {outcome.windows} windows each")
    seen: list[asyncio.Task[None]] = []

    async def watch(site: Site) -> None:
        while True:
            outcome.most_in_flight = max(outcome.most_in_flight, site.in_flight)
            await asyncio.sleep(0.002)

    def fill(site: Site) -> None:
        for window in range(1, outcome.windows - 1):
            site.window(first + window * WINDOW)

    try:
        seen = [asyncio.create_task(watch(site)) for site in sites]
        await asyncio.gather(*(asyncio.to_thread(fill, site) for site in sites))
        await until(lambda: all(site.uplink.state == "unacknowledged" for site in sites), "all notice")
    finally:
        for task in seen:
            task.cancel()
    for site in sites:
        site.as_after_an_hour()
    goals = [site.uplink.published + 1 for site in sites]
    pairs = list(zip(sites, goals, strict=True))
    await until(lambda: all(site.uplink.published >= goal for site, goal in pairs), "a last try of each")
    outcome.in_flight_narrow = max(site.in_flight for site in sites)
    outcome.published_away = sum(site.uplink.published for site in sites) - before
    outcome.broker_away = memory_bytes(broker)["VmRSS"]
    outcome.collector_away = memory_bytes(collector)["VmRSS"]


async def _back(outcome: Outcome, sites: list[Site], influx: Influx, say: Callable[[str], None]) -> None:
    await asyncio.to_thread(influx.start)
    began = time.monotonic()
    live = time.time_ns()
    for site in sites:
        await asyncio.to_thread(site.window, live)
    arrived: dict[str, float] = {}
    while len(arrived) < len(sites):
        rows = await asyncio.to_thread(
            influx.query, f"SELECT count(batch) FROM agent WHERE time >= {live} GROUP BY agent"
        )
        for row in rows:
            arrived.setdefault(row["agent"], time.monotonic() - began)
        if time.monotonic() - began > LIVE_DEADLINE_S:
            raise TimeoutError("the newest windows never arrive")
    outcome.live_s = sorted(round(seconds, 3) for seconds in arrived.values())
    waiting = sum(site.spool.depth for site in sites)
    say(f"the newest windows are there after {outcome.live_s[-1]:.2f} s; {waiting} batches wait")
    await until(lambda: not any(site.spool.depth for site in sites), "all of it is acknowledged")
    outcome.drained_s = round(time.monotonic() - began, 3)
    # The window from before the outage was acknowledged first.
    outcome.live_place = [site.spool.order.index(site.spool.last) - 1 for site in sites]


def _count(outcome: Outcome, sites: list[Site], influx: Influx) -> None:
    for site in sites:
        rows = influx.query(f"SELECT batch FROM agent WHERE agent = '{site.name}'")
        numbers = [row["batch"] for row in rows]
        outcome.in_database.append(len(numbers))
        outcome.twice += len(numbers) - len(set(numbers))
        outcome.missing += len(set(range(1, site.spool.last + 1)) - set(numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backlog", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--agents", type=int, default=5, metavar="N")
    parser.add_argument("--windows", type=int, default=360, metavar="N")
    parser.add_argument("--lines", type=int, default=200, metavar="N", help="of each window")
    parser.add_argument("--ack-timeout", default="30s", metavar="DURATION")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        outcome = asyncio.run(
            scenario(
                Path(scratch),
                agents=options.agents,
                windows=options.windows,
                lines=options.lines,
                ack_timeout=options.ack_timeout,
                say=lambda text: print(text, flush=True),
            )
        )
    total = sum(outcome.in_database)
    print(
        f"{total} batches, {total * options.lines} lines, all there after {outcome.drained_s:.1f} s: "
        f"{total * options.lines / outcome.drained_s:,.0f} lines/s\n"
        f"published {outcome.published} times; away {outcome.published_away / outcome.agents:.1f} an agent, "
        f"at most {outcome.most_in_flight} in flight\n"
        f"broker {outcome.broker_before / 1e6:.1f} MB, away {outcome.broker_away / 1e6:.1f}, peak "
        f"{outcome.broker_peak / 1e6:.1f}; collector {outcome.collector_before / 1e6:.1f} MB, away "
        f"{outcome.collector_away / 1e6:.1f}, peak {outcome.collector_peak / 1e6:.1f}"
    )
    bars = [
        Bar("newest windows in the database, s after it serves", [outcome.live_s[-1]], LIVE_S),
        Bar("batches missing", [outcome.missing], 0),
        Bar("batches there twice", [outcome.twice], 0),
    ]
    for bar in bars:
        print(bar)
    if options.json:
        document = asdict(outcome) | {"lines": options.lines, "ack_timeout": options.ack_timeout}
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0 if all(bar.met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
