"""A number of targets in, the memory of a whole `coloprobe agent` out, with a real broker to talk to: part
[5]."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import BenchmarkError
from benchmarks.parts import Bench
from benchmarks.processes import background, memory_bytes
from benchmarks.programs import targets as addresses
from benchmarks.report import Bar
from probe.units import Duration
from tests.lab.netlab import Namespace

TARGETS = 1000
RATE = 10
_PORT = 18830
_WINDOWS = 3


def memory(bench: Bench) -> None:
    """Resident memory of an agent that works."""
    report, window = bench.report, f"{bench.size.window_s}s"
    report.say(
        f"\n[5] memory of `coloprobe agent` with {TARGETS} targets x {RATE} probes/s after {_WINDOWS} windows"
    )
    report.progress(f"  an agent for {_WINDOWS} windows of {window}")
    resident: list[float] = []
    try:
        found = agent_memory(bench.near, bench.scratch, targets=TARGETS, rate=RATE, window=window)
        resident, peak = [found["VmRSS"] / 1e6], found["VmHWM"] / 1e6
        report.say(f"  resident {resident[0]:.1f} MB, at its peak {peak:.1f} MB (windows of {window})")
        report.data["memory"] = found
    except BenchmarkError as problem:
        report.say(f"  not measured: {str(problem).splitlines()[-1]}")
    report.bars.append(Bar("[5] resident MB", resident, 72))


def agent_memory(
    namespace: Namespace, scratch: Path, *, targets: int, rate: int, window: str
) -> dict[str, int]:
    """VmRSS and VmHWM in bytes after three closed windows; the broker acknowledges, so nothing piles up.

    Raises: BenchmarkError where the agent or the broker does not run or does not leave cleanly.
    """
    settings = scratch / "agent.toml"
    rows = "".join(
        f'[[target]]\nname = "target-{n}"\naddress = "{address}"\n'
        for n, address in enumerate(addresses(targets))
    )
    settings.write_text(
        f"""
[agent]
id = "bench"
state_dir = "{scratch / "state"}"
[window]
length = "{window}"
[defaults]
interval = "{1000 // rate}ms"
[mqtt]
url = "mqtt://127.0.0.1:{_PORT}"
[uplink]
acknowledge = "broker"
{rows}""",
        encoding="utf-8",
    )
    (scratch / "state").mkdir()
    agent: list[str | Path] = [Path(sys.executable).with_name("coloprobe"), "agent", "-c", settings]
    length_s = Duration.parse(window).seconds
    with (
        background(namespace, ["mosquitto", "-p", str(_PORT)], scratch / "mosquitto.log"),
        background(namespace, agent, scratch / "agent.log") as process,
    ):
        # The first window is cut short by the start; its replies may take the timeout, and then it is sent.
        until = (time.time() // length_s + 1 + _WINDOWS) * length_s + 2
        try:
            process.wait(timeout=until - time.time())
        except subprocess.TimeoutExpired:
            return _whole(process.pid)
        log = (scratch / "agent.log").read_text(encoding="utf-8", errors="replace")
        raise BenchmarkError(f"the agent ended with {process.returncode}: {log[-300:].strip()}")


def _whole(pid: int) -> dict[str, int]:
    """Of a process and its children together."""
    total = memory_bytes(pid)
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            for name, value in _whole(int(child)).items():
                total[name] += value
    return total
