"""What a trace saw of a path in, the path's id out, which changes when the path does. Pure.

An id is a hash of the routers, made when a path is first seen. It stays while what is seen *can* be that
path:

    a silent hop        says nothing: what is known of it stays. A hop that was silent and answers now is
    known                     from then on. Routers limit their answers, so this is nothing new
    a known address     the hop is the same; also where a router answers from several addresses: those that
    one                     trace has seen side by side, twice
    another address     another path
    another length      another path, where the target answered both times; where a silent hop may be the
                        reason, only if the next trace says so again

When it is another path, one of the last few that it can be gets its old id back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

FORMER = 16  # paths that are remembered of each flow

Addresses = frozenset[str]
Observed = Sequence[Iterable[str]]  # of TTL 1, 2, ...: who answered


@dataclass
class _Path:
    """One that was seen. doubtful: addresses that one trace saw beside a known one."""

    id: str
    hops: list[Addresses]
    reached: bool
    doubtful: dict[int, Addresses] = field(default_factory=dict)
    doubted: bool = False  # the last trace was perhaps of another path

    def fits(self, hops: Sequence[Addresses], reached: bool) -> bool:
        return self.difference(hops, reached) is None

    def difference(self, hops: Sequence[Addresses], reached: bool) -> tuple[int, bool] | None:
        """The first TTL that shows that `hops` is another path, and whether that is sure."""
        for at, (known, seen) in enumerate(zip(self.hops, hops, strict=False)):
            if known and seen and not known & seen:
                return at + 1, True
        ours, theirs = len(self.hops), len(hops)
        if (reached and theirs < ours) or (self.reached and theirs > ours):
            # Where the target does not answer its nearest probes, it only seems to be further away.
            at = min(ours, theirs) - 1
            return at + 1, bool(self.hops[at] and hops[at])
        return None

    def alike(self, hops: Sequence[Addresses]) -> int:
        """Hops that are known to be the same."""
        return sum(bool(known & seen) for known, seen in zip(self.hops, hops, strict=False))

    def learn(self, hops: Sequence[Addresses], reached: bool) -> None:
        """Keep what `hops`, which fit, say besides."""
        doubtful: dict[int, Addresses] = {}
        for at, seen in enumerate(hops):
            if at == len(self.hops):
                self.hops.append(seen)
            elif not self.hops[at]:
                self.hops[at] = seen
            elif more := seen - self.hops[at]:
                if more & self.doubtful.get(at, frozenset()):
                    self.hops[at] |= more
                else:
                    doubtful[at] = more
        # A trace during which the path changed sees both; the next one sees the new one alone.
        self.doubtful, self.doubted = doubtful, False
        self.reached = self.reached or reached


@dataclass(frozen=True)
class Verdict:
    """Which path it is; empty: nothing was ever seen of it.

    changed: it was another one before; `hop` is the first TTL that differs, and before and after are the
    routers, as text.
    """

    path_id: str
    hops: tuple[Addresses, ...]
    changed: bool = False
    before_id: str = ""
    hop: int = 0
    before: str = ""
    after: str = ""


class PathMemory:
    """The paths of one flow."""

    def __init__(self) -> None:
        self._paths: list[_Path] = []  # the current one last

    def observe(self, hops: Observed, reached: bool) -> Verdict:
        """What a trace saw: who answered at TTL 1, 2, ... up to the target, or to the last answer."""
        seen = _trimmed([frozenset(who) for who in hops], reached)
        if not self._paths and not any(seen):
            return Verdict("", ())
        if not self._paths:
            self._paths.append(_Path(_id(seen, reached), seen, reached))
            return self._verdict()
        current = self._paths[-1]
        difference = current.difference(seen, reached)
        if difference is None:
            current.learn(seen, reached)
            return self._verdict()
        hop, sure = difference
        if not sure and not current.doubted:
            current.doubted = True
            return self._verdict()
        before = text(current.hops)
        found = max(
            (path for path in self._paths[:-1] if path.fits(seen, reached)),
            key=lambda path: path.alike(seen),
            default=None,
        )
        if found is None:
            found = _Path(self._free_id(seen, reached), seen, reached)
        else:
            self._paths.remove(found)
            found.learn(seen, reached)
        self._paths = [*self._paths[-FORMER:], found]
        return Verdict(found.id, tuple(found.hops), True, current.id, hop, before, text(found.hops))

    def _verdict(self) -> Verdict:
        current = self._paths[-1]
        return Verdict(current.id, tuple(current.hops))

    def _free_id(self, hops: list[Addresses], reached: bool) -> str:
        """Not that of a path that is remembered: that one has learned since, and is another one."""
        taken = {path.id for path in self._paths}
        attempt = 0
        while (made := _id(hops, reached, attempt)) in taken:
            attempt += 1
        return made


def text(hops: Iterable[Iterable[str]]) -> str:
    """Routers for people and lines: `10.0.0.1 * 10.0.2.1|10.0.2.5`."""
    return " ".join("|".join(sorted(who)) or "*" for who in hops)


def _id(hops: Iterable[Addresses], reached: bool, attempt: int = 0) -> str:
    """Twelve hexadecimal digits."""
    told = text(hops) + (" ." if reached else "") + (f" {attempt}" if attempt else "")
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _trimmed(hops: list[Addresses], reached: bool) -> list[Addresses]:
    """Without silent hops at the end, where that is not the target."""
    while hops and not hops[-1] and not reached:
        hops.pop()
    return hops
