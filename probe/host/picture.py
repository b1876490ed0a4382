"""Datagrams of rtnetlink in, what has changed about this host out, and what to ask the kernel next. Pure.

The four tables know of each other here: a route has a next hop, a next hop a MAC address, and behind all of
them are targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from probe.host import rtnetlink
from probe.host.links import Addresses, Links
from probe.host.neighbours import Key, Neighbours
from probe.host.routes import Routes
from probe.host.rtnetlink import ADDRESS, LINK, NEIGHBOUR, ROUTE, Message
from probe.host.table import Change, Table
from probe.host.watched import V4, V6, Aims, Watched

# What can be read anew, in an order in which each knows what it refers to: a kind and a family.
Part = tuple[int, int]
LINKS, ADDRESSES, NEIGHBOURS = (LINK, 0), (ADDRESS, 0), (NEIGHBOUR, 0)
ROUTES_4, ROUTES_6 = (ROUTE, V4), (ROUTE, V6)
PARTS: Sequence[Part] = (LINKS, ADDRESSES, ROUTES_4, ROUTES_6, NEIGHBOURS)


class Picture:
    """What is known of this host's links, addresses, routes and neighbours.

    targets: those to be heeded, asked for with every batch of changes: settings may be read again.
    """

    def __init__(self, targets: Callable[[], Sequence[Watched]]) -> None:
        self._targets, self._aims = targets, Aims(())
        self.links = Links(self.targets_by)
        self.addresses = Addresses(self.links.name, self.targets_by)
        self.routes = {size: Routes(size, self.links.name, lambda: self._aims) for size in (4, 16)}
        self.neighbours = Neighbours(self.links.name, self.behind, self.is_gateway)
        self._gateways: set[Key] = set()
        self._behind: dict[Key, list[str]] = {}
        self._by: dict[int, list[str]] = {}
        self._last_by: dict[int, list[str]] = {}
        self._seen = (-1, -1, -1)  # versions of what these are from
        self._seen_gateways = (-1, -1)
        self._seen_aims = self._aims

    def heed(self) -> None:
        """Take over the targets as they are now."""
        if tuple(watched := self._targets()) != self._aims.watched:
            self._aims = Aims(watched)
            self.links.heeded = frozenset(each.interface for each in watched if each.interface)

    def targets_by(self, index: int) -> list[str]:
        """The names of the targets that are reached by an interface, or were when any was."""
        self._look()
        return self._by.get(index) or self._last_by.get(index, [])

    def behind(self, key: Key) -> list[str]:
        """The names of the targets that are reached through a neighbour, or are it."""
        self._look()
        return self._behind.get(key, [])

    def is_gateway(self, key: Key) -> bool:
        """Whether a route leads to a neighbour."""
        version = self.routes[4].version, self.routes[16].version
        if version != self._seen_gateways:
            self._seen_gateways = version
            self._gateways = self.routes[4].gateways() | self.routes[16].gateways()
        return key in self._gateways

    def begin(self, part: Part) -> None:
        """Rows of this part follow."""
        self._table(part).begin()

    def abandon(self, part: Part) -> None:
        self._table(part).abandon()

    def row(self, message: Message) -> None:
        """One of the rows."""
        if message.kind == LINK and (link := rtnetlink.link(message.body)):
            self.links.row(link)
        elif message.kind == ADDRESS and (address := rtnetlink.address(message.body)):
            self.addresses.row(address)
        elif message.kind == ROUTE and (route := rtnetlink.route(message.body)):
            self.routes[len(route.address)].row(route)
        elif message.kind == NEIGHBOUR and (neighbour := rtnetlink.neighbour(message.body)):
            self.neighbours.row(neighbour)

    def end(self, part: Part) -> Iterator[Change]:
        """After the last row: what the announcements did not tell."""
        if part == LINKS:
            yield from self.links.end()
        elif part == ADDRESSES:
            yield from self.addresses.end()
        elif part == NEIGHBOURS:
            yield from self.neighbours.end()
        else:
            yield from self.routes[4 if part[1] == V4 else 16].end()

    def announced(self, message: Message) -> Iterator[Change]:
        """Something happened."""
        kind, gone = message.kind & ~1, bool(message.kind & 1)
        if kind == LINK and (link := rtnetlink.link(message.body)):
            yield from self.links.announced(link, gone)
            if gone:
                self.neighbours.forget(link.ifindex)
        elif kind == ADDRESS and (address := rtnetlink.address(message.body)):
            yield from self.addresses.announced(address, gone)
        elif kind == ROUTE and (route := rtnetlink.route(message.body)):
            yield from self.routes[len(route.address)].announced(route, gone, message.flags)
        elif kind == NEIGHBOUR and (neighbour := rtnetlink.neighbour(message.body)):
            yield from self.neighbours.announced(neighbour, gone, by_hand=message.port != 0)

    def _table(self, part: Part) -> Table[Any, Any]:
        if part == LINKS:
            return self.links.table
        if part == ADDRESSES:
            return self.addresses.table
        if part == NEIGHBOURS:
            return self.neighbours.table
        return self.routes[4 if part[1] == V4 else 16].table

    def _look(self) -> None:
        """See anew who leads to whom, where anything that it depends on has changed: it takes tens of
        milliseconds where targets are many, and a routing protocol or containers change hundreds of others
        a second."""
        version = self.routes[4].leading, self.routes[16].leading, self.links.version
        if version == self._seen and self._aims is self._seen_aims:
            return
        self._seen, self._seen_aims = version, self._aims
        behind: dict[Key, dict[str, None]] = {}
        by: dict[int, dict[str, None]] = {}
        for address, watched in self._aims.at.items():
            for _, way in self.routes[len(address)].towards(address):
                for leg in way.legs:
                    name = self.links.name(leg.ifindex)
                    names = dict.fromkeys(w.name for w in watched if w.interface in ("", name))
                    behind.setdefault((leg.ifindex, leg.gateway or address), {}).update(names)
                    by.setdefault(leg.ifindex, {}).update(names)
        indices = {name: self.links.index(name) for name in self.links.heeded}
        for each in self._aims.watched:
            if each.interface and (index := indices[each.interface]):
                by.setdefault(index, {})[each.name] = None  # also while no route leads by it
        self._behind = {key: list(names) for key, names in behind.items()}
        self._by = {index: list(names) for index, names in by.items() if names}
        known = self.links.table.current
        self._last_by = {i: names for i, names in (self._last_by | self._by).items() if i in known}
