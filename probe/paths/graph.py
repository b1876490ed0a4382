"""The hops of several flows in, one graph of them as lines of text out: ECMP branches are branches. Pure.

      1  10.0.1.1                        0.05 ms
      |-- flows 0 2
      |   2  10.0.2.1                    0.09 ms
      |-- flows 1 3
      |   2  10.0.3.1                    0.11 ms   loss 33 %
      3  10.0.9.9                        0.13 ms   echo reply

What all flows have in common before and behind a fork is written once. A hop that is silent for one flow,
between routers that it shares with others, is taken for theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probe.paths.records import Hop, Path

_MILLISECOND = 1_000_000
Flows = Mapping[int, Sequence[Hop]]  # by flow: its hops, or some of them


@dataclass(frozen=True)
class Row:
    """One line of the graph. depth: of forks around it. flows: a fork's branch begins, `hop` is None."""

    depth: int
    flows: tuple[int, ...]
    hop: Hop | None = None


def rows(paths: Sequence[Path]) -> list[Row]:
    """The graph, from here to the target."""
    return _rows(_borrowed({path.flow: path.hops for path in paths}), 0)


def lines(paths: Sequence[Path], *, mtu: int | None = None) -> list[str]:
    """The same as text. `mtu`: of the interface; smaller ones are said where they begin."""
    made = []
    before = mtu
    for row in rows(paths):
        bars = "|   " * row.depth
        if row.hop is None:
            which = " ".join(map(str, row.flows))
            made.append(f"  {'|   ' * (row.depth - 1)}|-- flow{'s' * (len(row.flows) > 1)} {which}")
            continue
        text, before = _said(row.hop, before, 28 - 4 * row.depth)
        made.append(f"  {bars}{row.hop.ttl:>2}  {text}")
    return made


def _said(hop: Hop, before: int | None, width: int) -> tuple[str, int | None]:
    who = ", ".join(hop.addresses) or "*"
    told = [f"{who:<{max(width, 1)}}"]
    told.append(f"{hop.rtt_ns / _MILLISECOND:9.3f} ms" if hop.rtt_ns is not None else " " * 12)
    if hop.addresses and hop.received < hop.sent:
        told.append(
            f"loss {round(100 * (1 - hop.received / hop.sent))} % ({hop.sent - hop.received}/{hop.sent})"
        )
    if not hop.addresses:
        told.append("silent")
    if hop.what:
        told.append(hop.what)
    if hop.mtu is not None and before is not None and hop.mtu < before:
        told.append(f"mtu {hop.mtu} from here")
        before = hop.mtu
    return "  ".join(told).rstrip(), before


def _rows(flows: Flows, depth: int) -> list[Row]:
    """The graph of flows whose hops begin at one TTL."""
    names = tuple(sorted(flows))
    routes = [[_key(hop) for hop in flows[name]] for name in names]
    if len(names) == 1 or all(route == routes[0] for route in routes):
        return [Row(depth, names, _merged(column)) for column in _columns(flows)]
    head = _common(routes)
    tail = _common([route[head:][::-1] for route in routes])
    made = _rows({n: flows[n][:head] for n in names}, depth) if head else []
    middle = {n: flows[n][head : len(flows[n]) - tail] for n in names}
    for branch in _branches(middle):
        made.append(Row(depth + 1, branch))
        if any(middle[n] for n in branch):
            made += _rows({n: middle[n] for n in branch}, depth + 1)
    if tail:
        # Branches may be of different length: behind them the TTL is the shortest one's.
        made += _rows({n: flows[n][len(flows[n]) - tail :] for n in names}, depth)
    return made


def _branches(flows: Flows) -> list[tuple[int, ...]]:
    """Flows that go on alike, at least for a hop."""
    groups: dict[str | None, list[int]] = {}
    for name in sorted(flows):
        groups.setdefault(_key(flows[name][0]) if flows[name] else None, []).append(name)
    return [tuple(group) for group in groups.values()]


def _columns(flows: Flows) -> list[list[Hop]]:
    return [list(column) for column in zip(*(flows[name] for name in sorted(flows)), strict=True)]


def _merged(column: Sequence[Hop]) -> Hop:
    """One hop of several flows as one."""
    who: dict[str, None] = {}
    for hop in column:
        who |= dict.fromkeys(hop.addresses)
    times = [hop.rtt_ns for hop in column if hop.rtt_ns is not None]
    sizes = [hop.mtu for hop in column if hop.mtu is not None]
    return Hop(
        min(hop.ttl for hop in column),
        tuple(who),
        sum(hop.sent for hop in column),
        sum(hop.received for hop in column),
        min(times, default=None),
        " / ".join(dict.fromkeys(hop.what for hop in column if hop.what)),
        min(sizes, default=None),
    )


def _key(hop: Hop) -> str:
    return "|".join(sorted(hop.addresses))


def _common(routes: Sequence[Sequence[str]]) -> int:
    """How many of their first routers are the same in all."""
    count = 0
    for column in zip(*routes, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _borrowed(flows: Flows) -> Flows:
    """With the addresses of other flows where a hop is silent, or said only some of what they know."""
    made = {}
    for name, hops in flows.items():
        filled = list(hops)
        for at, hop in enumerate(hops):
            others = [
                other[at]
                for n, other in flows.items()
                if n != name and at < len(other) and other[at].addresses and _fits(hops, other, at)
            ]
            if not hop.addresses and len({_key(other) for other in others}) == 1:
                filled[at] = _with(hop, others[0].addresses)
            # A router that answers from several addresses need not have shown them all to this flow.
            same = [other for other in others if set(hop.addresses) & set(other.addresses)]
            if same:
                more = dict.fromkeys([*hop.addresses, *(a for other in same for a in other.addresses)])
                filled[at] = _with(hop, tuple(more))
        made[name] = filled
    return made


def _with(hop: Hop, addresses: tuple[str, ...]) -> Hop:
    return Hop(hop.ttl, addresses, hop.sent, hop.received, hop.rtt_ns, hop.what, hop.mtu)


def _fits(hops: Sequence[Hop], other: Sequence[Hop], at: int) -> bool:
    """Whether both come to the hop from the same router, and go on to the same one."""
    for near in (at - 1, at + 1):
        if near < 0:
            continue
        mine = hops[near].addresses if near < len(hops) else ()
        theirs = other[near].addresses if near < len(other) else ()
        if near >= len(hops) and near >= len(other):
            continue
        if not set(mine) & set(theirs):
            return False
    return True
