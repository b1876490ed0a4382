"""Agent, real broker, collector and real databases in; what operators will rely on out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system import servers
from tests.system.commands import Command, wait_for

pytestmark = pytest.mark.icmp

SECOND = 1_000_000_000
WINDOW = SECOND

AGENT = """
[agent]
id = "ny4-01"
site = "NY4"
state_dir = "{directory}/agent"
[window]
length = "{window}"
timeout = "500ms"
histogram = "2s"
[defaults]
interval = "25ms"
[[target]]
name = "gateway-a"
address = "127.0.0.1"
venue = "NYSE"
line = "A"
[[target]]
name = "gateway-b"
address = "127.0.0.2"
venue = "NYSE"
line = "B"
[[target]]
name = "gateway-six"
address = "::1"
[mqtt]
url = "mqtt://127.0.0.1:{mqtt}"
[uplink]
ack_timeout = "2s"
"""

COLLECTOR = """
[collector]
id = "{name}"
state_dir = "{directory}/{name}"
[mqtt]
url = "mqtt://127.0.0.1:{mqtt}"
[influx]
{influx}
"""


@pytest.fixture
def processes() -> Iterator[Callable[[Command], Command]]:
    """Starts commands, and kills what is still there at the end."""
    with ExitStack() as stack:

        def start(command: Command) -> Command:
            stack.callback(command.kill)
            return command.start()

        yield start


def agent(directory: Path, mqtt: int, window: str = "1s") -> Command:
    file = directory / "agent.toml"
    file.write_text(AGENT.format(directory=directory, mqtt=mqtt, window=window))
    return Command(directory, "agent", "agent", "-c", file)


def collector(directory: Path, mqtt: int, influx: str, name: str = "fanin-1") -> Command:
    file = directory / f"{name}.toml"
    file.write_text(COLLECTOR.format(directory=directory, mqtt=mqtt, influx=influx, name=name))
    return Command(directory, name, "collect", "-c", file)


def v1(influxdb: servers.Influx) -> str:
    return f'url = "http://127.0.0.1:{influxdb.port}"\napi = "v1"\ndatabase = "coloprobe"'


def batches(influxdb: servers.Influx) -> dict[str, set[int]]:
    """The batch numbers that the database holds, of each spool."""
    held: dict[str, set[int]] = {}
    for row in influxdb.query("SELECT batch, spool FROM agent"):
        held.setdefault(row["spool"], set()).add(row["batch"])
    return held


def as_planned(windows: Sequence[float], skipped: float, late_ticks: float) -> None:
    """Forty probes were sent in each of a target's windows, in a row.

    Where this machine ran the agent late, as it says itself, a probe may have left in the next window, up to
    250 ms late; or not at all.
    """
    if not late_ticks:
        assert set(windows) == {40}
    assert -10 <= sum(windows) - 40 * len(windows) + skipped <= 10 + skipped


def test_three_targets_through_mosquitto_into_influxdb(
    tmp_path: Path,
    mosquitto: servers.Server,
    influxdb: servers.Influx,
    processes: Callable[[Command], Command],
) -> None:
    processes(collector(tmp_path, mosquitto.port, v1(influxdb)))
    measuring = processes(agent(tmp_path, mosquitto.port))
    wait_for(lambda: len(influxdb.query("SELECT sent FROM probe")) >= 15, "five windows of three targets")
    assert measuring.stop() == 0, measuring.text()
    assert "Traceback" not in measuring.text()

    points = influxdb.query("SELECT * FROM probe")
    assert {point["target"] for point in points} == {"gateway-a", "gateway-b", "gateway-six"}
    by_target = itertools.groupby(
        sorted(points, key=lambda p: (p["target"], p["time"])), lambda p: p["target"]
    )
    host = influxdb.query("SELECT skipped, late_ticks FROM agent")
    for _, group in by_target:
        windows = list(group)
        full = windows[1:-1]  # the agent began inside the first one and ended inside the last one
        assert len(full) >= 3
        for point in full:
            assert point["time"] % WINDOW == 0
            assert (point["received"], point["lost"], point["errors"]) == (point["sent"], 0, 0)
            assert point["unstamped"] == 0
            assert (
                0 < point["rtt_min_ns"] <= point["rtt_p50_ns"] <= point["rtt_p99_ns"] <= point["rtt_max_ns"]
            )
        as_planned([p["sent"] for p in full], *(max(p[n] for p in host) for n in ("skipped", "late_ticks")))
        assert [p["time"] for p in full] == list(range(full[0]["time"], full[-1]["time"] + 1, WINDOW))
        # SIGTERM loses nothing: the last window was cut short, and what it had measured is there.
        assert windows[-1]["time"] == full[-1]["time"] + WINDOW
        assert windows[-1]["lost"] == 0
    held = batches(influxdb)
    assert len(held) == 1
    (numbers,) = held.values()
    assert numbers == set(range(1, max(numbers) + 1))
    buckets = influxdb.query('SELECT sum("count") FROM probe_histogram')
    total = influxdb.query("SELECT sum(received) FROM probe")
    assert buckets[0]["sum"] == total[0]["sum"]


def test_into_victoria_metrics_through_the_v2_api(
    tmp_path: Path,
    mosquitto: servers.Server,
    victoria_metrics: servers.VictoriaMetrics,
    processes: Callable[[Command], Command],
) -> None:
    influx = (
        f'url = "http://127.0.0.1:{victoria_metrics.port}"\napi = "v2"\norg = "colo"\nbucket = "coloprobe"'
    )
    processes(collector(tmp_path, mosquitto.port, influx))
    measuring = processes(agent(tmp_path, mosquitto.port))

    def sent() -> list[list[float]]:
        series = victoria_metrics.export('{__name__="probe_sent"}')
        return [s["values"] for s in series] if len(series) == 3 else []

    wait_for(lambda: all(len(values) >= 4 for values in sent()) and sent(), "four windows of three targets")
    assert measuring.stop() == 0, measuring.text()
    host = [
        max(series["values"])
        for name in ("agent_skipped", "agent_late_ticks")
        for series in victoria_metrics.export(f'{{__name__="{name}"}}')
    ]
    for values in sent():
        as_planned(values[1:3], *host)
    numbers = sorted(int(v) for s in victoria_metrics.export('{__name__="agent_batch"}') for v in s["values"])
    assert numbers == list(range(1, numbers[-1] + 1))


def test_nothing_is_lost_whatever_is_killed(
    tmp_path: Path,
    mosquitto: servers.Server,
    influxdb: servers.Influx,
    processes: Callable[[Command], Command],
) -> None:
    """kill -9 of the collector, the broker (it persists nothing), InfluxDB and the agent, one by one."""
    fan_in = processes(collector(tmp_path, mosquitto.port, v1(influxdb)))
    measuring = processes(agent(tmp_path, mosquitto.port, window="500ms"))

    def newest() -> int:
        return max((max(numbers) for numbers in batches(influxdb).values()), default=0)

    def progress() -> None:
        before = newest()
        wait_for(lambda: newest() > before + 2, "new batches arrive")

    progress()
    fan_in.kill()
    fan_in.start()
    progress()
    mosquitto.kill()
    mosquitto.start()
    progress()
    influxdb.kill()
    influxdb.start()
    progress()
    measuring.kill()
    measuring.start()
    progress()
    assert measuring.stop() == 0, measuring.text()
    assert fan_in.running(), fan_in.text()
    held = batches(influxdb)
    assert len(held) == 1  # one spool, kept across the agent's death
    (numbers,) = held.values()
    assert numbers == set(range(1, max(numbers) + 1))
    for command in (measuring, fan_in):
        assert "Traceback" not in command.text()
