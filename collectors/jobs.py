"""Held batches in, the body of one write out: batches, jobs, and those that were rejected; pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from collectors import members
from collectors.quarantine import Entry
from probe.telemetry.topics import BatchId

OVERHEAD_BYTES = 1024  # what a held batch costs beside its text


@dataclass(eq=False)
class Held:
    """A batch that waits for the sink: `body` may be empty where only `aside` (for quarantine) is left.

    packed: `body` is one gzip member; text_bytes: its length unpacked (taken from `body` where it is text).
    """

    id: BatchId | None  # None: the collector's own line, which nobody waits for
    body: bytes
    count: int = 0  # lines in `body`
    newest_ns: int = 0
    aside: list[Entry] = field(default_factory=list)
    packed: bool = False
    text_bytes: int = 0
    live: bool = True  # of the last minutes
    over_limit: int = 0  # lines in `aside` because of their agent's too many series
    rejected: bool = False  # as a whole, by the sink
    about: str = ""  # the agent that gave cause to a line of the collector's own

    def __post_init__(self) -> None:
        self.size = OVERHEAD_BYTES + len(self.body) + sum(len(entry.content) for entry in self.aside)
        if not self.packed:
            self.text_bytes = len(self.body)

    @property
    def agent(self) -> str:
        """Whose share it takes; empty: the collector's own."""
        return self.id.agent if self.id else self.about

    def text(self) -> bytes:
        """Its lines."""
        return members.unpacked(self.body) if self.packed else self.body

    def pack_anew(self) -> None:
        """Replace the agent's gzip by ours."""
        self.body = members.member(self.text())


@dataclass
class Tries:
    """How often something failed, and how much else had gone through when it first did."""

    failures: int = 0
    others: int = 0


@dataclass(eq=False)
class Suspect:
    """One batch that was rejected as a whole, on its way to the lines that are to blame."""

    held: Held
    pieces: list[list[bytes]]  # not written yet
    tries: Tries = field(default_factory=Tries)
    vetted: bool = False  # whether the sink is known to take other lines at this moment


@dataclass(eq=False)
class Job:
    """One write: whole batches, or some lines of a suspect."""

    batches: list[Held]
    suspect: Suspect | None = None
    lines: list[bytes] = field(default_factory=list)
    tries: Tries = field(default_factory=Tries)
    apart: bool = False  # a whole batch of an agent that is apart

    @property
    def packed(self) -> bool:
        """Whether `body` is gzip."""
        return self.suspect is None and any(held.packed for held in self.batches)

    def body(self) -> bytes:
        """What to write: lines, or gzip of one or more members."""
        if self.suspect:
            return b"".join(self.lines)
        if not self.packed:
            return b"".join(held.body for held in self.batches)
        return b"".join(
            held.body if held.packed else members.member(held.body) for held in self.batches if held.body
        )

    @property
    def is_one_line(self) -> bool:
        """Whether there is nothing left to split."""
        return self.suspect is not None and len(self.lines) == 1
