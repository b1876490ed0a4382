"""Routes as the kernel tells of them in, what has changed about them and whom they lead to out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from probe.host.rtnetlink import APPEND, MAIN_TABLE, REFUSALS, Leg, Route
from probe.host.table import Change, Said, Table
from probe.host.watched import Aims, prefix, text_of

MOST = (
    20_000  # networks of each family that are remembered: 3 MB where they differ in nothing but the network
)


class Way(NamedTuple):
    """What a route says of its network; many networks share one."""

    table: int
    tos: int
    priority: int
    kind: int
    legs: tuple[Leg, ...]
    source: bytes

    @property
    def place(self) -> tuple[int, int, int]:
        """What tells it from the others of its network."""
        return self.table, self.tos, self.priority


Ways = tuple[Way, ...]


class Routes:
    """The routes of one family (4: IPv4, 16: IPv6, as bytes of an address), by network."""

    def __init__(self, size: int, name: Callable[[int], str], aims: Callable[[], Aims]) -> None:
        self.table: Table[bytes, Ways] = Table(MOST)
        self._size, self._name, self._aims = size, name, aims
        self._shared: dict[Ways, Ways] = {}
        self._lengths: set[int] = set()
        self.version = 0  # grows with every change
        self.leading = 0  # ... of a network that a target is in

    def row(self, route: Route) -> None:
        self.table.row(self._key(route), self._share((_way(route),)), self._join)

    def end(self) -> Iterator[Change]:
        """Also what was told of no row: the kernel announces no IPv4 routes that go with an interface."""
        differing = list(self.table.end())
        self._tidy()
        self.version += 1
        self.leading += 1
        for key, old, new in differing:
            yield from self._compare(key, old, new)

    def announced(self, route: Route, gone: bool, flags: int) -> Iterator[Change]:
        key, way = self._key(route), _way(route)
        if gone:
            old, new = self.table.change(key, lambda ways: self._share(_without(ways or (), way)) or None)
        elif flags & APPEND:
            old, new = self.table.change(key, lambda ways: self._join(ways or (), (way,)))
        else:
            old, new = self.table.change(key, lambda ways: self._share(_with(ways or (), way)))
        yield from self._compare(key, old, new)

    def towards(self, address: bytes) -> Iterator[tuple[int, Way]]:
        """The most specific ways to an address, of each table the one that is preferred, with its length."""
        tables: set[int] = set()
        for length in sorted(self._lengths, reverse=True):
            ways = self.table.current.get(prefix(address, length), ())
            new = [way for way in ways if way.table not in tables]
            for way in sorted(new, key=lambda way: way.priority):
                if way.table not in tables:
                    tables.add(way.table)
                    yield length, way

    def gateways(self) -> set[tuple[int, bytes]]:
        """Interface and address of every next hop."""
        return {(leg.ifindex, leg.gateway) for ways in self._shared for way in ways for leg in way.legs}

    def _key(self, route: Route) -> bytes:
        self._lengths.add(route.length)
        return prefix(route.address, route.length)

    def _share(self, ways: Ways) -> Ways:
        if len(self._shared) > 2 * len(self.table.current) + 1000:
            self._tidy()
        return self._shared.setdefault(ways, ways) if ways else ()

    def _join(self, one: Ways, other: Ways) -> Ways:
        """Several rows of one place: next hops of one route, or routes of which the first counts."""
        for way in other:
            same = next((each for each in one if each.place == way.place), way)
            legs = same.legs + tuple(leg for leg in way.legs if leg not in same.legs)
            one = _with(one, same._replace(legs=legs))
        return self._share(one)

    def _tidy(self) -> None:
        self._shared = {ways: ways for ways in self.table.current.values()}
        self._lengths = {key[1] for key in self.table.current}

    def _compare(self, key: bytes, old: Ways | None, new: Ways | None) -> Iterator[Change]:
        if old == new:
            return
        self.version += 1
        self.leading += bool(self._aims().within(key))
        before, after = ({way.place: way for way in ways or ()} for ways in (old, new))
        for place in sorted(before | after):
            if before.get(place) != after.get(place):
                yield self._change(key, place, before.get(place), after.get(place))

    def _change(self, key: bytes, place: tuple[int, int, int], old: Way | None, new: Way | None) -> Change:
        what = "added" if old is None else "removed" if new is None else "changed"
        targets = self._led(key, place[0], (old, new))
        default = key[1] == 0 and place[0] == MAIN_TABLE

        def say() -> Said:
            before, after = self._words(old), self._words(new)
            length, address = key[1], key[2:] + bytes(self._size - len(key) + 2)
            network = f"{text_of(address)}/{length}"
            words = "the default route" if default else f"the route to {network}"
            where = f" in table {place[0]}" if place[0] != MAIN_TABLE else ""
            tail = {"added": f"is new: {after}", "removed": f"is gone: it was {before}"}
            text = f"{words}{where} {tail.get(what, f'is {after} now, and was {before}')}"
            detail: dict[str, object] = {
                "what": what,
                "destination": network,
                "before": before or None,
                "after": after or None,
                "table": place[0],
                "priority": place[2],
                "targets": targets,
            }
            interfaces = {
                self._name(leg.ifindex) for way in (old, new) if way is not None for leg in way.legs
            }
            return Said(f"{text}; {_leads(targets)}" if targets else text, detail, _only(interfaces))

        return Change("route", what, default or bool(targets), say)

    def _led(self, key: bytes, table: int, ways: Sequence[Way | None]) -> list[str]:
        """The targets for which nothing in this table is more specific."""
        aims, found = self._aims(), []
        longer = sorted(length for length in self._lengths if length > key[1])
        by = {self._name(leg.ifindex) for way in ways if way is not None for leg in way.legs}
        for address in aims.within(key):
            if any(
                way.table == table
                for length in longer
                for way in self.table.current.get(prefix(address, length), ())
            ):
                continue
            found += [w.name for w in aims.at[address] if not w.interface or not by or w.interface in by]
        return found

    def _words(self, way: Way | None) -> str:
        if way is None:
            return ""
        if way.kind in REFUSALS:
            return REFUSALS[way.kind]
        legs = [
            (f"by {text_of(leg.gateway)} on " if leg.gateway else "on ") + self._name(leg.ifindex)
            for leg in way.legs
        ]
        return " and ".join(legs) or "nowhere"


def _way(route: Route) -> Way:
    return Way(route.table, route.tos, route.priority, route.kind, route.legs, route.source)


def _with(ways: Ways, way: Way) -> Ways:
    return tuple(sorted([*(each for each in ways if each.place != way.place), way]))


def _without(ways: Ways, way: Way) -> Ways:
    """Less the next hops of `way`: of an IPv6 route the kernel announces them one by one."""
    kept = []
    for each in ways:
        if each.place == way.place:
            gone = {(leg.gateway, leg.ifindex) for leg in way.legs}
            legs = tuple(leg for leg in each.legs if (leg.gateway, leg.ifindex) not in gone)
            if not legs:
                continue
            each = each._replace(legs=legs)
        kept.append(each)
    return tuple(kept)


def _leads(targets: Sequence[str]) -> str:
    shown = ", ".join(targets[:5]) + (f" and {len(targets) - 5} more" if len(targets) > 5 else "")
    return f"it leads to {shown}"


def _only(names: set[str]) -> str:
    return next(iter(names)) if len(names) == 1 else ""
