"""Figures of the fleet's benchmark in, docs/scaling.md's section `Measured` out, with a sizing table."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.fleet.rate import TICK_S
from benchmarks.fleet.rig import INFLUX_SETTINGS
from benchmarks.fleet.setup import quantile

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
BEGIN = "<!-- fleet:begin -->"
END = "<!-- fleet:end -->"
# Agents, targets of each, seconds of a window.
SIZES = ((10, 20, 10), (100, 100, 10), (1000, 200, 10), (100, 200, 1), (3000, 500, 10), (5000, 1000, 10))
LOAD = 0.5  # of a collector's or database's core: what is left takes up bursts, backlogs and a slower machine
BUSY = 10_000  # lines/s from which on what a database does for itself is not the most of it
_Figures = dict[str, Any]


def write_into(page: Path, data: _Figures) -> None:
    """Put the section between the page's two marks. Raises: ValueError where it has none."""
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n{section(data)}{END}{after}", encoding="utf-8")


def section(data: _Figures) -> str:
    """The section in Markdown; parts that were not measured are left out."""
    machine = data["machine"]
    lines = [
        "## Measured",
        "",
        f"`make fleet` on {machine['cores']} cores ({machine['processor']}, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB, kernel {machine['kernel']}, Python {machine['python']}), "
        f"{machine['date']}: everything, the simulated {data['agents']:,} agents and the database included, "
        "on this one machine. A line has all fields of an ICMP target. InfluxDB's settings are its own but "
        f"for {' and '.join(f'`{one}`' for one in INFLUX_SETTINGS)}: with its 25 MB so many series "
        "keep it busy with writing away a point or two of each.",
        "",
    ]
    for name, part in (("rate", _rate), ("share", _share), ("database", _database), ("delay", _delay)):
        if name in data:
            lines += [*part(data), ""]
    if "rate" in data and "batch" in data:
        lines += [*_sizing(data), ""]
    return "\n".join(lines)


def _rate(data: _Figures) -> Iterator[str]:
    yield (
        "A saturated collector, writing to a server that throws away; processor time of all its threads, "
        "read while nothing is on its way. Batches are rendered before and all differ; one window of a "
        "minute has its histograms with it, as agents send them: shorter lines than a window's. The last "
        "row is without."
    )
    yield ""
    yield "| agents | lines per second of processor time | µs a line | smallest and largest run |"
    yield "| --- | --- | --- | --- |"
    for agents, slots in data["rate"].items():
        values = [slot["lines"] / max(slot["cpu_s"], TICK_S) for slot in slots]
        yield (
            f"| {int(agents):,} | {statistics.median(values):,.0f} | {1e6 / statistics.median(values):.2f} | "
            f"{min(values):,.0f} to {max(values):,.0f} |"
        )
    alone = [slot["lines"] / max(slot["cpu_s"], TICK_S) for slot in data.get("rate_windows_alone", [])]
    if alone:
        yield (
            f"| {int(agents):,}, windows alone | {statistics.median(alone):,.0f} | "
            f"{1e6 / statistics.median(alone):.2f} | {min(alone):,.0f} to {max(alone):,.0f} |"
        )
    yield ""
    peaks = [data["rate_memory"], *data.get("memory", {}).values()]
    peak = max(one["peak_bytes"] for one in peaks)
    yield f"The collector never held more than {peak / 1e6:.0f} MB."


def _share(data: _Figures) -> Iterator[str]:
    first, second = (lines / sum(data["share"]["lines"]) for lines in data["share"]["lines"])
    yield f"Two collectors on one shared subscription took {first:.0%} and {second:.0%} of the lines."


def _database(data: _Figures) -> Iterator[str]:
    found = data["database"]
    straight = statistics.median(arm["lines"] / arm["seconds"] for arm in found["straight"])
    through = statistics.median(arm["lines"] / arm["seconds"] for arm in found["through"])
    way = found["straight"][0]["way"].removeprefix("straight, ") + " connections"
    yield (
        f"InfluxDB 1.6 on one core took {through:,.0f} lines/s through broker and collector, and "
        f"{straight:,.0f} lines/s of the same lines straight from a file ({way}): {through / straight:.0%}."
    )


def _delay(data: _Figures) -> Iterator[str]:
    yield (
        "From the instant at which an agent has a window's batch to that at which a client has the answer to "
        "a query with it in: all parts and the database on the same cores, the database knowing the series."
    )
    yield ""
    yield "| window's end to answer, s | lines/s | p50 | p99 | longest |"
    yield "| --- | --- | --- | --- | --- |"
    for run in data["delay"]:
        if not (values := run["answered"]):
            continue
        yield (
            f"| {run['name']} | {run['lines_per_s']:,.0f} | {quantile(values, 0.5):.3f} | "
            f"{quantile(values, 0.99):.3f} | {max(values):.3f} |"
        )


def _sizing(data: _Figures) -> Iterator[str]:
    """What sizes need, from the figures of the largest measured fleet."""
    slots = list(data["rate"].values())[-1]
    per_core = statistics.median(slot["lines"] / max(slot["cpu_s"], TICK_S) for slot in slots)
    batch = data["batch"]
    # Whatever used most of it: many series, or full bodies.
    per_line: list[float] = []
    if "database" in data:
        arms = data["database"]["through"]
        per_line.append(statistics.median(max(arm["influx_cpu_s"], TICK_S) / arm["lines"] for arm in arms))
    busy = [run for run in data.get("delay", []) if run["lines_per_s"] >= BUSY]
    per_line += [run["cores"]["InfluxDB"] / run["lines_per_s"] for run in busy if "InfluxDB" in run["cores"]]
    yield f"What this means for other fleets, with collectors and database at {LOAD:.0%} of their cores:"
    yield ""
    yield "| agents x targets | lines/s | collectors | MB/s into the broker and out | InfluxDB 1.6 cores |"
    yield "| --- | --- | --- | --- | --- |"
    for agents, targets, window_s in SIZES:
        rate = agents * (targets + 1) / window_s
        # Each collector is one process on one core.
        collectors = max(1, math.ceil(rate / (per_core * LOAD)))
        megabytes = rate * batch["payload_bytes"] / batch["lines"] / 1e6
        cores = f"{max(0.1, rate * max(per_line) / LOAD):.1f}" if per_line else "not measured"
        size = f"{agents:,} x {targets:,}, {window_s} s windows"
        yield f"| {size} | {rate:,.0f} | {collectors} | {megabytes:.1f} | {cores} |"


if __name__ == "__main__":
    write_into(PAGE, json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
