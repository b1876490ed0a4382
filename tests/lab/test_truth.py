"""An agent and pings over links that do their worst in, every count of every window held against the wire
out.

Two witnesses have to tell the same story first: the emulator's log of what it did, and a capture at the
prober's end. From the capture, `tests.lab.definitions` works out what docs/measuring.md says the fields have
to be.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from probe.telemetry.lines import Point
from tests.lab.capture import Capture
from tests.lab.definitions import (
    CLOSE,
    MS,
    Expected,
    Range,
    Seen,
    Window,
    closing,
    expect,
    flow,
    jitter,
    outcomes,
    overtaken,
    percentile,
)
from tests.lab.link import (
    Chance,
    Constant,
    Duplicate,
    Every,
    GilbertElliott,
    Impairments,
    Rate,
    Reorder,
    Trace,
    Uniform,
)
from tests.lab.netlab import Lab, Namespace
from tests.lab.running import AS_NOBODY, LabAgent, probes
from tests.lab.witnesses import assert_same_story
from tests.system.commands import DEADLINE_S, coloprobe, wait_for

LENGTH, TIMEOUT = 500 * MS, 200 * MS
# A window is closed at the first tick (10 ms) at which nothing can be in time any more, and a tick is late by
# another at most, or the agent says so (`late_ticks`, and from 100 ms on `stalls`).
CLOSING, CLOSING_LATE, CLOSING_STALLED = 25 * MS, 125 * MS, 400 * MS
PINGS, PING_INTERVAL = 160, 5 * MS
PERCENTILES = {
    "rtt_p50_ns": (1, 2),
    "rtt_p90_ns": (9, 10),
    "rtt_p99_ns": (99, 100),
    "rtt_p999_ns": (999, 1000),
}
# What a shared machine may do to a single time; what it is like by itself is measured by the benchmarks.
OFF_AT_MOST, OFF_MEDIAN = 5 * MS, 100_000


@dataclass(frozen=True)
class Mix:
    """`shows`: fields that must not be 0 in a run with it, or the run proves nothing."""

    forward: Impairments = field(default_factory=Impairments)
    backward: Impairments = field(default_factory=Impairments)
    shows: tuple[str, ...] = ()


FEW_MS = Uniform(200_000, 3 * MS)
# Around the timeout of 200 ms, on both sides of it, and never within what a stalled emulator might add.
AROUND = Trace((150 * MS, 190 * MS, 215 * MS, 1 * MS, 260 * MS, 199 * MS - MS, 203 * MS))
STALLS = Trace((120 * MS, *(1 * MS,) * 60))

MIXES = {
    "every-seventh": Mix(Impairments(loss=Every(7)), Impairments(delay=Constant(MS)), ("lost",)),
    "random": Mix(Impairments(FEW_MS, Chance(0.06)), Impairments(FEW_MS, Chance(0.04)), ("lost",)),
    "bursts": Mix(
        Impairments(FEW_MS, GilbertElliott(0.03, 0.25)),
        Impairments(Constant(MS), GilbertElliott(0.02, 0.5, 0.01, 0.8)),
        ("lost",),
    ),
    "duplicates": Mix(
        Impairments(Constant(MS), duplicate=Duplicate(Every(5), 300_000)),
        Impairments(Constant(MS), duplicate=Duplicate(Chance(0.2), 12 * MS)),
        ("duplicates",),
    ),
    "reordered": Mix(
        Impairments(Constant(MS), reorder=Reorder(Every(9), 25 * MS)),
        Impairments(Uniform(0, 40 * MS), keep_order=False),
        ("reordered",),
    ),
    "late": Mix(
        Impairments(Constant(MS), loss=Every(13)),
        Impairments(Constant(MS), reorder=Reorder(Every(11), 230 * MS)),
        ("late", "lost", "reordered"),
    ),
    "too-late-for-its-window": Mix(
        Impairments(Constant(MS), duplicate=Duplicate(Every(15), 900 * MS)),
        Impairments(Constant(MS), reorder=Reorder(Every(20), 700 * MS)),
        ("late", "lost", "duplicates"),
    ),
    "around-the-timeout": Mix(
        Impairments(), Impairments(AROUND, keep_order=False), ("late", "lost", "reordered", "received")
    ),
    "narrow": Mix(
        Impairments(STALLS, rate=Rate(1_500_000, queue=4)),
        Impairments(rate=Rate(2_000_000, queue=20)),
        ("lost", "received"),
    ),
    "dead-backward": Mix(Impairments(Constant(MS)), Impairments(loss=Every(1)), ("lost",)),
    "all-at-once": Mix(
        Impairments(
            FEW_MS,
            GilbertElliott(0.02, 0.4),
            Duplicate(Every(6), 2 * MS),
            Reorder(Chance(0.1), 30 * MS),
            Rate(20_000_000, 50),
        ),
        Impairments(
            Uniform(0, 20 * MS), Chance(0.02), Duplicate(Chance(0.1), 400 * MS), Reorder(Every(17), 300 * MS)
        ),
        ("lost", "late", "duplicates", "reordered", "received"),
    ),
}

# Name, address, interval, DSCP: four sockets, of which raw ones hear what is for the others as well. Two
# flows fit into a window a whole number of times; two are in no step with the tick of 10 ms, so that some of
# their probes leave when they are due: see `dues`.
ROUTED = "10.50.0.0/24", "fd50::/64"
PINGED = "10.50.0.200", "fd50::200"
TARGETS = [
    ("four", "10.50.0.1", 5 * MS, 0),
    ("four-odd", "10.50.0.2", 7_300_000, 10),
    ("six", "fd50::1", 10 * MS, 0),
    ("six-odd", "fd50::2", 13_700_000, 46),
]


# The agent's other way to send, whole frames over Ethernet, for the links that do most.
CASES = [(mix, "raw") for mix in MIXES]
CASES += [(mix, "ring") for mix in ("duplicates", "around-the-timeout", "all-at-once")]


def settings(backend: str) -> str:
    targets = "\n".join(
        f'[[target]]\nname = "{name}"\naddress = "{address}"\ninterval = "{interval}ns"\ndscp = {dscp}'
        for name, address, interval, dscp in TARGETS
    )
    return f'{targets}\n[engine]\nbackend = "{backend}"\n'


@dataclass
class Errors:
    """How far measured times are from the capture's, ns."""

    rtts: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    summaries: list[int] = field(default_factory=list)

    def check(self) -> None:
        for name, values in (("rtt", self.rtts), ("sent", self.sent), ("rtt fields", self.summaries)):
            if values:
                off = sorted(map(abs, values))
                shown = f"median {median(off) / 1e3:.1f}, p99 {percentile(off, 99, 100) / 1e3:.1f}"
                print(f"{name}: {len(off)} compared, {shown}, max {off[-1] / 1e3:.1f} us from the capture")
                assert median(off) < OFF_MEDIAN
                assert off[-1] < OFF_AT_MOST


