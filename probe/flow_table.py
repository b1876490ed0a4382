"""Statistics of a target's flows in, a table that makes a bad flow obvious and one line that says it out.

Pure. A flow keeps its path, so flows that differ are paths that differ. What stands out is told by robust
statistics of the flows themselves: the median of all, and the median absolute deviation (MAD) from it; and
only where it is more than chance makes of so few probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import median, median_low

from probe.text import duration

NOTABLE = 20_000  # ns; a smaller difference of RTTs is a host's noise
_FAR = 5  # MADs from the median
_APART = 3  # two groups lie so many times further apart than a group is wide
_SIGMAS = 4  # standard deviations that chance does not make
_DOUBTFUL = 1.5  # and those that one flow table in ten or so shows by chance
_MOST_GROUPS = 8
# The standard error of a median of n normal values is 1.2533 sigma / sqrt(n), and the mean difference of two
# of them, which jitter is, 1.1284 sigma.
_MEDIAN_ERROR = 1.2533 / 1.1284
_BAR, _LEAST_BAR = 20, 5  # characters

LOSS, SLOW, ERRORS, UNMEASURED = "<- loss", "<- slow", "<- errors", "<- no socket"


@dataclass(frozen=True)
class FlowRow:
    """One flow so far; RTTs and jitter in ns, None where there is none yet.

    identity: what tells its packets from those of other flows.
    open: whether it has a socket at all.
    """

    flow: int
    identity: str
    sent: int = 0
    lost: int = 0
    errors: int = 0
    p50: int | None = None
    p99: int | None = None
    max: int | None = None
    jitter: int | None = None
    open: bool = True

    @property
    def loss(self) -> float:
        """Share of its probes that were lost, 0 where none was sent."""
        return self.lost / self.sent if self.sent else 0.0

    @property
    def uncertainty(self) -> float:
        """Standard error of its p50, ns."""
        return _MEDIAN_ERROR * (self.jitter or 0) / sqrt(max(self.sent - self.lost, 1))


def marks(rows: Sequence[FlowRow]) -> list[str]:
    """What is wrong with each flow, compared to the others; empty where nothing is."""
    measured = [row for row in rows if row.sent]
    lossy = {row.flow for row in (_lossy(measured) if measured else [])}
    slow = {row.flow for row in _slow(measured)}
    found = []
    for row in rows:
        words = [
            *([UNMEASURED] if not row.open else []),
            *([LOSS] if row.flow in lossy else []),
            *([SLOW] if row.flow in slow else []),
            *([ERRORS] if row.errors else []),
        ]
        found.append(" ".join(words[:1] + [word.removeprefix("<- ") for word in words[1:]]))
    return found


def verdict(rows: Sequence[FlowRow]) -> str:
    """One line about all flows of a target."""
    measured = [row for row in rows if row.open and row.sent]
    if not measured:
        return "nothing was sent on any flow"
    parts = [part for part in (_verdict_on_loss(measured), _verdict_on_delay(measured)) if part]
    failed = [row.flow for row in rows if row.errors]
    if failed:
        parts.append(f"errors on {_flows(failed)}")
    closed = [row.flow for row in rows if not row.open]
    if closed:
        parts.append(f"{_flows(closed)} could not be measured")
    return "; ".join(parts) if parts else "all flows alike"


def table(
    rows: Sequence[FlowRow], heading: str, *, height: int | None = None, width: int | None = None
) -> list[str]:
    """A line a flow, under headings; `heading` is that of `identity`.

    height: at most so many flows are shown, those with a mark and the slowest first of all.
    width: longer lines are cut.
    """
    found = dict(zip((row.flow for row in rows), marks(rows), strict=True))
    shown = list(rows)
    if height is not None and len(rows) > height:
        ranked = sorted(rows, key=lambda row: (not found[row.flow], -row.loss, -(row.p50 or 0), row.flow))
        shown = sorted(ranked[: max(height - 1, 1)], key=lambda row: row.flow)
    wide = max(len(heading), *(len(row.identity) for row in rows))
    head = " ".join(f"{name:>{_WIDTHS[name]}}" for name in _WIDTHS)
    lines = [f"flow  {heading:>{wide}} {head}"]
    longest = max(len(found[row.flow]) for row in shown)
    room = _BAR if width is None else min(width - len(lines[0]) - longest - 3, _BAR)
    slowest = max(row.p50 or 0 for row in rows)
    for row in shown:
        values = {
            "sent": str(row.sent),
            "lost": str(row.lost),
            "loss": f"{row.loss:.1%}" if row.sent else "-",
            **{name: _time(getattr(row, name)) for name in ("p50", "p99", "max", "jitter")},
        }
        cells = " ".join(f"{values[name]:>{space}}" for name, space in _WIDTHS.items())
        line = f"{row.flow:>4}  {row.identity:>{wide}} {cells}  "
        if room >= _LEAST_BAR:
            line += f"{'#' * (max(1, round(room * row.p50 / slowest)) if row.p50 else 0):<{room}} "
        lines.append(f"{line}{found[row.flow]}".rstrip())
    if len(shown) < len(rows):
        hidden = [row for row in rows if row not in shown]
        marked = sum(1 for row in hidden if found[row.flow])
        lines.append(f"      ... and {len(hidden)} more" + (f", {marked} of them marked" if marked else ""))
    return [line[:width] for line in lines]


_WIDTHS = {"sent": 6, "lost": 5, "loss": 6, "p50": 8, "p99": 8, "max": 8, "jitter": 8}


def _time(ns: int | None) -> str:
    return "-" if ns is None else duration(ns)


# -- loss ----------------------------------------------------------------------------------------------------


def _lossy(rows: Sequence[FlowRow]) -> list[FlowRow]:
    """The flows that lose much more than most; any loss is where most have none."""
    # Of an even number the lower ones: where half of them are bad, those stand out.
    middle = median_low([row.loss for row in rows])
    deviation = median_low([abs(row.loss - middle) for row in rows])
    limit = middle + _FAR * deviation
    if not _alike(rows):
        limit = min(limit, _below_the_worse(rows))
    return [row for row in rows if row.loss > limit]


def _alike(rows: Sequence[FlowRow]) -> bool:
    """Whether chance may have made their losses so different."""
    return _differing(rows) <= _SIGMAS


def _differing(rows: Sequence[FlowRow]) -> float:
    """How many standard deviations their losses differ more than chance makes them on average.

    It is the chi-squared test of homogeneity with Yates' correction, as losses are few; of k degrees of
    freedom chi-squared has mean k and variance 2k.
    """
    lost, sent = sum(row.lost for row in rows), sum(row.sent for row in rows)
    if lost in (0, sent) or len(rows) == 1:
        return 0.0
    p = lost / sent
    found = 0.0
    for row in rows:
        off = max(abs(row.lost - row.sent * p) - 0.5, 0)
        found += off * off / (row.sent * p * (1 - p))
    freedom = len(rows) - 1
    return (found - freedom) / sqrt(2 * freedom)


def _below_the_worse(rows: Sequence[FlowRow]) -> float:
    """The largest share of loss of the better ones, where two groups with a loss each explain most."""
    ranked = sorted(rows, key=lambda row: row.loss)
    cuts = [i for i in range(1, len(ranked)) if ranked[i].loss > ranked[i - 1].loss]
    at = max(cuts, key=lambda i: _likelihood(ranked[:i]) + _likelihood(ranked[i:]))
    return ranked[at - 1].loss


def _likelihood(rows: Sequence[FlowRow]) -> float:
    """The logarithm of how likely their losses are, were each probe lost with the share of all (binomial)."""
    lost, sent = sum(row.lost for row in rows), sum(row.sent for row in rows)
    parts = (part for part in (lost, sent - lost) if part)
    return sum(part * log(part / sent) for part in parts)


def _verdict_on_loss(rows: Sequence[FlowRow]) -> str:
    lost, sent = sum(row.lost for row in rows), sum(row.sent for row in rows)
    if not lost:
        return ""
    if lost == sent:
        return "no flow gets any reply"
    bad = _lossy(rows)
    if not bad and _differing(rows) > _DOUBTFUL:
        least, most = (_percent(pick(row.loss for row in rows)) for pick in (min, max))
        return f"flows lose {least} to {most}: too little to tell a bad path from chance"
    if not bad:
        return f"all flows lose alike, {_percent(lost / sent)}"
    rest = [row for row in rows if row not in bad]
    who = _flows([row.flow for row in bad])
    verb = "loses" if len(bad) == 1 else "lose"
    low, high = (_percent(pick(row.loss for row in bad)) for pick in (min, max))
    text = f"{who} {verb} " + (low if low == high else f"{low} to {high}")
    others = _percent(sum(row.lost for row in rest) / sum(row.sent for row in rest))
    text += f", the other one loses {others}" if len(rest) == 1 else f", the other {len(rest)} lose {others}"
    if _alike(rows):
        return f"{text}: too little to tell a bad path from chance"
    return f"{text}: " + ("one path of several is bad" if len(bad) == 1 else "some paths of several are bad")


# -- delay ---------------------------------------------------------------------------------------------------


def _outliers(rows: Sequence[FlowRow]) -> list[FlowRow]:
    """The few flows whose median RTT is far from most others'."""
    timed = [row for row in rows if row.p50 is not None]
    if not timed:
        return []
    values = [row.p50 or 0 for row in timed]
    middle = median(values)
    deviation = median(abs(value - middle) for value in values)
    least = max(NOTABLE, _FAR * deviation)
    return [row for row in timed if abs((row.p50 or 0) - middle) > max(least, _SIGMAS * row.uncertainty)]


