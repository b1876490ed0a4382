"""A plan in, a verdict out: everything is started, broken, mended, waited for, stopped and looked at."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from probe.errors import ColoprobeError
from probe.telemetry.schema import MEASUREMENTS
from tests.chaos.driver import Done, Driver
from tests.chaos.evidence import (
    Evidence,
    Key,
    Span,
    SpoolState,
    quarantine_entries,
    sent_of,
    spool_state,
    stored_points,
)
from tests.chaos.parts import Part
from tests.chaos.plan import FULL, Plan
from tests.chaos.site import INTERVAL_NS, WINDOW_NS, Site
from tests.chaos.verdict import Verdict, judge

SECOND = 1_000_000_000
_BEFORE_KILL_NS = 5 * SECOND  # what had not been spooled yet: an open window, and how long it takes to close
_STARTING_NS = 15 * SECOND  # of a Python process on a busy machine
_RECOVERING_NS = 5 * SECOND  # until an agent has noticed that its disk has room again
_ROUNDS = 4


@dataclass
class Result:
    """What a run has to say for itself."""

    plan: Plan
    verdict: Verdict
    injected: dict[str, int]
    settled_s: float  # from the last fault's end until all was in the database
    done: list[Done] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "seed": self.plan.seed,
            "duration_s": self.plan.duration_s,
            "persistent": self.plan.persistent,
            "tight": self.plan.tight,
            "protocol": self.plan.protocol,
            "injected": self.injected,
            "settled_s": round(self.settled_s, 2),
            **self.verdict.as_dict(),
        }


def run(
    site: Site,
    tell: Callable[[str], None],
    progress: Callable[[str], None] = lambda text: None,
    *,
    deadline_s: float = 180.0,
) -> Result:
    """Break `site` (entered, not started yet) by its plan; `deadline_s`: for everything to arrive after that.

    Raises: AssertionError where the site does not start; everything else is in the verdict.
    """
    plan = site.plan
    progress("starting")
    site.start()
    driver = Driver(site, tell)
    driver.run(
        plan, lambda passed: progress(f"{passed:.0f} of {plan.duration_s:.0f} s, {len(driver.done)} faults")
    )
    tell("all faults are lifted; waiting until everything is in the database")
    lifted = time.monotonic()
    late = _settle(site, site.cast.agents, lifted + deadline_s, progress)
    settled_s = time.monotonic() - lifted
    progress("stopping")
    problems = [*late, *_stop(site, deadline_s)]
    verdict = judge(_evidence(site, driver.done))
    verdict.problems += problems
    return Result(plan, verdict, dict(sorted(driver.injected.items())), settled_s, driver.done)


# -- the end ---------------------------------------------------------------------------------------------


def _settle(site: Site, agents: Sequence[str], deadline: float, progress: Callable[[str], None]) -> list[str]:
    """Wait until these agents' live batches arrive and none before them is missing; say which do not."""
    since_ns = time.time_ns()
    behind: dict[str, str] = {}
    while time.monotonic() < deadline:
        site.look()
        try:
            rows = site.query("SELECT batch, spool, spool_batches, spool_dropped FROM agent GROUP BY agent")
        except (OSError, HTTPException, RuntimeError, ValueError):
            behind = {"database": "does not answer"}
        else:
            behind = {name: why for name in agents if (why := _behind(name, rows, since_ns))}
            behind |= {name: "still sends" for name in site.cast.bystanders if site.parts[name].running()}
        if not behind:
            return []
        progress(f"waiting for {', '.join(f'{name} ({why})' for name, why in behind.items())}")
        time.sleep(0.3)
    return [f"{name} is behind: {why}" for name, why in behind.items()]


def _behind(agent: str, rows: list[dict[str, Any]], since_ns: int) -> str:
    """Why this agent's data are not all there; empty: they are."""
    # InfluxDB reads one field after the other: a point that is just being written may be seen in part.
    mine = [row for row in rows if row["agent"] == agent and None not in row.values()]
    if not mine:
        return "nothing at all"
    newest = max(mine, key=lambda row: int(row["time"]))
    if newest["time"] < since_ns:
        return "nothing new"
    numbers = {row["batch"] for row in mine if row["spool"] == newest["spool"]}
    missing = newest["batch"] - len(numbers) - newest["spool_dropped"]
    return f"{missing} missing" if missing > 0 else ""


def _stop(site: Site, deadline_s: float) -> list[str]:
    """SIGTERM to all; agents that could not empty their spools get another chance."""
    problems = []
    for _ in range(_ROUNDS):
        problems = _end(site, site.cast.agents, deadline_s)
        full = [name for name in site.cast.agents if _waiting(site, name)]
        if not full:
            break
        for name in full:
            site.parts[name].start()
        _settle(site, full, time.monotonic() + deadline_s, lambda text: None)
    problems += _end(site, site.cast.collectors, deadline_s)
    site.parts["broker"].kill()
    site.wire.stop()
    return problems


def _waiting(site: Site, name: str) -> bool:
    try:
        return spool_state(name, site.directory / name).waiting > 0
    except ColoprobeError:
        return False


