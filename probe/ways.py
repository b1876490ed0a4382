"""Targets in, how to send to each out: whole frames by an interface (`[engine] backend = "ring"`), or a raw
socket
and why; and afterwards what has changed about it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from probe.clock import SECOND, Clock
from probe.engine.engine import Notice
from probe.errors import ColoprobeError, SocketError
from probe.host.netlink import Changes, Hop, Wanted, find_hops, refresh_neighbours
from probe.packets.ethernet import IPV4, IPV6
from probe.settings import Target
from probe.sockets.heads import Outlet, Way
from probe.sockets.opening import SocketOptions
from probe.sockets.ring import RingSocket
from probe.sockets.ring_opening import Secret, open_ring
from probe.targets import Address

log = logging.getLogger(__name__)

EVERY_S = 1.0  # a look whether there is anything to look at: one system call
WAIT_S = 1.0  # for neighbours that nobody has asked for yet
STEADY = 10 * SECOND  # a measurement is not built anew more often than this
STAMP = "TX stamps are taken at the tap, just before the driver's own"
RECHECK = 60 * SECOND  # what nobody announces is looked at this often


def choose(members: Sequence[tuple[Target, Address]]) -> list[Hop | str]:
    """The way to each target by an Ethernet interface, or why it has to be a raw socket.

    Empty where that is no loss: no other kind than icmp was ever sent as whole frames.
    """
    ways: list[Hop | str] = [_unsuited(target, address) for target, address in members]
    suited = [n for n, (target, _) in enumerate(members) if target.kind == "icmp" and not ways[n]]
    wanted = [Wanted(members[n][1].family, members[n][1].sockaddr, members[n][0].dscp) for n in suited]
    for n, hop in zip(suited, find_hops(wanted, WAIT_S) if wanted else (), strict=True):
        ways[n] = _usable(hop, members[n][0])
    return ways


def _unsuited(target: Target, address: Address) -> str:
    """What a target asks for that only the kernel's IP layer does; empty: nothing."""
    if target.kind != "icmp":
        return ""
    for key in ("source", "interface", "ttl", "dont_fragment"):
        if getattr(target, key):
            return f"`{key}` is for the kernel to heed"
    if target.flows > 1 and address.family == socket.AF_INET6:
        return "each flow has a flow label, which the kernel writes"
    return ""


def _usable(hop: Hop | str, target: Target) -> Hop | str:
    if isinstance(hop, str):
        return hop
    header = IPV4 if len(hop.gateway) == 4 else IPV6
    if target.size + header > hop.mtu:
        return f"{target.size} bytes and the IP header do not fit the MTU of {hop.interface} ({hop.mtu})"
    if not hop.mac:
        return f"the neighbour {hop.neighbour} on {hop.interface} has not answered yet"
    return hop


@dataclass
class Seen:
    """What a look found: `rebuild` is why the measurement has to be built anew, `texts` what was done."""

    rebuild: str = ""
    texts: list[str] = field(default_factory=list)


@dataclass
class _Ring:
    socket: RingSocket
    members: list[tuple[Target, Address]]
    hops: list[Hop]


