"""Faults in, what `coloprobe diagnose` makes of them out: `make faults ARGS="--only line-loss --show"`.

Exit status: 0 at least 15 of 16 (all but one of what was asked for) named right within 3 windows, and no
fault seen in quiet; 1 not so; 2 this cannot be run here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from probe.arguments import whole
from tests.faults.catalogue import catalogue
from tests.faults.run import Outcome, Result, Runner, draw_pairs, has_diagnose, label, lasting, say
from tests.faults.topology import Site

_MAY_MISS = 1  # of the sixteen


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _options(argv)
    if options.list:
        for fault in catalogue():
            print(f"{fault.id:20}{fault.what}")
        return 0
    if os.geteuid() != 0:
        print("faults: namespaces need root; begin the line with sudo", file=sys.stderr)
        return 2
    _clean_up_on_signals()
    directory = Path(tempfile.mkdtemp(prefix="coloprobe-faults-"))
    shown = _Progress()
    try:
        with Site(directory) as site:
            result = _run(site, options, shown)
    except KeyboardInterrupt:
        return 130
    finally:
        shown.clear()
        if options.keep:
            print(f"everything is kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    say(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
    return 0 if _good(result) else 1


def _run(site: Site, options: argparse.Namespace, shown: _Progress) -> Result:
    faults = [fault for fault in catalogue() if not options.only or fault.id in options.only]
    ask = has_diagnose()
    if not ask:
        shown.tell("there is no `coloprobe diagnose` here: nothing is judged")
    runner = Runner(site, shown.tell, shown.progress, record=options.record, diagnose=ask, show=options.show)
    result = Result()
    site.start()
    runner.learn()
    _quiet(runner, result, ask, "before")
    if options.record is not None and not options.only:
        runner.record_quiet()
    if not options.quiet:
        if options.pairs is None or options.only:
            for fault in faults:
                shown.tell(f"{fault.id}: {fault.what}")
                outcome = runner.one(fault)
                result.singles.append(outcome)
                shown.tell(_line(outcome))
        for pair in draw_pairs(catalogue(), options.pairs or 0, options.seed):
            shown.tell(" and ".join(fault.what for fault in pair))
            outcome = runner.one(*pair)
            result.pairs.append(outcome)
            shown.tell(_line(outcome))
        _quiet(runner, result, ask, "after")
    return result


def _quiet(runner: Runner, result: Result, ask: bool, when: str) -> None:
    if not ask:
        return
    said = runner.verdicts()
    # Before, there was nothing that could be over; afterwards the faults themselves are.
    if wrong := ([one for one in said if one["place"] != "none"] if when == "before" else lasting(said)):
        result.quiet.append(f"{label(wrong)} ({when})")
        print(runner.report(), flush=True)


def _line(outcome: Outcome) -> str:
    mark = "right" if outcome.right else "WRONG"
    return f"  {mark}: {outcome.verdict}, after {outcome.seconds:.1f} s; quiet after {outcome.quiet_s:.0f} s"


def _good(result: Result) -> bool:
    missed = sum(not one.right for one in result.singles)
    return not result.quiet and missed <= (_MAY_MISS if len(result.singles) > _MAY_MISS else 0)


class _Progress:
    """A line that changes, on a terminal; elsewhere only what happens."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._width = shutil.get_terminal_size().columns - 1

    def tell(self, text: str) -> None:
        self.clear()
        print(text, flush=True)

    def progress(self, text: str) -> None:
        if self._terminal:
            print(f"\r\x1b[K{text[: self._width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog='Example: make faults ARGS="--only line-loss --show"',
    )
    names = [fault.id for fault in catalogue()]
    parser.add_argument("--list", action="store_true", help="only say what the faults are")
    parser.add_argument("--only", action="append", choices=names, metavar="ID", help="this one (repeatable)")
    parser.add_argument(
        "--pairs",
        type=whole(1, 1000),
        nargs="?",
        const=12,
        metavar="N",
        help="two faults at once, so many pairs by chance (12)",
    )
    parser.add_argument("--seed", type=int, default=1, help="which pairs (%(default)s)")
    parser.add_argument(
        "--quiet", action="store_true", help="inject nothing: it should say that there is no fault"
    )
    parser.add_argument("--show", action="store_true", help="print events as they come, and each report")
    parser.add_argument("--record", type=Path, metavar="DIR", help="keep the points of each fault in files")
    parser.add_argument("--keep", action="store_true", help="keep logs, settings and the store")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the result as JSON as well")
    return parser.parse_args(argv)


def _clean_up_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process by the way that cleans up, and none that is forked from it."""
    owner = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(OSError):
            signal.signal(number, leave)


if __name__ == "__main__":
    sys.exit(main())
