"""A length in, the programs that are measured side by side out: command lines, how to read the output.

Ours are small programs over the engine. They take the arguments below and print one JSON object with at
least `probes` and `received`:

    python -m benchmarks.saturate --target ADDRESS --count N [--backend B]
    python -m benchmarks.paced --first ADDRESS --targets T --interval I --seconds S [--window W] [--backend B]
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks.measure import DATAGRAMS, BenchmarkError, Program, Work
from probe.settings import EngineTable
from tests.lab.peers import read_smokeping, smokeping_command, smokeping_metrics

FIRST_TARGET = IPv4Address("10.50.0.1")
TARGET_NETWORK = "10.50.0.0/16"
PEER_ROUNDS = 2  # of programs that no bar names
FLOOD_64 = "ping -f -l 64"
C_LAZY = "C loop, our tick and waits"
APT = "apt-get install "
APT_PING = APT + "iputils-ping"
PIP_ICMPLIB = "pip install icmplib"
_PING_TOTAL = re.compile(r"(\d+) packets transmitted, (\d+) received")
_FPING_TOTAL = re.compile(r"xmt/rcv/%loss = (\d+)/(\d+)/")
# fping's sequence numbers last for 65,535 probes per 10 s; beyond that it exits.
FPING_MOST = 65_000


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


def saturated(c_loop: Path, probes: int, irtt_server: str) -> list[Program]:
    """One target, as fast as each goes; fping sends back to back only with many, so it gets 200, each every
    ms.

    The first is ours, the second the C loop; the bars go by the others' names.
    """
    target = str(FIRST_TARGET)
    rounds = min(probes, FPING_MOST) // 200
    fping = ["fping", "-q", "-i", "0", "-p", "1", "-c", str(rounds), *targets(200)]
    most = probes // 10, probes * 95 // 100
    few = probes // 5
    fewer = few // 10, few * 95 // 100
    flood = ["ping", "-q", "-f", "-c"]
    icmplib = _library("icmplib", target, "--count", str(few))
    irtt = ["irtt", "client", "-Q", "-o", "-", "--tstamp=none", "-i", "1us", "-d", "700ms", irtt_server]
    ours = [
        Program(_ours(backend), _saturate(target, probes, backend), read_json, most) for backend in backends()
    ]
    return [
        ours[0],
        Program("C loop", [c_loop, "saturated", target, str(probes)], read_json, most),
        *ours[1:],
        Program("fping -i 0 -p 1", fping, read_fping, (rounds * 20, rounds * 190), needs=APT + "fping"),
        Program(FLOOD_64, [*flood, str(probes), "-l", "64", target], read_ping, most, needs=APT_PING),
        Program("ping -f", [*flood, str(few), target], read_ping, fewer, needs=APT_PING, rounds=PEER_ROUNDS),
        Program(
            "irtt -i 1us",
            irtt,
            read_irtt,
            (probes // 20, probes // 4),
            counter=DATAGRAMS,
            needs=APT + "irtt",
            rounds=PEER_ROUNDS,
        ),
        _smokeping("smokeping_prober -i 10us", [target], "10us", (probes // 20, probes // 2), 2.5),
        Program("icmplib", icmplib, read_json, fewer, needs=PIP_ICMPLIB, rounds=PEER_ROUNDS),
    ]


def paced(c_loop: Path, count: int, rate: int, window_s: int, irtt_server: str) -> list[Program]:
    """`count` targets, `rate` probes/s each, all evenly spaced where a program can do that.

    Ours starts half a second before a window begins, and is measured from 1.5 s after that for the length of
    one, so that the closing of exactly one whole window is in it. The others are measured after the first
    second for a third as long. With windows of 10 s a round then takes 30 s, and 40 s with a second engine.
    """
    target = str(FIRST_TARGET)
    per_s = count * rate
    span_s = window_s * 0.35
    seconds = 1.5 + span_s
    between = per_s, int(per_s * (1 + span_s))
    ours = [
        Program(
            _ours(backend),
            _paced(target, count, rate, 2.2 + window_s, window_s, backend),
            read_json,
            (per_s * 2, per_s * (2 + window_s)),
        )
        for backend in backends()
    ]
    loop: list[str | Path] = [c_loop, "paced", target, *map(str, (count, rate, seconds))]
    pace = [f"-p{1000 // rate}", f"-i{1000 / per_s * 0.9:.2f}"]
    behind = between[0], between[0] + (between[1] - between[0]) // 2  # for who falls behind his own schedule
    icmplib = _library(
        "icmplib",
        target,
        "--targets",
        str(count),
        "--interval",
        str(1 / rate),
        "--count",
        str(int(rate * seconds)),
    )
    irtt = ["irtt", "client", "-Q", "-o", "-", "--tstamp=none", f"-i{1000000 // per_s}us", f"-d{seconds:g}s"]
    return [
        ours[0],
        Program(C_LAZY, [*loop, "10", "250"], read_json, between),
        *ours[1:],
        Program("C loop, 5 ms, no waiting", [*loop, "5"], read_json, between, rounds=PEER_ROUNDS),
        Program(
            " ".join(["fping -l -Q1", *pace]),
            ["fping", "-l", "-Q1", *pace, *targets(count)],
            read_fping,
            behind,
            stop_after_s=seconds,
            needs=APT + "fping",
        ),
        _smokeping("smokeping_prober", targets(count), f"{1000 // rate}ms", behind, seconds),
        Program("icmplib multiping", icmplib, read_json, behind, needs=PIP_ICMPLIB, rounds=PEER_ROUNDS),
        Program(
            f"irtt -i {1000000 // per_s}us, 1 target",
            [*irtt, irtt_server],
            read_irtt,
            (per_s // 10, int(per_s * seconds * 0.3)),
            counter=DATAGRAMS,
            needs=APT + "irtt",
            rounds=PEER_ROUNDS,
        ),
    ]


def backends() -> list[str]:
    """The engine's senders, the default one first."""
    return ["raw", "ring"] if "backend" in EngineTable.__struct_fields__ else ["raw"]


