"""Rows and announcements of one of the kernel's tables in, what has changed out. Pure.

Announcements are applied as they come. When some were lost, the whole table is read again, row by row, and at
its end compared with what was known: so a change is told once, whichever way it came. The kernel writes rows
and announcements into one queue in the order of what happened, so an announcement between two rows belongs
into both pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Said:
    """A change in words. `interface`, `target`: the tags; `detail`: as in the event."""

    text: str
    detail: dict[str, object]
    interface: str = ""
    target: str = ""


@dataclass(frozen=True)
class Change:
    """One change of a table.

    kind: of the event. what: "added", "removed", "changed" and so on, for counts. weighty: of a kind that
    somebody should read even when there are many. say: put it into words now.
    """

    kind: str
    what: str
    weighty: bool
    say: Callable[[], Said]


@dataclass
class Table(Generic[K, V]):
    """What is known of a table.

    most: entries that are remembered; others are counted in `beyond`, and their changes cannot be told.
    complete: it was read to the end at least once; until then what is new may have been there before.
    """

    most: int
    current: dict[K, V] = field(default_factory=dict)
    complete: bool = False
    beyond: int = 0
    _fresh: dict[K, V] | None = None

    def begin(self) -> None:
        """Rows follow."""
        self.beyond = 0
        self._fresh = {} if self.complete else self.current

    def row(self, key: K, value: V, join: Callable[[V, V], V] | None = None) -> None:
        """One of the rows; `join`: with another one of the same key."""
        fresh = self._fresh if self._fresh is not None else self.current
        if join is not None and key in fresh:
            value = join(fresh[key], value)
        elif len(fresh) >= self.most and key not in fresh:
            self.beyond += 1
            return
        fresh[key] = value

    def end(self) -> Iterator[tuple[K, V | None, V | None]]:
        """After the last row: each key with what it was and is, where that differs; none after the first
        reading."""
        fresh, self._fresh = self._fresh, None
        first, self.complete = not self.complete, True
        if fresh is None or first:
            return
        old, self.current = self.current, fresh
        for key, value in fresh.items():
            if (before := old.get(key)) != value:
                yield key, before, value
        for key, before in old.items():
            if key not in fresh:
                yield key, before, None

    def abandon(self) -> None:
        """Not all rows came; they will come again."""
        self._fresh = None

    def change(self, key: K, to: Callable[[V | None], V | None]) -> tuple[V | None, V | None]:
        """An announcement: `to` makes of what was known what is now (None: nothing). Returns both; the first
        is as the second where it cannot be known whether that is new."""
        old = self.current.get(key)
        new = self._set(self.current, key, to(old))
        if self._fresh is not None and self._fresh is not self.current:
            self._set(self._fresh, key, to(self._fresh.get(key)))
        if old is None and (not self.complete or key not in self.current):
            return new, new
        return old, new

    def _set(self, where: dict[K, V], key: K, value: V | None) -> V | None:
        if value is None:
            where.pop(key, None)
        elif key in where or len(where) < self.most:
            where[key] = value
        return value
