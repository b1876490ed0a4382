"""Facts and troubles in, cases out: a cause, the part of the network that it would hit, and who
is hit there; pure.

A track of that part, or of the parts beside it, is one of four in the time of the case:

    hit      it has one of the cause's effects, which began with the others'
    clean    it has none, and would show it: enough probes, whole windows
    other    it has a trouble of another time or kind, or one that is explained already
    unclear  too little was measured to say
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from collectors.diagnose.causes import ATTRIBUTES, Attributes, Cause
from collectors.diagnose.facts import Facts, Track
from collectors.diagnose.levels import ABSOLUTE_NS, FEWEST
from collectors.diagnose.troubles import LEAST_SENT, Trouble
from probe.clock import SECOND

EXPECTED = 4.0  # lost probes that a track would have, were it hit: with none it is clean, to 2 %
AT_ONCE = 3  # windows that beginnings may differ by, one from the next
LONGEST = 3  # times that: from the first to the last
SAMPLE = 64  # targets of a part of the network that are looked at, besides those that are hit
ALIKE_AT_MOST = 16  # agents, or gateways, whose other targets are looked at
CROWD = 1_000  # troubles: from here on nobody looks for what hits one target alone
LIKE = 0.2  # of a shift: shifts that differ by less may be the same
NEARER = 0.7  # of a round-trip time: a target below that is closer

# Effects that one thing can have at once.
FAMILIES = (frozenset({"loss", "down", "unsent"}), frozenset({"slow"}), frozenset({"closed"}))

Key = tuple[str, ...]


class Index:
    """Tracks by what they have in common, and troubles by track and by agent."""

    def __init__(self, facts: Facts, troubles: Sequence[Trouble]) -> None:
        self.facts = facts
        self.explained: set[Trouble] = set()
        self.troubles = list(troubles)
        self._groups: dict[Attributes, dict[Key, list[Track]]] = {}
        self._by_track: dict[int, list[Trouble]] = defaultdict(list)
        self.by_agent: dict[str, list[Trouble]] = defaultdict(list)
        for trouble in troubles:
            if trouble.track is None:
                self.by_agent[trouble.agent].append(trouble)
            else:
                self._by_track[id(trouble.track)].append(trouble)
        self._rtt: dict[int, float] = {}

    def of(self, track: Track) -> list[Trouble]:
        """All troubles of one track, explained or not."""
        return self._by_track.get(id(track), [])

    def group(self, attributes: Attributes, key: Key) -> list[Track]:
        """The targets' tracks that have these values."""
        if attributes not in self._groups:
            groups: dict[Key, list[Track]] = defaultdict(list)
            for track in self.facts.targets:
                groups[key_of(track, attributes)].append(track)
            self._groups[attributes] = groups
        return self._groups[attributes].get(key, [])

    def rtt(self, track: Track) -> float | None:
        """The usual round-trip time, ns."""
        if id(track) not in self._rtt:
            values = sorted(track.windows.numbers("rtt_p50_ns"))
            self._rtt[id(track)] = values[len(values) // 4] if values else -1.0
        found = self._rtt[id(track)]
        return found if found >= 0 else None


def _sample(tracks: list[Track]) -> list[Track]:
    """All of a few, some of very many: whether others are clean is told as well by those."""
    return tracks if len(tracks) <= SAMPLE else tracks[:: len(tracks) // SAMPLE + 1]


def key_of(track: Track, attributes: Attributes) -> Key:
    return tuple(getattr(track, name) for name in attributes)


@dataclass(eq=False)
class Case:
    """One cause, one part of the network, one time.

    reach: what its tracks have in common. troubles: what it would explain, and nothing did yet.
    """

    cause: Cause
    reach: Mapping[str, str]
    troubles: list[Trouble]
    index: Index
    slack: int  # ns that beginnings may differ by
    _stands: dict[int, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What makes it this case: the same again is the same case."""
        return self.cause.id, *self.reach.items(), *map(id, self.troubles)

    @cached_property
    def begin_ns(self) -> int:
        return min(trouble.begin_ns for trouble in self.troubles)

    @cached_property
    def end_ns(self) -> int | None:
        """None while any of it goes on."""
        ends = [trouble.end_ns for trouble in self.troubles]
        return None if None in ends else max(end for end in ends if end is not None)

    @property
    def until_ns(self) -> int:
        return self.index.facts.now_ns if self.end_ns is None else self.end_ns

    @cached_property
    def members(self) -> list[Track]:
        """Everything within reach, or a sample of it."""
        return _sample(self.index.group(tuple(self.reach), tuple(self.reach.values())))

    @cached_property
    def hits(self) -> list[Track]:
        """The targets that are hit, all of them."""
        found = {id(one.track): one.track for one in self.troubles if one.track and not one.track.flow}
        return list(found.values())

    @cached_property
    def clean(self) -> list[Track]:
        return [track for track in self.members if self.stand(track) == "clean"]

    @cached_property
    def agents(self) -> list[str]:
        return sorted({trouble.agent for trouble in self.troubles})

    @cached_property
    def effects(self) -> frozenset[str]:
        """The effects that are seen."""
        return frozenset(trouble.effect for trouble in self.troubles)

    @cached_property
    def related(self) -> frozenset[str]:
        """The effects that would hide, or be, those that are seen."""
        families = (family for family in FAMILIES if family & self.effects)
        return self.effects.union(*families)

    @cached_property
    def rate(self) -> float:
        """The share of probes that those who lose some lose, the smallest of all."""
        return min((one.size for one in self.troubles if one.effect in ("loss", "down")), default=1.0)

    @cached_property
    def shift(self) -> float:
        """The smallest of the shifts, ns."""
        return min((one.size for one in self.troubles if one.effect == "slow"), default=0.0)

    def hops(self, track: Track) -> int | None:
        """How many hops it is away, as far as a trace knows."""
        for columns in self.index.facts.paths.get((track.agent, track.target), {}).values():
            if known := columns.numbers("hops"):
                return int(known[-1])
        return None

    def nearer(self, one: Track, other: Track) -> bool:
        """Whether `one` is clearly closer than `other`, a target of another gateway.

        By hops where both were traced; else by the round-trip time, of the same kind of probe.
        """
        if one.gateway == other.gateway or one.agent != other.agent:
            return False
        hops, others = self.hops(one), self.hops(other)
        if hops is not None and others is not None:
            return hops < others
        rtt, longer = self.index.rtt(one), self.index.rtt(other)
        same = (one.kind, one.variant, one.dscp) == (other.kind, other.variant, other.dscp)
        return same and rtt is not None and longer is not None and rtt < NEARER * longer

    def beside(self, attribute: str) -> list[Track]:
        """What differs in this one attribute from what is within reach, or a sample of it.

        Only what can be compared: of the agents that are hit; of other agents, the gateways that are hit.
        """
        with_ = "gateway" if attribute == "agent" else "agent"
        others = {name: value for name, value in self.reach.items() if name != attribute}
        if with_ in others:
            found = self.index.group(tuple(others), tuple(others.values()))
        else:
            attributes = (*others, with_)
            values = sorted({getattr(track, with_) for track in self.hits})
            found = []
            for value in values[:: len(values) // ALIKE_AT_MOST + 1]:
                found += self.index.group(attributes, (*others.values(), value))
        mine = self.reach[attribute]
        found = [track for track in found if getattr(track, attribute) != mine]
        # What differs in nothing else, where there is such.
        rest = tuple(name for name in ATTRIBUTES if name != attribute)
        like = {key_of(track, rest) for track in self.hits}
        return _sample([track for track in found if key_of(track, rest) in like] or found)

    def stand(self, track: Track) -> str:
        """'hit', 'clean', 'other' or 'unclear', see above."""
        found = self._stands.get(id(track))
        if found is None:
            found = self._stands[id(track)] = self._stand(track)
        return found

    def _stand(self, track: Track) -> str:
        disturbed = False
        for trouble in self.index.of(track):
            # Who is slow answers nevertheless, and who loses some can be fast.
            if trouble.effect not in self.related:
                continue
            if not trouble.overlaps(self.begin_ns - self.slack, self.until_ns):
                continue
            together = abs(trouble.begin_ns - self.begin_ns) <= self.slack or self._continues(trouble)
            same = together and trouble.effect in self.effects and self._like_ours(trouble)
            if same and trouble not in self.index.explained:
                return "hit"
            disturbed = True
        if disturbed:
            return "other"
        return "clean" if self._would_show(track) else "unclear"

    def _like_ours(self, trouble: Trouble) -> bool:
        """A shift by another time has another reason."""
        if trouble.effect != "slow" or self._continues(trouble):
            return True
        return abs(trouble.size - self.shift) <= max(LIKE * self.shift, ABSOLUTE_NS)

    def _continues(self, trouble: Trouble) -> bool:
        return trouble in self.troubles

    def _would_show(self, track: Track) -> bool:
        """Whether whole windows of it in this time are enough to see the effect, were it there."""
        windows = track.windows
        some = windows.span(self.begin_ns - track.length // 2, self.until_ns)
        some = range(some.start, max(some.start, len(some) + some.start))
        sent = windows.total("sent", some)
        if "slow" in self.effects and not self.effects & {"loss", "down"}:
            return len(some) >= FEWEST and self.stays_fast(track, some)
        lost = windows.total("lost", some)
        if lost * 4 > sent * self.rate:
            return False  # too few for a trouble, and too many to be clean
        return sent * self.rate >= EXPECTED if "loss" in self.effects else sent >= LEAST_SENT

    def stays_fast(self, track: Track, some: range) -> bool:
        """Whether none of the newest windows, one or two, shows half of the shift."""
        values = track.windows.numbers("rtt_p50_ns", some)
        usual = self.index.rtt(track)
        return usual is not None and bool(values) and max(values[-FEWEST:]) < usual + self.shift / 2


def cases_of(cause: Cause, index: Index, troubles: Iterable[Trouble]) -> Iterator[Case]:
    """Every case that a cause could make of these troubles."""
    mine = [trouble for trouble in troubles if trouble.effect in cause.effects | cause.own]
    if not mine:
        return
    crowd = len(mine) > CROWD
    for attributes in cause.reaches:
        if crowd and len(attributes) > 2:
            continue
        groups: dict[Key, list[Trouble]] = defaultdict(list)
        for trouble in mine:
            for key in _keys(trouble, attributes, index):
                groups[key].append(trouble)
        for key, group in groups.items():
            for together in _in_time(group):
                for family in _families(cause, together):
                    yield Case(cause, dict(zip(attributes, key, strict=True)), family, index, _slack(family))


def _keys(trouble: Trouble, attributes: Attributes, index: Index) -> set[Key]:
    """The parts of the network, with these attributes, that a trouble lies in."""
    if trouble.track is not None:
        key = key_of(trouble.track, attributes)
        # Packets of unknown size are no variant.
        return set() if "variant" in attributes and not key[attributes.index("variant")] else {key}
    if set(attributes) <= {"agent"}:
        return {(trouble.agent,) if attributes else ()}
    if trouble.names:
        tracks = [one for one in index.group(("agent",), (trouble.agent,)) if one.target in trouble.names]
        return {key_of(track, attributes) for track in tracks}
    if set(attributes) <= {"agent", "line"}:
        # It does not say whom it leads to: perhaps to any line of the agent.
        return {key_of(track, attributes) for track in index.group(("agent",), (trouble.agent,))}
    return set()


def _in_time(group: list[Trouble]) -> Iterator[list[Trouble]]:
    """Troubles that began together."""
    group.sort(key=lambda trouble: trouble.begin_ns)
    slack = _slack(group)
    together: list[Trouble] = []
    for trouble in group:
        if together and (
            trouble.begin_ns - together[-1].begin_ns > slack
            or trouble.begin_ns - together[0].begin_ns > LONGEST * slack
        ):
            yield together
            together = []
        together.append(trouble)
    if together:
        yield together


def _slack(group: list[Trouble]) -> int:
    lengths = [trouble.track.length for trouble in group if trouble.track is not None]
    return AT_ONCE * max(lengths, default=2 * SECOND)


def _with(trouble: Trouble, mark: Trouble, slack: int) -> bool:
    lasts = mark.end_ns is None or trouble.begin_ns <= mark.end_ns + slack
    return trouble.begin_ns >= mark.begin_ns - slack and lasts


def _families(cause: Cause, group: list[Trouble]) -> Iterator[list[Trouble]]:
    """Loss and slowness are two matters, unless a mark of the cause itself holds them together."""
    marks = [trouble for trouble in group if trouble.effect in cause.own]
    if marks:
        # A mark holds together what began with it, or while it lasted.
        slack = _slack(group)
        near = [one for one in group if any(_with(one, mark, slack) for mark in marks)]
        yield near
        group = [trouble for trouble in group if trouble not in near]
    for family in FAMILIES:
        if some := [trouble for trouble in group if trouble.effect in family]:
            yield some