def dues(seen: Sequence[Seen], interval: int) -> list[int]:
    """When each probe of a periodic flow was due, by the wire alone; wall clock ns, and never too early.

    Probes leave when they are due or later, so the least time any of them left after a beat of the interval
    gives the beat. Where lags are all lengths up to a tick, that is right to some 100 us.
    """
    beat = min(probe.sent_ns - at * interval for at, probe in enumerate(seen))
    return [beat + at * interval for at in range(len(seen))]


def windows_of(
    seen: Sequence[Seen], points: Sequence[Point], starts: Sequence[int], interval: int, complete: bool
) -> list[Window]:
    """The flow's probes dealt to its windows: in order, so many to each as its point says were sent.

    The wire shows when probes left, not when they were due; so that the point's `sent` is no mere belief,
    each has to have been due in its window, as far as the wire can tell. complete: no probe of the schedule
    was skipped, and no tick was late.
    """
    ends = [*starts[1:], (starts[-1] // LENGTH + 1) * LENGTH]
    sent = {point.time_ns: int(point.fields["sent"]) for point in points}
    beats = dues(seen, interval) if complete else [probe.sent_ns for probe in seen]
    spare = 3 * MS if complete and interval % MS else 250 * MS + CLOSING_STALLED
    windows, at = [], 0
    for start, end in zip(starts, ends, strict=True):
        until = min(at + sent.get(start, 0), len(seen))
        strangers = [due - start for due in beats[at:until] if not start <= due < end + spare]
        assert not strangers, (
            f"of another window than {start}, which is {end - start} ns long: due {strangers}"
        )
        windows.append(Window(start, closing(end, TIMEOUT), list(seen[at:until])))
        at = until
    return windows


def compare(point: Point, expected: Expected, errors: Errors) -> None:
    """Every field of one point."""
    fields = point.fields
    found = {name: int(fields[name]) for name in expected.counts}
    wrong = {
        name: (found[name], wanted) for name, wanted in expected.counts.items() if found[name] not in wanted
    }
    assert not wrong, f"(found, expected) {wrong} in {point}"
    assert (fields["errors"], fields["unstamped"]) == (0, 0), point
    assert fields["loss"] == found["lost"] / found["sent"]
    if expected.unsure:
        return
    if not expected.rtts:
        assert not [name for name in fields if name.startswith(("rtt", "jitter", "ipdv"))]
        return
    wanted: dict[str, float] = {n: percentile(expected.rtts, *p) for n, p in PERCENTILES.items()}
    wanted |= {"rtt_min_ns": min(expected.rtts), "rtt_max_ns": max(expected.rtts)}
    wanted["rtt_mean_ns"] = sum(expected.rtts) / len(expected.rtts)
    errors.summaries += [round(float(fields[name]) - value) for name, value in wanted.items()]
    assert ("jitter_ns" in fields) == (len(expected.rtts) > 1)
    assert ("ipdv_mean_ns" in fields) == bool(expected.ipdv)
    if expected.ipdv:
        off = float(fields["ipdv_mean_ns"]) - sum(expected.ipdv) / len(expected.ipdv)
        errors.summaries += [round(off), int(fields["ipdv_p99_ns"]) - percentile(expected.ipdv, 99, 100)]
    if len(expected.rtts) > 1:
        errors.summaries.append(round(float(fields["jitter_ns"]) - jitter(expected.by_arrival)))


def check_agent(points: Sequence[Point], capture: Capture, stopped_ns: int, shows: Sequence[str]) -> None:
    echoes, errors, exact, ranges = capture.echoes(), Errors(), 0, 0
    about = [point.fields for point in points if point.measurement == "agent"]
    skipped, late_ticks, stalls = (
        max(int(fields[name]) for fields in about) for name in ("skipped", "late_ticks", "stalls")
    )
    lasts = CLOSING_STALLED if stalls else CLOSING_LATE if late_ticks else CLOSING
    starts = sorted({point.time_ns for point in points if point.measurement == "probe"})
    found: dict[str, int] = dict.fromkeys(shows, 0)
    for name, address, interval, _ in TARGETS:
        mine = probes(points, name)
        by_start = {point.time_ns: point for point in mine}
        seen = flow(echoes, address)
        windows = windows_of(seen, mine, starts, interval, not skipped and not late_ticks)
        full, so_far = 0, {"late": 0, "duplicates": 0}
        for at, (window, expected) in enumerate(zip(windows, expect(windows, TIMEOUT, lasts), strict=True)):
            if window.closing_ns + lasts > stopped_ns:
                break  # the agent's end cut it short
            if window.start_ns not in by_start:
                assert at == 0
                assert not window.probes
                continue
            point = by_start[window.start_ns]
            compare(point, expected, errors)
            for field_name, wanted in expected.so_far.items():
                so_far[field_name] += int(point.fields[field_name])
                assert so_far[field_name] in wanted, (field_name, so_far, point)
            exact += sum(wanted.exact for wanted in expected.counts.values())
            ranges += sum(not wanted.exact for wanted in expected.counts.values())
            for field_name in shows:
                found[field_name] += int(point.fields[field_name])
            if window.start_ns % LENGTH == 0 and window.start_ns > seen[0].sent_ns:
                full += 1
                assert skipped or point.fields["sent"] in (LENGTH // interval, -(-LENGTH // interval))
        assert full >= (1 if stalls else 2)
    print(f"{exact} counts exact, {ranges} within a range; {late_ticks} late ticks")
    # Only what arrives in the very ticks in which a window is closed may count there or in the next.
    assert late_ticks or ranges * 2 < exact
    assert all(found.values()), f"this run showed nothing: {found}"
    errors.check()


def check_ping(lines: Sequence[dict[str, Any]], seen: Sequence[Seen], ended_ns: int, errors: Errors) -> None:
    """Every probe's line, and the summary's counts."""
    *said, summary = lines
    assert [probe.number for probe in seen] == list(range(PINGS))
    lines_of: dict[int, list[str]] = {number: [] for number in range(PINGS)}
    for line in said:
        lines_of[line["seq"]].append(line["outcome"])
        errors.sent.append(line["sent_ns"] - seen[line["seq"]].sent_ns)
        if line["outcome"] in ("received", "late"):
            assert line["stamp"] == "kernel"
            errors.rtts.append(line["rtt_ns"] - (seen[line["seq"]].rtt() or 0))
    # It goes on for as long as a probe may still be answered in time, and a little more.
    hears_ns = max(min(p.first or p.sent_ns + TIMEOUT, p.sent_ns + TIMEOUT) for p in seen) - MS
    late = duplicates = reordered = 0
    latest: dict[str, int] = {"late": 0, "duplicates": 0, "reordered": 0}
    passed = overtaken(seen)
    for probe in seen:
        heard = [reply for reply in probe.replies if reply < hears_ns]
        maybe = [reply for reply in probe.replies if reply < ended_ns]
        rtt = probe.rtt() or 0
        got = lines_of[probe.number]
        allowed = []
        for replies in range(len(heard), len(maybe) + 1):
            again = ["duplicate"] * max(replies - 1, 0)
            if replies and rtt < TIMEOUT + CLOSE:
                allowed.append(["received", *again])
            if replies and rtt > TIMEOUT - CLOSE:
                allowed += [["late", *again], ["lost", "late", *again]]
            if not replies:
                allowed.append(["lost"])
        assert sorted(got) in [sorted(one) for one in allowed], (probe, got, allowed)
        late += rtt > TIMEOUT + CLOSE and bool(heard)
        latest["late"] += rtt > TIMEOUT - CLOSE and bool(maybe)
        duplicates += max(len(heard) - 1, 0)
        latest["duplicates"] += max(len(maybe) - 1, 0)
        reordered += passed[probe.number] and bool(heard) and not straddles(probe)
        latest["reordered"] += passed[probe.number] and bool(maybe)
    for name, wanted in outcomes(seen, TIMEOUT).items():
        assert summary[name] in wanted, (name, summary, wanted)
    assert (summary["errors"], summary["unstamped"]) == (0, 0)
    for name, least in (("late", late), ("duplicates", duplicates), ("reordered", reordered)):
        assert summary[name] in Range(least, latest[name]), (name, summary, least, latest)
    assert summary["late"] == sum("late" in got for got in lines_of.values())
    assert summary["duplicates"] == sum(got.count("duplicate") for got in lines_of.values())


def straddles(probe: Seen) -> bool:
    """Whether its window of 10 s, ping's own, may have been closed before its reply came."""
    return any(
        probe.first is not None and probe.first > closing(end, TIMEOUT) - MS
        for end in [
            (probe.sent_ns // (10_000 * MS) + 1) * 10_000 * MS,
            probe.sent_ns // (10_000 * MS) * 10_000 * MS,
        ]
        if probe.sent_ns - 250 * MS < end
    )


def start_ping(near: Namespace, address: str, wrapper: Sequence[str], output: Path) -> subprocess.Popen[str]:
    timing = ("-i", f"{PING_INTERVAL}ns", "-W", f"{TIMEOUT}ns")
    command = [*wrapper, *coloprobe("ping", address, "-c", str(PINGS), *timing, "--json")]
    # Files, because a full pipe would stall it. What a busy host makes it say is no part of what it measured.
    with output.open("w") as file, output.with_suffix(".log").open("w") as log:
        return near.popen(command, stdout=file, stderr=log)


@pytest.mark.emulator
@pytest.mark.parametrize(("mix", "backend"), CASES)
def test_every_count_of_every_window_is_what_the_wire_says(
    lab: Lab, tmp_path: Path, mix: str, backend: str
) -> None:
    asked = MIXES[mix]
    # Half of them by raw sockets, half by ping sockets.
    wrapper = AS_NOBODY if list(MIXES).index(mix) % 2 else ()
    link = lab.emulated(asked.forward, asked.backward, seed=mix, ethernet=backend == "ring")
    for network in ROUTED:
        link.far.answer_for(network)
        link.near.route(network, link.far.ipv4 if "." in network else link.far.ipv6)
    agent = LabAgent(link.near, tmp_path, settings(backend), window=f"{LENGTH}ns")
    with Capture(link.near, quiet=True) as capture:
        agent.start()
        outputs = [tmp_path / f"ping-{at}" for at in range(len(PINGED))]
        pings = [
            start_ping(link.near, address, wrapper, output)
            for address, output in zip(PINGED, outputs, strict=True)
        ]
        for ping in pings:
            assert ping.wait(DEADLINE_S) in (0, 1)  # 1: nothing was received
        ended_ns = time.time_ns()

        def enough() -> bool:
            assert agent.running(), agent.text()
            assert link.running
            return link.traffic()[0].arrived >= 2 * PINGS + 1300

        wait_for(enough, "1300 probes of the agent")
        stopped_ns = time.time_ns()
        points = agent.stop()
        log = link.stop()
    assert_same_story(log, link, capture)
    check_agent(points, capture, stopped_ns, asked.shows)
    errors, echoes = Errors(), capture.echoes()
    for address, output in zip(PINGED, outputs, strict=True):
        lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        check_ping(lines, flow(echoes, address), ended_ns, errors)
    errors.check()
