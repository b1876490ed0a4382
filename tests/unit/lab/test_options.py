"""Command lines in, what a link is to do out; what means nothing is refused with the option's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.__main__ import main
from tests.lab.link import (
    Chance,
    Constant,
    Duplicate,
    Every,
    GilbertElliott,
    Impairments,
    Rate,
    Reorder,
    Trace,
    Uniform,
)
from tests.lab.options import impairments, parser

MS = 1_000_000


def asked(*argv: str) -> tuple[Impairments, Impairments]:
    arguments = parser().parse_args(argv)
    return impairments(arguments, "forward"), impairments(arguments, "backward")


def test_nothing_asked_for_is_a_link_that_does_nothing() -> None:
    assert asked() == (Impairments(), Impairments())


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--delay", "2ms"], Impairments(Constant(2 * MS))),
        (["--delay", "1ms..3.5ms"], Impairments(Uniform(MS, 3_500_000))),
        (["--loss", "every:7"], Impairments(loss=Every(7))),
        (["--loss", "0.5%"], Impairments(loss=Chance(0.005))),
        (["--loss", "ge:p=1%,r=30%"], Impairments(loss=GilbertElliott(0.01, 0.3))),
        (
            ["--loss", "ge:r=30%,p=1%,bad=80%,good=0.1%"],
            Impairments(loss=GilbertElliott(0.01, 0.3, 0.001, 0.8)),
        ),
        (["--duplicate", "every:5"], Impairments(duplicate=Duplicate(Every(5)))),
        (["--duplicate", "1%+2ms"], Impairments(duplicate=Duplicate(Chance(0.01), 2 * MS))),
        (["--reorder", "every:9+5ms"], Impairments(reorder=Reorder(Every(9), 5 * MS))),
        (["--reorder", "jitter"], Impairments(keep_order=False)),
        (["--rate", "10Mbit"], Impairments(rate=Rate(10_000_000))),
        (["--rate", "1.5kbit,queue=5"], Impairments(rate=Rate(1_500, 5))),
    ],
)
def test_each_option_holds_for_both_directions_or_for_one(argv: list[str], wanted: Impairments) -> None:
    option, value = argv
    assert asked(*argv) == (wanted, wanted)
    assert asked(option.replace("--", "--forward-"), value) == (wanted, Impairments())
    assert asked(option.replace("--", "--backward-"), value) == (Impairments(), wanted)


def test_a_directions_own_value_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "delays"
    file.write_text("# recorded\n2ms\n\n500us  # quick\n", encoding="utf-8")
    recorded = Trace((2 * MS, 500_000))
    assert asked("--delay", "1ms", "--forward-delay-trace", str(file)) == (
        Impairments(recorded),
        Impairments(Constant(MS)),
    )
    assert asked("--delay-trace", str(file), "--backward-delay", "0ms") == (
        Impairments(recorded),
        Impairments(Constant(0)),
    )
    assert asked("--loss", "1%", "--backward-loss", "0%")[1].loss == Chance(0)


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--delay", "2", "argument --delay: '2' is not a number with a unit (allowed: for example '100ms'"),
        ("--forward-delay", "3ms..1ms", "argument --forward-delay: delay: 3000000..1000000 ns is no range"),
        ("--loss", "every:0", "argument --loss: every: 0 is not at least 1"),
        (
            "--loss",
            "7",
            "argument --loss: '7': '7' is no share from 0% to 100% (allowed: 'every:7' or a share",
        ),
        ("--backward-loss", "101%", "argument --backward-loss: '101%'"),
        ("--loss", "ge:p=1%", "'ge:p=1%' lacks p or r (allowed: "),
        ("--loss", "ge:p=1%,q=2%", "'q=2%' means nothing (allowed: "),
        ("--duplicate", "often", "argument --duplicate: 'often': 'often' is no share"),
        ("--reorder", "every:3", "'every:3' says not for how long (allowed: 'every:9+5ms'"),
        ("--reorder", "every:3+0ms", "argument --reorder: reorder: 0 ns holds nobody back"),
        ("--rate", "10", "argument --rate: '10' is no rate (allowed: '10Mbit'"),
        ("--rate", "10Mbit,queue=0", "argument --rate: rate: a queue of 0 packets"),
        ("--delay-trace", "/nonexistent", "argument --delay-trace: /nonexistent: "),
        ("--for", "soon", "argument --for: 'soon' is not a number with a unit"),
    ],
)
def test_what_means_nothing_is_refused_by_name_with_what_is_allowed(
    option: str, value: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([option, value])
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_trace_names_the_line_that_is_no_delay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "delays"
    file.write_text("1ms\nquick\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        parser().parse_args(["--delay-trace", str(file)])
    assert f"argument --delay-trace: {file}, line 2: 'quick' is not" in capsys.readouterr().err
    file.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        parser().parse_args(["--delay-trace", str(file)])
    assert "delay trace: it is empty" in capsys.readouterr().err


def test_delay_and_trace_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--delay", "1ms", "--delay-trace", __file__])
    assert "error: argument --delay-trace" in capsys.readouterr().err


def test_two_dashes_want_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--"])
    assert left.value.code == 2
    assert "after -- a COMMAND is wanted" in capsys.readouterr().err


def test_help_shows_every_option_without_any_privilege(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for name in ("delay", "delay-trace", "loss", "duplicate", "reorder", "rate"):
        for prefix in ("--", "--forward-", "--backward-"):
            assert f"{prefix}{name} " in shown
