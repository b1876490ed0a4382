"""Nothing in, running servers out: fixtures over `tests.system.servers`, one fresh server a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import servers


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[servers.Server]:
    """A broker that lets everybody in."""
    with servers.mosquitto(tmp_path) as server:
        yield server


@pytest.fixture
def influxdb(tmp_path: Path) -> Iterator[servers.Influx]:
    """InfluxDB 1.6 with an empty database `coloprobe`."""
    with servers.influxdb(tmp_path) as server:
        server.create_database("coloprobe")
        yield server


@pytest.fixture
def victoria_metrics(tmp_path: Path) -> Iterator[servers.VictoriaMetrics]:
    """An empty VictoriaMetrics."""
    with servers.victoria_metrics(tmp_path) as server:
        yield server
