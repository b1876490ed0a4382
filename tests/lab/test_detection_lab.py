"""An agent over a link that shifts its delay and loses bursts in, an event of each out, stored with the
window that proves it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.detection.lab import BURST, SHIFT, linked, plan
from probe.telemetry.lines import Point, parse_many
from probe.telemetry.spool import Spool
from tests.lab.netlab import Lab
from tests.lab.running import LabAgent
from tests.system.commands import wait_for

MS = 1_000_000
WINDOW, INTERVAL = 200 * MS, 10 * MS


def batches(directory: Path) -> list[list[Point]]:
    """What waits in the spool of an agent that has ended, batch by batch."""
    spool = Spool(directory / "state" / "spool.sqlite3", 1 << 30)
    try:
        packed = [spool.get(number) or b"" for number in spool.numbers(0, 1_000_000)]
    finally:
        spool.close()
    return [list(parse_many((gzip.decompress(b) if b[:2] == b"\x1f\x8b" else b).decode())) for b in packed]


@pytest.mark.emulator
def test_shifts_and_bursts_are_told_within_two_windows_and_stored_with_the_proof(
    lab: Lab, tmp_path: Path
) -> None:
    # Shifts of 2 ms and more: what a busy machine adds is less.
    planned = plan(3, 2, 2, window=WINDOW, interval=INTERVAL, delay=6 * MS, least=0.35, apart=(4, 6), learn=8)
    assert {one.kind for one in planned.changes} == {SHIFT, BURST}
    link = linked(lab, planned)
    target = f'[[target]]\nname = "x"\naddress = "{link.far.ipv4}"\n[trace]\non_event = false\nevery = "0s"\n'
    agent = LabAgent(link.near, tmp_path, target, interval="10ms", window="200ms").start()
    wait_for(lambda: link.traffic()[0].arrived >= len(planned.delays) - 20, "the plan's packets")
    agent.stop()
    stored = batches(tmp_path)
    windows = sorted(
        (point.time_ns, int(point.fields["sent"]))
        for batch in stored
        for point in batch
        if point.measurement == "probe"
    )
    starts = [start for start, _ in windows]
    found: list[tuple[str, dict[str, Any], set[int]]] = []
    for batch in stored:
        there = {point.time_ns for point in batch if point.measurement == "probe"}
        events = [point for point in batch if point.measurement == "event" and "target" in point.tags]
        found += [(one.tags["kind"], json.loads(str(one.fields["detail"])), there) for one in events]
    assert found
    for change in planned.changes:
        sent = 0
        fell = next(n for n, (_, more) in enumerate(windows) if (sent := sent + more) > change.at)
        kind = {SHIFT: "latency", BURST: "loss"}[change.kind]
        soon = [
            (detail, there)
            for one, detail, there in found
            if one == kind
            and (kind == "latency" or detail["phase"] == "begin")
            and fell <= starts.index(detail["windows"][-1]) <= fell + 1
        ]
        assert soon, (change, fell, found)
        detail, there = soon[0]
        assert detail["windows"][-1] in there, "the event is in another batch than its proof"
        if kind == "loss":
            assert 3 <= detail["lost"] <= change.size  # the rest may be in the next window
        else:
            assert (detail["after_ns"] > detail["before_ns"]) == (change.size > 0)
