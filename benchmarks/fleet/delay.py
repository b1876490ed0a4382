"""Windows that end in, how long until a query of the database answers with them out: parts [d] and [e].

From the instant at which a window's batch is there at its agent (a real agent closes a window when its last
probe is answered or timed out) to the instant at which a client holds the answer to a query that has it in.
Batches are rendered before, the database knows the series already, and the first window is not counted.

Three fleets: real uplinks whose windows end one after the other; all windows ending at the same instant, sent
by the pump over as many connections, because a thousand hosts hand over at once what a simulator of real
uplinks takes a second for; and a tenth of the agents with windows of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import trend
from benchmarks.fleet.database import fill
from benchmarks.fleet.player import Fleet, Phase
from benchmarks.fleet.pool import Pool, name, render
from benchmarks.fleet.pump import Pump
from benchmarks.fleet.rig import DATABASE, Meter, Rig, database, peak_bytes, process_of, rig
from benchmarks.fleet.setup import Setup, quantile
from benchmarks.measure import BenchmarkError
from benchmarks.report import Bar
from tests.system.servers import Influx

MOST_S = 1.0
MOST_BYTES = 150e6
WATCHED = 25  # agents whose batches are asked for
PATIENCE_S = 120.0
BEFORE_S = 3600.0  # how much older those lines are from which the database knows the series

Times = Mapping[tuple[str, int], list[int]]  # of (agent, number): due, sent, acknowledged; monotonic ns


@dataclass(frozen=True)
class Round:
    """What is played: `windows` that count, after one that does not.

    real: by uplinks, else by the pump. thrown: into a server that throws away: the fan-in alone is seen.
    """

    name: str
    agents: int
    window_s: float
    windows: int
    spread: bool
    real: bool
    thrown: bool = False


@dataclass
class Delays:
    """One run, in seconds from a window's end; `answered` of the watched agents, the others of all."""

    name: str
    agents: int
    lines_per_s: float
    sent: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    cores: dict[str, float] = field(default_factory=dict)
    poll_ms: float = 0.0
    polls_per_s: float = 0.0
    poll_cores: float = 0.0
    complaints: list[str] = field(default_factory=list)


