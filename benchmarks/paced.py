"""Targets and a rate in, an agent's engine, windows and lines at that rate out: probes and time as JSON.

    python -m benchmarks.paced --first ADDRESS --targets T --rate R --seconds S

Built from settings as the agent builds it; only the spool and MQTT are left out, which work once a window.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import threading
import time
from ipaddress import ip_address

from probe.clock import SystemClock
from probe.engine.samples import SENT, Cut
from probe.measurement import build
from probe.reporting import Reporter
from probe.settings import agent_from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--first", required=True)
    parser.add_argument("--targets", type=int, required=True)
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    first = ip_address(options.first)
    settings = agent_from(
        {
            "agent": {"id": "bench"},
            "defaults": {"interval": f"{1000 / options.rate:g}ms"},
            "target": [{"name": f"t{n}", "address": str(first + n)} for n in range(options.targets)],
        },
        "benchmark",
    )
    totals = {"probes": 0, "received": 0, "lines": 0}

    def on_cut(cut: Cut) -> None:
        lines = reporter.lines(cut)
        totals["lines"] += len(lines)
        for part in cut.samples:
            left = (part.state[: part.inside] & SENT) != 0  # what a stalled host skipped was never sent
            totals["probes"] += int(left.sum())
            totals["received"] += int((part.rx[: part.inside] != 0).sum())

    started, cpu = time.monotonic(), time.process_time()
    measurement = build(settings, SystemClock(), on_cut, lambda _: None)
    reporter = Reporter(measurement, int(settings.window.histogram), int(settings.window.timeout))
    if options.seconds > 0:
        timer = threading.Timer(options.seconds, measurement.engine.stop)
        timer.start()
        measurement.engine.run()
    record = {**totals, "cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - started}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
