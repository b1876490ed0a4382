"""Numbers of agents and targets in, the fan-in's figures out; or, with a broker's address, that fleet played.

    make fleet                                      all of it, about 10 minutes
    make fleet ARGS="--quick"                       a look, not a claim
    make fleet ARGS="--agents 1000 --targets 200"   that is the default
    make fleet ARGS="--only rate"                   rate, share, database or delay
    make fleet ARGS="--only delay --windows 60"     ten minutes of the whole fleet, twice
    make fleet ARGS="--json FILE --write"           figures as JSON; put them into docs/scaling.md
    python -m benchmarks.fleet --mqtt URL --agents 50 --targets 20 --window 2s --for 60s --json FILE

The last one sends what such a fleet would, over a connection an agent, to whatever broker there is, waits
until all of it is acknowledged, and says so for each agent. Exit status: 0 all bars are met or everything is
acknowledged, 1 not, or a program failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import msgspec

from benchmarks.fleet.database import database
from benchmarks.fleet.delay import delay
from benchmarks.fleet.page import PAGE, write_into
from benchmarks.fleet.player import Fleet, allow_connections
from benchmarks.fleet.rate import rate, share
from benchmarks.fleet.setup import FULL, QUICK, Setup
from benchmarks.fleet.spools import DEFAULT_BYTES
from benchmarks.measure import BenchmarkError
from benchmarks.report import Report, machine
from probe.clock import SECOND
from probe.errors import ColoprobeError, SettingsError
from probe.settings import MqttTable, UplinkTable
from probe.settings_checks import check_url
from probe.units import ByteSize, Duration

MOST_IN_FLIGHT = 1024  # what uplink.window allows
PARTS: dict[str, Callable[[Setup], None]] = {
    "rate": rate,
    "share": share,
    "database": database,
    "delay": delay,
}


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.write and (options.quick or options.only or options.mqtt):
        parser.error("--write: what the page shows is the whole of it; leave --quick, --only and --mqtt out")
    if not 0 <= options.in_flight <= MOST_IN_FLIGHT:
        parser.error(f"--in-flight {options.in_flight}: 1 to {MOST_IN_FLIGHT}")
    if options.mqtt:
        try:
            check_url("the command line", "--mqtt", options.mqtt, ("mqtt", "mqtts"))
        except SettingsError as problem:
            parser.error(str(problem))
    if options.window <= 0:
        parser.error("--window: longer than nothing")
    try:
        return play(options) if options.mqtt else measure(options)
    except (BenchmarkError, ColoprobeError, OSError) as problem:
        print(f"fleet: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # servers and folders are cleaned up by now
        print("fleet: interrupted", file=sys.stderr)
        return 130


def measure(options: argparse.Namespace) -> int:
    """Every part, on servers of its own."""
    # A database that is too slow for the fleet shows in the figures; a thousand agents need not say so each.
    logging.getLogger("probe.telemetry.uplink").setLevel(logging.ERROR)
    allow_connections(options.agents)  # the broker inherits it
    report = Report()
    start, complete = time.monotonic(), True
    size = QUICK if options.quick else FULL
    if options.windows:
        size = replace(size, windows=options.windows)
    report.data = {
        "machine": machine(),
        "agents": options.agents,
        "targets": options.targets,
        "size": asdict(size),
    }
    report.say(", ".join(f"{key} {value}" for key, value in report.data["machine"].items()))
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(options.agents, options.targets, size, report, Path(scratch), options.profile)
        for name, part in PARTS.items():
            if options.only not in (None, name):
                continue
            try:
                part(setup)
            except (BenchmarkError, AssertionError) as problem:
                report.say(f"  {name} is not measured: {(str(problem).splitlines() or ['?'])[-1]}")
                complete = False
    report.tell_bars(time.monotonic() - start)
    if options.json:
        report.write_json(options.json)
    if options.write:
        write_into(PAGE, report.data)
    return 0 if complete and all(bar.met for bar in report.bars) else 1


def play(options: argparse.Namespace) -> int:
    """The fleet alone, at somebody's broker."""
    handler = logging.StreamHandler()
    handler.addFilter(_Once())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", handlers=[handler])
    password = (
        options.password_file.read_text(encoding="utf-8").rstrip("\n") if options.password_file else None
    )
    defaults = UplinkTable()
    mqtt = MqttTable(
        url=options.mqtt, ca_file=options.ca_file, cert_file=options.cert_file, key_file=options.key_file
    )
    fleet = Fleet(
        options.mqtt,
        options.agents,
        options.targets,
        options.window / SECOND,
        phase=options.phase,
        seed=options.seed,
        prefix=options.prefix,
        histograms=options.histograms,
        mqtt=mqtt,
        password=password,
        uplink=msgspec.structs.replace(
            defaults,
            window=options.in_flight or defaults.window,
            ack_timeout=options.ack_timeout or defaults.ack_timeout,
        ),
        spool_bytes=int(options.spool),
    )  # fmt: skip
    done = asyncio.run(_play(fleet, options.seconds / SECOND, options.wait / SECOND))
    told = fleet.told()
    sums = {key: sum(one[key] for one in told) for key in told[0] if isinstance(told[0][key], int)}
    delays = sorted((t[2] - t[0]) / SECOND for t in fleet.times().values() if t[2])
    print(
        f"{len(told)} agents: {sums['last']} batches, {sums['lines']} lines; "
        f"{sums['acknowledged']} acknowledged, {sums['waiting']} waiting, {sums['dropped']} dropped, "
        f"{sums['republished']} sent again, "
        f"{sums['reconnects']} reconnects"
    )
    if delays:
        print(
            f"from a window's end to its acknowledgement: median {delays[len(delays) // 2]:.3f} s, "
            f"p99 {delays[len(delays) * 99 // 100]:.3f} s, at most {delays[-1]:.3f} s"
        )
    if options.json:
        document = {"agents": told, "sums": sums, "complete": done}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if done else 1