def _slow(rows: Sequence[FlowRow]) -> list[FlowRow]:
    middle = median([row.p50 for row in rows if row.p50 is not None] or [0])
    return [row for row in _outliers(rows) if (row.p50 or 0) > middle]


def _groups(rows: Sequence[FlowRow]) -> list[list[FlowRow]]:
    """The groups, from fast to slow, into which flows clearly fall, as over several paths; or none.

    A single flow beside the others is no group, nor are a few beside very many: those are outliers.
    """
    timed = sorted((row for row in rows if row.p50 is not None), key=lambda row: row.p50 or 0)
    values = [row.p50 or 0 for row in timed]
    error = max((row.uncertainty for row in timed), default=0)
    widest = sorted(range(1, len(values)), key=lambda i: values[i - 1] - values[i])
    for many in range(1, min(len(widest), _MOST_GROUPS - 1) + 1):
        cuts = sorted(widest[:many])
        gap = min(values[i] - values[i - 1] for i in cuts)
        if gap <= max(NOTABLE, _SIGMAS * error):
            return []
        bounds = [*zip([0, *cuts], [*cuts, len(values)], strict=True)]
        if gap > _APART * max(values[end - 1] - values[begin] for begin, end in bounds):
            found = [timed[begin:end] for begin, end in bounds]
            beside = len(values) - max(map(len, found))
            return found if beside * 8 >= len(values) and (beside > 1 or len(values) <= 3) else []
    return []


