"""A decoder and what may come of it in, a target of the fuzzing out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Feed = Callable[[bytes], object]


@dataclass(frozen=True)
class Shape:
    """Hostile text that is easily made long: `head`, then `part` again and again, then `tail`."""

    head: bytes
    part: bytes
    tail: bytes = b""

    def of(self, size: int) -> bytes:
        """About `size` bytes of it."""
        return self.head + self.part * max(1, size // len(self.part)) + self.tail


@dataclass(frozen=True)
class Target:
    """One decoder, or several that take the same bytes.

    decodes: its dotted name, for people.
    invariant: what is checked beside that nothing but `raises` is raised, in one line.
    raises: what the decoder says of what it does not take.
        Anything else is a finding, as a failed assertion is.
    make: a feed with fresh state; modules are imported here, so that they can be instrumented before.
    seeds: real samples, from which inputs are made.
    words: what stands in such inputs, to be put in anywhere.
    longest: bytes of an input.
    inputs: how many of them `make test` tries.
    guided: whether coverage leads: not where the work is done by SQLite, or in another task or thread.
    shapes: what must not take more than linear time.
    """

    name: str
    decodes: str
    invariant: str
    make: Callable[[], Feed]
    seeds: Callable[[], Sequence[bytes]]
    raises: tuple[type[Exception], ...] = ()
    words: Sequence[bytes] = ()
    longest: int = 4096
    inputs: int = 300
    guided: bool = True
    shapes: Sequence[Shape] = ()


class Chooser:
    """Reads an input's first bytes as choices; what is left is `rest`."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def number(self, below: int) -> int:
        """From 0 on; 0 where nothing is left."""
        size = (max(below - 1, 1).bit_length() + 7) // 8
        taken, self.rest = self.rest[:size], self.rest[size:]
        return int.from_bytes(taken, "big") % below

    def flag(self) -> bool:
        return bool(self.number(2))

    def piece(self) -> bytes:
        """Some bytes, whose length stands before them."""
        size = self.number(256)
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def text(self) -> str:
        """The rest as text, whatever it is."""
        return self.rest.decode(errors="replace")
