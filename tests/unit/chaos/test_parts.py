"""Processes that end because somebody wanted it, and others: which of these are deaths."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import parts
from tests.chaos.parts import Part
from tests.lab.netlab import Namespace

DEADLINE_S = 30.0


class Here(Namespace):
    """No namespace of its own."""

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(argv, text=True, **options)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Part]]:
    made: list[Part] = []
    monkeypatch.setattr(parts, "RESTART_S", 0.0)

    def part(*argv: str, once: bool = False) -> Part:
        made.append(Part("part", Here("here"), list(argv), tmp_path / "log", once=once))
        return made[-1]

    yield part
    for one in made:
        one.kill()


def until(condition: Callable[[], bool], part: Part) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        part.look()
        assert time.monotonic() < end, part
        time.sleep(0.01)


def test_what_is_killed_or_ended_has_not_died(make: Callable[..., Part]) -> None:
    part = make("sleep", "60")
    part.start()
    part.kill()
    assert not part.running()
    part.start()
    part.end()
    until(lambda: part.goodbyes != [], part)
    assert part.goodbyes == [0]  # so young, it need not have come to handling signals
    assert (part.deaths, part.wanted, part.running()) == ([], False, False)


def test_who_ends_by_itself_has_died_and_is_started_again(make: Callable[..., Part]) -> None:
    part = make("sh", "-c", "echo last words; exit 3")
    part.start()
    until(lambda: len(part.deaths) > 1, part)
    assert (part.deaths[0].status, part.deaths[0].words) == (3, "last words\n")


def test_who_is_killed_by_others_has_died(make: Callable[..., Part]) -> None:
    part = make("sleep", "60")
    part.start()
    part.signal(signal.SIGKILL)
    until(lambda: part.deaths != [], part)
    assert part.deaths[0].status == -signal.SIGKILL
    until(part.running, part)


def test_who_ends_with_its_work_done_has_not(make: Callable[..., Part]) -> None:
    part = make("sh", "-c", "exit 1", once=True)
    part.start()
    until(lambda: part.goodbyes != [], part)
    assert (part.goodbyes, part.deaths, part.running()) == ([1], [], False)


def test_who_takes_its_time_to_end_is_started_after_that(make: Callable[..., Part], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    part = make(
        "sh",
        "-c",
        f"trap 'while [ ! -e {gate} ]; do sleep 0.01; done; exit 0' TERM; echo on; sleep 60 & wait",
    )
    part.start()
    until(lambda: "on" in part.text(), part)
    part.end()
    part.end()
    part.start()
    part.look()
    assert (part.running(), part.goodbyes) == (True, [])  # the old one, still
    gate.touch()
    until(lambda: part.text().count("on") > 1, part)
    assert (part.goodbyes, part.deaths) == ([0], [])


def test_frozen_and_thawed(make: Callable[..., Part]) -> None:
    part = make("sleep", "60")

    def state() -> str:
        assert part._process is not None
        return Path(f"/proc/{part._process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    part.start()
    part.freeze()
    until(lambda: state() == "T", part)
    part.thaw()
    until(lambda: state() == "S", part)
    part.freeze()
    part.kill()
    part.thaw()  # harmless
    assert not part.running()
