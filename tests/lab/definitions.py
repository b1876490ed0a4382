"""What a capture saw of one flow in, what every field of its windows has to be out, by docs/measuring.md
alone.

Plain Python over single probes; nothing of the measuring program is used, and its own records are not looked
at. Where the page leaves a few ms open (when exactly a window is closed, on whose side of the timeout a probe
is that came within 200 us of it), the answer is a range.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.lab.capture import Echo

MS = 1_000_000
CATCH_UP = 250 * MS
MARGIN = 2 * MS
CLOSE = 200_000  # ns between a capture's RTT and the timeout below which the program may see it otherwise


@dataclass(frozen=True)
class Seen:
    """One probe on the wire: when it left and when each reply to it came, in order; wall clock ns."""

    number: int
    sent_ns: int
    replies: tuple[int, ...]

    @property
    def first(self) -> int | None:
        return self.replies[0] if self.replies else None

    def rtt(self) -> int | None:
        return self.replies[0] - self.sent_ns if self.replies else None


@dataclass(frozen=True)
class Range:
    """At least `low`, at most `high`."""

    low: int
    high: int

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high

    @property
    def exact(self) -> bool:
        return self.low == self.high


@dataclass
class Window:
    """`probes`: those due in it, in order. `closing_ns`: the earliest instant at which it may be closed."""

    start_ns: int
    closing_ns: int
    probes: list[Seen] = field(default_factory=list)


@dataclass(frozen=True)
class Expected:
    """`counts`: of each field of that name. `rtts`: of the received probes, in order of probes.

    `by_arrival`: the same in order of arrival. `ipdv`: |differences| of neighbours. `unsure`: a probe came so
    close to the timeout that both is right; then `rtts` and what comes from them mean nothing. `so_far`: of
    fields that may count in a later window, all that was to be counted up to and with this one.
    """

    counts: dict[str, Range]
    so_far: dict[str, Range]
    rtts: list[int]
    by_arrival: list[int]
    ipdv: list[int]
    unsure: bool


def flow(echoes: Iterable[Echo], target: str) -> list[Seen]:
    """Every probe to `target` and the replies from it, by the secret and the number in their payload."""
    sent: dict[bytes, int] = {}
    replies: defaultdict[bytes, list[int]] = defaultdict(list)
    for echo in echoes:
        key = echo.payload[:16]
        if echo.request and echo.outgoing and echo.destination == target:
            assert key not in sent, f"the same probe twice on its way out: {echo}"
            sent[key] = echo.time_ns
        elif not echo.request and not echo.outgoing and echo.source == target:
            replies[key].append(echo.time_ns)
    assert replies.keys() <= sent.keys()
    assert len({key[:8] for key in sent}) <= 1, "two programs probe the same target"
    return sorted(
        (Seen(int.from_bytes(key[8:], "big"), at, tuple(sorted(replies[key]))) for key, at in sent.items()),
        key=lambda probe: probe.number,
    )


def closing(end_ns: int, timeout: int) -> int:
    """ "A window is closed 250 ms + timeout + 2 ms after its end." """
    return end_ns + CATCH_UP + timeout + MARGIN


def expect(windows: Sequence[Window], timeout: int, closing_lasts: int) -> list[Expected]:
    """The fields of each window.

    windows: consecutive ones of one flow, also those without a probe.
    closing_lasts: how long after `closing_ns` a window may still be open, ns: a tick or two, or as long as
        this host kept the program from running.
    """
    late, duplicates = _Tally(windows, closing_lasts), _Tally(windows, closing_lasts)
    everybody = [(at, probe) for at, window in enumerate(windows) for probe in window.probes]
    passed = overtaken([probe for _, probe in everybody])
    reordered = [[0, 0] for _ in windows]
    for (at, probe), was_passed in zip(everybody, passed, strict=True):
        if probe.first is None:
            continue
        rtt = probe.first - probe.sent_ns
        if rtt > timeout - CLOSE:
            late.add(at, probe.first, sure=rtt > timeout + CLOSE)
        for again in probe.replies[1:]:
            duplicates.add(at, again, sure=True)
        if was_passed:
            closes = windows[at].closing_ns
            reordered[at][0] += probe.first < closes - MS
            reordered[at][1] += probe.first <= closes + closing_lasts
    out = []
    for at, window in enumerate(windows):
        counts = outcomes(window.probes, timeout)
        counts["late"], counts["duplicates"] = late.range(at), duplicates.range(at)
        counts["reordered"] = Range(*reordered[at])
        so_far = {"late": late.so_far(at), "duplicates": duplicates.so_far(at)}
        out.append(_with_times(window.probes, timeout, counts, so_far))
    return out


def outcomes(probes: Sequence[Seen], timeout: int) -> dict[str, Range]:
    """What became of these probes, in order: the fields that need no other probes and no closing time."""
    sure, maybe = (
        [(rtt := probe.rtt()) is not None and rtt <= timeout + off for probe in probes]
        for off in (-CLOSE, CLOSE)
    )
    lost = [[not one for one in received] for received in (maybe, sure)]
    return {
        "sent": Range(len(probes), len(probes)),
        "received": Range(sum(sure), sum(maybe)),
        "lost": Range(sum(lost[0]), sum(lost[1])),
        "loss_burst_max": Range(longest(lost[0]), longest(lost[1])),
    }


def _with_times(
    probes: Sequence[Seen], timeout: int, counts: dict[str, Range], so_far: dict[str, Range]
) -> Expected:
    received = [(rtt := probe.rtt()) is not None and rtt <= timeout for probe in probes]
    rtts = [probe.rtt() or 0 for probe, got in zip(probes, received, strict=True) if got]
    arrived = sorted(
        (probe for probe, got in zip(probes, received, strict=True) if got), key=lambda p: p.replies
    )
    ipdv = [
        abs((b.rtt() or 0) - (a.rtt() or 0))
        for (a, got_a), (b, got_b) in itertools.pairwise(zip(probes, received, strict=True))
        if got_a and got_b
    ]
    unsure = not counts["received"].exact
    return Expected(counts, so_far, rtts, [probe.rtt() or 0 for probe in arrived], ipdv, unsure)


class _Tally:
    """Replies that count in their probe's window, or, come too late for it, in the one closed next."""

    def __init__(self, windows: Sequence[Window], closing_lasts: int) -> None:
        self._closings = [window.closing_ns for window in windows]
        self._closing_lasts = closing_lasts
        self._sure = [0] * len(windows)
        self._maybe = [0] * len(windows)
        self._surely_by = [0] * len(windows)
        self._maybe_by = [0] * len(windows)

    def add(self, of: int, arrived: int, *, sure: bool) -> None:
        earliest = max(of, self._first_that_hears(arrived, self._closing_lasts))
        latest = max(of, self._first_that_hears(arrived, -MS))
        for at in range(earliest, min(latest + 1, len(self._closings))):
            self._maybe[at] += 1
        for at in range(earliest, len(self._closings)):
            self._maybe_by[at] += 1
            self._surely_by[at] += sure and at >= latest
        if sure and earliest == latest < len(self._closings):
            self._sure[earliest] += 1

    def _first_that_hears(self, arrived: int, allowance: int) -> int:
        for at, closes in enumerate(self._closings):
            if arrived <= closes + allowance:
                return at
        return len(self._closings)

    def range(self, at: int) -> Range:
        return Range(self._sure[at], self._maybe[at])

    def so_far(self, at: int) -> Range:
        return Range(self._surely_by[at], self._maybe_by[at])


def overtaken(probes: Sequence[Seen]) -> list[bool]:
    """RFC 4737: whether the reply to a later probe came before that to each of these."""
    out, earliest = [], math.inf
    for probe in reversed(probes):
        out.append(probe.first is not None and earliest < probe.first)
        if probe.first is not None:
            earliest = min(earliest, probe.first)
    return out[::-1]


def longest(lost: Iterable[bool]) -> int:
    """The longest run of true."""
    return max((len(list(run)) for one, run in itertools.groupby(lost) if one), default=0)


def percentile(values: Sequence[int], numerator: int, denominator: int) -> int:
    """In ascending order the value number ceil(n p)."""
    return sorted(values)[max(-(-len(values) * numerator // denominator), 1) - 1]


def jitter(rtts_by_arrival: Sequence[int]) -> float:
    """RFC 3550 section 6.4.1 from 0."""
    estimate = 0.0
    for earlier, later in itertools.pairwise(rtts_by_arrival):
        estimate += (abs(later - earlier) - estimate) / 16
    return estimate
