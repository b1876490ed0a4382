"""Numbers of agents, targets and windows in, ready batches out: rendered once, sent often.

Whoever measures a collector must not render lines meanwhile. Every batch is drawn by itself: no two of a pool
have the same numbers in them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.fleet.hosts import HISTOGRAM_NS, Host
from probe.clock import SECOND


@dataclass(frozen=True, slots=True)
class Batch:
    """One message of an agent: the number `window` of its windows, from 0; `lines` are in it."""

    agent: str
    spool: str
    number: int
    window: int
    lines: int
    payload: bytes


@dataclass(frozen=True)
class Pool:
    """Batches in the order in which a fleet sends them: window after window, agent after agent."""

    agents: int
    targets: int
    batches: list[Batch]

    @property
    def lines(self) -> int:
        """Of all of its batches."""
        return sum(batch.lines for batch in self.batches)

    @property
    def payload_bytes(self) -> int:
        """Of all of its batches, as they are sent."""
        return sum(len(batch.payload) for batch in self.batches)

    def texts(self) -> Iterator[bytes]:
        """Each batch's lines, unpacked."""
        for batch in self.batches:
            yield text_of(batch.payload)


def render(
    agents: int,
    targets: int,
    windows: int,
    *,
    window_s: float,
    start_ns: int,
    seed: int = 1,
    prefix: str = "fleet",
    histograms: bool = False,
) -> Pool:
    """`windows` windows of each agent, the first of which began at `start_ns` (wall clock).

    histograms: with each agent's histograms in every so many windows as make a minute; not the same for all
    agents, so that a few windows of many have their share.
    """
    length = round(window_s * SECOND)
    start_ns = start_ns // length * length
    hosts = [Host(name(prefix, n), n, targets, length, seed) for n in range(agents)]
    last = dict.fromkeys((host.agent for host in hosts), 0)
    batches: list[Batch] = []
    minute = max(1, HISTOGRAM_NS // length)
    for at in range(windows):
        begin = start_ns + at * length
        for number, host in enumerate(hosts):
            lines = host.window(at, begin)
            if histograms and (at + number) % minute == 0:
                lines += host.histogram(at // minute, begin - begin % HISTOGRAM_NS)
            payloads = host.batches(lines, last[host.agent] + 1, begin + length)
            for payload in payloads:
                last[host.agent] += 1
                size = lines_in(payload)
                batches.append(Batch(host.agent, host.spool, last[host.agent], at, size, payload))
    return Pool(agents, targets, batches)


def name(prefix: str, number: int) -> str:
    """The id of the agent `number`, counted from 0."""
    return f"{prefix}-{number + 1:04d}"


def text_of(payload: bytes) -> bytes:
    """A batch's lines, unpacked."""
    return zlib.decompress(payload, wbits=31) if payload.startswith(b"\x1f\x8b") else payload


def lines_in(payload: bytes) -> int:
    """How many."""
    return text_of(payload).count(b"\n")
