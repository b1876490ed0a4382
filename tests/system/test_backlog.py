"""An hour of windows, made while InfluxDB is away: real spools, uplinks and mosquitto, and a collector."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.backlog import scenario
from probe.telemetry.outbox import FIRST_ROOM

AGENTS, WINDOWS, LINES = 3, 360, 40
BATCH = 12_000  # bytes of text, head and all
# What is published in vain, by each: a first room's worth, one more that is new, and one batch at a time
# while pauses double (seconds here); retries of the room's worth where nobody has given up yet.
IN_VAIN = 2 * FIRST_ROOM + 10


def test_an_hour_without_the_database_fills_spools_and_nothing_else(tmp_path: Path) -> None:
    seen = asyncio.run(scenario(tmp_path, agents=AGENTS, windows=WINDOWS, lines=LINES))
    # Away: little goes out, so there is little to hold. All of it would be 12 MB in the broker and again in
    # the collector.
    assert seen.most_in_flight <= FIRST_ROOM + 1
    assert seen.in_flight_narrow == 1
    assert seen.published_away <= AGENTS * IN_VAIN
    held = AGENTS * IN_VAIN * BATCH
    assert seen.broker_away - seen.broker_before < 2 * held + (2 << 20)
    assert seen.collector_away - seen.collector_before < 2 * held + (4 << 20)
    # Back: the newest windows stand right behind what was published in vain, not behind the hour.
    assert max(seen.live_place) <= IN_VAIN + 4
    assert seen.in_database == [WINDOWS] * AGENTS
    assert (seen.missing, seen.twice) == (0, 0)
    assert seen.broker_peak - seen.broker_before < 8 << 20  # a window of each agent, and what mosquitto keeps
    assert seen.collector_peak - seen.collector_before < 32 << 20  # limits.held_bytes
