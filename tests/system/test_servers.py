"""The servers that other tests build on: they serve, they die, and they come back with their data."""

from __future__ import annotations

import socket

import pytest

from tests.system.servers import Influx, Server, VictoriaMetrics

pytestmark = pytest.mark.system


def test_mosquitto_dies_and_comes_back_on_its_port(mosquitto: Server) -> None:
    mosquitto.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", mosquitto.port), 5)
    mosquitto.start()
    socket.create_connection(("127.0.0.1", mosquitto.port), 5).close()


def test_influxdb_keeps_what_it_confirmed_through_a_kill(influxdb: Influx) -> None:
    body = b"probe,agent=a sent=40i 1700000000000000001\n"
    assert influxdb.request("POST", "/write?db=coloprobe&precision=ns", body).status == 204
    influxdb.kill()
    influxdb.start()
    assert influxdb.query("select * from probe") == [
        {"name": "probe", "time": 1700000000000000001, "agent": "a", "sent": 40}
    ]


def test_victoria_metrics_answers_with_what_was_written(victoria_metrics: VictoriaMetrics) -> None:
    body = b"probe,agent=a sent=40i 1700000000000000000\n"
    assert victoria_metrics.request("POST", "/api/v2/write", body).status == 204
    [series] = victoria_metrics.export('{__name__="probe_sent"}')
    assert (series["values"], series["timestamps"]) == ([40], [1700000000000])
