"""A length in, the programs that are measured side by side out: command lines, how to read the output.

Ours are two small programs over the engine. They take the arguments below and print one JSON object with at
least `probes` and `received`:

    python -m benchmarks.saturate --target ADDRESS --count N
    python -m benchmarks.paced --first ADDRESS --targets T --rate R --seconds S

`--count 0` and `--seconds 0` open what a run opens and send nothing: that is their start-up.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks.measure import BenchmarkError, Program, Work

FIRST_TARGET = IPv4Address("10.50.0.1")
TARGET_NETWORK = "10.50.0.0/16"
_FPING_TOTAL = re.compile(r"xmt/rcv/%loss = (\d+)/(\d+)/")
# fping's sequence numbers last for 65,535 probes per 10 s; beyond that it exits.
FPING_MOST = 65_000
TICK_MS = 5


def build_c_loop(folder: Path) -> Path:
    """Compile cloop.c. Raises: BenchmarkError (no compiler, or it complains)."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkError("the C loop needs a C compiler: apt-get install gcc libc6-dev")
    program = folder / "cloop"
    source = Path(__file__).with_name("cloop.c")
    done = subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(done.stderr)
    return program


def targets(count: int) -> list[str]:
    return [str(FIRST_TARGET + n) for n in range(count)]


def saturated(c_loop: Path, probes: int) -> list[Program]:
    """One target for the engines; fping sends back to back only with many, so it gets 200, each every ms."""
    ours = [sys.executable, "-m", "benchmarks.saturate", "--target", str(FIRST_TARGET), "--count"]
    loop: list[str | Path] = [c_loop, "saturated", str(FIRST_TARGET)]
    fping = ["fping", "-q", "-i", "0", "-p", "1", *targets(200)]
    return [
        Program("coloprobe", [*ours, str(probes)], [*ours, "0"], read_json),
        Program("C loop", [*loop, str(probes)], [*loop, "0"], read_json),
        Program(
            "fping -i 0 -p 1",
            with_options(fping, "-c", str(min(probes, FPING_MOST) // 200)),
            with_options(fping, "-c", "1"),
            read_fping,
        ),
    ]


def paced(c_loop: Path, count: int, rate: int, seconds: int) -> list[Program]:
    """`count` targets, `rate` probes/s each, all evenly spaced."""
    ours = [sys.executable, "-m", "benchmarks.paced", "--first", str(FIRST_TARGET)]
    ours += ["--targets", str(count), "--rate", str(rate), "--seconds"]

    def loop(length: int) -> list[str | Path]:
        return [c_loop, "paced", str(FIRST_TARGET), str(count), str(rate), str(length), str(TICK_MS)]

    gap_ms = 1000 / (count * rate)
    fping = ["fping", f"-p{1000 // rate}", f"-i{gap_ms * 0.9:.2f}", *targets(count)]
    return [
        Program("coloprobe", [*ours, str(seconds)], [*ours, "0"], read_json),
        Program(f"C loop, {TICK_MS} ms tick", loop(seconds), loop(0), read_json),
        Program(
            f"fping -l -Q1 -p{1000 // rate} -i{gap_ms * 0.9:.2f}",
            with_options(fping, "-l", "-Q1"),
            with_options(fping, "-q", "-c", "1"),
            read_fping,
            stop_after_s=seconds,
        ),
    ]


def with_options(argv: Sequence[str], *options: str) -> list[str]:
    return [argv[0], *options, *argv[1:]]


def read_json(output: str) -> Work:
    """The last line is a JSON object."""
    try:
        record = json.loads(output.strip().splitlines()[-1])
        return Work(int(record["probes"]), int(record["received"]))
    except (ValueError, KeyError, IndexError, TypeError) as problem:
        raise BenchmarkError(f"not the JSON that was agreed on ({problem!r}): {output[-300:]}") from None


def read_fping(output: str) -> Work:
    """The sums of the last line of every target."""
    last: dict[str, tuple[int, int]] = {}
    for line in output.splitlines():
        if match := _FPING_TOTAL.search(line):
            last[line.split()[0]] = int(match[1]), int(match[2])
    if not last:
        raise BenchmarkError(f"fping printed no totals: {output[-300:]}")
    return Work(sum(sent for sent, _ in last.values()), sum(received for _, received in last.values()))
