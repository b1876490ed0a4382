"""News of probes in, lines out: JSON for programs, text for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from probe.engine.samples import ABSENT, CLOSED, ERROR, HIDDEN, LOCAL, REFUSED, SKIPPED
from probe.ping_view import OUTCOMES, STAMPS, News
from probe.ping_words import reply
from probe.sockets import abi
from probe.target_settings import Target
from probe.windows.layout import HANDSHAKES


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
        for flow, seq, outcome, stamp, sent, rtt, state, *delays, unfollowed in _rows(news):
            record: dict[str, object] = {"flow": flow, "seq": seq, "sent_ns": self._wall(sent)}
            if rtt >= 0:
                record["rtt_ns"] = rtt
            record |= {"stamp": stamp, "outcome": outcome}
            if self._ports and outcome in ("received", "late"):
                record["state"] = "closed" if state & CLOSED else "open"
            for name, delay in zip(("forward_ns", "backward_ns"), delays, strict=True):
                if delay != ABSENT:
                    record[name] = delay
            if unfollowed:
                record["unfollowed"] = True
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
        for _, seq, outcome, stamp, _, rtt, state, forward, backward, unfollowed in _rows(news):
            if outcome == "error":
                text = f"seq={seq} {self._why(state, news.refusal)}"
            elif outcome not in ("received", "late"):
                text = f"seq={seq} " + ("no reply" if outcome == "lost" else "duplicate reply")
            else:
                port = ("closed" if state & CLOSED else "open") if self._ports else ""
                text = reply(
                    self._source,
                    seq,
                    rtt,
                    port=port,
                    forward=None if forward == ABSENT else forward,
                    backward=None if backward == ABSENT else backward,
                    stamp=stamp,
                    unfollowed=unfollowed,
                    late=outcome == "late",
                )
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


def _rows(news: News) -> Iterator[tuple[int, int, str, str, int, int, int, int, int, bool]]:
    """Its probes one by one: flow, seq, outcome, stamp, sent, rtt, state, forward, backward, unfollowed."""
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
        news.unfollowed.tolist(),
        strict=True,
    )
