"""Facts in, verdicts out: the few causes that together explain all troubles best, worst first; pure.

Each round weighs every case that the troubles left over could make, takes the heaviest, and puts what it
explains aside: the greedy cover of fault localisation (R. Kompella, J. Yates, A. Greenberg, A. Snoeren, IP
Fault Localization via Risk Modeling, NSDI 2005), with bits of evidence instead of shares. Independent faults
are found one after the other, and what one explains is no evidence for or against the next.

    weight      W = prior + sum over symptoms (rule's bits * factor) + 0.5 log2(troubles), at most 1.5
    confidence  2^W / (2^W + sum over rivals 2^Wr + 2^CHANCE), Bayes' rule with equal priors; rivals are the
                other causes that explain half of the same or more, the best case of each, in proportion
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from collectors.board import text
from collectors.diagnose.cases import FAMILIES, Case, Index, cases_of
from collectors.diagnose.causes import CAUSES, NONE, UNKNOWN
from collectors.diagnose.facts import Facts
from collectors.diagnose.hosts import host_troubles
from collectors.diagnose.rules import BY_SYMPTOM, CHANCE, MARKS, PRIOR, UNMARKED
from collectors.diagnose.surroundings import around
from collectors.diagnose.symptoms import Symptom, alike_tracks, place, seen
from collectors.diagnose.troubles import Trouble, troubles_of, usual_loss
from probe.clock import SECOND

MOST_VERDICTS = 20
MOST_RIVALS = 3
LEAST_SHARE = 0.5  # of the same troubles: who explains fewer is no rival
MOST_UNSURE = 3  # then one says that one does not know
RECENT_WINDOWS, RECENT_NS = 3, 5 * SECOND  # what was over before that comes last
SURE = 0.5  # confidence from which on a cause is named
CERTAIN = 0.99  # and more is nobody's to say
_MOST_TARGETS = 200  # that a verdict lists
_LARGEST_BONUS = 1.5
_STEEPEST = 60.0  # bits, so that no power overflows


@dataclass(frozen=True)
class Evidence:
    weight: float
    text: str
    measurement: str
    windows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rival:
    place: str
    cause: str
    weight: float


@dataclass(frozen=True)
class Verdict:
    """What most likely is wrong. Times: wall ns; `until_ns` is None while it goes on."""

    time_ns: int
    place: str
    cause: str
    where: str
    targets: tuple[str, ...] = ()
    agent: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    confidence: float = 0.0
    evidence: tuple[Evidence, ...] = ()
    rivals: tuple[Rival, ...] = ()
    settle: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return {
            "time": self.time_ns,
            "place": self.place,
            "cause": self.cause,
            "where": self.where,
            "targets": list(self.targets),
            "agent": self.agent,
            "since": self.since_ns,
            "until": self.until_ns,
            "confidence": round(self.confidence, 3),
            "evidence": [
                {
                    "weight": round(one.weight, 2),
                    "text": one.text,
                    "measurement": one.measurement,
                    "windows": list(one.windows),
                }
                for one in self.evidence
            ],
            "rivals": [
                {"place": one.place, "cause": one.cause, "weight": round(one.weight, 2)}
                for one in self.rivals
            ],
            "settle": list(self.settle),
        }


@dataclass(eq=False)
class Weighed:
    """A case with what was found for and against it."""

    case: Case
    weight: float
    evidence: list[Evidence]
    explains: set[Trouble] = field(default_factory=set)


def diagnose(facts: Facts) -> list[Verdict]:
    """Everything that is wrong, worst first; one verdict of place 'none' where nothing is."""
    usual = usual_loss(facts.targets)
    troubles = host_troubles(facts)
    for track in facts.targets:
        flows = facts.flows.get((track.agent, track.target), ())
        troubles += troubles_of(track, usual, max(1, len(flows)))
    for track in chain.from_iterable(facts.flows.values()):
        troubles += troubles_of(track, usual)
    found = _verdicts(facts, troubles)
    if not found:
        return [_nothing(facts)]
    recent = facts.now_ns - _recent_ns(facts)
    return sorted(found, key=lambda one: one.until_ns is not None and one.until_ns < recent)


def _recent_ns(facts: Facts) -> int:
    return RECENT_WINDOWS * max((track.length for track in facts.targets), default=0) + RECENT_NS


def _verdicts(facts: Facts, troubles: Sequence[Trouble]) -> list[Verdict]:
    index = Index(facts, troubles)
    found: list[Verdict] = []
    unsure = 0
    weighed: list[Weighed] = []
    while len(found) < MOST_VERDICTS and unsure < MOST_UNSURE:
        left = [trouble for trouble in troubles if trouble not in index.explained]
        weighed = _weigh_all(index, left, weighed)
        best = max(weighed, key=_rank, default=None)
        if best is None or best.weight <= CHANCE:
            break
        rivals = _rivals(best, weighed)
        confidence = _confidence(best.weight, [rival.weight for rival in rivals])
        if confidence < SURE:
            # Too close: it is told as unknown, with both names.
            found.append(_unsure(facts, best, rivals, confidence))
            unsure += 1
        else:
            found.append(_verdict(facts, best, rivals, confidence))
        explained = set(index.explained)
        _explain(index, best)
        weighed = _untouched(weighed, index.explained - explained)
    rest = [one for one in troubles if one not in index.explained and one.track is not None]
    if rest := [one for one in rest if one.track is not None and not one.track.flow]:
        found += _unexplained(facts, rest, _weigh_all(index, rest))
    return _merged(found, _recent_ns(facts))


def _weigh_all(index: Index, left: Sequence[Trouble], known: Iterable[Weighed] = ()) -> list[Weighed]:
    """Every case, weighed; `known` are weighed already."""
    before = {one.case.key: one for one in known}
    cases = (case for cause in CAUSES.values() for case in cases_of(cause, index, left))
    return [before.get(case.key) or _weigh(case) for case in cases]


def _untouched(weighed: Iterable[Weighed], explained: Iterable[Trouble]) -> list[Weighed]:
    """The cases that would weigh the same again, because nothing of their time was explained meanwhile."""
    spans = [(one.begin_ns, math.inf if one.end_ns is None else one.end_ns) for one in explained]
    first = min((begin for begin, _ in spans), default=0)
    last = max((end for _, end in spans), default=0)
    return [
        one
        for one in weighed
        if one.case.begin_ns - one.case.slack > last or one.case.until_ns + one.case.slack < first
    ]


def _weigh(case: Case) -> Weighed:
    cause = case.cause.id
    total = PRIOR.get(cause, 0.0)
    evidence, names = [], set()
    for symptom in _symptoms(case):
        rule = BY_SYMPTOM[symptom.name]
        weight = rule.weight(cause) * symptom.factor
        names.add(symptom.name)
        total += weight
        evidence.append(Evidence(weight, symptom.text, symptom.measurement, symptom.windows))
    marks = MARKS.get(cause)
    if marks is not None and not names & marks:
        total += UNMARKED
        evidence.append(Evidence(UNMARKED, f"nothing shows {_wanted(marks)}", "", ()))
    explains = _explained_by(case)
    if not explains:
        return Weighed(case, -_STEEPEST, [])
    total += min(_LARGEST_BONUS, 0.5 * math.log2(len({id(one.track) for one in explains})))
    return Weighed(case, total, evidence, explains)


def _symptoms(case: Case) -> Iterable[Symptom]:
    # Two ways to see the same are one symptom.
    return {symptom.name: symptom for symptom in (*seen(case), *around(case))}.values()


def _wanted(marks: frozenset[str]) -> str:
    return " or ".join(f"that {BY_SYMPTOM[name].what}" for name in sorted(marks))


def _explained_by(case: Case) -> set[Trouble]:
    mine = set(case.troubles)
    own = {one for one in mine if one.effect in case.cause.own}
    if case.cause.only_all and case.clean:
        return own
    if case.cause.id == "ecmp-member":
        # Where all flows fare alike it is no single path, and for its neighbours over that line neither.
        alike = alike_tracks(case)
        lines = {(track.agent, track.line) for track in alike}
        mine = {one for one in mine if one.track and (one.track.agent, one.track.line) not in lines}
    if case.cause.own and not own and not case.cause.effects:
        return set()
    return mine


def _explain(index: Index, best: Weighed) -> None:
    index.explained |= best.explains
    case = best.case
    for agent in case.agents:
        for one in index.by_agent[agent]:
            if one.effect in case.cause.own and one.overlaps(case.begin_ns - case.slack, case.until_ns):
                index.explained.add(one)
    for one in list(best.explains):
        if one.track is None:
            continue
        # What changes may lose some packets in the moment when it changes.
        index.explained.update(
            other
            for other in index.of(one.track)
            if abs(other.begin_ns - one.begin_ns) <= case.slack
            and other.end_ns is not None
            and other.end_ns - other.begin_ns <= case.slack
        )
        if one.track.flow:
            continue
        family = next(family for family in FAMILIES if one.effect in family)
        for part in index.facts.flows.get((one.track.agent, one.track.target), ()):
            index.explained.update(
                other
                for other in index.of(part)
                if other.effect in family
                and other.overlaps(one.begin_ns - case.slack, one.end_ns or index.facts.now_ns)
            )


def _rank(weighed: Weighed) -> tuple[float, int, int]:
    return (round(weighed.weight, 6), len(weighed.explains), len(weighed.case.reach))


def _rivals(best: Weighed, weighed: Iterable[Weighed]) -> list[Rival]:
    """The other causes that would explain at least half of the same, the best case of each."""
    heaviest: dict[str, float] = {}
    for one in weighed:
        cause = one.case.cause.id
        share = len(one.explains & best.explains) / len(best.explains)
        if cause == best.case.cause.id or share < LEAST_SHARE:
            continue
        # What it leaves over would need yet another cause.
        weight = one.weight * share if one.weight > 0 else one.weight
        heaviest[cause] = max(heaviest.get(cause, -math.inf), weight)
    ranked = sorted(heaviest.items(), key=lambda item: -item[1])
    return [Rival(CAUSES[cause].place, cause, weight) for cause, weight in ranked if weight > -_STEEPEST]


def _confidence(weight: float, rivals: Iterable[float]) -> float:
    """The share of one weight among all that explain the same, chance included."""
    others: float = sum(2.0 ** (min(rival, _STEEPEST) - weight) for rival in (*rivals, CHANCE))
    return min(CERTAIN, 1 / (1 + others))


def _verdict(facts: Facts, best: Weighed, rivals: list[Rival], confidence: float) -> Verdict:
    case = best.case
    ordered = sorted((one for one in best.evidence if one.weight), key=lambda one: -abs(one.weight))
    targets = sorted({one.track.target for one in best.explains if one.track is not None})
    agents = sorted({one.agent for one in best.explains})
    began = min(one.begin_ns for one in best.explains)
    ends = [one.end_ns for one in best.explains]
    first = next((one.track for one in best.explains if one.track is not None), None)
    names = {
        "agent": agents[0],
        "target": min(targets, default=first.target if first else "TARGET"),
    }
    return Verdict(
        facts.now_ns,
        case.cause.place,
        case.cause.id,
        f"{place(case)}: {case.cause.what}",
        tuple(targets[:_MOST_TARGETS]),
        ", ".join(agents),
        began,
        None if None in ends else max(end for end in ends if end is not None),
        confidence,
        tuple(ordered),
        tuple(rivals[:MOST_RIVALS]),
        tuple(line.format(**names) for line in case.cause.settle),
    )


def _unsure(facts: Facts, best: Weighed, rivals: list[Rival], confidence: float) -> Verdict:
    verdict = _verdict(facts, best, rivals, confidence)
    mine = Rival(verdict.place, verdict.cause, best.weight)
    settle = [*verdict.settle]
    for rival in rivals[:1]:
        names = {"agent": verdict.agent.split(", ")[0], "target": (*verdict.targets, "TARGET")[0]}
        settle += [line.format(**names) for line in CAUSES[rival.cause].settle]
    return replace(
        verdict,
        place=UNKNOWN,
        cause=UNKNOWN,
        where=f"{place(best.case)}: {CAUSES[verdict.cause].what}, or {CAUSES[rivals[0].cause].what}"
        if rivals
        else verdict.where,
        rivals=(mine, *rivals[:MOST_RIVALS]),
        settle=tuple(dict.fromkeys(settle)),
    )


def _unexplained(facts: Facts, rest: Sequence[Trouble], weighed: Sequence[Weighed]) -> list[Verdict]:
    """What no cause explains: it is said, not hidden, with what it may be nevertheless."""
    perhaps: dict[str, float] = {}
    for one in sorted(weighed, key=_rank, reverse=True):
        perhaps.setdefault(one.case.cause.id, one.weight)
    rivals = [Rival(CAUSES[cause].place, cause, bits) for cause, bits in perhaps.items() if bits > -CHANCE]
    worst = sorted(rest, key=lambda one: (one.end_ns is not None, one.begin_ns))
    targets = list(dict.fromkeys(one.track.target for one in worst if one.track is not None))
    agents = sorted({one.agent for one in worst})
    ends = [one.end_ns for one in worst]
    return [
        Verdict(
            facts.now_ns,
            UNKNOWN,
            UNKNOWN,
            f"{len(targets)} target{'s' if len(targets) > 1 else ''}: too little to say where it is",
            tuple(targets[:_MOST_TARGETS]),
            ", ".join(agents),
            min(one.begin_ns for one in worst),
            None if None in ends else max(end for end in ends if end is not None),
            0.0,
            tuple(Evidence(0.0, one.text, one.measurement, one.windows) for one in worst[:8]),
            tuple(rivals[:MOST_RIVALS]),
            (
                f"coloprobe ask {agents[0]} trace {targets[0]}",
                "another target over the same line, and the same target over another line, would tell",
            ),
        )
    ]


def _merged(found: list[Verdict], gap_ns: int) -> list[Verdict]:
    """The same several times in a row is one verdict, from the first to the last."""
    made: list[Verdict] = []
    for one in found:
        for place_, known in enumerate(made):
            if (known.cause, known.where, known.agent) == (one.cause, one.where, one.agent) and (
                _apart(known, one) <= gap_ns
            ):
                ends = known.until_ns, one.until_ns
                made[place_] = replace(
                    known,
                    since_ns=min(known.since_ns or 0, one.since_ns or 0),
                    until_ns=None if None in ends else max(end for end in ends if end is not None),
                    targets=tuple(dict.fromkeys((*known.targets, *one.targets))),
                )
                break
        else:
            made.append(one)
    return made


def _apart(one: Verdict, other: Verdict) -> float:
    """How long was calm between the two, ns."""
    first, second = sorted((one, other), key=lambda verdict: verdict.since_ns or 0)
    return (second.since_ns or 0) - (math.inf if first.until_ns is None else first.until_ns)


def _nothing(facts: Facts) -> Verdict:
    targets = len(facts.targets)
    if not targets:
        where = f"nothing was measured in the last {text.age(facts.now_ns - facts.since_ns)}"
        return Verdict(
            facts.now_ns, UNKNOWN, UNKNOWN, where, settle=("coloprobe agents    (is any online?)",)
        )
    windows = sum(len(track.windows) for track in facts.targets)
    agents = len({track.agent for track in facts.targets})
    where = (
        f"no fault: {targets:,} targets of {agents:,} agent{'s' if agents > 1 else ''}, {windows:,} windows"
    )
    return Verdict(facts.now_ns, NONE, NONE, where, confidence=CERTAIN)
