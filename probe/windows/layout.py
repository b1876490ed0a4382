"""The flows of a measurement in, their windows in pieces or in one out: what is known of flows without a look
at a sample.

A flow's kind says which fields it can have; flows of one target, which stand next to each other, are also
reported together. Kinds share a window, so samples that lack what others have get values that mean nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.engine.samples import ABSENT, UNTOLD, Cut, Reflections, Samples, Strays

Mask = NDArray[np.bool_]

HANDSHAKES = ("tcp", "connect")  # kinds whose reply says whether a port is open
REFLECTED = ("stamp",)  # kinds whose reply carries the reflector's own times


@dataclass(frozen=True)
class Layout:
    """What kinds the flows are of, and which of them share a target.

    handshakes, reflected: masks of shape (flows,), None where no flow is of these kinds.
    groups: (first flow, number of flows) of every target with more than one flow, ascending.
    """

    handshakes: Mask | None = None
    reflected: Mask | None = None
    groups: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, kinds: Sequence[str], targets: Sequence[tuple[int, int]] = ()) -> Layout:
        """From each flow's kind, and from (first flow, number of flows) of each target, in order."""
        return cls(
            _which(kinds, HANDSHAKES),
            _which(kinds, REFLECTED),
            tuple((first, count) for first, count in targets if count > 1),
        )

    def part(self, low: int, high: int) -> Layout:
        """The same of the flows from `low` to before `high`, counted from 0; no group may be cut in two."""
        begin, end = (bisect_left(self.groups, (flow, 0)) for flow in (low, high))
        return Layout(
            None if self.handshakes is None else _some(self.handshakes[low:high]),
            None if self.reflected is None else _some(self.reflected[low:high]),
            tuple((first - low, count) for first, count in self.groups[begin:end]),
        )

    def end_of(self, flow: int) -> int:
        """The first flow from `flow` on that begins a target."""
        at = bisect_left(self.groups, (flow, 0)) - 1
        return flow if at < 0 else max(flow, sum(self.groups[at]))


ORDINARY = Layout()  # echo probes, a flow a target


def _which(kinds: Sequence[str], wanted: Sequence[str]) -> Mask | None:
    return _some(np.array([kind in wanted for kind in kinds], np.bool_))


def _some(mask: Mask) -> Mask | None:
    return mask if mask.any() else None


def pieces(
    cut: Cut, flows: int, rows: int, layout: Layout = ORDINARY
) -> Iterator[tuple[int, int, Cut, Layout]]:
    """The cut in groups of flows with about `rows` samples: (first flow, number of flows, their cut and
    layout).

    Flows are counted from 0 in each, and those of a target stay together. What is computed from a piece
    needs memory for a piece.
    """
    many = sum(len(part.flow) for part in cut.samples)
    step = max(1, flows * rows // max(many, 1))
    low = 0
    while low < flows:
        high = min(layout.end_of(low + step), flows)
        strays = Strays(
            cut.strays.late[low:high], cut.strays.duplicates[low:high], cut.strays.errors[low:high]
        )
        samples = tuple(part for whole in cut.samples if len((part := _of_flows(whole, low, high)).flow))
        yield low, high - low, Cut(cut.start_ns, cut.end_ns, samples, strays), layout.part(low, high)
        low = high


def joined(parts: tuple[Samples, ...], flows: int) -> Samples:
    """The samples of all sockets as if they were of one; `inside` is then meaningless."""
    if len(parts) == 1:
        return parts[0]
    stamping = np.zeros(flows, np.bool_)
    for part in parts:
        stamping |= part.stamping
    names = {
        "flow": np.int32,
        "due": np.int64,
        "sent": np.int64,
        "tx": np.int64,
        "rx": np.int64,
        "state": np.uint8,
        "unstamped": np.bool_,
        "duplicates": np.uint8,
    }
    columns = {
        name: np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)])
        for name, dtype in names.items()
    }
    hard_rtt = None
    if any(part.hard_rtt is not None for part in parts):
        hard_rtt = np.concatenate([_filled(part.hard_rtt, len(part.flow), 0, np.int64) for part in parts])
    return Samples(
        **columns,
        inside=0,
        stamping=stamping,
        reflections=_reflections(parts, flows),
        hard_rtt=hard_rtt,
    )


def inside(parts: tuple[Samples, ...]) -> Mask:
    """Which of the joined samples belong to this window."""
    return np.concatenate([np.zeros(0, np.bool_), *(np.arange(len(p.flow)) < p.inside for p in parts)])


# Of probes that no reflector answers: dtype and value of each column of `Reflections`.
_NEUTRAL = {
    "dwell": (np.int64, 0),
    "followed": (np.bool_, False),
    "forward": (np.int64, ABSENT),
    "backward": (np.int64, ABSENT),
    "clock_error": (np.int64, ABSENT),
    "lost": (np.uint8, UNTOLD),
}


def _reflections(parts: tuple[Samples, ...], flows: int) -> Reflections | None:
    if all(part.reflections is None for part in parts):
        return None
    numbering, follows = np.zeros((2, flows), np.bool_)
    for part in parts:
        if part.reflections is not None:
            numbering |= part.reflections.numbering
            if part.reflections.follows is not None:
                follows |= part.reflections.follows
    columns = {
        name: np.concatenate(
            [_filled(getattr(part.reflections, name, None), len(part.flow), value, dtype) for part in parts]
        )
        for name, (dtype, value) in _NEUTRAL.items()
    }
    return Reflections(**columns, numbering=numbering, follows=follows)


def _filled(column: NDArray[np.generic] | None, length: int, value: int, dtype: type) -> NDArray[np.generic]:
    return np.full(length, value, dtype) if column is None else column


def _of_flows(samples: Samples, low: int, high: int) -> Samples:
    rows = np.flatnonzero((samples.flow >= low) & (samples.flow < high))
    said = samples.reflections
    return Samples(
        samples.flow[rows] - low,
        samples.due[rows],
        samples.sent[rows],
        samples.tx[rows],
        samples.rx[rows],
        samples.state[rows],
        samples.unstamped[rows],
        samples.duplicates[rows],
        int(np.searchsorted(rows, samples.inside)),
        samples.stamping[low:high],
        said
        and Reflections(
            **{n: getattr(said, n)[rows] for n in _NEUTRAL},
            numbering=said.numbering[low:high],
            follows=None if said.follows is None else said.follows[low:high],
        ),
        None if samples.hard_rtt is None else samples.hard_rtt[rows],
    )