class Watch:
    """`benchmarks.fleet.watch` beside a run: what it saw, and what its asking cost."""

    def __init__(self, influx: Influx | None, agents: list[str], every_ms: int) -> None:
        self._idle = influx is None
        port = influx.port if influx else 0
        self.seen: dict[tuple[str, int], int] = {}
        self.took_ns: list[int] = []
        self._argv = [
            sys.executable, "-m", "benchmarks.fleet.watch", str(port), DATABASE, str(every_ms), *agents
        ]  # fmt: skip

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """It looks for the length of the block; nothing where there is no database."""
        if self._idle:
            yield
            return
        with process_of(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield
            output, _ = process.communicate(timeout=PATIENCE_S)  # closes its standard input, which ends it
            found: dict[str, Any] = json.loads(output)
        self.took_ns += found["took_ns"]
        for agent, number, at in found["seen"]:
            self.seen.setdefault((agent, number), at)


def rounds(setup: Setup) -> list[Round]:
    """What [d] plays."""
    whole = setup.agents, setup.size.window_s, setup.size.windows
    tenth = max(1, setup.agents // 10)
    short = f"{tenth} agents, 1 s, all at once"
    return [
        Round("windows end in turn, real uplinks", *whole, spread=True, real=True),
        Round("all windows end at once", *whole, spread=False, real=False),
        Round("the same, lines thrown away", *whole, spread=False, real=False, thrown=True),
        Round(short, tenth, 1.0, setup.size.short_windows, spread=False, real=False),
    ]


def delay(setup: Setup) -> None:
    """[d] From a window's end to a query's answer; [e] the collector's memory meanwhile."""
    report, size = setup.report, setup.size
    rate = setup.agents * (setup.targets + 1) / size.window_s
    report.say(
        f"\n[d] from a window's end to a query's answer, seconds; {rate:,.0f} lines/s into InfluxDB 1.6 on "
        "the same machine"
    )
    runs: list[Delays] = []
    memory: dict[str, tuple[list[tuple[float, int]], int]] = {}
    for number, part in enumerate(rounds(setup)):
        report.progress(f"  [d] {part.name}")
        folder = setup.scratch / f"delay-{number}"
        try:
            found, memory[part.name] = _round(setup, folder, part)
            runs.append(found)
        except BenchmarkError as problem:
            report.say(f"  {part.name} is not measured: {problem}")
            report.bars.append(Bar(_what(part.name), [], MOST_S))
    if not runs:
        raise BenchmarkError("nothing of it could be measured")
    _say(setup, runs)
    _say_memory(setup, memory)


def _what(name: str) -> str:
    return f"[d] {name}: p99 until a query's answer, s"


def _round(setup: Setup, folder: Path, part: Round) -> tuple[Delays, tuple[list[tuple[float, int]], int]]:
    """One round on servers of its own; and its collector's memory: readings (seconds, bytes), peak."""
    with contextlib.ExitStack() as stack:
        influx = None
        if not part.thrown:
            influx = stack.enter_context(database(folder))
            fill(influx, folder, _pool(setup, part, 1, before_s=BEFORE_S))
        made = stack.enter_context(rig(folder, into=influx))
        found, readings = _run(setup, made, part)
        found.complaints = made.complaints()
        return found, (readings, peak_bytes(made.collectors[0].pid))


def _run(setup: Setup, made: Rig, part: Round) -> tuple[Delays, list[tuple[float, int]]]:
    """Play, look, and put together what was seen."""
    names = [name("fleet", n) for n in range(part.agents)]
    # The first and the last of them too: where all come at once, one of them is served last.
    watched = sorted({*names[:: max(1, len(names) // WATCHED)], names[-1]})
    watch = Watch(made.influx, watched, setup.size.every_ms)
    play = (_real if part.real else _pumped)(setup, made, part)
    pids = {"collector": made.collectors[0].pid, **made.others}
    found = Delays(part.name, part.agents, part.agents * (setup.targets + 1) / part.window_s)
    with Meter(pids) as meter, watch.running():
        try:
            times = play()
        except BenchmarkError:
            made.check()  # may know why
            raise
        each = len(times) // (part.agents * (part.windows + 1))  # batches of a window
        if made.influx:
            _until_seen(made.influx, watched, (part.windows + 1) * each)
            time.sleep(4 * setup.size.every_ms / 1000)
    found.cores = {process: meter.share(process) for process in pids}
    for (agent, number), (due, sent, acknowledged) in times.items():
        if number <= each:
            continue
        found.sent.append(_seconds(sent - due))
        found.acknowledged.append(_seconds(acknowledged - due))
        if at := watch.seen.get((agent, number)):
            found.answered.append(_seconds(at - due))
    if made.influx:
        _cost_of_asking(setup, watch, found)
        wanted = len(watched) * part.windows * each
        if len(found.answered) < wanted:
            raise BenchmarkError(f"{len(found.answered)} of {wanted} batches were seen")
    return found, [(one.at_s, one.rss_bytes) for one in meter.readings["collector"]]


def _cost_of_asking(setup: Setup, watch: Watch, found: Delays) -> None:
    """What the queries take when there is nothing else.

    InfluxDB's processor time for them is less, and could not be told from its own tidying up.
    """
    before = len(watch.took_ns)
    with watch.running():
        time.sleep(setup.size.quiet_s)
    found.poll_ms = statistics.fmean(watch.took_ns[before:]) / 1e6
    found.polls_per_s = 1000 / max(setup.size.every_ms, found.poll_ms)
    found.poll_cores = found.poll_ms * found.polls_per_s / 1000


def _seconds(ns: int) -> float:
    return round(ns / 1e9, 4)


def _real(setup: Setup, made: Rig, part: Round) -> Callable[[], Times]:
    """A fleet of real uplinks that is rendered now and plays when it is called."""
    url, phase = f"mqtt://127.0.0.1:{made.broker.port}", _phase(part)
    fleet = Fleet(url, part.agents, setup.targets, part.window_s, phase=phase, ahead=part.windows + 1)

    async def play() -> Times:
        async with fleet:
            if not await fleet.connect():
                raise BenchmarkError("not all agents get a connection")
            await fleet.play(0.0)
            if not await fleet.settle(PATIENCE_S):
                raise BenchmarkError(f"{fleet.waiting} batches are not acknowledged")
            return fleet.times()

    return lambda: asyncio.run(play())


def _phase(part: Round) -> Phase:
    return "spread" if part.spread else "aligned"


def _pumped(setup: Setup, made: Rig, part: Round) -> Callable[[], Times]:
    """The same of the pump."""
    pool = _pool(setup, part, part.windows + 1)

    def play() -> Times:
        with Pump(made.broker.port, pool, connection_each=True) as pump:
            pump.windows(part.window_s, spread=part.spread)
            return pump.times

    return play


def _pool(setup: Setup, part: Round, windows: int, before_s: float = 0.0) -> Pool:
    """Windows that were over `before_s` seconds ago."""
    start = time.time_ns() - round(((windows + 1) * part.window_s + before_s) * 1e9)
    return render(part.agents, setup.targets, windows, window_s=part.window_s, start_ns=start)


def _until_seen(influx: Influx, watched: list[str], number: int) -> None:
    """Acknowledged is in the database: this is only to be sure that the last query could see it."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        rows = influx.query("select last(batch) as batch from agent group by agent", DATABASE)
        last = {row["agent"]: row["batch"] for row in rows}
        if all(last.get(agent, 0) >= number for agent in watched):
            return
        time.sleep(0.1)
    raise BenchmarkError("acknowledged batches are not in the database")


def _say(setup: Setup, runs: list[Delays]) -> None:
    report = setup.report
    rows = []
    for run in runs:
        for what, values in (
            ("sent", run.sent),
            ("acknowledged", run.acknowledged),
            ("answered", run.answered),
        ):
            if not values:
                continue
            shares = (f"{quantile(values, share):.3f}" for share in (0.5, 0.9, 0.99))
            cells = (what, *shares, f"{max(values):.3f}", f"{len(values):,}")
            rows.append((run.name if what == "sent" else "", cells))
    report.table(("fleet", "until", "p50", "p90", "p99", "max", "of"), rows)
    for run in runs:
        cores = ", ".join(f"{process} {used:.2f}" for process, used in run.cores.items())
        said = f"  {run.name}: {run.lines_per_s:,.0f} lines/s; cores: {cores}"
        if run.answered:
            said += (
                f"; {run.polls_per_s:.0f} queries/s of {run.poll_ms:.1f} ms, which take less than "
                f"{run.poll_cores:.2f} of InfluxDB's"
            )
            report.bars.append(Bar(_what(run.name), [quantile(run.answered, 0.99)], MOST_S))
        report.say(said)
        for complaint in run.complaints[:1]:
            report.say(f"    its collector complained {len(run.complaints)} times: {complaint[:200]}")
    report.data["delay"] = [asdict(run) for run in runs]


def _say_memory(setup: Setup, memory: dict[str, tuple[list[tuple[float, int]], int]]) -> None:
    report = setup.report
    report.say("\n[e] the collector's resident memory meanwhile")
    told = {}
    for title, (readings, peak) in memory.items():
        times, megabytes = [at for at, _ in readings], [rss / 1e6 for _, rss in readings]
        # The first window is a start: connections, and series that it has not met.
        at = trend.settled(times, setup.size.window_s * 2)
        report.say(f"  {title}: at its peak {peak / 1e6:.1f} MB; {trend.verdict(times[at:], megabytes[at:])}")
        told[title] = {"peak_bytes": peak, "megabytes": megabytes[:: max(1, len(megabytes) // 100)]}
    report.data["memory"] = told
    peak = max(one for _, one in memory.values())
    report.bars.append(Bar("[e] collector's memory at its peak, MB", [peak / 1e6], MOST_BYTES / 1e6))
