"""A length of time in, whether a whole agent and collector stay as they are out.

    make soak                            an hour
    make soak ARGS="--hours 0.05"        three minutes: for a look, not for a claim
    make soak ARGS="--json FILE"         every reading as JSON as well

A real `coloprobe agent` (200 targets x 10 probes/s), mosquitto, `coloprobe collect` and InfluxDB, all in one
network namespace, probing into another. Every 10 s the agent's and the collector's memory, processor time,
open files and threads are read, and the size of the agent's spool. At the end every batch has to be in the
database. Exit status: 0 memory is flat and nothing is missing, 1 otherwise.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import trend
from benchmarks.measure import BenchmarkError
from benchmarks.processes import Usage, background, usage
from benchmarks.programs import APT, TARGET_NETWORK, targets
from benchmarks.report import Report, machine
from probe.telemetry.spool import Spool
from tests.lab.netlab import Lab, Namespace
from tests.system.servers import Influx, influxdb, mosquitto

TARGETS = 200
SETTLED_S = 300.0  # what a start costs is no trend
EVERY_S = 10.0
_SPOOL = "spool.sqlite3"
_PATIENCE_S = 60.0  # of two processes on a busy machine, until they do what they are there for
_COMMAND = Path(sys.executable).with_name("coloprobe")

_AGENT = """
[agent]
id = "soak"
state_dir = "{state}"
[defaults]
interval = "100ms"
[mqtt]
url = "mqtt://127.0.0.1:{mqtt}"
"""
_COLLECTOR = """
[collector]
id = "soak"
state_dir = "{state}"
[mqtt]
url = "mqtt://127.0.0.1:{mqtt}"
[influx]
url = "http://127.0.0.1:{influx}"
api = "v1"
database = "coloprobe"
"""


@dataclass
class Readings:
    """What was read of the two processes, and the spool's files in bytes, at the same instants."""

    agent: list[Usage] = field(default_factory=list)
    collector: list[Usage] = field(default_factory=list)
    spool_bytes: list[int] = field(default_factory=list)

    def take(self, agent: int, collector: int, state: Path) -> None:
        """Raises: BenchmarkError where one of them has ended."""
        try:
            self.agent.append(usage(agent))
            self.collector.append(usage(collector))
        except OSError as problem:
            raise BenchmarkError(f"the agent or the collector has ended: {problem}") from None
        self.spool_bytes.append(sum(file.stat().st_size for file in state.glob(f"{_SPOOL}*")))


@dataclass(frozen=True)
class Arrived:
    """What the database holds in the end, and what it should."""

    batches: int
    missing: list[int]
    left_in_spool: int
    sent: int
    lost: int
    skipped: int

    @property
    def complete(self) -> bool:
        return self.batches > 0 and not self.missing and not self.left_in_spool


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=EVERY_S, metavar="SECONDS", help="between readings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every reading to FILE")
    options = parser.parse_args(argv)
    report = Report()
    report.data = {"machine": machine(), "hours": options.hours, "targets": TARGETS}
    report.say(", ".join(f"{key} {value}" for key, value in report.data["machine"].items()))
    for program, package in (("mosquitto", "mosquitto"), ("influxd", "influxdb")):
        if shutil.which(program) is None:
            print(f"make soak: {program} is missing; it comes with: {APT}{package}", file=sys.stderr)
            return 1
    try:
        with Lab() as lab, tempfile.TemporaryDirectory() as scratch:
            near, far = lab.pair()
            far.answer_for(TARGET_NETWORK)
            near.route(TARGET_NETWORK, far.ipv4)
            readings, arrived = soak(near, Path(scratch), options.hours * 3600, options.every, report)
    except (BenchmarkError, PermissionError) as problem:
        print(f"make soak: {problem}", file=sys.stderr)
        return 1
    flat = describe(readings, arrived, report)
    if options.json:
        report.data |= {"readings": asdict(readings), "arrived": asdict(arrived)}
        report.write_json(options.json)
    return 0 if flat and arrived.complete else 1


