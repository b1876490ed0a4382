"""Windows of the flows of one target in, a line for each out, so that one bad flow of many is seen: pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from collectors.board.rows import RECENT, Window

ODD = 0.2  # a flow is odd whose median is further than this share from the one that most flows have
_ODD_NS = 20_000  # ... and further than this: what a host's noise makes (`ping` has the same limit)


@dataclass(frozen=True)
class Flow:
    """What is shown of one flow; None is nothing to show."""

    name: str
    loss: float | None  # of the last minute of data
    p50_ns: float | None  # of the newest window
    p99_ns: float | None
    odd: bool  # its median is unlike the others'


def flows_of(found: Iterable[tuple[str, Sequence[Window]]]) -> list[Flow]:
    """A line a flow, by number. `found`: the tag `flow`, and its windows, oldest first.

    A flow without a window in the last minute of the others' is one that is not probed any more.
    """
    series = {name: windows for name, windows in found if windows}
    newest = max((windows[-1].start_ns for windows in series.values()), default=0)
    medians: dict[str, float | None] = {}
    flows = []
    for name, windows in series.items():
        recent = [w for w in windows if w.start_ns > newest - RECENT]
        if recent:
            medians[name] = recent[-1].number("rtt_p50_ns")
            sent, lost = (sum(w.integer(field) for w in recent) for field in ("sent", "lost"))
            flows.append((name, lost / sent if sent else None, recent[-1].number("rtt_p99_ns")))
    usual = statistics.median_low([m for m in medians.values() if m is not None] or [0])
    return [
        Flow(name, loss, medians[name], p99, _differs(medians[name], usual))
        for name, loss, p99 in sorted(flows, key=lambda flow: (len(flow[0]), flow[0]))
    ]


def _differs(median: float | None, usual: float) -> bool:
    return median is not None and abs(median - usual) > max(ODD * usual, _ODD_NS)
