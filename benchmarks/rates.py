"""A pair of namespaces in, probes a second and processor time per probe out: parts [2] saturated and [3]
paced."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict

from benchmarks import programs
from benchmarks.measure import Row, interleave
from benchmarks.parts import Bench
from benchmarks.report import Bar, Report

TARGETS = 200
RATE = 10


def saturated(bench: Bench) -> None:
    """Ours, the C loop and the peers, each as fast as it goes."""
    report = bench.report
    report.say("\n[2] saturated, one target: probes per second of processor time; more is better")
    with bench.irtt() as server:
        wanted = programs.saturated(bench.c_loop, bench.size.probes, server)
        rows = interleave(bench.near, bench.far, wanted, bench.size.saturated_rounds, report.progress)
    _table(report, rows, "probes/cpu s", lambda cost: 1 / cost, ".0f")
    report.data["saturated"] = [asdict(row) for row in rows]
    named = {row.name: row for row in rows}
    ours, loop = rows[:2]
    report.bars += [
        Bar("[2] saturated, of the C loop", _ratios(loop, ours), 0.95, True),
        Bar("[2] saturated, of fping", _ratios(named["fping -i 0 -p 1"], ours), 1.0, True),
    ]
    for name, row in named.items():
        if name.startswith("coloprobe,"):
            flood = named[programs.FLOOD_64]
            report.bars.append(Bar(f"[2] {name}, of the C loop", _ratios(loop, row), 0.95, True))
            report.bars.append(Bar(f"[2] {name}, of {programs.FLOOD_64}", _ratios(flood, row), 1.2, True))


def paced(bench: Bench) -> None:
    """Ours, C loops and the peers at the same pace."""
    report, window_s = bench.report, bench.size.window_s
    report.say(
        f"\n[3] {TARGETS} targets x {RATE} probes/s, evenly spaced: processor time per probe; less is better"
    )
    with bench.irtt() as server:
        wanted = programs.paced(bench.c_loop, TARGETS, RATE, window_s, server)
        rows = interleave(bench.near, bench.far, wanted, bench.size.paced_rounds, report.progress)
    _table(report, rows, "us/probe", lambda cost: cost * 1e6, ".1f")
    report.data["paced"] = [asdict(row) for row in rows]
    ours, loop = rows[:2]
    fping = next(row for row in rows if row.name.startswith("fping"))
    report.bars += [
        Bar("[3] processor time per probe, of fping's", _ratios(ours, fping), 0.5),
        Bar("[3] processor time per probe, of the C loop's of our design", _ratios(ours, loop), 1.5),
    ]
    for row in rows:
        if row.name.startswith("coloprobe,"):
            report.bars.append(Bar(f"[3] {row.name}, of fping's", _ratios(row, fping), 0.5))
            report.bars.append(Bar(f"[3] {row.name}, of the C loop's of our design", _ratios(row, loop), 1.5))


def _ratios(numerator: Row, denominator: Row) -> list[float]:
    """What a probe costs the one, as a ratio of what it costs the other, round by round."""
    if numerator.problem or denominator.problem:
        return []
    return [a / b for a, b in zip(numerator.cpu_per_probe_s, denominator.cpu_per_probe_s, strict=False)]


def _table(report: Report, rows: list[Row], unit: str, convert: Callable[[float], float], spec: str) -> None:
    loop = rows[1]
    lines: list[tuple[str, tuple[str, ...]]] = []
    for row in rows:
        if row.problem or not row.runs:
            lines.append((row.name, (f"not measured: {(row.problem or '?').splitlines()[-1]}",)))
            continue
        values = sorted(map(convert, row.cpu_per_probe_s))
        shares = _ratios(row, loop) if spec == ".1f" else _ratios(loop, row)
        cells = (
            *(format(value, spec) for value in (statistics.median(values), values[0], values[-1])),
            f"{statistics.median(shares):.2f}" if shares else "-",
            f"{row.answered:.2%}",
            f"{row.probes_per_s:.0f}",
            f"{row.around_s * 1000:.0f}",
            str(len(values)),
        )
        lines.append((row.name, cells))
    heads = ("program", unit, "min", "max", "of C", "answered", "probes/s", "start+end ms", "runs")
    report.table(heads, lines)
