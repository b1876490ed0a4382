"""A command line in, what each direction of a link is to do out. Pure but for reading a trace file.

Every value that means nothing ends with a message that names the option and what is allowed (argparse, status
2).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from probe.units import Duration
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

T = TypeVar("T")

JITTER = "jitter"
DELAY = "a time, '2ms', or a range, '1ms..3ms'"
WHICH = "'every:7' or a share, '1%'"
LOSS = f"{WHICH}, or bursts (Gilbert-Elliott), 'ge:p=1%,r=30%' or 'ge:p=1%,r=30%,good=0.1%,bad=80%'"
DUPLICATE = "'every:5' or '1%'; the copy right behind, or later with '+2ms': 'every:5+2ms'"
REORDER = "'every:9+5ms' or '1%+5ms', held back for so long; or 'jitter': delays alone decide the order"
RATE = "'10Mbit', 'kbit' or 'Gbit', per second; how many packets may wait: '10Mbit,queue=50'"
_BITS = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_EXAMPLE = "python -m tests.lab --loss every:7 --backward-delay 1ms..3ms -- ping -c 20 10.99.0.2"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.lab",
        usage="python -m tests.lab [OPTION...] [-- COMMAND...]",
        description="Two network namespaces, joined by a link that delays, loses, duplicates, reorders and "
        "limits packets, and logs what it did to each. COMMAND runs at the near end, and its status is ours. "
        "Without one, the lab stays until Ctrl-C, and lines to paste are printed. Needs root.",
        epilog=f"example: {_EXAMPLE}",
        allow_abbrev=False,
    )
    made.add_argument(
        "--seed", default="0", help="what chance does is the same with the same seed (default: 0)"
    )
    made.add_argument(
        "--log", type=Path, metavar="FILE", help="write what became of each packet, as JSON lines"
    )
    made.add_argument(
        "--for",
        dest="duration",
        type=_checked(Duration.parse),
        metavar="TIME",
        help="leave after so long, '30s'; a COMMAND that still runs is ended",
    )
    for prefix, title in (
        ("", "what both directions do"),
        (
            "forward-",
            "forward: from the near end, where the prober is, to the far end; goes before what both do",
        ),
        ("backward-", "backward: from the far end to the near one; goes before what both do"),
    ):
        _add_direction(made.add_argument_group(title), prefix)
    return made


def _add_direction(group: argparse._ArgumentGroup, prefix: str) -> None:
    delays = group.add_mutually_exclusive_group()
    for holder, name, parse, metavar, meaning in (
        (delays, "delay", delay, "TIME", DELAY),
        (
            delays,
            "delay-trace",
            trace,
            "FILE",
            "delays one after the other, a line each ('2ms'; '# ...' is a remark)",
        ),
        (group, "loss", loss, "WHICH", LOSS),
        (group, "duplicate", duplicate, "WHICH", DUPLICATE),
        (group, "reorder", reorder, "WHICH", REORDER),
        (group, "rate", rate, "BITS", RATE),
    ):
        text = f"as --{name}" if prefix else meaning.replace("%", "%%")
        holder.add_argument(f"--{prefix}{name}", type=_checked(parse), metavar=metavar, help=text)


def impairments(arguments: argparse.Namespace, direction: str) -> Impairments:
    """What one direction, "forward" or "backward", is to do."""

    def wanted(name: str) -> object:
        own = getattr(arguments, f"{direction}_{name}")
        return own if own is not None else getattr(arguments, name)

    # A direction's own delay goes before a trace for both, and the other way round.
    own = getattr(arguments, f"{direction}_delay") or getattr(arguments, f"{direction}_delay_trace")
    delays = own or arguments.delay or arguments.delay_trace or Constant(0)
    order = wanted("reorder")
    return Impairments(
        delay=delays,
        loss=wanted("loss"),  # type: ignore[arg-type]
        duplicate=wanted("duplicate"),  # type: ignore[arg-type]
        reorder=order if isinstance(order, Reorder) else None,
        rate=wanted("rate"),  # type: ignore[arg-type]
        keep_order=order != JITTER,
    )


def delay(text: str) -> Constant | Uniform:
    """'2ms' or '1ms..3ms'."""
    low, dots, high = text.partition("..")
    if dots:
        return Uniform(_ns(low), _ns(high))
    return Constant(_ns(text))


def trace(text: str) -> Trace:
    """The file of this name: one delay a line, '#' begins a remark."""
    delays = []
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"{text}: {problem}") from problem
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        if content:
            try:
                delays.append(_ns(content))
            except ValueError as problem:
                raise ValueError(f"{text}, line {number}: {problem}") from problem
    return Trace(tuple(delays))


def loss(text: str) -> Every | Chance | GilbertElliott:
    """'every:7', '1%' or 'ge:p=1%,r=30%'."""
    if not text.startswith("ge:"):
        return _which(text, LOSS)
    found = {}
    for part in text.removeprefix("ge:").split(","):
        name, equals, value = part.partition("=")
        if not equals or name in found or name not in ("p", "r", "good", "bad"):
            raise ValueError(f"{text!r}: {part!r} means nothing (allowed: {LOSS})")
        found[name] = _share(value, text, LOSS)
    if not {"p", "r"} <= found.keys():
        raise ValueError(f"{text!r} lacks p or r (allowed: {LOSS})")
    return GilbertElliott(**found)


def duplicate(text: str) -> Duplicate:
    """'every:5', '1%+2ms'."""
    which, plus, extra = text.partition("+")
    return Duplicate(_which(which, DUPLICATE), _ns(extra) if plus else 0)


def reorder(text: str) -> Reorder | str:
    """'every:9+5ms', or JITTER itself."""
    if text == JITTER:
        return JITTER
    which, plus, extra = text.partition("+")
    if not plus:
        raise ValueError(f"{text!r} says not for how long (allowed: {REORDER})")
    return Reorder(_which(which, REORDER), _ns(extra))


def rate(text: str) -> Rate:
    """'10Mbit', '1.5Mbit,queue=50'."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([kMG]?bit)(?:,queue=(\d{1,9}))?", text)
    if match is None:
        raise ValueError(f"{text!r} is no rate (allowed: {RATE})")
    bits = round(float(match[1]) * _BITS[match[2]])
    return Rate(bits, int(match[3])) if match[3] else Rate(bits)


def _ns(text: str) -> int:
    return int(Duration.parse(text))


def _which(text: str, allowed: str) -> Every | Chance:
    if match := re.fullmatch(r"every:(\d{1,9})", text):
        return Every(int(match[1]))
    return Chance(_share(text, text, allowed))


def _share(text: str, whole: str, allowed: str) -> float:
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)%", text)
    if match is None or float(match[1]) > 100:
        raise ValueError(f"{whole!r}: {text!r} is no share from 0% to 100% (allowed: {allowed})")
    return float(match[1]) / 100


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """argparse shows a complaint of its own instead of ValueError's."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from problem

    return checked
