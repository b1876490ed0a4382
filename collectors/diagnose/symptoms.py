"""A case in, its symptoms out: what speaks for or against it, found by comparing tracks; pure.

A symptom is a name, which the table of rules weighs, and the sentence that an operator reads. `factor` is how
much of the rule's weight it has. What hosts and paths say is in `collectors.diagnose.surroundings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from collectors.board import text
from collectors.diagnose.cases import Case
from collectors.diagnose.facts import Track
from collectors.diagnose.naming import is_large
from collectors.diagnose.troubles import MOST_WINDOWS, Trouble

SPLIT = 5.0  # -ln of the probability that so many flows lose nothing by chance
ALIKE = 0.15  # of a shift: shifts that differ by less are equal
ONE_WAY = 0.8  # of a loss or shift in one direction: it is in that one
_NAMES = 4  # of targets that a sentence lists


@dataclass(frozen=True, slots=True)
class Symptom:
    """One observation. windows: the start of windows that prove it, wall ns."""

    name: str
    text: str
    measurement: str = "probe"
    windows: tuple[int, ...] = ()
    factor: float = 1.0


def seen(case: Case) -> Iterator[Symptom]:
    """What tracks show of a case."""
    if not case.hits:
        return
    yield from _within(case)
    for attribute in case.reach:
        yield from _beside(case, attribute)
    yield from _nearest(case)
    yield from _breadth(case)
    yield from _amount(case)
    yield from flows(case)
    yield from _direction(case)


def _within(case: Case) -> Iterator[Symptom]:
    hits, clean = case.hits, case.clean
    where = place(case)
    of_targets = [one for one in case.troubles if one.track is not None and not one.track.flow]
    worst = max(of_targets or case.troubles, key=lambda one: (one.size, one.begin_ns))
    more = f", for example: {worst.text}" if len(hits) > 1 else f": {worst.text}"
    windows = worst.windows
    if not clean:
        if len(hits) > 1:
            count = f"all {len(hits)}" if len(case.members) == len(hits) else f"{len(hits)}"
            yield Symptom("all-hit", f"{count} targets {where} are hit{more}", windows=windows)
        else:
            yield Symptom("one-hit", f"the one target {where} is hit{more}", windows=windows)
        return
    nearer = [track for track in clean if any(case.nearer(track, hit) for hit in hits)]
    if nearer and "line" in case.reach and len(nearer) == len(clean):
        words = f"{_listed(nearer)}, nearer than those that are hit, {_is(nearer)} clean: it is beyond"
        yield Symptom("nearer-clean", words)
        name = "all-hit" if len(hits) > 1 else "one-hit"
        yield Symptom(name, f"{_listed(hits)} {where} {_is(hits)} hit{more}", windows=windows)
        return
    share = len(clean) / (len(hits) + len(clean))
    words = f"{_listed(clean)} {where} {_is(clean)} clean, {len(hits)} {_is(hits)} hit"
    yield Symptom("some-clean", words, factor=min(1.0, 0.5 + share))


def _nearest(case: Case) -> Iterator[Symptom]:
    """Whether a target that is closer than others is hit with them, so that it is before what they share."""
    if "line" not in case.reach or "gateway" in case.reach:
        return
    if case.clean:
        return
    for near in case.hits:
        if sum(case.nearer(near, other) for other in case.hits) >= 2:
            words = f"{near.target}, nearer than others over this line, is hit as they are"
            yield Symptom("nearest-hit", words)
            return


def _beside(case: Case, attribute: str) -> Iterator[Symptom]:
    others = case.beside(attribute)
    stands = [(track, case.stand(track)) for track in others]
    hit = [track for track, stand in stands if stand == "hit"]
    clean = [track for track, stand in stands if stand == "clean"]
    if hit:
        part = len(hit) / (len(hit) + len(clean))
        words = f"{_listed(hit)}, of {_another(attribute, hit)}, {_is(hit)} hit as well"
        yield Symptom(f"other-{attribute}-too", words, factor=min(1.0, 0.4 + part))
    elif clean:
        words = f"{_listed(clean)}, of {_another(attribute, clean)}, {_is(clean)} clean meanwhile"
        yield Symptom(f"other-{attribute}-clean", words)


def _breadth(case: Case) -> Iterator[Symptom]:
    for attribute in ("agent", "line", "gateway", "kind"):
        if attribute in case.reach:
            continue
        values = sorted({value for track in case.hits if (value := getattr(track, attribute))})
        if len(values) > 1:
            words = f"it is seen at several {attribute}s: {', '.join(values[:_NAMES])}"
            yield Symptom(f"several-{attribute}s", words)


def _amount(case: Case) -> Iterator[Symptom]:
    mine = [one for one in case.troubles if one.track is not None and not one.track.flow]
    silent = [one for one in mine if one.effect == "down"]
    if silent and len(silent) == len(mine):
        yield Symptom("total", "not one probe is answered", windows=silent[0].windows)
    elif [one for one in mine if one.effect == "loss"]:
        yield Symptom("partial", "some probes are answered, others are not")
    errors = sum(_during(case, track, "errors") for track in case.hits)
    if silent and errors:
        yield Symptom("icmp-errors", f"routers sent {errors:,} ICMP errors: somebody refuses, or has no way")
    shifts = [one.size for one in mine if one.effect == "slow"]
    if len(shifts) > 1:
        middle = median(shifts)
        if all(abs(shift - middle) <= max(ALIKE * middle, 20_000) for shift in shifts):
            yield Symptom("equal-shift", f"all are slower by the same {text.duration(middle)}")
        elif sum(abs(shift - min(shifts)) <= ALIKE * min(shifts) for shift in shifts) < len(shifts) / 2:
            # Where most are, the others may have another trouble on top.
            span = f"{text.duration(min(shifts))} to {text.duration(max(shifts))}"
            yield Symptom("unequal-shift", f"they are slower by different times, {span}")
    if any(is_large(track.variant) for track in case.hits) and "variant" in case.reach:
        yield Symptom("large-named", f"{_listed(case.hits)} sends large packets, as its name says")
    if case.end_ns is not None and case.end_ns - case.begin_ns <= case.slack and "loss" in case.effects:
        yield Symptom("brief", f"it was over after {text.duration(case.end_ns - case.begin_ns)} at most")


def flows(case: Case) -> Iterator[Symptom]:
    """Whether flows of one target fare differently."""
    split: list[tuple[str, Trouble]] = []
    alike: list[Track] = []
    for track in case.hits:
        parts = case.index.facts.flows.get((track.agent, track.target), [])
        if len(parts) < 2:
            continue
        bad = [one for part in parts for one in case.index.of(part) if _of_case(case, one)]
        hit = {id(one.track) for one in bad}
        rest = [part for part in parts if id(part) not in hit]
        if not bad or not rest:
            alike.append(track)
            continue
        if all(one.effect == "slow" for one in bad):
            clean = [part for part in rest if case.stand(part) == "clean"]
            clean = clean if len(clean) > 1 or len(parts) == 2 else []
        else:
            clean = _lossless(case, parts)
        if clean:
            names = ", ".join(sorted({one.track.flow for one in bad if one.track is not None}, key=_number))
            words = f"of {len(parts)} flows of {track} only {names} are hit; {len(clean)} are clean"
            split.append((words, max(bad, key=lambda one: one.size)))
        elif len(hit) > 1:
            alike.append(track)
    if split:
        words, worst = split[0]
        more = f"; so it is with {len(split) - 1} more" if len(split) > 1 else ""
        yield Symptom("flows-split", f"{words} ({worst.text}){more}", windows=worst.windows)
    elif alike:
        yield Symptom("flows-alike", f"all flows of {_listed(alike)} fare alike")


def _lossless(case: Case, parts: Sequence[Track]) -> list[Track]:
    """The flows that lost nothing, where that is no chance.

    Were all alike, k of n flows with s probes would lose none with probability C(n, k) e^(-s rate), the rate
    being that of all together.
    """
    sent = [_during(case, part, "sent") for part in parts]
    lost = [_during(case, part, "lost") for part in parts]
    clean = [n for n in range(len(parts)) if not lost[n] and sent[n]]
    rate = sum(lost) / max(1, sum(sent))
    unlikely = rate * sum(sent[n] for n in clean) - math.log(math.comb(len(parts), len(clean)))
    return [parts[n] for n in clean] if unlikely >= SPLIT else []


def alike_tracks(case: Case) -> list[Track]:
    """The targets of several flows that all fare alike, so that no single path can be it."""
    found = []
    for track in case.hits:
        alone = Case(case.cause, case.reach, case.troubles, case.index, case.slack)
        alone.hits = [track]
        if any(symptom.name == "flows-alike" for symptom in flows(alone)):
            found.append(track)
    return found


def _direction(case: Case) -> Iterator[Symptom]:
    """What STAMP tells: there or back."""
    ways = {"there": 0.0, "back": 0.0}
    for track in case.hits:
        if "loss" in case.effects:
            ways["there"] += _during(case, track, "forward_lost")
            ways["back"] += _during(case, track, "backward_lost")
        else:
            ways["there"] += _shift(case, track, "forward_p50_ns")
            ways["back"] += _shift(case, track, "backward_p50_ns")
    total = sum(ways.values())
    if total < (5 if "loss" in case.effects else 20_000):
        return
    for way, much in ways.items():
        if much >= ONE_WAY * total:
            yield Symptom("one-way", f"it is on the way {way} alone, as STAMP shows")
            return
    yield Symptom("both-ways", "it is on the way there and on the way back, as STAMP shows")


def _shift(case: Case, track: Track, name: str) -> float:
    windows = track.windows
    before = windows.numbers(name, windows.span(0, case.begin_ns))
    after = windows.numbers(name, windows.span(case.begin_ns, case.until_ns))
    return max(0.0, median(after) - median(before)) if before and after else 0.0


def _of_case(case: Case, trouble: Trouble) -> bool:
    return (
        trouble.effect in case.cause.effects
        and trouble not in case.index.explained
        and trouble.overlaps(case.begin_ns - case.slack, case.until_ns)
    )


def _during(case: Case, track: Track, name: str) -> int:
    return track.windows.total(name, track.windows.span(case.begin_ns, case.until_ns))


def place(case: Case) -> str:
    """The part of the network that a case reaches, in words."""
    reach = case.reach
    words = []
    if "kind" in reach:
        words.append(f"by {reach['kind'].upper()}")
    if "variant" in reach:
        words.append(f"named {reach['variant']}")
    if "gateway" in reach:
        words.append(f"to {reach['gateway']}")
    if "line" in reach:
        words.append(f"over line {reach['line']}" if reach["line"] else "over the one line")
    if "agent" in reach:
        words.append(f"from {reach['agent']}")
    return " ".join(words) or "anywhere"


def _another(attribute: str, tracks: Sequence[Track]) -> str:
    values = sorted({getattr(track, attribute) or "none" for track in tracks})
    return f"{attribute} {', '.join(values[:_NAMES])}{' and others' if len(values) > _NAMES else ''}"


def _listed(tracks: Sequence[Track]) -> str:
    names = list(dict.fromkeys(track.target for track in tracks))
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _is(tracks: Sequence[Track]) -> str:
    return "is" if len({track.target for track in tracks}) == 1 else "are"


def _number(flow: str) -> tuple[int, str]:
    return (int(flow) if flow.isdecimal() and len(flow) < 9 else 1 << 30, flow)


__all__ = ["MOST_WINDOWS", "Symptom", "alike_tracks", "flows", "place", "seen"]
