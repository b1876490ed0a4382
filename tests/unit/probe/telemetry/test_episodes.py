"""What a spool goes through, on real files and a small disk: told when it begins and when it is over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import randbytes

import pytest

from probe.clock import SECOND, ManualClock
from probe.errors import SpoolError
from probe.outgoing import Outgoing
from probe.telemetry.episodes import Episode, Told
from probe.telemetry.spool import Spool

MIB = 1 << 20


class Rig:
    """What leaves an agent, with a clock that is moved by hand and a window every ten seconds."""

    def __init__(self, path: Path, max_bytes: int = MIB) -> None:
        self.path, self.clock = path, ManualClock()
        self.spool = Spool(path, max_bytes)
        self.outgoing = Outgoing(self.spool, "agent,agent=a", self.clock, dict)
        self.told = self.outgoing.look()

    def window(self, lines: int = 100) -> list[Told]:
        """Store incompressible lines of 1 kB each."""
        texts = [f'event,agent=a text="{randbytes(500).hex()}" 1' for _ in range(lines)]
        told = self.outgoing.store(texts)
        self.told += told
        self.clock.advance(10 * SECOND)
        return told

    def texts(self) -> list[str]:
        return [one.text for one in self.told]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "spool.sqlite3")
    yield rig
    rig.spool.close()


def test_an_episode_is_told_at_its_beginning_and_when_it_has_been_quiet() -> None:
    episode = Episode(known=7)
    counter = {0: 7, 10: 8, 20: 11, 79: 11, 80: 12, 139: 12, 140: 12, 200: 12, 210: 13}
    told = {at: episode.look(count, at * SECOND) for at, count in counter.items()}
    assert {at: phase for at, phase in told.items() if phase} == {10: "begun", 140: "over", 210: "begun"}
    episode = Episode()
    assert [episode.look(0, 0, lasts=True), episode.look(0, 3600 * SECOND, lasts=True)] == ["begun", None]
    assert episode.look(5, 3601 * SECOND) is None
    assert episode.look(5, 3661 * SECOND) == "over"
    assert (episode.count, episode.seconds) == (5, 3601)


def test_a_spool_at_its_limit_is_told_twice_however_long_it_lasts(rig: Rig) -> None:
    for _ in range(100):
        rig.window(60)
    assert rig.spool.dropped > 50
    assert rig.texts() == ["the spool has reached its limit of 1MiB: its oldest batches are dropped"]
    assert rig.told[0].detail == {"what": "spool_limit", "phase": "begun", "count": 1}
    rig.spool.forget([(1, rig.spool.last)])
    for _ in range(10):
        rig.window(1)
    dropped = rig.spool.dropped
    assert rig.texts()[1:] == [
        f"the spool has room again: {dropped} batches were dropped in {rig.told[1].detail['seconds']:.0f} s"
    ]
    assert rig.told[1].detail["count"] == dropped
    assert 500 < float(str(rig.told[1].detail["seconds"])) < 1000


def test_a_spool_that_cannot_be_written_is_told_of_when_it_can_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_make: object) -> int:
        raise SpoolError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(rig.spool, "append", broken)
        for _ in range(100):
            rig.window(110)
    assert rig.texts() == ["cannot spool, holding lines in memory: the disk is gone"]
    assert rig.outgoing.batcher.dropped > 1000
    for _ in range(10):
        rig.window(1)
    assert (
        rig.texts()[1:]
        == [
            "the spool has reached its limit of 1MiB: its oldest batches are dropped",  # all of it at once
            f"spooling again: it failed for 990 s, and {rig.outgoing.batcher.dropped} lines were dropped",
            *rig.texts()[3:],
        ]
    )
    assert f"lines_dropped={rig.outgoing.batcher.dropped}i" in rig.outgoing.head(1)


def test_damage_found_at_the_start_and_under_way(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite3"
    path.write_bytes(b"no database" * 1000)
    rig = Rig(path, 64 * MIB)
    assert rig.texts() == ["the spool was damaged and was set aside as spool.sqlite3.corrupt-1"]
    rig.window(1)
    rig.window(1)
    for _ in range(500):
        rig.spool.append(lambda _: randbytes(10_000))
    with path.open("r+b") as file:  # the header and the first tables stay
        file.seek(5 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 5 * 4096))
    assert [rig.spool.get(number) for number in (1, 100)] == [None, None]  # so the uplink finds it
    for _ in range(10):
        rig.window(1)
    assert rig.texts()[1:] == ["the spool was damaged 2 times in 20 s; 502 batches waited in it"]
    assert rig.spool.depth == 10
    rig.spool.close()


def test_lines_that_fit_into_no_batch_are_told_with_their_number(rig: Rig) -> None:
    rig.outgoing.store(["x" * 300_000])
    for _ in range(3):
        rig.told += rig.outgoing.store(["x" * 400_000])
    for _ in range(8):
        rig.window(1)
    assert [one.detail for one in rig.told] == [
        {"what": "line_oversized", "phase": "over", "count": 4, "seconds": 0.0}
    ]
    assert "lines_dropped=0i,lines_oversized=4i" in rig.outgoing.head(1)


SMALL_DISK = """
import json, subprocess, sys
from pathlib import Path
home = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", home], check=True)
from tests.unit.probe.telemetry.test_episodes import Rig
rig = Rig(home / "spool.sqlite3", 1 << 30)
ballast = home / "ballast"
ballast.write_bytes(bytes(18 << 20))
for _ in range(100):
    rig.window()
full = len(rig.told), rig.spool.dropped, rig.spool.last
ballast.unlink()
for _ in range(10):
    rig.window()
depth = rig.spool.depth
print(json.dumps([[one.text for one in rig.told], full, rig.told[-1].detail["count"], rig.spool.dropped]))
"""


@pytest.mark.root
def test_a_full_disk_is_told_and_the_agent_goes_on(tmp_path: Path) -> None:
    """In a mount namespace of its own, which takes the small disk with it."""
    command = ["unshare", "-m", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    (begun, over), (told, dropped, last), count, dropped_at_the_end = json.loads(result.stdout)
    assert (
        begun
        == f"the disk of {tmp_path} is full: the spool makes do with what it has, and its oldest "
        + ("batches are dropped")
    )
    assert over.startswith(f"the disk has room again: {count} batches were dropped in ")
    assert told == 1
    assert last == 100
    assert 0 < dropped <= count == dropped_at_the_end
    # What the log said, as long as nobody configures it: an error, once.
    assert result.stderr == f"{begun}\n"
