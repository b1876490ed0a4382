"""News of probes, or a summary, in, a table of flows out: drawn ever again while they run, and at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import TextIO

import numpy as np

from probe.clock import MILLISECOND
from probe.engine.samples import ERROR, LOCAL
from probe.flow_table import FlowRow, table, verdict
from probe.ping_lines import Quiet
from probe.ping_view import OUTCOMES, News, nth
from probe.telemetry.lines import Value
from probe.telemetry.points import probe_fields
from probe.windows import statistics
from probe.windows.summary import Summaries

_REDRAW = 250 * MILLISECOND
_RECENT = 4096  # RTTs of each flow that the quantiles are from while it runs


class LiveTable(Quiet):
    """A table of flows on a terminal, drawn again four times a second and gone at the end.

    Args:
        identities: of each flow, `heading` says what they are.
        opened: flows that have a socket.
        size: asks for the terminal's columns and lines.
    """

    def __init__(
        self,
        identities: Sequence[str],
        heading: str,
        opened: frozenset[int],
        out: TextIO,
        size: Callable[[], tuple[int, int]],
    ) -> None:
        self._identities, self._heading, self._opened = identities, heading, opened
        self._out, self._size = out, size
        self._drawn = 0  # lines on the screen
        self._due = 0
        flows = len(identities)
        self._sent, self._lost, self._errors, self._timed, self._most = np.zeros((5, flows), np.int64)
        self._recent = np.zeros((flows, _RECENT), np.int64)  # RTTs, a ring each

    def show(self, news: News) -> None:
        """See `Display`."""
        if news.again:
            return  # it is lost already
        flows = len(self._sent)
        received, late, lost, error = (news.outcome == OUTCOMES.index(name) for name in OUTCOMES[:4])
        # A router's error came for it: it had left.
        lost |= error & ((news.state & (ERROR | LOCAL)) == ERROR)
        self._errors += np.bincount(news.flow[error], minlength=flows)
        self._sent += np.bincount(news.flow[received | late | lost], minlength=flows)
        self._lost += np.bincount(news.flow[late | lost], minlength=flows)
        timed = received & (news.rtt >= 0)
        flow, rtt = news.flow[timed], news.rtt[timed]
        self._recent[flow, (self._timed[flow] + nth(flow, flows)) % _RECENT] = rtt
        self._timed += np.bincount(flow, minlength=flows)
        np.maximum.at(self._most, flow, rtt)

    def tick(self, now: int) -> None:
        """See `Display`."""
        if now >= self._due:
            self._due = now + _REDRAW
            self._draw()

    def end(self) -> None:
        """See `Display`."""
        print(self._back(), end="", file=self._out, flush=True)
        self._drawn = 0

    def rows(self) -> list[FlowRow]:
        """What is known of the flows so far; RTTs are of the last few thousand replies."""
        flows = len(self._sent)
        kept = np.minimum(self._timed, _RECENT)
        flow = np.repeat(np.arange(flows), kept)
        place = self._timed[flow] - kept[flow] + nth(flow, flows)
        rtt = self._recent[flow, place % _RECENT]
        found = statistics.spread(flow, rtt, flows, ("p50", "p99")).values
        jitter = statistics.jitter(flow, rtt, np.arange(len(rtt)), kept)
        return [
            FlowRow(
                n,
                self._identities[n],
                int(self._sent[n]),
                int(self._lost[n]),
                int(self._errors[n]),
                int(found["p50"][n]) if kept[n] else None,
                int(found["p99"][n]) if kept[n] else None,
                int(self._most[n]) if kept[n] else None,
                round(float(jitter[n])) if kept[n] > 1 else None,
                n in self._opened,
            )
            for n in range(flows)
        ]

    def _draw(self) -> None:
        columns, height = self._size()
        rows = self.rows()
        said = wrap(verdict(rows), max(columns - 1, 10))[: max(height // 4, 1)]
        # Besides, one line is the headings', and one the cursor's.
        lines = table(rows, self._heading, height=max(height - 3 - len(said), 1), width=columns - 1) + said
        print(self._back() + "\n".join(lines), file=self._out, flush=True)
        self._drawn = len(lines)

    def _back(self) -> str:
        """To the table's first line, and everything from there on cleared (ECMA-48: CPL, ED)."""
        return f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""


def flow_rows(summaries: Summaries, identities: Sequence[str], opened: frozenset[int]) -> list[FlowRow]:
    """Every flow as a row of the table."""
    made = []
    for flow, identity in enumerate(identities):
        fields = probe_fields(summaries, flow)
        sent, lost, errors = (int(fields.get(name, 0)) for name in ("sent", "lost", "errors"))
        p50, p99, most = (_optional(fields.get(f"rtt_{name}_ns")) for name in ("p50", "p99", "max"))
        jitter = _optional(fields.get("jitter_ns"))
        made.append(FlowRow(flow, identity, sent, lost, errors, p50, p99, most, jitter, flow in opened))
    return made


def _optional(value: Value | None) -> int | None:
    return None if value is None else int(value)


def flows_text(rows: Sequence[FlowRow], heading: str) -> str:
    """The table of flows, and the line that says what it shows."""
    return "\n".join(["", *table(rows, heading), verdict(rows)])
