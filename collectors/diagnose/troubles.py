"""Tracks in, troubles out: where a target or flow was not as usual, from when to when, and by how much; pure.

loss     probes were lost: three or more, in windows of which no three in a row are clean; more than
         chance loses at the rate at which all targets do (`usual_loss`)
down     whole windows without a reply, between windows with some or at an end of the time; or what the newest
         window lost was one run, and long: it may have fallen silent in it, which the next one will tell
unsent   this host did not let the probes out, or holds their replies back: they are in `errors`
closed   the port answers RST which answered SYN/ACK before
slow     the median round-trip time stands above its usual level (`collectors.diagnose.levels`)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from collectors.board import text
from collectors.diagnose.columns import MISSING
from collectors.diagnose.facts import Track
from collectors.diagnose.levels import rises

MOST_WINDOWS = 8  # that prove a trouble
CLEAN = 3  # windows in a row that end a loss
LEAST_LOST = 3  # probes: fewer are no trouble
CHANCE = (
    1e-6  # that so many are lost where nothing is wrong: a fleet has 100,000 windows in a quarter of an hour
)
# The share of probes that is always lost somewhere: at least, because none says little, and at most, because
# nearly all targets may be hit.
LEAST_USUAL, MOST_USUAL = 1e-4, 2e-3
LEAST_SENT = 3  # probes: a window of fewer tells nothing about a target that is silent
# A rise of the median below that has to last, and without one of the minimum it is a busy processor.
FAINT_NS, FAINT_WINDOWS = 200_000, 4
LEAST_RUN, RUN_SHARE = 5, 0.5  # probes lost in one run, and their share of a window, that may be silence
MUTE_SHARE = 0.5  # of the probes that were due: errors of more mean that the host let nothing out


@dataclass(frozen=True, eq=False, slots=True)
class Trouble:
    """Something is not as usual. Times are wall ns; `end_ns` is None while it goes on.

    effect: see above, and `collectors.diagnose.hosts` for those without a track.
    size: share of probes lost; ns that it is slower; else a number of whatever it is.
    weight: bits of evidence that it is there at all.
    """

    effect: str
    agent: str
    begin_ns: int
    end_ns: int | None
    size: float
    text: str
    measurement: str = "probe"
    track: Track | None = None
    windows: tuple[int, ...] = ()
    weight: float = 0.0
    names: frozenset[str] = field(default_factory=frozenset)
    interface: str = ""

    def overlaps(self, since_ns: int, until_ns: int) -> bool:
        return self.begin_ns <= until_ns and (self.end_ns is None or self.end_ns >= since_ns)


def usual_loss(tracks: Iterable[Track]) -> float:
    """The share of probes that is lost though nothing is wrong: what three of four targets lose at least."""
    shares = sorted(
        sum(_counts(track, "lost")) / sent for track in tracks if (sent := sum(_counts(track, "sent"))) > 0
    )
    return min(MOST_USUAL, max(LEAST_USUAL, shares[len(shares) // 4])) if shares else LEAST_USUAL


def troubles_of(track: Track, usual: float = LEAST_USUAL, flows: int = 1) -> list[Trouble]:
    """Everything that is wrong with one track, oldest first.

    usual: the share of probes that all lose. flows: how many it sums up; runs of losses are of one of them.
    """
    found = [*_losses(track, usual, flows), *_unsent(track), *_closed(track), *_slow(track)]
    return sorted(found, key=lambda trouble: trouble.begin_ns)


def _losses(track: Track, usual: float, flows: int) -> Iterator[Trouble]:
    windows = track.windows
    sent, lost, received = (_counts(track, name) for name in ("sent", "lost", "received"))
    bad = [i for i, count in enumerate(lost) if count > 0]
    for cluster in _clusters(bad, CLEAN):
        silent = [i for i in cluster if received[i] == 0 and sent[i] >= LEAST_SENT]
        mute = [run for run in _clusters(silent, 1) if len(run) > 1 or _alone(run[0], len(windows), sent)]
        rest = list(cluster)
        for run in mute:
            # The windows at its edges are half of it.
            edges = {run[0] - 1, *run, run[-1] + 1}
            rest = [i for i in rest if i not in edges]
            begin = run[0] - 1 if run[0] - 1 in cluster else run[0]
            yield _trouble(
                "down",
                track,
                sorted({begin, *run}),
                1.0,
                f"{track} does not answer",
                over=run[-1] + 1 < len(windows),
            )
        if not mute and _falls_silent(track, flows, cluster[-1], sent, lost, received):
            rest.remove(cluster[-1])
            words = (
                f"{track} stopped to answer in its newest window, for {lost[cluster[-1]]:,} probes in a row"
            )
            yield _trouble("down", track, cluster[-1:], 1.0, words, over=False)
        for part in _clusters(rest, CLEAN):
            total, of = sum(lost[i] for i in part), sum(sent[part[0] : part[-1] + 1])
            if total < LEAST_LOST or not of or _by_chance(total, of * usual) > CHANCE:
                continue
            over = _has_ended(part, total / of, sent, mute)
            words = f"{track} loses {text.percent(total / of)} ({total:,} of {of:,} probes)"
            yield _trouble("loss", track, part, total / of, words, over=over)


def _by_chance(count: int, expected: float) -> float:
    """The probability of so many, or more, where so many are expected: the upper tail of Poisson's law."""
    if count <= expected:
        return 1.0
    term = math.exp(count * math.log(expected) - expected - math.lgamma(count + 1))
    total = 0.0
    while term > total * 1e-9:
        total += term
        count += 1
        term *= expected / count
    return total


