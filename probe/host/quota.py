"""Changes in, those that are told one by one out; of the others, how many there were. Pure.

A routing protocol that starts anew changes a hundred thousand routes in a second. That is one fact, not a
hundred thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from probe.host.table import Change, Said

WEIGHTY, OTHERS = 40, 10  # of a kind, between two calls of `rest`
_PLURALS = {
    "link": "changes of links",
    "address": "changes of addresses",
    "route": "routes changed",
    "neighbour": "neighbours changed",
    "session": "changes of sessions",
}


class Quota:
    """What may still be told."""

    def __init__(self) -> None:
        self._told: Counter[tuple[str, bool]] = Counter()
        self._kept: dict[str, Counter[str]] = {}

    def passes(self, change: Change) -> bool:
        """Whether it is told by itself; otherwise it is counted."""
        which = change.kind, change.weighty
        if self._told[which] < (WEIGHTY if change.weighty else OTHERS):
            self._told[which] += 1
            return True
        self._kept.setdefault(change.kind, Counter())[change.what] += 1
        return False

    def rest(self) -> Iterator[tuple[str, Said]]:
        """The kind and the words for what was only counted; from here on as much as before may be told."""
        kept, self._kept = self._kept, {}
        self._told.clear()
        for kind, counts in kept.items():
            each = ", ".join(f"{many} {what}" for what, many in sorted(counts.items()))
            text = f"{counts.total()} more {_PLURALS.get(kind, 'changes')} ({each}), too many to tell of each"
            yield kind, Said(text, {"what": "many", "count": counts.total(), **counts})