class Follower:
    """Keeps the rings of one measurement to the kernel's routes and neighbours.

    Args:
        waiting: targets measured by a raw socket, for which a ring may be had one day, with why it was not.
        now: monotonic time, ns.
    """

    def __init__(
        self,
        waiting: Sequence[tuple[Target, Address, str]],
        now: int,
        changes: Callable[[], Changes] = Changes,
    ) -> None:
        self._rings: list[_Ring] = []
        self._waiting = [each for each in waiting if not _unsuited(*each[:2])]
        self._refused: dict[str, list[str]] = {}  # why there is no ring: for whom
        for target, _, reason in waiting:
            self._refused.setdefault(reason, []).append(target.name)
        self._checked = now
        self._routes = self._neighbours = False
        self._changes: Changes | None = None
        with suppress(OSError):  # then changes are seen when it is time to look again
            self._changes = changes()

    def open(
        self,
        options: SocketOptions,
        members: Sequence[tuple[Target, Address]],
        hops: Sequence[Hop],
        secret: Secret,
    ) -> RingSocket | None:
        """A ring for destinations by one interface; None, and told why by `reasons`, where there can be
        none."""
        first = hops[0]
        outlet = Outlet(first.index, first.interface, first.own_mac, first.mtu)
        try:
            ways = [Way(hop.source, hop.mac) for hop in hops]
            ring = open_ring(options, outlet, ways, secret)
        except SocketError as problem:
            names = dict.fromkeys(target.name for target, _ in members)
            self._refused.setdefault(str(problem), []).extend(names)
            return None
        self._rings.append(_Ring(ring, list(members), list(hops)))
        self._ask(self._rings[-1])
        return ring

    def tell(self) -> list[str]:
        """Log what is measured how. Returns, for events, for whom it is a raw socket, and why."""
        for ring in self._rings:
            names = _list(list(dict.fromkeys(target.name for target, _ in ring.members)))
            log.info("whole frames on %s to %s: %s", ring.socket.outlet.name, names, STAMP)
        reasons = [
            f"a raw socket in place of whole frames to {_list(targets)}: {reason}"
            for reason, targets in self._refused.items()
        ]
        for reason in reasons:
            log.warning("%s", reason)
        return reasons

    def stirred(self, now: int) -> bool:
        """Whether it is time for a `look`; one system call."""
        if self._changes is not None:
            routes, neighbours = self._changes.seen()
            self._routes |= routes
            self._neighbours |= neighbours
        return self._routes or self._neighbours or now - self._checked >= RECHECK

    def look(self, now: int) -> Seen:
        """Take over what has changed, as far as the sockets can; in any thread, one at a time."""
        routes = self._routes or now - self._checked >= RECHECK
        self._routes = self._neighbours = False
        self._checked = now
        seen = Seen()
        for ring in self._rings:
            self._follow(ring, self._fresh(ring, routes), seen)
        if not seen.rebuild and self._waiting:
            members = [(target, address) for target, address, _ in self._waiting]
            wanted = [Wanted(address.family, address.sockaddr, target.dscp) for target, address in members]
            for hop, (target, _) in zip(find_hops(wanted), members, strict=True):
                if isinstance(_usable(hop, target), Hop):
                    seen.rebuild = f"there is a way for whole frames to {target.name} now"
        return seen

    def again(self) -> None:
        """What was seen could not be acted on yet."""
        self._routes = True

    def _fresh(self, ring: _Ring, routes: bool) -> Sequence[Hop | str]:
        if not routes:
            return refresh_neighbours(ring.hops)
        return find_hops(
            [Wanted(address.family, address.sockaddr, target.dscp) for target, address in ring.members]
        )

    def _follow(self, ring: _Ring, hops: Sequence[Hop | str], seen: Seen) -> None:
        moved = False
        for n, (old, new) in enumerate(zip(ring.hops, hops, strict=True)):
            name = ring.members[n][0].name
            if isinstance(new, str):
                seen.rebuild = f"no way for whole frames to {name} any more: {new}"
                continue
            if _place(old) != _place(new):
                seen.rebuild = f"the route to {name} has changed: by {new.neighbour} on {new.interface}"
                continue
            if not new.mac:  # not known for the moment: the old one is as good as any
                new = replace(new, mac=old.mac)
            if new.mac != old.mac:
                moved = True
                text = f"the neighbour {new.neighbour} on {new.interface} is {new.mac.hex(':')} now"
                if text not in seen.texts:
                    seen.texts.append(text)
            ring.hops[n] = new
        if moved:
            ring.socket.redirect([Way(hop.source, hop.mac) for hop in ring.hops])
        self._ask(ring)

    def _ask(self, ring: _Ring) -> None:
        """One probe to each neighbour that the kernel is not sure of goes the kernel's way, and makes it
        ask."""
        unsure = {(hop.index, hop.gateway): n for n, hop in enumerate(ring.hops) if not hop.sure}
        if unsure:
            ring.socket.ask(list(unsure.values()))

    def close(self) -> None:
        self._rings.clear()  # each holds a mapping, and we stand in a circle that is collected who knows when
        if self._changes is not None:
            self._changes.close()


class Followed(Protocol):
    """A measurement, whose rings (if any) have a follower."""

    follower: Follower | None


async def follow(
    current: Callable[[], Followed],
    clock: Clock,
    on_notice: Callable[[Notice], None],
    rebuild: Callable[[], Awaitable[None]],
) -> None:
    """Keep whatever measurement is the current one to the kernel's routes and neighbours, until cancelled."""
    import asyncio  # late: `coloprobe ping` follows nothing

    steady = 0  # until then no measurement is built anew
    while True:
        await asyncio.sleep(EVERY_S)
        follower = current().follower
        if follower is None or not follower.stirred(clock.mono()):
            continue
        seen = await asyncio.to_thread(follower.look, clock.mono())
        for text in seen.texts:
            on_notice(Notice("host", text, clock.wall()))
        if seen.rebuild and clock.mono() < steady:
            follower.again()
        elif seen.rebuild:
            steady = clock.mono() + STEADY
            on_notice(Notice("host", seen.rebuild, clock.wall()))
            try:
                await rebuild()
            except ColoprobeError as problem:
                on_notice(
                    Notice("host", f"the ways have changed, the measurement has not: {problem}", clock.wall())
                )


def _place(hop: Hop) -> tuple[int, bytes, int, bytes]:
    """What cannot be changed in an open ring."""
    return hop.index, hop.own_mac, hop.mtu, hop.source


def _list(names: Sequence[str]) -> str:
    """A few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