def _end(site: Site, names: tuple[str, ...], deadline_s: float) -> list[str]:
    for name in names:
        site.parts[name].end()
    deadline = time.monotonic() + deadline_s
    while any(site.parts[name].running() for name in names) and time.monotonic() < deadline:
        time.sleep(0.05)
    late = [name for name in names if site.parts[name].running()]
    site.look()
    return [f"{name} does not end {deadline_s:.0f} s after SIGTERM" for name in late]


# -- what is known ---------------------------------------------------------------------------------------


def _evidence(site: Site, done: list[Done]) -> Evidence:
    stored: dict[Key, dict[str, Any]] = {}
    for measurement in MEASUREMENTS:
        keys = site.query(f'SHOW TAG KEYS FROM "{measurement}"')
        tags = [row["tagKey"] for row in keys]
        stored |= stored_points(measurement, site.query(f'SELECT * FROM "{measurement}"'), tags)
    agents, collectors = site.cast.agents, site.cast.collectors
    parts = site.parts.values()
    spools = [spool_state(name, site.directory / name) for name in agents]
    spools += [
        SpoolState(told["agent"], told["spool"], told["last"], told["waiting"], told["dropped"])
        for told in site.fleet_told()
    ]
    return Evidence(
        spools=spools,
        sent=sent_of(site.wire.published()),
        stored=stored,
        quarantined=quarantine_entries(site.directory / name for name in collectors),
        deaths=[death for part in parts for death in part.deaths],
        bad_goodbyes={
            part.name: part.goodbyes
            for part in parts
            if part.name in (*agents, *collectors, *site.cast.bystanders)
            and sum(map(bool, part.goodbyes)) > _confessed(part)
        },
        seen=site.probes_seen(),
        killed=_killed(agents, done),
        full={one.fault.where[0] for one in done if one.fault.kind in FULL},
        absent={name: absences(name, done) for name in agents},
        window_ns=WINDOW_NS,
        interval_ns=INTERVAL_NS,
    )


def _confessed(part: Part) -> int:
    """How often it said that it had to end with lines for which its disk had no room."""
    return part.text().count("bytes of lines are lost: ")


def absences(agent: str, done: list[Done]) -> list[Span]:
    """When windows of this agent may be missing, by the faults it had."""
    spans: list[Span] = []
    for one in done:
        if one.fault.where != (agent,) or one.fault.kind == "reload":
            continue
        since, until = one.began_ns, one.over_ns + _STARTING_NS
        if one.fault.kind == "freeze":
            since, until = since - WINDOW_NS, one.over_ns + 2 * SECOND
        else:
            since = min([since, *_unspooled(agent, one.began_ns, done)])
        if one.fault.kind == "kill":
            since -= _BEFORE_KILL_NS
        spans.append((since, until))
    return spans


def _unspooled(agent: str, when_ns: int, done: list[Done]) -> list[int]:
    """Since when this agent's disk is full, if it is: what it cannot spool waits in memory."""
    return [
        one.began_ns
        for one in done
        if one.fault.kind in FULL
        and one.fault.where[0] == agent
        and one.began_ns < when_ns < one.over_ns + _RECOVERING_NS
    ]


def _killed(agents: Sequence[str], done: list[Done]) -> set[str]:
    """Agents that may have lost what they had measured and not spooled."""
    return {
        name
        for name in agents
        for one in done
        if one.fault.where == (name,)
        and (one.fault.kind == "kill" or (one.fault.kind == "end" and _unspooled(name, one.began_ns, done)))
    }


def say(result: Result, out: Any = sys.stdout) -> None:
    """The result in words."""
    verdict = result.verdict
    kinds = ", ".join(f"{count} {kind}" for kind, count in result.injected.items())
    lines = [
        f"seed {result.plan.seed}, {result.plan.duration_s:.0f} s, "
        f"broker {'with' if result.plan.persistent else 'without'} persistence, "
        f"{'small' if result.plan.tight else 'usual'} queues, "
        f"MQTT {result.plan.protocol}",
        f"faults injected    {sum(result.injected.values())}: {kinds}",
        f"batches sent       {verdict.batches} (published again {verdict.sent_again}, "
        f"delivered again {verdict.delivered_again})",
        f"batches lost       {verdict.lost} (and {verdict.missing - verdict.lost} by a full disk, "
        f"of {verdict.dropped} that it dropped and counted)",
        f"points             {verdict.points}; doubled {verdict.overwritten + verdict.doubled}, "
        f"foreign {verdict.foreign}, altered {verdict.altered}, in quarantine {verdict.quarantined}",
        f"events             {verdict.told_twice} told twice, by collectors that saw them at different times",
        f"probes             {verdict.probes_sent} told of, {verdict.probes_seen} seen by the targets",
        f"all had arrived    {result.settled_s:.1f} s after the last fault; the slowest batch was "
        f"acknowledged after {verdict.slowest_s:.1f} s",
    ]
    lines += [f"PROBLEM: {problem}" for problem in verdict.problems]
    lines.append("nothing is lost, nothing is there twice" if verdict.good else "FAILED")
    print("\n".join(lines), file=out, flush=True)
