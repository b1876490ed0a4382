"""Both write APIs on real servers: the contract of a sink, and what InfluxDB says when it refuses."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from collectors.sinks import Sink
from collectors.sinks.influx import open_sink
from probe.errors import SinkError, SinkRefused, SinkRejected, SinkTooLarge, SinkUnavailable
from probe.settings import CollectorSettings, CollectorTable, InfluxTable
from tests.sink_contract import check_sink
from tests.system import servers

GOOD = b"probe,agent=a sent=40i 1790000000000000001\n"


def sink_to(port: int, api: str, **more: str) -> Sink:
    influx = InfluxTable(url=f"http://127.0.0.1:{port}", api=api, **more)  # type: ignore[arg-type]
    return open_sink(CollectorSettings(collector=CollectorTable(id="c"), influx=influx), "collector.toml")


def outcome(sink: Sink, body: bytes | None) -> SinkError | None:
    """What one write (None: a check) raised."""

    async def main() -> SinkError | None:
        try:
            await (sink.check() if body is None else sink.write(body))
        except SinkError as problem:
            return problem
        finally:
            await sink.close()
        return None

    return asyncio.run(main())


def test_v1_keeps_the_contract(influxdb: servers.Influx) -> None:
    def read() -> dict[int, int]:
        return {row["time"]: row["sent"] for row in influxdb.query("select sent from probe")}

    check_sink(lambda: sink_to(influxdb.port, "v1"), read)
    [row] = influxdb.query("select * from probe limit 1")
    assert (row["target"], row["text"], row["loss"]) == ("a b", 'x, y="z"', 0.25)


def test_v2_keeps_the_contract(victoria_metrics: servers.VictoriaMetrics) -> None:
    def read() -> dict[int, int]:
        return {
            time_ms * 1_000_000: int(value)
            for series in victoria_metrics.export('{__name__="probe_sent"}')
            for time_ms, value in zip(series["timestamps"], series["values"], strict=True)
        }

    check_sink(lambda: sink_to(victoria_metrics.port, "v2", org="o"), read)


def test_v1_says_what_an_operator_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    http = "auth-enabled = true\nmax-body-size = 1000"
    with servers.influxdb(tmp_path, extra_http=http) as influx:
        influx.request("POST", "/query?q=CREATE+USER+admin+WITH+PASSWORD+'x'+WITH+ALL+PRIVILEGES")
        for query in ("CREATE+USER+bob+WITH+PASSWORD+'y'", "CREATE+DATABASE+coloprobe"):
            assert influx.request("POST", f"/query?u=admin&p=x&q={query}").status == 200

        def refusal(user: str, password: str, **more: str) -> str:
            monkeypatch.setenv("COLOPROBE_INFLUX_PASSWORD", password)
            messages = set()
            for body in (None, GOOD):  # a check meets what a write meets
                problem = outcome(sink_to(influx.port, "v1", username=user, **more), body)
                assert type(problem) is SinkRefused
                messages.add(str(problem))
            [message] = messages
            return message

        assert "collector.toml: check influx.username and influx.password_file" in refusal("admin", "wrong")
        assert "needs the right to write: GRANT WRITE ON coloprobe" in refusal("bob", "y")
        assert "create it (CREATE DATABASE other)" in refusal("admin", "x", database="other")
        message = refusal("admin", "x", retention_policy="gone")
        assert "retention policy not found: gone" in message
        assert "influx.retention_policy" in message

        assert outcome(sink_to(influx.port, "v1", username="admin"), GOOD) is None
        noise = random.Random(1)  # the limit counts compressed bytes
        large = b"".join(
            b'event,agent=a text="%s" %d\n' % (noise.randbytes(50).hex().encode(), n) for n in range(99)
        )
        assert type(outcome(sink_to(influx.port, "v1", username="admin"), large)) is SinkTooLarge


def test_v1_rejects_with_the_servers_reason(influxdb: servers.Influx) -> None:
    assert outcome(sink_to(influxdb.port, "v1"), GOOD) is None
    problem = outcome(sink_to(influxdb.port, "v1"), b'probe,agent=a sent="x" 1790000000000000002\n')
    assert type(problem) is SinkRejected
    assert 'input field "sent" on measurement "probe" is type string, already exists as type integer' in str(
        problem
    )


def test_v1_to_a_server_without_the_v2_api_is_told_apart(influxdb: servers.Influx) -> None:
    problem = outcome(sink_to(influxdb.port, "v2", org="o"), None)
    assert type(problem) is SinkRefused
    assert 'influx.api = "v1"' in str(problem)


def test_a_dead_server_is_unavailable_and_a_revived_one_is_not(influxdb: servers.Influx) -> None:
    influxdb.kill()
    assert type(outcome(sink_to(influxdb.port, "v1"), GOOD)) is SinkUnavailable
    influxdb.start()
    assert outcome(sink_to(influxdb.port, "v1"), GOOD) is None
