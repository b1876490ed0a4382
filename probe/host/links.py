"""Interfaces and their addresses as the kernel tells of them in, what has changed about them out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from probe.host.rtnetlink import LOOPBACK, UP, Address, Link
from probe.host.table import Change, Said, Table
from probe.host.watched import text_of

MOST_LINKS, MOST_ADDRESSES, MOST_NAMES = 4096, 8192, 8192
# Kinds that containers and virtual machines make and take away by the dozen.
_FLEETING = ("veth", "tun", "macvlan", "ipvlan", "macvtap")
_UNDER = ("down", "lowerlayerdown", "notpresent", "unknown", "up")  # follow from carrier and admin state
Leading = Callable[[int], Sequence[str]]


class Links:
    """Every interface by its index. `leading`: the names of the targets that are reached by one."""

    def __init__(self, leading: Leading) -> None:
        self.table: Table[int, Link] = Table(MOST_LINKS)
        self._leading = leading
        self._names: dict[int, str] = {}  # also of those that are gone
        self._speeds: dict[int, int] = {}
        self.heeded: frozenset[str] = frozenset()  # names that targets are bound to
        self.version = 0  # grows when one of these is given or taken

    def name(self, index: int) -> str:
        return self._names.get(index, f"interface {index}")

    def index(self, name: str) -> int:
        """0: there is none of this name."""
        return next((link.ifindex for link in self.table.current.values() if link.name == name), 0)

    def row(self, link: Link) -> None:
        self._know(link)
        self.table.row(link.ifindex, link)

    def end(self) -> Iterator[Change]:
        for _, old, new in self.table.end():
            yield from self._compare(old, new)

    def announced(self, link: Link, gone: bool) -> Iterator[Change]:
        if not gone:
            self._know(link)
        old, new = self.table.change(link.ifindex, lambda _: None if gone else link)
        yield from self._compare(old, new)

    def speed(self, index: int, bps: int) -> Iterator[Change]:
        """What was read of an interface's speed, bits a second; 0: it does not tell, as without a carrier."""
        before = self._speeds.get(index, 0)
        if not bps or index not in self.table.current:
            return
        self._speeds[index] = bps
        if before and before != bps:
            text = f"the speed of {self.name(index)} is {_rate(bps)} now, and was {_rate(before)}"
            yield self._change(index, "speed", before, bps, text)

    def _know(self, link: Link) -> None:
        if len(self._names) >= MOST_NAMES and link.ifindex not in self._names:
            self._names = {i: known.name for i, known in self.table.current.items()}
        if (before := self._names.get(link.ifindex)) != link.name:
            self._names[link.ifindex] = link.name
            self.version += before in self.heeded or link.name in self.heeded

    def _compare(self, old: Link | None, new: Link | None) -> Iterator[Change]:
        link = new or old
        if link is None or link.flags & LOOPBACK:
            return
        index, name = link.ifindex, link.name
        if old is None:
            state = "" if link.admin_up and link.carrier else ", and is down"
            yield self._change(
                index, "added", None, link.operstate, f"there is an interface {name} now{state}"
            )
            return
        if new is None:
            self._speeds.pop(index, None)
            yield self._change(index, "removed", link.operstate, None, f"the interface {name} is gone")
            return
        if old.name != new.name:
            text = f"the interface {old.name} is called {name} now"
            yield self._change(index, "name", old.name, new.name, text)
        if (old.flags ^ new.flags) & UP:
            words = {True: "up", False: "down"}
            text = f"{name} was switched {'on' if new.admin_up else 'off'} by somebody on this host"
            yield self._change(index, "admin", words[old.admin_up], words[new.admin_up], text)
        elif old.carrier != new.carrier:
            text = (
                f"{name} has a carrier again: the link is up" if new.carrier else f"{name} lost its carrier"
            )
            yield self._change(index, "carrier", old.carrier, new.carrier, text)
        elif old.operstate != new.operstate and not {old.operstate, new.operstate} <= set(_UNDER):
            text = f"{name} is {new.operstate} now, and was {old.operstate}"
            yield self._change(index, "operstate", old.operstate, new.operstate, text)
        # The kernel counts every change, and announces only what is left of them after a moment.
        missed = new.carrier_changes - old.carrier_changes - (old.carrier != new.carrier)
        if missed >= 2:
            times = f"{missed // 2} times" if missed >= 4 else "once"
            text = f"{name} flapped: its carrier went and came back {times}, faster than it is announced"
            yield self._change(index, "changes", old.carrier_changes, new.carrier_changes, text)
        if old.mtu != new.mtu:
            text = f"the MTU of {name} is {new.mtu} now, and was {old.mtu}"
            yield self._change(index, "mtu", old.mtu, new.mtu, text)

    def _change(self, index: int, what: str, before: object, after: object, text: str) -> Change:
        link = self.table.current.get(index)
        targets = list(self._leading(index))
        # Also switching them on and off: else a few dozen containers use up what may be told of real links.
        fleeting = (link is None or link.kind in _FLEETING) and not targets
        detail: dict[str, object] = {"what": what, "before": before, "after": after, "targets": targets}
        if link is not None:
            detail["carrier_changes"] = link.carrier_changes
        return Change("link", what, not fleeting, lambda: Said(text, detail, self.name(index)))


class Addresses:
    """Every address of this host."""

    def __init__(self, name: Callable[[int], str], leading: Leading) -> None:
        self.table: Table[tuple[int, bytes, int], bool] = Table(MOST_ADDRESSES)
        self._name, self._leading = name, leading

    def of(self, index: int) -> set[bytes]:
        """The addresses of an interface."""
        return {address for which, address, _ in self.table.current if which == index}

    def row(self, address: Address) -> None:
        self.table.row((address.ifindex, address.address, address.length), address.duplicate)

    def end(self) -> Iterator[Change]:
        for key, old, new in self.table.end():
            yield from self._compare(key, old, new)

    def announced(self, address: Address, gone: bool) -> Iterator[Change]:
        key = (address.ifindex, address.address, address.length)
        yield from self._compare(key, *self.table.change(key, lambda _: None if gone else address.duplicate))

    def _compare(self, key: tuple[int, bytes, int], old: bool | None, new: bool | None) -> Iterator[Change]:
        index, address, length = key
        local = address[:2] == b"\xfe\x80"  # every interface gets one when it goes up
        if old == new or (local and not new):
            return
        what = "duplicate" if new else "removed" if new is None else "added" if old is None else "usable"
        name, text = self._name(index), f"{text_of(address)}/{length}"
        words = {
            "added": f"{name} has the address {text} now",
            "removed": f"{name} has the address {text} no longer",
            "duplicate": f"the address {text} of {name} is not used: another host has it as well",
            "usable": f"the address {text} of {name} is no other host's any more",
        }[what]
        detail: dict[str, object] = {"what": what, "address": text, "targets": list(self._leading(index))}
        yield Change("address", what, True, lambda: Said(words, detail, name))


def _rate(bps: int) -> str:
    for unit, scale in (("Gbit/s", 10**9), ("Mbit/s", 10**6)):
        if bps >= scale:
            return f"{bps / scale:g} {unit}"
    return f"{bps} bit/s"
