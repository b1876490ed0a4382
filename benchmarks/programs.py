"""A length in, the programs that are measured side by side out: command lines, how to read the output.

Ours are two small programs over the engine. They take the arguments below and print one JSON object with at
least `probes` and `received`:

    python -m benchmarks.saturate --target ADDRESS --count N
    python -m benchmarks.paced --first ADDRESS --targets T --rate R --seconds S
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
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
    target = str(FIRST_TARGET)
    ours = [sys.executable, "-m", "benchmarks.saturate", "--target", target, "--count", str(probes)]
    rounds = min(probes, FPING_MOST) // 200
    fping = ["fping", "-q", "-i", "0", "-p", "1", "-c", str(rounds), *targets(200)]
    most = probes // 10, probes * 95 // 100
    return [
        Program("coloprobe", ours, read_json, most),
        Program("C loop", [c_loop, "saturated", target, str(probes)], read_json, most),
        Program("fping -i 0 -p 1", fping, read_fping, (rounds * 20, rounds * 190)),
    ]


def paced(c_loop: Path, count: int, rate: int, seconds: int) -> list[Program]:
    """`count` targets, `rate` probes/s each, all evenly spaced; measured after the first second."""
    target = str(FIRST_TARGET)
    most = count * rate, count * rate * seconds * 9 // 10
    ours = [sys.executable, "-m", "benchmarks.paced", "--first", target]
    ours += ["--targets", str(count), "--rate", str(rate), "--seconds", str(seconds)]
    loop: list[str | Path] = [c_loop, "paced", target, *map(str, (count, rate, seconds, TICK_MS))]
    pace = [f"-p{1000 // rate}", f"-i{1000 / (count * rate) * 0.9:.2f}"]
    return [
        Program("coloprobe", ours, read_json, most),
        Program(f"C loop, {TICK_MS} ms tick", loop, read_json, most),
        Program(
            " ".join(["fping -l -Q1", *pace]),
            ["fping", "-l", "-Q1", *pace, *targets(count)],
            read_fping,
            (most[0], most[0] + (most[1] - most[0]) // 3),  # it falls far behind its own schedule
            stop_after_s=seconds,
        ),
    ]


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
