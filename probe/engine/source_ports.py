"""Flows and when their probes are due in, the reserved port that each leaves from out. Pure; kind `tcp`.

A target that still waits for our RST to one SYN does not take another one from the same port for a new
connection: it may not answer at all (Linux answers one of them, and no second one within 500 ms). So a port
is not used again to the same destination before REUSE has passed. A flow whose probes are further apart than
that keeps one port, and with it one path; only bursts, and flows faster than that, take several in turn.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from probe.clock import MILLISECOND
from probe.engine.ledger import Indices

# A probe leaves up to 250 ms late, so that two come as much closer, and our RST is there an RTT later.
REUSE = 350 * MILLISECOND
MOST = 255  # ports to one destination: what a classic BPF program can tell apart by one jump each

Span = tuple[int, int]  # the first of a flow's ports, and how many it has


def width(interval: int, burst: int = 1, poisson: bool = False) -> int:
    """How many ports a flow needs; `interval` in ns between bursts, their mean where they are random."""
    within = REUSE / interval
    if poisson:  # that many more follow each other as closely in one of ten thousand cases, or fewer
        return burst * (math.ceil(within + 4 * math.sqrt(within)) + 2)
    return burst * math.ceil(within)


def share(destinations: Sequence[Hashable], widths: Sequence[int]) -> list[Span]:
    """Ports for every flow, so that no two flows to the same destination have one in common.

    Where they want more than MOST, each gets fewer.
    """
    wanted: dict[Hashable, int] = {}
    flows: dict[Hashable, int] = {}
    for there, count in zip(destinations, widths, strict=True):
        wanted[there] = wanted.get(there, 0) + count
        flows[there] = flows.get(there, 0) + 1
    used = dict.fromkeys(wanted, 0)
    spans = []
    for there, count in zip(destinations, widths, strict=True):
        most = MOST if wanted[there] <= MOST else max(1, MOST // flows[there])
        first = used[there] % MOST
        spans.append((first, min(count, most)))
        used[there] += spans[-1][1]
    return spans


class SourcePorts:
    """Which port a probe leaves from; `spans`: of each flow."""

    def __init__(self, spans: Sequence[Span]) -> None:
        both = np.array(spans, np.int64).reshape(len(spans), 2)
        self._first, self._width = both[:, 0], both[:, 1]
        self._one = bool((self._width == 1).all())
        self._turn = np.zeros(len(spans), np.int64)  # of the last probe
        self._due = np.full(len(spans), -REUSE, np.int64)  # ... which was due then

    def of(self, flow: int) -> range:
        """The places of a flow's ports among the reserved ones."""
        first = int(self._first[flow])
        return range(first, first + int(self._width[flow]))

    def choose(self, flows: Indices, dues: Indices) -> Indices:
        """For probes in order of due time (ns): the place of each one's port among the reserved ones."""
        if self._one or not len(flows):
            return self._first[flows]
        order = np.argsort(flows, kind="stable")
        flow, due = flows[order], dues[order]
        count = np.arange(len(flow))
        new = np.ones(len(flow), np.bool_)
        new[1:] = flow[1:] != flow[:-1]
        before = np.where(new, self._due[flow], np.concatenate((due[:1], due[:-1])))
        fresh = due - before >= REUSE  # the flow's first port is free again
        start = np.maximum.accumulate(np.where(new | fresh, count, 0))
        begin = np.where(new & ~fresh, self._turn[flow] + 1, 0)[start]
        turn = (begin + count - start) % self._width[flow]
        last = np.append(new[1:], True)
        self._turn[flow[last]], self._due[flow[last]] = turn[last], due[last]
        chosen = np.empty(len(flow), np.int64)
        chosen[order] = self._first[flow] + turn
        return chosen
