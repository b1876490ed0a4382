"""Points that our own sink wrote into a real InfluxDB come back through InfluxQL as they were."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from collectors.diagnose.command import Where, run
from collectors.history import points
from collectors.influxql import CHUNK, InfluxHistory
from collectors.sinks.embedded import EmbeddedSink
from collectors.sinks.influx import open_sink
from collectors.sinks.store import path_in
from probe.clock import SECOND, ManualClock
from probe.errors import SinkRefused, SinkUnavailable
from probe.settings import CollectorSettings, CollectorTable, InfluxTable
from probe.telemetry.lines import encode, series_text
from tests.system import servers
from tests.unit.collectors.diagnose.faults import catalogue
from tests.unit.collectors.diagnose.site import now
from tests.unit.collectors.diagnose.site import points as points_of
from tests.unit.collectors.test_history import EXPECTED, LINES, T


def settings_to(port: int, **more: str) -> CollectorSettings:
    influx = InfluxTable(url=f"http://127.0.0.1:{port}", api="v1", **more)  # type: ignore[arg-type] # texts, all of them
    return CollectorSettings(collector=CollectorTable(id="c"), influx=influx)


def test_influxdb_gives_the_points_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.influxdb(tmp_path, extra_http="auth-enabled = true") as influx:
        influx.request("POST", "/query?q=CREATE+USER+admin+WITH+PASSWORD+'x'+WITH+ALL+PRIVILEGES")
        influx.request("POST", "/query?u=admin&p=x&q=CREATE+DATABASE+coloprobe")
        monkeypatch.setenv("COLOPROBE_INFLUX_PASSWORD", "x")
        settings = settings_to(influx.port, username="admin")
        many = "".join(f"agent,agent=b batch={n}i {T + n * SECOND}\n" for n in range(2 * CHUNK + 7))

        async def write() -> None:
            sink = open_sink(settings, "collector.toml")
            await sink.write((LINES + many).encode())
            await sink.close()

        asyncio.run(write())
        history = InfluxHistory(settings, "collector.toml")
        for measurement, expected in EXPECTED.items():
            found = list(points(history, T - 10, T + 10, [measurement]))
            assert sorted(found, key=lambda p: p.time_ns) == sorted(expected, key=lambda p: p.time_ns)
        assert isinstance(next(points(history, T, T, ["probe"])).fields["loss"], float)
        # An answer of several pieces is one series again.
        ((tags, rows),) = history.strands("agent", ("batch", "version"), T, T + 10**15)
        assert tags == {"agent": "b"}
        assert rows == [(T + n * SECOND, n, None) for n in range(2 * CHUNK + 7)]
        assert list(history.strands("hop", ("rtt_ns",), T, T + 10**15)) == []
        history.close()

        # What is said of a fault is the same from everywhere.
        made = points_of(catalogue()["gateway-down"])
        body = "".join(
            encode(series_text(point.measurement, point.tags), point.fields, point.time_ns) + "\n"
            for point in made
        )
        config = tmp_path / "collector.toml"
        config.write_text(
            f'[collector]\nid = "c"\n[influx]\nurl = "http://127.0.0.1:{influx.port}"\napi = "v1"\n'
            'username = "admin"\n'
        )

        async def store() -> None:
            for sink in (open_sink(settings, "collector.toml"), EmbeddedSink(path_in(tmp_path), clock=clock)):
                await sink.write(body.encode())
                await sink.close()

        clock = ManualClock(wall_ns=now())
        asyncio.run(store())
        said = []
        for where in (Where(tmp_path), Where(tmp_path, config=config)):
            out = io.StringIO()
            run(where, 60 * SECOND, True, out, clock=clock, agent="agent-2")
            said.append([json.loads(line) for line in out.getvalue().splitlines()])
        assert said[0] == said[1]
        assert [one["cause"] for one in said[0]] == ["gateway-down"]

        def refusal(**more: str) -> str:
            other = InfluxHistory(settings_to(influx.port, **more), "collector.toml")
            with pytest.raises(SinkRefused) as caught:
                list(other.strands("probe", ("sent",), T, T + 1))
            return str(caught.value)

        assert "influx.database" in refusal(username="admin", database="other")
        monkeypatch.setenv("COLOPROBE_INFLUX_PASSWORD", "wrong")
        assert "collector.toml: check influx.username" in refusal(username="admin")
        influx.kill()
        with pytest.raises(SinkUnavailable, match=r"is it running\? collector.toml: see influx.url"):
            list(history.strands("probe", ("sent",), T, T + 1))