class _Once(logging.Filter):
    """What all agents say alike is said once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        # The words, and the kind of error that is put into them.
        kinds = [type(one).__name__ for one in record.args] if isinstance(record.args, tuple) else []
        what = record.msg, " ".join(kinds)
        new = what not in self._said
        self._said.add(what)
        return new


async def _play(fleet: Fleet, seconds: float, wait_s: float) -> bool:
    async with fleet:
        if not await fleet.connect():
            print("not everybody is connected; going on", file=sys.stderr)
        await fleet.play(seconds)
        return await fleet.settle(wait_s)


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agents", type=_number, default=1000)
    parser.add_argument("--targets", type=_number, default=200, help="of each agent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    own = parser.add_argument_group("measure, on servers of its own")
    own.add_argument("--quick", action="store_true", help="short runs")
    own.add_argument("--only", choices=tuple(PARTS), help="one of the parts")
    own.add_argument("--windows", type=_number, metavar="N", help="of [d] with the whole fleet")
    own.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    own.add_argument(
        "--profile", type=Path, metavar="FILE", help="of the collector in [a], which is slower then"
    )
    other = parser.add_argument_group("play the fleet at a broker")
    other.add_argument("--mqtt", metavar="URL", default="", help="mqtt://HOST:PORT or mqtts://")
    other.add_argument("--window", type=Duration.parse, default=Duration.parse("10s"), help="its length")
    other.add_argument(
        "--for", dest="seconds", type=Duration.parse, default=Duration.parse("60s"), metavar="DURATION"
    )
    other.add_argument("--wait", type=Duration.parse, default=Duration.parse("120s"), metavar="DURATION",
                       help="at most, for the last acknowledgement")  # fmt: skip
    other.add_argument("--phase", choices=("aligned", "spread"), default="aligned",
                       help="all windows end at once, as in truth, or one after the other")  # fmt: skip
    other.add_argument("--histograms", action="store_true", help="send probe_histogram lines each minute")
    other.add_argument("--prefix", default="fleet", help="of the agents' ids: PREFIX-0001 and so on")
    other.add_argument("--seed", type=int, default=1)
    other.add_argument(
        "--in-flight", type=int, default=0, help="batches of one agent without acknowledgement"
    )
    other.add_argument("--ack-timeout", type=Duration.parse, metavar="DURATION")
    other.add_argument(
        "--spool", type=ByteSize.parse, default=ByteSize(DEFAULT_BYTES), help="of an agent, in memory"
    )
    other.add_argument("--password-file", type=Path, metavar="FILE", help="one password for all agents")
    other.add_argument("--ca-file", default="")
    other.add_argument("--cert-file", default="")
    other.add_argument("--key-file", default="")
    return parser


if __name__ == "__main__":
    sys.exit(main())
