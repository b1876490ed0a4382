"""A running site and faults in, what `coloprobe diagnose` said of each and how soon out.

A fault lasts until its verdict is right, or until more than three whole windows with it have arrived. Then it
is mended, and the next one waits until nothing is wrong any more. What was wrong before stays in the report
for a while, as it should; so of all verdicts those count that began with the fault.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults import recording
from tests.faults.catalogue import Fault
from tests.faults.topology import FIRST, SITE, Site
from tests.system.commands import ROOT, coloprobe

WINDOWS = 3  # the bar: right within so many whole windows
LEARNING_S = 20.0
_DELIVERY_S = 2.0  # from a window's closing to its points in the store, on a busy machine
_BEFORE_S = 10.0  # of quiet that a recording begins with
_LONG_S = 25.0  # without quiet is worth a word
_QUIET_S = 60.0  # until the diagnosis is "no fault" again
_SETTLING = 4  # windows: what is mended is a change as well; the next one shall not seem to belong to it
_RECORDING_S = 14.0  # between two faults that are recorded
_LOOK_S = 0.2
_POLL_S, _SILENT_S = 0.4, 1.5
_BUSY_S = 5.0  # more than is usual, that data may take on a busy machine
_FAR_NS = 1 << 62
_SHOWN = 2  # whole windows in a report that is shown: enough for more evidence than the first one has
_LAST = "2m"
_EARLIER_NS = 2_500_000_000  # a verdict may begin with the window that shows it first
_SECOND = 1_000_000_000

Verdicts = list[dict[str, Any]]
Tell = Callable[[str], None]


@dataclass
class Outcome:
    """One fault, or pair: what was said, whether that was right, and after how long."""

    faults: tuple[str, ...]
    verdict: str
    right: bool
    seconds: float
    windows: int  # whole ones since the fault began, of which the verdict could know
    quiet_s: float = 0.0  # from its end until "no fault"
    verdicts: Verdicts = field(default_factory=list)
    also: list[str] = field(default_factory=list)  # other causes that were named at any time until then

    @property
    def name(self) -> str:
        return "+".join(self.faults)


@dataclass
class Result:
    """A run. before, after: what was said in quiet."""

    singles: list[Outcome] = field(default_factory=list)
    pairs: list[Outcome] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)  # verdicts that were no "no fault", in quiet

    def as_dict(self) -> dict[str, Any]:
        return {
            "singles": [asdict(one) for one in self.singles],
            "pairs": [asdict(one) for one in self.pairs],
            "quiet": self.quiet,
            "right": sum(one.right for one in self.singles),
            "of": len(self.singles),
            "median_s": self.median_s,
        }

    @property
    def median_s(self) -> float | None:
        right = [one.seconds for one in self.singles if one.right]
        return round(statistics.median(right), 2) if right else None


def since(verdicts: Verdicts, began_ns: int, *, calm: bool = True) -> Verdicts:
    """Those of a fault that began then; in the same order, worst first.

    calm: nothing was wrong any more before, so that what is wrong now came with the fault, even where it is
    told as one with the same trouble of half a minute ago.
    """
    return [
        one
        for one in verdicts
        if one["place"] != "none"
        and ((one["since"] or 0) >= began_ns - _EARLIER_NS or (calm and one["until"] is None))
    ]


def lasting(verdicts: Verdicts) -> Verdicts:
    """Those that are not over."""
    return [one for one in verdicts if one["place"] != "none" and one["until"] is None]


def label(verdicts: Verdicts) -> str:
    """The worst verdicts in a word or two each."""
    if not verdicts:
        return "none"
    return " + ".join(
        one["place"] if one["place"] == "none" else f"{one['place']}/{one['cause']}" for one in verdicts[:3]
    )


def right(verdicts: Verdicts, faults: Sequence[Fault]) -> bool:
    """One fault: the worst verdict is its cause at its place. Several: each one's cause is among them."""
    if len(faults) == 1:
        return bool(verdicts) and _fits(verdicts[0], faults[0])
    return all(any(_fits(one, fault) for one in verdicts) for fault in faults)


def others(verdicts: Verdicts, faults: Sequence[Fault]) -> list[str]:
    """Causes that are named, and are none of these faults; to know nothing is no name."""
    named = dict.fromkeys(one["cause"] for one in verdicts)
    return [cause for cause in named if cause not in ("none", "unknown", *(one.cause for one in faults))]


def _fits(verdict: dict[str, Any], fault: Fault) -> bool:
    return verdict["cause"] == fault.cause and verdict["place"] in fault.places


