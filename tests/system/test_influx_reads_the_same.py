"""Random batches that a collector lets in, in one write, and what a real InfluxDB reads in them."""

from __future__ import annotations

from tests.fuzz.against_influx import compare
from tests.system.servers import Influx


def test_every_line_that_is_let_in_is_read_by_influxdb_in_its_own_agents_name(influxdb: Influx) -> None:
    found = compare(influxdb, 500, seed=7)
    assert found.findings == []
    assert found.lines >= 500
    assert found.refused < 50
