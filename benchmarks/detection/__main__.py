"""Nothing in, how sure and how soon events are told out.

    python -m benchmarks.detection                    a day of each noise, and the lab: 6 minutes as root
    python -m benchmarks.detection --days 7           a week
    python -m benchmarks.detection --record FILE      record 15 minutes of this machine's quiet lines anew

[1] Windows of 10 s that look like quiet lines (benchmarks/detection/replay.py), of 10 probes/s and of 1/s:
every event in them is false. [2] Real probes through emulated links that shift their delay by 20 to 60 % of
the RTT and lose 3 to 8 packets in a row, at random times: in which window after it is each told?
Exit status: 0 the bars are met, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.detection.lab import BURST, SHIFT, Outcome, Told, linked, perform, plan
from benchmarks.detection.recording import load, record, save
from benchmarks.detection.replay import DAY, RECORDING, WINDOW, lines, replay
from benchmarks.report import Bar, Report, machine
from tests.lab.netlab import Lab

RATES = (10.0, 1.0)
RECORDED_S = 900.0
# Of each link: probes a second, RTT in ms.
LINKS = ((50, 1.0), (50, 3.0), (10, 10.0))
EACH = 10  # shifts, and bursts, of each link
SECOND = 1_000_000_000


def quiet(report: Report, recording: Path, days: float, seeds: int) -> None:
    """[1]"""
    report.say(f"\n[1] false events in {days:g} days of quiet noise, windows of 10 s")
    rows = []
    total = 0
    found_of: dict[str, dict[str, int]] = {}
    for rate in RATES:
        made = lines(rate)
        counts: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for seed in range(seeds):
            for name, one in replay(made, round(days * DAY / WINDOW), seed, load(recording)):
                counts[name] += 1
                kinds[one.kind] += 1
        total += sum(counts.values())
        found_of[f"{rate:g}/s"] = dict(counts)
        rows.append((f"{rate:g} probes/s", counts))
    names = [line.name for line in lines(1.0)]
    report.table(
        ("line", *(name for name, _ in rows)), [(name, [str(c[name]) for _, c in rows]) for name in names]
    )
    report.data["quiet"] = found_of
    report.bars.append(Bar("[1] false events", [total], 0))


def lab(report: Report, seed: int, each: int) -> None:
    """[2]"""
    report.say("\n[2] what real links did, and the window after it in which it was told (1: its own)")
    plans = [
        plan(seed + n, each, each, window=SECOND, interval=SECOND // rate, delay=round(rtt * 1e6))
        for n, (rate, rtt) in enumerate(LINKS)
    ]
    with Lab() as made, ThreadPoolExecutor(len(plans)) as threads:
        links = [linked(made, one) for one in plans]
        outcomes = list(threads.map(perform, links, plans))
    rows = []
    for (rate, rtt), outcome in zip(LINKS, outcomes, strict=True):
        for kind in (SHIFT, BURST):
            told = [one for one in outcome.told if one.change.kind == kind]
            rows.append((f"{kind}s, {rate} probes/s, RTT {rtt:g} ms", _cells(told)))
    report.table(("", "made", "window 1", "window 2", "later", "never"), rows)
    for kind in (SHIFT, BURST):
        windows = [one.windows for each_of in outcomes for one in each_of.told if one.change.kind == kind]
        soon = sum(1 <= one <= 2 for one in windows)
        report.bars.append(
            Bar(f"[2] {kind}s told within 2 windows, of {len(windows)}", [soon], len(windows), at_least=True)
        )
    false = [text for outcome in outcomes for text in outcome.false]
    report.bars.append(Bar("[2] events that nothing caused", [len(false)], 0))
    for text in false:
        report.say(f"  nothing caused: {text}")
    report.data["lab"] = [_plain(outcome) for outcome in outcomes]


def _cells(told: Sequence[Told]) -> list[str]:
    windows = [one.windows for one in told]
    counts = [sum(one == n for one in windows) for n in (1, 2)]
    return [str(n) for n in (len(told), *counts, sum(one > 2 for one in windows), windows.count(0))]


def _plain(outcome: Outcome) -> dict[str, object]:
    return {
        "rtt_ns": outcome.rtt_ns,
        "false": outcome.false,
        "told": [
            {"kind": one.change.kind, "size": one.change.size, "windows": one.windows, "text": one.text}
            for one in outcome.told
        ],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--days", type=float, default=1.0, help="of noise, of each line and rate (1)")
    parser.add_argument("--seeds", type=int, default=1, help="how often, each time another noise (1)")
    parser.add_argument("--seed", type=int, default=1, help="of the lab's plans (1)")
    parser.add_argument("--each", type=int, default=EACH, help=f"shifts, and bursts, of each link ({EACH})")
    parser.add_argument("--only", choices=("quiet", "lab"), help="one part")
    parser.add_argument("--recording", type=Path, default=RECORDING, metavar="FILE", help="of quiet lines")
    parser.add_argument("--record", type=Path, metavar="FILE", help="record quiet lines, and nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    options = parser.parse_args(argv)
    try:
        if options.record:
            with Lab() as made:
                save(record(*made.pair(), RECORDED_S), options.record)
            return 0
        report, begin = Report(), time.monotonic()
        report.data = {"machine": machine()}
        report.say(", ".join(f"{key} {value}" for key, value in report.data["machine"].items()))
        if options.only != "lab":
            quiet(report, options.recording, options.days, options.seeds)
        if options.only != "quiet":
            lab(report, options.seed, options.each)
    except PermissionError as problem:
        print(f"python -m benchmarks.detection: {problem}; the lab needs root", file=sys.stderr)
        return 1
    report.tell_bars(time.monotonic() - begin)
    if options.json:
        report.write_json(options.json)
    return 0 if all(bar.met for bar in report.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