def _falls_silent(
    track: Track,
    flows: int,
    index: int,
    sent: Sequence[int],
    lost: Sequence[int],
    received: Sequence[int],
) -> bool:
    """Whether a window is the newest, and lost a good part of its probes in one run, in each of its flows."""
    longest = _counts(track, "loss_burst_max")[index] * flows
    many = lost[index] >= max(LEAST_RUN, RUN_SHARE * sent[index])
    # Where fewer left than usual, the host itself has a trouble, and that tells more.
    whole = index == len(sent) - 1 and received[index] > 0 and sent[index] >= 0.9 * max(sent)
    return whole and many and longest >= 0.9 * lost[index]


def _alone(index: int, count: int, sent: Sequence[int]) -> bool:
    """Whether one silent window is enough to call a target silent: many probes, and nothing after it yet."""
    return sent[index] >= 10 and (index == count - 1 or count == 1)


def _has_ended(part: Sequence[int], rate: float, sent: Sequence[int], mute: list[list[int]]) -> bool:
    """Whether so many clean probes followed that the same rate would have shown (to 2 %), in two windows."""
    after = sent[part[-1] + 1 :]
    if any(run[0] > part[-1] for run in mute):
        return False
    return len(after) >= 2 and sum(after) * rate >= 4.0


def _unsent(track: Track) -> Iterator[Trouble]:
    sent, errors = _counts(track, "sent"), _counts(track, "errors")
    # ICMP errors come besides the loss of their probe; what stayed here is not in `sent`.
    usual = max(sent, default=0)
    bad = [
        i
        for i, count in enumerate(errors)
        if count >= LEAST_LOST and sent[i] < usual * (1 - MUTE_SHARE / 5) and count > (usual - sent[i]) / 2
    ]
    for cluster in _clusters(bad, CLEAN):
        total = sum(errors[i] for i in cluster)
        due = total + sum(sent[i] for i in cluster)
        yield _trouble(
            "unsent",
            track,
            cluster,
            total / due,
            f"{total:,} of {due:,} probes to {track} did not leave this host, or it dropped their replies",
            over=cluster[-1] + 2 < len(sent),
        )


def _closed(track: Track) -> Iterator[Trouble]:
    if "closed" not in track.windows:
        return
    closed, opened = _counts(track, "closed"), _counts(track, "open")
    bad = [i for i, count in enumerate(closed) if count > opened[i]]
    for cluster in _clusters(bad, CLEAN):
        if not any(opened):
            return  # nobody ever listened there: it is measured because it answers at all
        total = sum(closed[i] for i in cluster)
        yield _trouble(
            "closed",
            track,
            cluster,
            float(total),
            f"{track} refuses: {total:,} probes were answered with RST, before with SYN/ACK",
            over=cluster[-1] + 1 < len(closed),
        )


def _slow(track: Track) -> Iterator[Trouble]:
    column = track.windows.raw("rtt_p50_ns")
    if column is None:
        return
    received, errors = _counts(track, "received"), _counts(track, "errors")
    # What is left of a window of which the host lost most tells of the host.
    known = [
        i
        for i, value in enumerate(column)
        if isinstance(value, int) and value != MISSING and received[i] > errors[i]
    ]
    values = [column[i] for i in known]
    for rise in rises(values):
        indices = known[rise.first : rise.last + 1]
        if rise.size < FAINT_NS and (
            len(indices) < FAINT_WINDOWS or not _at_least(track, known[: rise.first], indices, rise.size / 2)
        ):
            continue
        yield _trouble(
            "slow",
            track,
            indices,
            rise.size,
            f"{track} is {text.duration(rise.size)} slower "
            f"({text.duration(rise.before)} before, {text.duration(rise.after)} since)",
            over=rise.last + 2 < len(values),
        )


def _at_least(track: Track, before: Sequence[int], after: Sequence[int], rise: float) -> bool:
    """Whether the fastest replies became slower too: else packets only waited somewhere, perhaps here."""
    column = track.windows.raw("rtt_min_ns")
    if column is None:
        return True
    fastest = [
        [column[i] for i in some if isinstance(column[i], int) and column[i] != MISSING]
        for some in (before, after)
    ]
    return not all(fastest) or median(fastest[1]) - median(fastest[0]) >= rise


def _trouble(
    effect: str, track: Track, indices: Sequence[int], size: float, words: str, *, over: bool
) -> Trouble:
    times = track.windows.times
    return Trouble(
        effect,
        track.agent,
        times[indices[0]],
        times[indices[-1]] + track.length if over else None,
        size,
        words,
        track=track,
        windows=tuple(times[i] for i in indices[:MOST_WINDOWS]),
    )


def _counts(track: Track, name: str) -> Sequence[int]:
    column = track.windows.raw(name)
    if column is None:
        return [0] * len(track.windows)
    return [value if isinstance(value, int) and value > 0 else 0 for value in column]


def _clusters(indices: Iterable[int], gap: int) -> Iterator[list[int]]:
    """Indices in groups, with fewer than `gap` others between two of a group."""
    group: list[int] = []
    for index in indices:
        if group and index - group[-1] > gap:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