def soak(
    near: Namespace, scratch: Path, seconds: float, every_s: float, report: Report
) -> tuple[Readings, Arrived]:
    """Run it. Raises: BenchmarkError where a process does not run or does not leave cleanly."""
    agent_state, collector_state = scratch / "agent", scratch / "collector"
    for folder in (agent_state, collector_state):
        folder.mkdir()
    readings = Readings()
    # In here the servers' loopback is the namespace's own, where the agent and the collector look for them.
    with near.inside(), mosquitto(scratch) as broker, influxdb(scratch) as influx:
        influx.create_database("coloprobe")
        ports = {"mqtt": broker.port, "influx": influx.port}
        rows = "".join(
            f'[[target]]\nname = "t{n}"\naddress = "{a}"\n' for n, a in enumerate(targets(TARGETS))
        )
        agent_file, collector_file = scratch / "agent.toml", scratch / "collector.toml"
        agent_file.write_text(_AGENT.format(state=agent_state, **ports) + rows, encoding="utf-8")
        collector_file.write_text(_COLLECTOR.format(state=collector_state, **ports), encoding="utf-8")
        with (
            background(near, [_COMMAND, "collect", "-c", collector_file], scratch / "collector.log") as sink,
            background(near, [_COMMAND, "agent", "-c", agent_file], scratch / "agent.log") as agent,
        ):
            _until_both_run(influx)
            start = time.monotonic()
            while (passed := time.monotonic() - start) < seconds:
                time.sleep(min(every_s, max(0.1, seconds - passed)))
                readings.take(agent.pid, sink.pid, agent_state)
                rss = readings.agent[-1].rss_bytes / 1e6, readings.collector[-1].rss_bytes / 1e6
                report.progress(
                    f"  {(time.monotonic() - start) / 60:.1f} of {seconds / 60:.0f} min: "
                    f"agent {rss[0]:.1f} MB, collector {rss[1]:.1f} MB"
                )
        # The agent has said goodbye, and the collector acknowledges only what the database has.
        return readings, _arrived(influx, agent_state)


def _until_both_run(influx: Influx) -> None:
    """Return when the first batch has gone all the way. Raises: BenchmarkError where none does."""
    deadline = time.monotonic() + _PATIENCE_S
    while not influx.query("SELECT batch FROM agent"):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"nothing has arrived {_PATIENCE_S:.0f} s after the start")
        time.sleep(0.1)


def _arrived(influx: Influx, state: Path) -> Arrived:
    numbers = {int(row["batch"]) for row in influx.query("SELECT batch FROM agent")}
    spool = Spool(state / _SPOOL, 1 << 30)
    try:
        left = len(spool.numbers(0, 1_000_000))
    finally:
        spool.close()
    (sums,) = influx.query("SELECT sum(sent) AS sent, sum(lost) AS lost FROM probe") or [{}]
    (last,) = influx.query("SELECT last(skipped) AS skipped FROM agent") or [{}]
    return Arrived(
        batches=len(numbers),
        missing=sorted(set(range(1, max(numbers, default=0) + 1)) - numbers),
        left_in_spool=left,
        sent=int(sums.get("sent") or 0),
        lost=int(sums.get("lost") or 0),
        skipped=int(last.get("skipped") or 0),
    )


def describe(readings: Readings, arrived: Arrived, report: Report) -> bool:
    """Charts and verdicts. Returns whether both memories are flat, as far as the run is long enough to
    say."""
    flat = True
    for name, series in (("agent", readings.agent), ("collector", readings.collector)):
        if len(series) < 3:
            raise BenchmarkError("too short: fewer than three readings")
        times = [one.at_s for one in series]
        megabytes = [one.rss_bytes / 1e6 for one in series]
        at = trend.settled(times, SETTLED_S)
        said = trend.verdict(times[at:], megabytes[at:])
        flat = flat and not said.endswith("IT GROWS")
        report.say(f"\n{name}: resident memory, MB, over {(times[-1] - times[0]) / 60:.0f} min")
        for line in trend.chart(megabytes):
            report.say(line)
        report.say(f"  from minute {(times[at] - times[0]) / 60:.0f} on: {said}")
        report.say(f"  {_spread(series)}")
        report.data[f"{name}_mb_per_hour"] = trend.slope_per_hour(times[at:], megabytes[at:])
    report.say(f"\nspool files: at most {max(readings.spool_bytes) / 1e6:.2f} MB")
    missing = f"{len(arrived.missing)} missing" + (f": {arrived.missing[:10]} ..." if arrived.missing else "")
    report.say(
        f"batches in the database: {arrived.batches}, {missing}; left in the spool: {arrived.left_in_spool}"
    )
    report.say(f"probes: {arrived.sent} sent, {arrived.lost} lost, {arrived.skipped} skipped")
    return flat


def _spread(series: Sequence[Usage]) -> str:
    wall = series[-1].at_s - series[0].at_s
    share = (series[-1].cpu_s - series[0].cpu_s) / wall if wall else 0.0
    files, threads = [one.files for one in series], [one.threads for one in series]
    return (
        f"processor {share:.2%} of a core, open files {min(files)} to {max(files)} (last {files[-1]}), "
        f"threads {min(threads)} to {max(threads)} (last {threads[-1]})"
    )


if __name__ == "__main__":
    sys.exit(main())
