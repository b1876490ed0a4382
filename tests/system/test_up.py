"""`coloprobe up` in, a page, a store and a clean end out: the one command of a stranger."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.commands import ROOT, Command, coloprobe, run, wait_for

AGENT = """
[agent]
id = "other-01"
state_dir = "{directory}/other"
[window]
length = "500ms"
timeout = "200ms"
histogram = "500ms"
[[target]]
name = "elsewhere"
address = "127.0.0.2"
[mqtt]
url = "{url}"
"""


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Any]:
    """`commands(name, *arguments)`: a started command, killed at the end."""
    made: list[Command] = []

    def start(name: str, *arguments: str | Path) -> Command:
        made.append(Command(tmp_path, name, *arguments).start())
        return made[-1]

    yield start
    for command in made:
        command.kill()


def up(commands: Any, directory: Path, *more: str) -> Command:
    arguments = ("--board", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--state", directory / "up")
    started: Command = commands("up", "up", "127.0.0.1", *arguments, *more)
    return started


def address(command: Command, what: str) -> str:
    """The URL that it prints for its board or broker."""

    def printed() -> str:
        assert command.running(), command.text()
        found = re.search(rf"^{what} +(\S+)", command.text(), re.MULTILINE)
        return found[1] if found else ""

    return wait_for(printed, f"it prints its {what}")


def stored(directory: Path) -> list[dict[str, Any]]:
    """What `show --json` prints."""
    done = run("show", "--state", directory / "up", "--json")
    assert done.returncode == 0, done
    return [json.loads(line) for line in done.stdout.splitlines()]


def descendants(pid: int) -> set[int]:
    """The pids of its children, theirs, and so on."""
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found |= {child} | descendants(child)
    return found


def test_it_shows_stores_and_ends_by_itself(tmp_path: Path, commands: Any) -> None:
    running = up(commands, tmp_path, "--for", "8s", "--interval", "50ms")
    with urllib.request.urlopen(address(running, "board"), timeout=10) as answer:
        assert answer.status == 200
        assert "coloprobe" in answer.read().decode()
    children = descendants(running.pid)
    assert running.process is not None
    assert running.process.wait(60) == 0
    assert "Traceback" not in running.text()
    assert "ERROR" not in running.text()
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
    points = stored(tmp_path)
    probes = [point for point in points if point["measurement"] == "probe"]
    assert len(probes) >= 3
    for point in probes:
        assert (point["target"], point["lost"], point["errors"], point["unstamped"]) == ("127.0.0.1", 0, 0, 0)
        assert point["received"] == point["sent"] > 0
    assert {point["sent"] for point in sorted(probes, key=lambda p: int(p["time"]))[1:-1]} == {40}
    batches = [point["batch"] for point in points if point["measurement"] == "agent"]
    # All that was measured was also acknowledged, the last window included.
    assert sorted(batches) == list(range(1, len(batches) + 1))
    table = run("show", "--state", tmp_path / "up")
    assert re.search(r"^127\.0\.0\.1 .* ok ", table.stdout, re.MULTILINE)


def test_other_hosts_agents_send_to_its_broker(tmp_path: Path, commands: Any) -> None:
    running = up(commands, tmp_path)
    file = tmp_path / "other.toml"
    file.write_text(AGENT.format(directory=tmp_path, url=address(running, "broker")), encoding="utf-8")
    other = commands("other", "agent", "-c", file)
    wait_for(lambda: {"elsewhere", "127.0.0.1"} <= {point.get("target") for point in stored(tmp_path)})
    found = [p for p in stored(tmp_path) if p["measurement"] == "probe" and p["target"] == "elsewhere"]
    assert {(point["agent"], point["lost"]) for point in found} == {("other-01", 0)}
    assert other.stop() == 0, other.text()
    assert running.stop() == 0, running.text()
    assert "Traceback" not in running.text() + other.text()


def test_an_address_in_use_is_told_before_anything_runs(tmp_path: Path, commands: Any) -> None:
    running = up(commands, tmp_path)
    taken = address(running, "board").removeprefix("http://")
    done = run("up", "127.0.0.1", "--board", taken, "--broker", "127.0.0.1:0", "--state", tmp_path / "second")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--board" in line
    assert taken in line
    assert running.stop() == 0


def test_a_state_directory_in_use_is_told(tmp_path: Path, commands: Any) -> None:
    running = up(commands, tmp_path)
    address(running, "board")
    done = run(
        *("up", "127.0.0.1", "--board", "127.0.0.1:0", "--broker", "127.0.0.1:0"),
        *("--state", tmp_path / "up"),
    )
    assert done.returncode == 1
    assert "another process uses this spool" in done.stderr.splitlines()[-1]
    assert running.stop() == 0


@pytest.mark.root
def test_root_is_told_where_it_cannot_read_without_its_privileges(tmp_path: Path) -> None:
    private = tmp_path / "private"
    for package in ("probe", "collectors"):
        shutil.copytree(ROOT / package, private / package, ignore=shutil.ignore_patterns("__pycache__"))
    os.chown(private, 65534, 65534)
    private.chmod(0o700)
    done = subprocess.run(
        coloprobe(
            "up", "127.0.0.1", "--board", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--state", tmp_path
        ),
        capture_output=True,
        text=True,
        cwd=private,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"cannot read {private} any more; run this command as the user" in line
