"""Every target for a moment, with inputs from a seed; and that the fuzzing finds what there is to find."""

from __future__ import annotations

import re
from datetime import date
from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz import figures, guided
from tests.fuzz.__main__ import main
from tests.fuzz.driving import Outcome, drive, stretched
from tests.fuzz.figures import BEGIN, END, Figures
from tests.fuzz.mutating import inputs
from tests.fuzz.table import TARGETS
from tests.fuzz.target import Chooser, Feed, Shape, Target

SEED = 7


def target(feed: Feed, raises: tuple[type[Exception], ...] = (), shapes: tuple[Shape, ...] = ()) -> Target:
    seeds = [b"name = 5", b"other = 12"]
    return Target(
        "planted", "nowhere", "", lambda: feed, lambda: seeds, raises, [b"=", b"name"], shapes=shapes
    )


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input_does_nothing_that_it_must_not(name: str) -> None:
    outcome = drive(TARGETS[name], SEED, count=TARGETS[name].inputs)
    assert outcome.finding is None, outcome.finding.text + repr(outcome.finding.data)
    assert outcome.tried == TARGETS[name].inputs


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.shapes])
def test_long_hostile_text_takes_no_more_than_linear_time(name: str) -> None:
    # What is quadratic takes minutes to hours at this length, by the processor's own clock.
    finding = stretched(TARGETS[name])
    assert finding is None, finding.text + repr(finding.data[:200])


@pytest.mark.parametrize("name", ["echo", "echo-raw", "handshake", "stamp-replies", "stamp-replies-sealed"])
def test_the_samples_that_chance_begins_with_are_real_answers(name: str) -> None:
    feed = TARGETS[name].make()
    assert feed(TARGETS[name].seeds()[0]), "what is never let in proves nothing"


def test_a_seed_makes_the_same_inputs_again_and_hardly_one_twice() -> None:
    seeds = TARGETS["batch"].seeds()
    made = list(islice(inputs(SEED, seeds), 500))
    assert made[: len(seeds)] == list(seeds)
    assert made == list(islice(inputs(SEED, seeds), 500))
    assert made != list(islice(inputs(SEED + 1, seeds), 500))
    assert len(set(made)) > 400


def test_a_planted_defect_is_found_saved_and_found_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def feed(data: bytes) -> None:
        value = int(data.partition(b"= ")[2])  # ValueError: what it says of what it does not take
        assert value != 125, "planted"

    monkeypatch.setitem(TARGETS, "planted", target(feed, raises=(ValueError,)))
    monkeypatch.setattr(guided, "available", lambda: False)
    assert main(["--only", "planted", "--seconds", "60"]) == 1
    said = capsys.readouterr().out
    assert "1 FINDING" in said
    saved = re.search(r"saved as (\S+);", said)
    assert saved
    path = Path(saved[1])
    assert b"125" in path.read_bytes()
    assert main(["--only", "planted", "--input", str(path)]) == 1
    path.unlink()
    path.parent.rmdir()


def test_what_takes_for_ever_is_a_finding() -> None:
    slow = re.compile(rb"(?:a+)+b")
    finding = stretched(target(slow.match, shapes=(Shape(b"", b"a"),)), patience_s=0.2)
    assert finding is not None
    assert "TooSlow" in finding.text


def test_choices_are_read_from_the_front_and_never_run_out() -> None:
    choose = Chooser(b"\x05\x01\x03abcdef")
    assert (choose.number(4), choose.flag(), choose.piece(), choose.text()) == (1, True, b"abc", "def")
    empty = Chooser(b"")
    assert (empty.number(1 << 40), empty.flag(), empty.piece(), empty.text()) == (0, False, b"", "")


def test_what_libfuzzer_says_at_its_end_is_read() -> None:
    stderr = (
        b"INFO: A corpus is not provided\n#2\tINITED cov: 12 ft: 13 corp: 1/1b\n"
        b"#4096\tpulse  cov: 61 ft: 99 corp: 9/99b lim: 4 exec/s: 2048 rss: 90Mb\n"
        b"Done 8123 runs in 5 second(s)\nstat::number_of_executed_units: 8123\n"
    )
    assert guided.said(stderr) == (8123, 61)
    assert guided.said(b"Traceback") == (0, None)


def test_the_figures_stand_between_their_markers_and_nothing_else_changes() -> None:
    one = Figures(TARGETS["batch"], Outcome("batch", 12_345, 3.0, None, 99), True)
    text = figures.table([one], date(2026, 11, 23))
    page = f"# Security\n\nBefore.\n\n{BEGIN}\nearlier\n{END}\n\nAfter.\n"
    new = figures.written(page, text)
    assert new.startswith(f"# Security\n\nBefore.\n\n{BEGIN}\n")
    assert new.endswith(f"{END}\n\nAfter.\n")
    assert "earlier" not in new
    assert "| `batch` | `collectors.validate.validate` |" in new
    assert "| coverage | 12,345 | 0 |" in new
    assert figures.written(new, text) == new
    assert figures.written("# Security\n", text).count(BEGIN) == 1
    assert "4,115/s" in str(one)
