"""A namespace and settings in, a `coloprobe` process in it and what it measured out.

The agents here have no broker: what they measured waits in their spool, and is read there at the end.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from probe.telemetry.lines import Point
from tests.lab.netlab import Namespace
from tests.system.commands import DEADLINE_S, ROOT, coloprobe, spooled

T = TypeVar("T")

SECOND = 1_000_000_000
# All privileges gone but one that has nothing to do with sockets: the checkout may be in a private folder.
AS_NOBODY = (
    *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
    *("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"),
)

AGENT = """
[agent]
id = "lab"
state_dir = "{state}"
{agent}
[window]
length = "{window}"
timeout = "200ms"
histogram = "{window}"
[defaults]
interval = "{interval}"
[mqtt]
url = "mqtt://127.0.0.1:9"
{trace}
{targets}
"""
# Traces are echo requests and SYNs, too, and tests count those of targets; whoever wants them says so.
UNTRACED = '[trace]\nevery = "0s"\non_event = false'


def together(*work: Callable[[], T]) -> list[T]:
    """What each returns, in order; all run at once, as most of each is waiting. Raises what one raised."""
    with ThreadPoolExecutor(len(work)) as pool:
        begun = [pool.submit(one) for one in work]
    return [one.result() for one in begun]


@dataclass(frozen=True)
class Pinged:
    """What `coloprobe ping --json` said: an object a probe, and the summary."""

    status: int
    probes: list[dict[str, Any]]
    summary: dict[str, Any]
    stderr: str

    def outcomes(self) -> list[str]:
        """In the order of the probes."""
        return [probe["outcome"] for probe in sorted(self.probes, key=lambda probe: probe["seq"])]

    def rtts(self) -> list[int]:
        """Of the received probes, in the order of the probes, ns."""
        return [probe["rtt_ns"] for probe in self.probes if probe["outcome"] == "received"]


def coloprobe_ping(
    namespace: Namespace, *arguments: str, wrapper: Sequence[str] = (), interval: str = "10ms"
) -> Pinged:
    """Run it in there. Fails where it writes anything but JSON, or a traceback."""
    command = [*wrapper, *coloprobe("ping", *arguments, "-i", interval, "--json")]
    done = namespace.run(command, check=False, timeout_s=DEADLINE_S)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Pinged(done.returncode, lines[:-1], lines[-1] if lines else {}, done.stderr)


class LabAgent:
    """`coloprobe agent` in a namespace: start it, stop it, read its points."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        targets: str | dict[str, str],
        *,
        interval: str = "10ms",
        window: str = "1s",
        agent: str = "",
        wrapper: Sequence[str] = (),
    ) -> None:
        self.log = directory / "agent.log"
        self._namespace = namespace
        self._wrapper = wrapper
        self._state = directory / "state"
        self._file = directory / "agent.toml"
        if isinstance(targets, dict):
            targets = "\n".join(f'[[target]]\nname = "{n}"\naddress = "{a}"' for n, a in targets.items())
        trace = "" if "[trace]" in agent + targets else UNTRACED
        self._file.write_text(
            AGENT.format(
                state=self._state,
                agent=agent,
                interval=interval,
                window=window,
                trace=trace,
                targets=targets,
            ),
            encoding="utf-8",
        )
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> LabAgent:
        with self.log.open("ab") as log:
            self._process = self._namespace.popen(
                [*self._wrapper, *coloprobe("agent", "-c", self._file)], stdout=log, stderr=log, cwd=ROOT
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> list[Point]:
        """SIGTERM; every point that it has ever spooled. Fails where it did not end well."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(DEADLINE_S)
        assert status == 0, self.text()
        assert "Traceback" not in self.text(), self.text()
        return spooled(self._state)


def probes(points: Sequence[Point], target: str) -> list[Point]:
    """The `probe` points of a target, in order of time."""
    found = [p for p in points if p.measurement == "probe" and p.tags["target"] == target]
    return sorted(found, key=lambda point: point.time_ns)


def total(points: Sequence[Point], field: str) -> int:
    """The sum of an integer field."""
    return sum(int(point.fields[field]) for point in points)