def _ours(backend: str) -> str:
    return "coloprobe" if backend == "raw" else f"coloprobe, {backend}"


def _saturate(target: str, probes: int, backend: str) -> list[str]:
    ours = [sys.executable, "-m", "benchmarks.saturate", "--target", target, "--count", str(probes)]
    return [*ours, "--backend", backend]


def _paced(target: str, count: int, rate: int, seconds: float, window_s: int, backend: str) -> list[str]:
    ours = [sys.executable, "-m", "benchmarks.paced", "--first", target, "--targets", str(count)]
    ours += ["--interval", f"{1000 // rate}ms", "--seconds", str(seconds), "--window", f"{window_s}s"]
    return [*ours, "--backend", backend]


def _library(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.libraries", name, *arguments]


def _smokeping(
    name: str, addresses: list[str], interval: str, between: tuple[int, int], seconds: float
) -> Program:
    return Program(
        name,
        smokeping_command(*addresses, interval=interval),
        read_prober,
        between,
        stop_after_s=seconds,
        last_word=signal.SIGTERM,
        ask=smokeping_metrics,
        needs=APT + "prometheus-smokeping-prober",
        rounds=PEER_ROUNDS,
    )


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


def read_ping(output: str) -> Work:
    """The summary of iputils ping."""
    match = _PING_TOTAL.search(output)
    if match is None:
        raise BenchmarkError(f"ping printed no totals: {output[-300:]}")
    return Work(int(match[1]), int(match[2]))


def read_irtt(output: str) -> Work:
    """irtt's JSON."""
    try:
        stats = json.loads(output)["stats"]
        return Work(int(stats["packets_sent"]), int(stats["packets_received"]))
    except (ValueError, KeyError, TypeError) as problem:
        raise BenchmarkError(f"not irtt's JSON ({problem!r}): {output[-300:]}") from None


def read_prober(metrics: str) -> Work:
    """What smokeping_prober exposes."""
    sums = read_smokeping(metrics)
    if not sums.sent:
        raise BenchmarkError(f"smokeping_prober exposed nothing: {metrics[-300:]}")
    return Work(sums.sent, sums.answered)
