"""Numbers of agents in, what a line costs a collector out: parts [a] and [b] of the fleet's benchmark.

The collector writes to a server that throws everything away, so that what is measured is the collector. Its
processor time, of all its threads, is read when nothing is on its way, before and after a slot; every line
that was acknowledged between the two has been paid for by then, and nothing else.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from http.client import HTTPConnection

from benchmarks.fleet.pool import Pool, render
from benchmarks.fleet.pump import Pump
from benchmarks.fleet.rig import Meter, Sink, peak_bytes, rig
from benchmarks.fleet.setup import Setup
from benchmarks.processes import usage
from benchmarks.report import Bar

LINES_PER_CPU_S = 400_000
MOST_BYTES = 150e6
TICK_S = 0.01  # of the kernel's account of processor time
FLAT = 1.2  # cost per line of the whole fleet, of a tenth's
_OTHERS = "fleet", "broker", "sink 1"


@dataclass(frozen=True)
class Slot:
    """One slot of a saturated collector. `cpu_s`: user + system, all threads; `pump_cores` and the like: what
    the others used meanwhile."""

    agents: int
    lines: int
    batches: int
    payload_bytes: int
    cpu_s: float
    wall_s: float
    writes: int
    others: dict[str, float]

    @property
    def per_cpu_s(self) -> float:
        return self.lines / max(self.cpu_s, TICK_S)


def rate(setup: Setup) -> None:
    """[a] Lines per second of the collector's processor time, with a hundredth, a tenth and all of the
    agents."""
    report, size = setup.report, setup.size
    sizes = setup.sizes()
    pools = {f"{n:,}": _pool(setup, n, histograms=True) for n in sizes}
    largest = f"{sizes[-1]:,}"
    alone = f"{largest}, windows alone"
    pools[alone] = _pool(setup, sizes[-1])
    whole = pools[largest]
    report.say(
        f"\n[a] a saturated collector into a server that throws away; batches of {setup.targets} targets, "
        f"{whole.lines / len(whole.batches):.0f} lines and "
        f"{whole.payload_bytes / len(whole.batches) / 1e3:.1f} kB each on average: as agents send them, one "
        f"window of a minute with its histograms\n  {len(whole.batches)} different, "
        f"sent again under new numbers; {size.in_flight} on their way; {size.rounds} interleaved slots of "
        f"{size.slot_s:g} s"
    )
    slots: dict[str, list[Slot]] = {name: [] for name in pools}
    with rig(setup.scratch / "rate", profile=setup.profile) as made:
        collector = made.collectors[0].pid
        for _ in range(size.rounds):
            for name, pool in pools.items():
                report.progress(f"  [a] {name} agents")
                slots[name].append(
                    _slot(setup, pool, made.broker.port, collector, made.others, made.sinks[0])
                )
                made.check()
        peak = peak_bytes(collector)
        now = usage(collector).rss_bytes
    rows = []
    for name, mine in slots.items():
        values = [slot.per_cpu_s for slot in mine]
        cells = (
            f"{statistics.median(values):,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}",
            f"{statistics.median(1e6 / value for value in values):.2f}",
            f"{statistics.median(_ratios(mine, slots[largest])):.2f}",
            f"{statistics.median(slot.lines / slot.wall_s for slot in mine):,.0f}",
            f"{statistics.median(slot.cpu_s / slot.wall_s for slot in mine):.2f}",
            f"{statistics.median(slot.batches / max(1, slot.writes) for slot in mine):.1f}",
            *(f"{statistics.median(slot.others[other] for slot in mine):.2f}" for other in _OTHERS),
        )  # fmt: skip
        rows.append((name, cells))
    report.table(
        ("agents", "lines/cpu s", "min", "max", "us/line", f"of {largest}'s", "lines/s", "cores",
         "batches/write", "fleet's", "broker's", "sink's"), rows,
    )  # fmt: skip
    report.say(f"  collector's memory: {now / 1e6:.1f} MB, at its peak {peak / 1e6:.1f} MB")
    report.data["rate"] = {str(n): [asdict(slot) for slot in slots[f"{n:,}"]] for n in sizes}
    report.data["rate_windows_alone"] = [asdict(slot) for slot in slots[alone]]
    report.data["rate_memory"] = {"rss_bytes": now, "peak_bytes": peak}
    report.data["batch"] = {
        "lines": whole.lines / len(whole.batches),
        "payload_bytes": whole.payload_bytes / len(whole.batches),
        "text_bytes": statistics.fmean(len(text) for text, _ in zip(whole.texts(), range(100), strict=False)),
    }
    for name, mine in ((largest, slots[largest]), (alone, slots[alone])):
        what = f"[a] lines per second of processor time, {name} agents"
        report.bars.append(Bar(what, [slot.per_cpu_s for slot in mine], LINES_PER_CPU_S, at_least=True))
    if len(sizes) > 1:
        what = f"[a] cost of a line, {sizes[-1]:,} agents of {sizes[0]:,}'s"
        report.bars.append(Bar(what, _ratios(slots[f"{sizes[0]:,}"], slots[largest]), FLAT))
    report.bars.append(
        Bar("[a] collector's memory at its peak, saturated, MB", [peak / 1e6], MOST_BYTES / 1e6)
    )


def share(setup: Setup) -> None:
    """[b] Two collectors of one group: what each of them takes, and what a line costs them together."""
    report, size = setup.report, setup.size
    pool = _pool(setup, setup.agents)
    with rig(setup.scratch / "share", collectors=2, count=True) as made:
        pids = [process.pid for process in made.collectors]
        with Pump(made.broker.port, pool) as pump:
            pump.saturate(size.warm_s, size.in_flight)
            before, lines = [usage(pid) for pid in pids], [_taken(sink) for sink in made.sinks]
            sent = pump.lines
            pump.saturate(size.share_s, size.in_flight)
            after = [usage(pid) for pid in pids]
            took = [_taken(sink) - old for sink, old in zip(made.sinks, lines, strict=True)]
            sent = pump.lines - sent
        made.check()
    cpu = [b.cpu_s - a.cpu_s for a, b in zip(before, after, strict=True)]
    report.say("\n[b] two collectors of one group share the same load (their servers count the lines)")
    rows = [
        (
            f"fanin-{n}",
            (f"{lines:,}", f"{lines / max(1, sum(took)):.0%}", f"{lines / max(cpu_s, TICK_S):,.0f}"),
        )
        for n, (lines, cpu_s) in enumerate(zip(took, cpu, strict=True), 1)
    ]
    report.table(("collector", "lines", "share", "lines/cpu s"), rows)
    report.say(f"  {sent:,} lines were sent and acknowledged, {sum(took):,} are with the servers")
    report.data["share"] = {"sent": sent, "lines": took, "cpu_s": cpu}
    report.bars.append(
        Bar("[b] the smaller share of two collectors", [min(took) / max(1, sum(took))], 0.3, at_least=True)
    )


def stats(sink: Sink) -> dict[str, int]:
    """The tally of a discarding server."""
    connection = HTTPConnection("127.0.0.1", sink.port, timeout=30)
    try:
        connection.request("GET", "/stats")
        found: dict[str, int] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def _taken(sink: Sink) -> int:
    """Lines of agents that a counting server took."""
    tally = stats(sink)
    return tally["lines"] - tally["own_lines"]


def _pool(setup: Setup, agents: int, *, histograms: bool = False) -> Pool:
    setup.report.progress(f"  rendering batches of {agents} agents")
    windows = max(1, setup.size.pool // agents)
    window_s = setup.size.window_s
    start = time.time_ns() - round(windows * window_s * 1e9)  # none of them lies ahead
    return render(
        agents,
        setup.targets,
        windows,
        window_s=window_s,
        start_ns=start,
        prefix=f"{'rate' if histograms else 'alone'}{agents}",
        histograms=histograms,
    )


def _slot(setup: Setup, pool: Pool, port: int, collector: int, others: dict[str, int], sink: Sink) -> Slot:
    with Pump(port, pool) as pump:
        pump.saturate(setup.size.warm_s, setup.size.in_flight)
        time.sleep(0.1)  # acknowledged is not yet quiet
        lines, batches, payload = pump.lines, pump.acknowledged, pump.payload_bytes
        writes = stats(sink)["writes"]
        own = time.process_time()
        with Meter(others, 60.0) as meter:
            before = usage(collector)
            pump.saturate(setup.size.slot_s, setup.size.in_flight)
            after = usage(collector)
        wall = after.at_s - before.at_s
        return Slot(
            agents=pool.agents,
            lines=pump.lines - lines,
            batches=pump.acknowledged - batches,
            payload_bytes=pump.payload_bytes - payload,
            cpu_s=after.cpu_s - before.cpu_s,
            wall_s=wall,
            writes=stats(sink)["writes"] - writes,
            others={name: meter.share(name) for name in others}
            | {"fleet": (time.process_time() - own) / wall},
        )


def _ratios(few: list[Slot], many: list[Slot]) -> list[float]:
    """Cost per line with `many` agents by that with `few`, slot by slot."""
    return [a.per_cpu_s / b.per_cpu_s for a, b in zip(few, many, strict=True)]
