"""The collector's own line keeps to the published schema."""

from __future__ import annotations

from collectors.report import Counters
from probe.telemetry import lines, schema


def test_every_field_is_published_and_what_is_unknown_is_absent() -> None:
    counters = Counters(batches=1, lines=2, rejected=3, quarantined=4, dropped=5, retries=6, over_limit=9)
    point = lines.parse(counters.line("fanin-1", held_bytes=7, now_ns=1000).decode().strip())
    assert (point.measurement, point.tags) == ("collector", {"agent": "collector", "collector": "fanin-1"})
    assert {"write_latency_ns", "lag_ns"}.isdisjoint(point.fields)
    counters.write_latency_ns, counters.newest_ns = 8, 900
    point = lines.parse(counters.line("fanin-1", held_bytes=7, now_ns=1000).decode().strip())
    assert set(point.fields) == {field.name for field in schema.COLLECTOR.fields}
    assert sorted(int(value) for value in point.fields.values()) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 100]
