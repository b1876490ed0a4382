"""News of probes in, lines for people or programs out: JSON, text, or a table of flows drawn ever again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TextIO

import numpy as np

from probe.clock import MILLISECOND
from probe.engine.samples import ABSENT, CLOSED, ERROR, HIDDEN, LOCAL, REFUSED, SKIPPED
from probe.flow_table import FlowRow, table, verdict
from probe.ping_view import OUTCOMES, STAMPS, News, nth
from probe.sockets import abi
from probe.target_settings import Target
from probe.text import duration
from probe.windows import statistics
from probe.windows.layout import HANDSHAKES

_REDRAW = 250 * MILLISECOND
_RECENT = 4096  # RTTs of each flow that a table's quantiles are from while it runs


class Display(Protocol):
    """What a run shows while it lasts."""

    def show(self, news: News) -> None:
        """Take notice of what became of some probes."""

    def tick(self, now: int) -> None:
        """Time has passed (monotonic ns)."""

    def end(self) -> None:
        """The run is over: the summary comes next."""


class Quiet:
    """Shows nothing."""

    def show(self, news: News) -> None:
        """See `Display`."""

    def tick(self, now: int) -> None:
        """See `Display`."""

    def end(self) -> None:
        """See `Display`."""


class JsonLines(Quiet):
    """One object a probe. `wall`: a monotonic instant as wall time."""

    def __init__(self, target: Target, wall: Callable[[int], int], out: TextIO) -> None:
        self._ports, self._wall, self._out = target.kind in HANDSHAKES, wall, out

    def show(self, news: News) -> None:
        """See `Display`."""
        lines = []
        for flow, seq, outcome, stamp, sent, rtt, state, *delays in _rows(news):
            record: dict[str, object] = {"flow": flow, "seq": seq, "sent_ns": self._wall(sent)}
            if rtt >= 0:
                record["rtt_ns"] = rtt
            record |= {"stamp": stamp, "outcome": outcome}
            if self._ports and outcome in ("received", "late"):
                record["state"] = "closed" if state & CLOSED else "open"
            for name, delay in zip(("forward_ns", "backward_ns"), delays, strict=True):
                if delay != ABSENT:
                    record[name] = delay
            lines.append(json.dumps(record))
        print("\n".join(lines), file=self._out, flush=True)


class TextLines(Quiet):
    """One line a probe of a target with one flow; `address` is its target's."""

    def __init__(self, target: Target, address: str, out: TextIO) -> None:
        self._target, self._out = target, out
        self._ports = target.kind in HANDSHAKES
        host = f"[{address}]" if ":" in address and target.port else address
        self._source = f"{host}:{target.port}" if target.port else address
        if not self._ports:
            self._source = f"{target.size} bytes from {self._source}"

    def show(self, news: News) -> None:
        """See `Display`."""
        for _, seq, outcome, stamp, _, rtt, state, forward, backward in _rows(news):
            if outcome == "error":
                text = f"seq={seq} {self._why(state, news.refusal)}"
            elif outcome not in ("received", "late"):
                text = f"seq={seq} " + ("no reply" if outcome == "lost" else "duplicate reply")
            else:
                text = f"{self._source}: seq={seq} "
                if self._ports:
                    text += "closed " if state & CLOSED else "open "
                text += f"rtt={duration(rtt)}" if rtt >= 0 else "rtt=?"
                if forward != ABSENT:
                    text += f" fwd {duration(forward)}"
                if backward != ABSENT:
                    text += f" back {duration(backward)}"
                text += {"user": "  (no kernel timestamp)", "kernel": "", "hw": "  (hardware)"}[stamp]
                text += "  late" if outcome == "late" else ""
            print(text, file=self._out, flush=True)

    def _why(self, state: int, refusal: int) -> str:
        if state & SKIPPED:
            return "not sent: this host was stalled"
        if state & REFUSED:
            return f"not sent: {abi.error_name(refusal)}"
        if state & LOCAL:
            return "not sent: no neighbour answers for it"
        if state & ERROR:
            ways = ["unreachable"]
            ways += ["TTL exceeded"] if self._target.ttl else []
            ways += ["too big"] if self._target.dont_fragment else []
            return "ICMP error: " + " or ".join(ways)
        if state & HIDDEN:
            return "no reply, which this host's full receive buffer may have dropped"
        return "not sent: held back or dropped by this host"


def _rows(news: News) -> Iterator[tuple[int, int, str, str, int, int, int, int, int]]:
    """Its probes one by one: flow, seq, outcome, stamp, sent, rtt, state, forward, backward."""
    return zip(
        news.flow.tolist(),
        news.seq.tolist(),
        [OUTCOMES[code] for code in news.outcome.tolist()],
        [STAMPS[code] for code in news.stamp.tolist()],
        news.sent.tolist(),
        news.rtt.tolist(),
        news.state.tolist(),
        news.forward.tolist(),
        news.backward.tolist(),
        strict=True,
    )


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
        # One line is the verdict's, and one the cursor's.
        lines = table(rows, self._heading, height=max(height - 4, 1), width=columns - 1)
        lines.append(verdict(rows)[: columns - 1])
        print(self._back() + "\n".join(lines), file=self._out, flush=True)
        self._drawn = len(lines)

    def _back(self) -> str:
        """To the table's first line, and everything from there on cleared (ECMA-48: CPL, ED)."""
        return f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
