"""Targets and an interval in, an agent's engine, windows and lines at that pace out: probes and time as JSON.

    python -m benchmarks.paced --first ADDRESS --targets T --interval 100ms --seconds S
        [--window 10s] [--backend raw|ring] [--kind KIND] [--port PORT] [--windows FILE] [--rtts FILE]

Built from settings as the agent builds it; only the spool and MQTT are left out, which work once a window.
It starts half a second before a window of the wall clock begins, so that whoever watches knows when windows
are closed. `--windows`: one JSON object a closed window, with cpu_ns, rss_bytes, sent and end_ns, written
when it is closed; the histograms are then not closed until the end, and the record says what that cost
(`histogram_s`, `histogram_lines`). `--rtts`: the RTT of every probe in the order of their numbers, ns, -1
where there is none.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np

from probe.clock import SystemClock
from probe.engine.samples import SENT, Cut
from probe.host.process import give_memory_back, rss_bytes
from probe.measurement import build
from probe.reporting import Reporter
from probe.settings import AgentSettings, agent_from

_EARLY_S = 0.5


def _settings(options: argparse.Namespace) -> AgentSettings:
    first = ip_address(options.first)
    raw: dict[str, Any] = {
        "agent": {"id": "bench"},
        "window": {"length": options.window},
    }
    # A target's own interval, so that no limit of politeness is in the way.
    one: dict[str, Any] = {"kind": options.kind, "interval": options.interval}
    if options.port:
        one["port"] = options.port
    raw["target"] = [{"name": f"t{n}", "address": str(first + n), **one} for n in range(options.targets)]
    if options.windows:
        raw["window"]["histogram"] = "1d"
    if options.backend != "raw":
        raw["engine"] = {"backend": options.backend}
    return agent_from(raw, "benchmark")


class Observer:
    """What an agent makes of closed windows, and a count of what was in them."""

    def __init__(self, reporter: Reporter, windows: Path | None, keep_rtts: bool) -> None:
        self.totals = {"probes": 0, "received": 0, "lines": 0}
        self.rtts: list[list[int]] = []
        self._reporter, self._keep_rtts = reporter, keep_rtts
        self._windows = windows.open("w", encoding="ascii") if windows else None

    def on_cut(self, cut: Cut) -> None:
        self.totals["lines"] += len(self._reporter.lines(cut))
        sent = 0
        for part in cut.samples:
            left = (part.state[: part.inside] & SENT) != 0  # what a stalled host skipped was never sent
            sent += int(left.sum())
            self.totals["received"] += int((part.rx[: part.inside] != 0).sum())
            if self._keep_rtts:
                rx, tx = part.rx[: part.inside], part.tx[: part.inside]
                self.rtts.append(np.where((rx != 0) & (tx != 0), rx - tx, -1).tolist())
        self.totals["probes"] += sent
        if self._windows:
            mark = {
                "cpu_ns": time.process_time_ns(),
                "rss_bytes": rss_bytes(),
                "sent": sent,
                "end_ns": cut.end_ns,
            }
            print(json.dumps(mark), file=self._windows, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--first", required=True)
    parser.add_argument("--targets", type=int, required=True)
    parser.add_argument("--interval", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--window", default="10s")
    parser.add_argument("--backend", choices=("raw", "ring"), default="raw")
    parser.add_argument("--kind", default="icmp")
    parser.add_argument("--port", type=int)
    parser.add_argument("--windows", type=Path)
    parser.add_argument("--rtts", type=Path)
    options = parser.parse_args()
    settings = _settings(options)
    give_memory_back()

    def on_cut(cut: Cut) -> None:
        observer.on_cut(cut)

    started, cpu = time.monotonic(), time.process_time()
    measurement = build(settings, SystemClock(), on_cut, lambda _: None)
    reporter = Reporter(measurement, int(settings.window.histogram), int(settings.window.timeout))
    observer = Observer(reporter, options.windows, bool(options.rtts))
    length = settings.window.length.seconds
    time.sleep((-_EARLY_S - time.time()) % length)
    if options.seconds > 0:
        timer = threading.Timer(options.seconds, measurement.engine.stop)
        timer.start()
        measurement.engine.run()
    record: dict[str, object] = dict(observer.totals)
    closing = time.process_time()
    record["histogram_lines"] = len(reporter.finish())
    record["histogram_s"] = time.process_time() - closing
    if options.rtts:
        options.rtts.write_text(json.dumps(observer.rtts), encoding="ascii")
    record |= {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - started}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
