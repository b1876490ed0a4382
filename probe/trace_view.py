"""Records of a trace in, a graph on the terminal that grows as answers come, and its text at the end out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TextIO

from probe.clock import MILLISECOND
from probe.paths.graph import lines
from probe.paths.records import Answer, Done, Hop, Path, Request, Start
from probe.paths.replies import EXCEEDED

_REDRAW = 250 * MILLISECOND


class Growing:
    """What is known of the paths while a trace runs."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], list[Answer]] = {}

    def add(self, answer: Answer) -> None:
        """One more answer."""
        self._seen.setdefault((answer.flow, answer.ttl), []).append(answer)

    def paths(self) -> list[Path]:
        """Each flow's path as far as it has answered."""
        made = []
        for flow in sorted({flow for flow, _ in self._seen}):
            ended = [t for (f, t), seen in self._seen.items() if f == flow and seen[-1].what != EXCEEDED]
            most = min(ended, default=max(t for f, t in self._seen if f == flow))
            hops = tuple(self._hop(flow, ttl) for ttl in range(1, most + 1))
            made.append(Path(flow, hops, bool(ended), hops[-1].what if ended else ""))
        return made

    def _hop(self, flow: int, ttl: int) -> Hop:
        seen = self._seen.get((flow, ttl), [])
        who = tuple(address for address, _ in Counter(one.address for one in seen).most_common())
        what = next((one.what for one in seen if one.what != EXCEEDED), "")
        return Hop(ttl, who, len(seen), len(seen), min((one.rtt_ns for one in seen), default=None), what)


class Live:
    """Draws the graph again four times a second; it is gone at the end. `size`: columns and lines."""

    def __init__(self, out: TextIO, size: Callable[[], tuple[int, int]]) -> None:
        self._out, self._size = out, size
        self._growing = Growing()
        self._drawn = 0
        self._due = 0

    def show(self, record: object, now: int) -> None:
        """A record, and the time (monotonic ns)."""
        if isinstance(record, Answer):
            self._growing.add(record)
        if now >= self._due:
            self._due = now + _REDRAW
            columns, height = self._size()
            text = [line[: columns - 1] for line in lines(self._growing.paths())]
            hidden = len(text) - max(height - 2, 1)
            if hidden > 0:
                text = [*text[: height - 3], f"  ... {hidden + 1} more lines"]
            print(self._back() + "\n".join(text), file=self._out, flush=True)
            self._drawn = max(len(text), 1)

    def end(self) -> None:
        """Clear it."""
        print(self._back(), end="", file=self._out, flush=True)
        self._drawn = 0

    def _back(self) -> str:
        """To the graph's first line, and everything from there on cleared (ECMA-48: CPL, ED)."""
        return f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""


def headline(name: str, request: Request) -> str:
    """What is traced, and how."""
    port = f" port {request.port}" if request.port else ""
    where = f" ({request.address})" if name != request.address else ""
    flows = f"{request.flows} flow{'s' * (request.flows > 1)}"
    return f"TRACE {name}{where}{port}: {request.protocol}, {flows}, at most {request.max_hops} hops"


def told(paths: Sequence[Path], start: Start | None, done: Done | None) -> list[str]:
    """The graph, and what it comes to."""
    text = lines(paths, mtu=max((hop.mtu for path in paths for hop in path.hops if hop.mtu), default=None))
    text.append(_verdict(paths))
    text += sorted({said for path in paths if (said := _mtu(path))})
    if start is not None and done is not None:
        source = f"from {start.source}, {done.sent} packets, {done.answered} answers"
        if done.unstamped:
            source += f"; {done.unstamped} round-trip times by this program's own clock, the others"
            text.append(source + " by the kernel's" if done.unstamped < done.answered else source)
        else:
            text.append(source + "; round-trip times by the kernel's clock")
        if done.refused:
            text.append(f"this host did not let {done.refused} packets out: {done.refusal}")
    return text


def _verdict(paths: Sequence[Path]) -> str:
    routes = {tuple(hop.address for hop in path.hops) for path in paths}
    reached = [path for path in paths if path.reached]
    several = f", on {len(routes)} different paths" if len(routes) > 1 else ""
    if reached:
        lengths = sorted({len(path.hops) for path in reached})
        hops = " to ".join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))
        how = " or ".join(dict.fromkeys(path.answer for path in reached))
        which = "every flow" if len(reached) == len(paths) else f"{len(reached)} of {len(paths)} flows"
        return f"reached by {which} in {hops} hop{'s' * (lengths[-1] > 1)} ({how}){several}"
    ended = dict.fromkeys(path.answer for path in paths if path.answer)
    last = max((len(path.hops) for path in paths), default=0)
    if ended:
        return f"not reached: {' or '.join(ended)} at hop {last}{several}"
    return f"not reached: nothing answers beyond hop {last}{several}" if last else "nothing answers at all"


def _mtu(path: Path) -> str:
    if path.mtu is None:
        return ""
    if path.mtu_hop is None:
        return f"path MTU {path.mtu}"
    at = f"hop {path.mtu_hop}" if path.mtu_hop else "the first link"
    if path.mtu_hop and (
        who := path.hops[path.mtu_hop - 1].address if path.mtu_hop <= len(path.hops) else ""
    ):
        at += f" ({who})"
    if path.black_hole:
        return f"path MTU {path.mtu}: larger packets vanish behind {at} without a word (an MTU black hole)"
    return f"path MTU {path.mtu}: a router says so; larger packets end at {at}"
