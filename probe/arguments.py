"""Text of the command line in, checked values out: the types of arguments, and the options of a probe."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from probe.units import Duration

# Options that say the same as a key of [[target]]; they are absent where they were not given.
KNOBS = (
    *("interval", "size", "dscp", "flows", "schedule", "burst", "ttl", "source", "interface"),
    *("dont_fragment", "key_file"),
)


def duration(text: str, low: str = "1ns", high: str = "36500d") -> Duration:
    """A length of time with its unit."""
    try:
        value = Duration.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    if not Duration.parse(low) <= value <= Duration.parse(high):
        raise argparse.ArgumentTypeError(f"{text!r} is out of range (allowed: {low} to {high})")
    return value


def interval(text: str) -> Duration:
    """Between two probes. As ping(8): a bare number is seconds."""
    return duration(text if text[-1:].isalpha() else f"{text}s", "1ms", "1h")


def clock_error(text: str) -> Duration:
    """How far a clock may be off."""
    return duration(text, "1ns", "10s")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number in a range."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def add_knobs(command: argparse.ArgumentParser) -> None:
    """The options of `KNOBS`."""

    def option(*names: str, help: str, **more: Any) -> argparse.Action:  # noqa: A002 - argparse's name
        return command.add_argument(*names, default=argparse.SUPPRESS, help=help, **more)

    option(
        *("-i", "--interval"),
        type=interval,
        help="between probes of a flow: 10ms, or seconds (1s). Unless it is given, tcp and connect send at "
        "most one a second, all flows together",
    )
    option(
        *("-s", "--size"),
        type=whole(24, 9000),
        metavar="BYTES",
        help="IP payload (icmp: 24 to 9000, 64; stamp: 52 to 9000, 84)",
    )
    option("--dscp", type=whole(0, 63), metavar="N", help="0 to 63 (0)")
    option("--flows", type=whole(1, 64), metavar="N", help="streams on paths of their own, 1 to 64 (1)")
    option("--burst", type=whole(1, 64), metavar="K", help="probes back to back each interval, 1 to 64 (1)")
    option(
        "--poisson",
        dest="schedule",
        action="store_const",
        const="poisson",
        help="gaps by chance with the interval as their mean (RFC 2330)",
    )
    option("--ttl", type=whole(1, 255), metavar="N", help="TTL or hop limit, 1 to 255 (the kernel's)")
    option("--source", metavar="ADDRESS", help="an IP address of this host to send from (the route's)")
    option("--interface", metavar="NAME", help="send and receive by this interface only (the route's)")
    option(
        "--dont-fragment",
        dest="dont_fragment",
        action="store_true",
        help="set DF, and do not send what exceeds the path's MTU",
    )
    complete_files(
        option("--key-file", metavar="FILE", help="stamp: authenticated mode, with the key in this file")
    )


def complete_files(option: argparse.Action) -> None:
    """Have shells complete names of files for it."""
    option.complete = {"bash": "_shtab_compgen_files", "zsh": "_files"}  # type: ignore[attr-defined]


def knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of `KNOBS` that were given."""
    return {name: value for name, value in vars(arguments).items() if name in KNOBS}
