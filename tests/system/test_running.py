"""Agents and collectors in, servers that are away and signals out: they wait, tell it once, and end well."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system import servers
from tests.system.commands import Command, run, spooled, wait_for
from tests.system.test_commands import AGENT, COLLECTOR, written


def wait_for_spooling(directory: Path) -> None:
    """Return when the agent has spooled something since the call."""
    log = directory / "state" / "spool.sqlite3-wal"
    wait_for(log.exists)
    size = log.stat().st_size
    wait_for(lambda: log.stat().st_size > size, "it spools")


def spool_made(directory: Path) -> bool:
    return (directory / "state" / "spool.sqlite3").exists()


@contextmanager
def started(command: Command) -> Iterator[Command]:
    try:
        yield command.start()
    finally:
        command.kill()


def test_servers_that_are_away_at_the_start_are_told_of_once(
    tmp_path: Path, mosquitto: servers.Server, influxdb: servers.Influx
) -> None:
    mosquitto.kill()
    influxdb.kill()
    url = f'url = "http://127.0.0.1:{influxdb.port}"\n'
    fan_in = written(tmp_path, COLLECTOR, mosquitto.port, url, "collector.toml")
    agent = written(tmp_path, AGENT, mosquitto.port)
    with (
        started(Command(tmp_path, "collector", "collect", "-c", fan_in)) as collecting,
        started(Command(tmp_path, "agent", "agent", "-c", agent)) as measuring,
    ):
        wait_for(
            lambda: "Connection refused" in measuring.text() and "Connection refused" in collecting.text()
        )
        wait_for_spooling(tmp_path)
        mosquitto.start()
        wait_for(lambda: ": connected" in measuring.text() and ": connected" in collecting.text())
        wait_for(lambda: "cannot connect: " in collecting.text(), "InfluxDB is missed")
        influxdb.start()
        wait_for(lambda: len(influxdb.query("SELECT batch FROM agent")) > 3, "batches arrive")
        assert measuring.stop() == 0
        assert collecting.stop() == 0
        assert measuring.text().count("Connection refused") == 1
        assert collecting.text().count("Connection refused") == 2  # the broker's, the database's
        assert "Traceback" not in measuring.text() + collecting.text()
    held = {row["batch"] for row in influxdb.query("SELECT batch FROM agent")}
    left = {int(p.fields["batch"]) for p in spooled(tmp_path / "state") if p.measurement == "agent"}
    assert held | left == set(range(1, max(held | left) + 1))


def test_settings_are_read_again_at_sighup_or_the_old_ones_stay(tmp_path: Path) -> None:
    file = written(tmp_path, AGENT)
    good = file.read_text()
    with started(Command(tmp_path, "agent", "agent", "-c", file)) as agent:
        wait_for(lambda: "Connection refused" in agent.text())

        def reloaded(text: str, answer: str) -> None:
            file.write_text(text)
            agent.signal(signal.SIGHUP)
            wait_for(lambda: answer in agent.text(), answer)
            assert agent.running()

        stays = "settings not reloaded, the old ones stay: "
        reloaded(good + "colour = 1\n", f"{stays}{file}: mqtt.colour: unknown key (allowed: url, ")
        reloaded("[agent", f"{stays}{file}: is not TOML: ")
        changed = good.replace("ny4-01", "ny4-02")
        reloaded(
            changed, f"{stays}{file}: agent: changed, which a running agent cannot follow (allowed: restart"
        )
        reloaded(good + '[[target]]\nname = "two"\naddress = "127.0.0.2"\n', "settings reloaded: 2 targets")
        for _ in range(2):  # the word of the reload itself, and a window
            wait_for_spooling(tmp_path)
        assert agent.stop() == 0
        assert "Traceback" not in agent.text()
    points = spooled(tmp_path / "state")
    events = [p.fields["text"] for p in points if p.measurement == "event" and p.tags["kind"] == "agent"]
    assert [str(text).partition(":")[0] for text in events] == [
        *["settings not reloaded"] * 3,
        "settings reloaded",
    ]
    probes = [p for p in points if p.measurement == "probe"]
    assert {p.tags["target"] for p in probes} == {"one", "two"}
    assert all(p.fields["lost"] == 0 for p in probes)
    # No point overwrites another one.
    assert len({(p.tags["target"], p.time_ns) for p in probes}) == len(probes)


def test_it_ends_soon_with_0_also_without_broker(tmp_path: Path) -> None:
    with started(Command(tmp_path, "agent", "agent", "-c", written(tmp_path, AGENT))) as agent:
        wait_for_spooling(tmp_path)
        assert agent.stop(timeout_s=4) == 0  # less than an agent that is connected waits for acknowledgements
    assert [p for p in spooled(tmp_path / "state") if p.measurement == "probe"]


def test_a_second_agent_on_the_same_spool_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, AGENT)
    first = Command(tmp_path, "agent", "agent", "-c", file).start()
    try:
        wait_for(lambda: spool_made(tmp_path))
        wait_for(lambda: "INFO agent ny4-01" in first.text())
        second = run("agent", "-c", file)
        assert second.returncode == 1
        (line,) = second.stderr.splitlines()
        assert (
            "spool.sqlite3: another process uses this spool; every agent needs its own agent.state_dir"
            in line
        )
        assert first.stop() == 0
    finally:
        first.kill()
