"""What an emulated link did to each packet in, a file of JSON lines and typed records read back from it out.

One line a packet, written when its last copy has left; the first line says what was asked for. Times are wall
clock (CLOCK_REALTIME), ns since the epoch, so that they can be laid beside a capture.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FORWARD, BACKWARD = "forward", "backward"
DELIVERED, LOST, IN_FLIGHT = "delivered", "lost", "in flight"
HEAD = 80  # bytes kept of a packet: IP and ICMP headers, and what a prober writes first

_KEYS = (
    "direction",
    "number",
    "arrived_ns",
    "size",
    "lost",
    "queued",
    "delay",
    "behind",
    "held",
    "copies",
    "head",
)


@dataclass(frozen=True)
class Copy:
    """`due_ns`: when it was to come out; `written_ns`: just before it did. None: it never did.

    `problem`: why the kernel did not take it.
    """

    due_ns: int
    written_ns: int | None
    problem: str = ""


@dataclass(frozen=True)
class LoggedPacket:
    """One packet's fate. `number`: in its direction, from 1. `arrived_ns`: just after it was read.

    `lost` to `held` as in `tests.lab.link.Verdict`; `copies`: itself first. `head`: its first bytes, from the
    IP header on.
    """

    direction: str
    number: int
    arrived_ns: int
    size: int
    lost: str
    queued: int
    delay: int
    behind: int
    held: int
    copies: tuple[Copy, ...]
    head: bytes

    @property
    def outcome(self) -> str:
        """DELIVERED once one copy is out, IN_FLIGHT where it was still to come at the end, else LOST."""
        if self.lost:
            return LOST
        return DELIVERED if any(copy.written_ns is not None for copy in self.copies) else IN_FLIGHT


@dataclass(frozen=True)
class TruthLog:
    """Everything that an emulated link did, in order of arrival."""

    settings: dict[str, Any]
    packets: list[LoggedPacket]

    def of(self, direction: str) -> list[LoggedPacket]:
        return [packet for packet in self.packets if packet.direction == direction]

    @cached_property
    def reasons(self) -> Counter[tuple[str, str]]:
        """How many were lost, by (direction, reason)."""
        return Counter((packet.direction, packet.lost) for packet in self.packets if packet.lost)


def encode(
    direction: str,
    number: int,
    arrived_ns: int,
    size: int,
    lost: str,
    lengths: tuple[int, int, int, int],
    copies: Iterable[tuple[int, int | None, str]],
    head: bytes,
) -> str:
    """One line of the file, with its end."""
    values = (
        direction,
        number,
        arrived_ns,
        size,
        lost,
        *lengths,
        [list(copy) for copy in copies],
        head.hex(),
    )
    return json.dumps(dict(zip(_KEYS, values, strict=True))) + "\n"


def read(path: Path) -> TruthLog:
    """Raises: ValueError naming the line that is no record."""
    settings: dict[str, Any] = {}
    packets: list[LoggedPacket] = []
    with path.open(encoding="utf-8") as lines:
        for at, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if at == 1:
                    settings = record
                    continue
                record["copies"] = tuple(Copy(*copy) for copy in record["copies"])
                record["head"] = bytes.fromhex(record["head"])
                packets.append(LoggedPacket(**record))
            except (ValueError, TypeError, KeyError) as problem:
                raise ValueError(f"{path}, line {at}: no record of a packet: {problem}") from problem
    packets.sort(key=lambda packet: (packet.arrived_ns, packet.number))
    return TruthLog(settings, packets)