class Runner:
    """Injects, asks, mends. `tell` gets whole lines, `progress` one that changes.

    record: write recordings into this folder. diagnose: whether to ask at all. windows: how many whole ones a
    fault may take.
    """

    def __init__(
        self,
        site: Site,
        tell: Tell,
        progress: Tell = lambda text: None,
        *,
        record: Path | None = None,
        diagnose: bool = True,
        show: bool = False,
        windows: int = WINDOWS,
    ) -> None:
        self._site, self._tell, self._progress = site, tell, progress
        self._record, self._diagnose, self._show = record, diagnose, show
        self._most = windows
        self._calm = False  # whether nothing was wrong when it was last looked at
        self._shown: set[tuple[Any, ...]] = set()

    def learn(self, seconds: float = LEARNING_S) -> None:
        """Let the agents learn what is usual."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._progress(f"learning what is usual: {left:.0f} s")
            self._site.look()
            time.sleep(min(1.0, left))

    def one(self, *faults: Fault, calm: bool = True) -> Outcome:
        """Inject these together, until the verdict is right or the time is over; mend; wait for quiet.

        calm: whether to wait.
        """
        name = "+".join(fault.id for fault in faults)
        began, began_ns = time.monotonic(), time.time_ns()
        verdicts: Verdicts = []
        good = False
        asked, known, whole = began, 0, 0
        seconds, knew = 0.0, 0
        also: dict[str, None] = {}
        try:
            for fault in faults:
                fault.begin(self._site)
                if self._show:
                    self._tell(f"{_clock(time.time_ns())}  broken: {fault.what}")
            while self._go_on(began, began_ns, whole):
                for fault in faults:
                    fault.keep(self._site)
                arrived = recording.points(self._site.state, began_ns - _EARLIER_NS, _FAR_NS)
                whole = _whole(arrived, began_ns)
                self._show_events(arrived)
                now = time.monotonic()
                # Nothing new was heard, nothing new can be said: except that nothing is heard.
                if self._diagnose and now >= asked + (_POLL_S if len(arrived) > known else _SILENT_S):
                    asked, known = now, len(arrived)
                    verdicts = since(self.verdicts(), began_ns, calm=self._calm)
                    if not good:
                        also.update(dict.fromkeys(others(verdicts, faults)))
                    if right(verdicts, faults) and not good and whole <= self._most:
                        good, seconds, knew = True, time.monotonic() - began, whole
                        if self._show:
                            self._tell(f"{_clock(time.time_ns())}  coloprobe diagnose: {label(verdicts)}")
                    if good and (whole >= _SHOWN or not self._show):
                        break
                self._progress(f"{name}: {now - began:.0f} s  {label(verdicts)}")
                time.sleep(_LOOK_S)
            if not good:
                seconds, knew = time.monotonic() - began, whole
        finally:
            for fault in faults:
                fault.end(self._site)
        outcome = Outcome(
            tuple(fault.id for fault in faults),
            label(verdicts),
            good,
            round(seconds, 2),
            knew or self._by_the_clock(began_ns, seconds),
            verdicts=verdicts,
            also=list(also),
        )
        if self._show or (self._diagnose and not good):
            self._tell(f"\n{_clock(time.time_ns())}  $ coloprobe diagnose --last {_LAST}\n{self.report()}")
        self._keep(name, began_ns, outcome)
        self._site.look()
        if calm:
            outcome.quiet_s = round(self.settle(), 1)
        return outcome

    def _go_on(self, began: float, began_ns: int, whole: int) -> bool:
        """Whether a verdict may still come: by the windows that have arrived, or the time where none do."""
        passed = time.monotonic() - began
        patience = self._patience(began_ns)
        return whole <= self._most and passed < patience + (_BUSY_S if whole else 0)

    def _show_events(self, arrived: list[dict[str, Any]]) -> None:
        """Those of the agents that are new, as a board shows them."""
        for one in arrived if self._show else ():
            key = one["time"], one["measurement"], one.get("kind"), one.get("target"), one["agent"]
            if one["measurement"] == "event" and one.get("site") == SITE and key not in self._shown:
                self._shown.add(key)
                about = one.get("target") or one.get("interface") or one["agent"]
                self._tell(f"{_clock(one['time'])}  {one['agent']}  {one['kind']}  {about}: {one['text']}")

    def settle(self) -> float:
        """Wait until all is as it was. Returns how long that took, s; at most a minute."""
        began = time.monotonic()
        told = False
        least = _SETTLING * self._site.window_s if self._record is None else _RECORDING_S
        while (passed := time.monotonic() - began) < _QUIET_S:
            self._site.look()
            if passed >= least:
                left = lasting(self.verdicts()) if self._diagnose else []
                self._calm = not left
                if not left:
                    break
                if passed > _LONG_S and not told:
                    told = True
                    self._tell(f"  after {passed:.0f} s it still says:\n{self.report()}")
            self._progress(f"waiting for quiet: {passed:.0f} s")
            time.sleep(_POLL_S)
        return time.monotonic() - began

    def verdicts(self) -> Verdicts:
        """What `coloprobe diagnose` says now."""
        done = self._ask("--json")
        return [json.loads(line) for line in done.splitlines() if line.startswith("{")]

    def report(self) -> str:
        """The same in words."""
        return self._ask() if self._diagnose else ""

    def _ask(self, *options: str) -> str:
        command = coloprobe("diagnose", "--state", self._site.state, "--last", _LAST, *options)
        command = [*FIRST, *command]
        done = self._site.places["station"].run(command, check=False, timeout_s=30)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def _keep(self, name: str, began_ns: int, outcome: Outcome) -> None:
        if self._record is None:
            return
        until = time.time_ns()
        rows = recording.points(self._site.state, began_ns - int(_BEFORE_S * _SECOND), until)
        about = {"began_ns": began_ns, "until_ns": until, "faults": list(outcome.faults)}
        size = recording.write(self._record, name, rows, about)
        self._tell(f"recorded {name}: {len(rows)} points, {size} bytes")

    def _patience(self, began_ns: int) -> float:
        """Seconds until so many whole windows have ended and arrived."""
        length = self._site.window_s
        into = began_ns / _SECOND % length
        return (length - into) + self._most * length + self._site.timeout_s + _DELIVERY_S

    def _by_the_clock(self, began_ns: int, passed_s: float) -> int:
        """Whole windows that were over, where none arrived."""
        length = self._site.window_s
        begin = -(-began_ns / _SECOND // length) * length
        return max(0, int((began_ns / _SECOND + passed_s - self._site.timeout_s - begin) // length))

    def record_quiet(self, seconds: float = 20.0) -> None:
        """A recording of nothing."""
        began_ns = time.time_ns()
        self.learn(seconds)
        self._keep("quiet", began_ns, Outcome((), "none", True, seconds, 0))


def _clock(ns: int) -> str:
    """UTC to the millisecond."""
    return f"{datetime.fromtimestamp(ns // _SECOND, UTC):%H:%M:%S}.{ns // 1_000_000 % 1000:03}"


def _whole(rows: list[dict[str, Any]], began_ns: int) -> int:
    """How many windows that began after the fault are there, of the agent that has most."""
    starts: dict[str, set[int]] = defaultdict(set)
    for one in rows:
        if one["measurement"] == "probe" and one.get("site") == SITE and one["time"] >= began_ns:
            starts[one["agent"]].add(one["time"])
    return max(map(len, starts.values()), default=0)


def draw_pairs(faults: Sequence[Fault], count: int, seed: int) -> list[tuple[Fault, Fault]]:
    """So many pairs by chance, of faults that hit different things; all there are where `count` is more."""
    able = [pair for pair in itertools.combinations(faults, 2) if not pair[0].hits & pair[1].hits]
    return random.Random(seed).sample(able, min(count, len(able)))


def has_diagnose() -> bool:
    """Whether the command is there."""
    done = subprocess.run(coloprobe("diagnose", "--help"), capture_output=True, cwd=ROOT, check=False)
    return done.returncode == 0


def say(result: Result, out: Any = sys.stdout) -> None:
    """The table and its sum."""
    rows = [("fault", "verdict", "", "seconds", "windows")]
    for one in [*result.singles, *result.pairs]:
        mark = "right" if one.right else "WRONG"
        rows.append((one.name, one.verdict, mark, f"{one.seconds:.1f}", str(one.windows)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)]
        print("  ".join([*cells, *(cell.rjust(7) for cell in row[3:])]).rstrip(), file=out)
    for what, outcomes in (("", result.singles), ("pairs: ", result.pairs)):
        if outcomes:
            good = [one.seconds for one in outcomes if one.right]
            middle = f", median {statistics.median(good):.1f} s" if good else ""
            print(f"{what}{len(good)} of {len(outcomes)} right{middle}", file=out)
    both = [*result.singles, *result.pairs]
    also = "; ".join(f"{one.name}: {', '.join(one.also)}" for one in both if one.also)
    print("right: the worst verdict is the cause (of a pair, both are among the verdicts)", file=out)
    print(f"named besides, or before it was right: {also or 'nothing'}", file=out)
    print("windows: whole ones that the verdict knew of; 0: the one in which it began was enough", file=out)
    for words in result.quiet:
        print(f"in quiet it said: {words}", file=out)
    out.flush()