def _verdict_on_delay(rows: Sequence[FlowRow]) -> str:
    groups = _groups(rows)
    if groups:
        parts = [
            f"{len(group)} around {_usual(group)} ({_list([row.flow for row in group])})" for group in groups
        ]
        flows = "flow" if len(groups[0]) == 1 else "flows"
        parts[0] = parts[0].replace(" around", f" {flows} around", 1)
        return f"{_NUMBERS.get(len(groups), len(groups))} groups: " + ", ".join(parts)
    outliers = _outliers(rows)
    if not outliers:
        return ""
    rest = [row for row in rows if row.p50 is not None and row not in outliers]
    takes = "takes" if len(outliers) == 1 else "take"
    return f"{_flows([row.flow for row in outliers])} {takes} {_usual(outliers)}, the others {_usual(rest)}"


def _usual(rows: Sequence[FlowRow]) -> str:
    return duration(round(median(row.p50 or 0 for row in rows)))


# -- words ---------------------------------------------------------------------------------------------------


_NUMBERS = {2: "two", 3: "three", 4: "four"}


def _list(numbers: Sequence[int]) -> str:
    """0, 1, 2, 3, 5 is 0-3, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts: list[str] = []
    for run in runs:
        texts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
    return ", ".join(texts)


def _flows(numbers: Sequence[int]) -> str:
    return ("flow " if len(numbers) == 1 else "flows ") + _list(numbers)


def _percent(share: float) -> str:
    """Two digits, and neither nothing nor 100 % where that is not the whole truth."""
    if share in (0, 1):
        return "everything" if share else "nothing"
    percent = share * 100
    if percent >= 99.5:
        return "99.9 %" if percent >= 99.95 else f"{percent:.1f} %"
    return f"{percent:.0f} %" if percent >= 9.5 else f"{percent:.1f} %" if percent >= 0.1 else "under 0.1 %"
