"""What the kernel tells of this host in, events and lines out: changes of links, addresses, routes and
neighbours, counters of interfaces, TCP sessions to targets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from probe.clock import SECOND, Clock
from probe.host.clock import ClockState, clock_state
from probe.host.connections import Connections, own_inodes
from probe.host.counters import Driver, Softnet, softnet
from probe.host.listener import PATIENCE, Listener
from probe.host.picture import LINKS, PARTS, Picture
from probe.host.quota import Quota
from probe.host.rtnetlink import LOOPBACK, STATS, Link
from probe.host.sessions import Sessions
from probe.host.table import Change, Said
from probe.host.watched import Aims, Watched
from probe.settings_tables import HostTable
from probe.telemetry.lines import Value, encode, series_text

log = logging.getLogger(__name__)

MOST_INTERFACES = 32  # that are counted; those that lead to targets first
SLOW = SECOND // 20  # a driver that takes longer to tell its counters is not asked again
_FIELDS = (*STATS, "rx_missed")
# Containers and virtual machines make and take them away by the dozen, each time under another name.
_FLEETING = ("veth", "tun", "macvtap")
_VIRTUAL = ("bridge", "dummy", "ifb", *_FLEETING)


class Tells(Protocol):
    """Where events and lines go: `probe.telling.Teller`."""

    tags: Mapping[str, str]

    def event(
        self,
        kind: str,
        text: str,
        *,
        tags: Mapping[str, str] | None = None,
        detail: Mapping[str, object] | None = None,
        wall_ns: int | None = None,
    ) -> None:
        """Something happened."""

    def lines(self, lines: Sequence[str]) -> None:
        """Whole lines of line protocol."""


class HostWatch:
    """Watches this host for an agent. In the event loop; what may take long is done in a thread.

    Args:
        settings: [host].
        every_ns: how often sessions are read, and interfaces where the settings do not say.
        targets: those to be heeded; asked again and again.
    """

    def __init__(
        self,
        settings: HostTable,
        every_ns: int,
        teller: Tells,
        clock: Clock,
        targets: Callable[[], Sequence[Watched]],
        state: Callable[[], ClockState] = clock_state,
    ) -> None:
        self._settings, self._teller, self._clock = settings, teller, clock
        self._every = every_ns
        self._counters = every_ns if settings.counters is None else int(settings.counters)
        self._targets, self._state = targets, state
        self._picture = Picture(targets)
        self._quota = Quota()
        self._listener: Listener | None = None
        self._timer: asyncio.TimerHandle | None = None  # for what is due at `_armed`
        self._armed = 0
        self._idle = asyncio.Event()
        self._lost = 0  # announcements that have been told of as lost
        self._sessions = Sessions(own_inodes)
        self._connections: Connections | None = None
        self._drivers: dict[str, Driver] = {}
        self._slow: set[str] = set()
        self._told: dict[str, tuple[int, tuple[int, int] | None]] = {}  # by drivers: speed, drops
        self._seen_up: set[int] = set()
        self._softnet: Softnet | None = None
        self._synchronised: bool | None = None
        self._refused: set[str] = set()
        self._read_at = {"interface": 0, "session": 0}

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong is logged, and the rest goes on."""
        work: list[tuple[int, Callable[[], Awaitable[None]]]] = [(self._every, self._window)]
        if self._counters:
            work.append((self._counters, self._count))
        if self._settings.sessions:
            work.append((self._every, self.read_sessions))
        try:
            self._listen()
            await asyncio.gather(*(self._keep(every, part) for every, part in work))
        finally:
            self._deafen()
            if self._connections is not None:
                self._connections.close()

    @property
    def listening(self) -> bool:
        """Whether the kernel tells of its links; wrong while it cannot, or need not."""
        return self._listener is not None

    def links(self) -> list[dict[str, Value]]:
        """The interfaces as they are now, by the kernel's last word: points, as `show --json` writes them."""
        when: Value = self._read_at["interface"]
        return [
            {"time": when, "measurement": "interface", "interface": link.name, **self._fields(link)}
            for link in self._chosen()
        ]

    def sessions(self) -> list[dict[str, Value]]:
        """The sessions of the last reading, as points."""
        when: Value = self._read_at["session"]
        return [
            {"time": when, "measurement": "session", **session.tags, **session.fields}
            for session in self._sessions.live
        ]

    # -- announcements ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._listener is not None or not (self._settings.watch or self._counters):
            return
        try:
            self._listener = Listener(self._picture, self._settings.watch, self._clock.mono())
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._readable)
            self._listener.ask(PARTS, self._clock.mono())
        except OSError as problem:
            self._refuse("links and routes are not watched: netlink is refused", problem)
            self._deafen()

    def _deafen(self) -> None:
        listener, self._listener = self._listener, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener.fileno())
            listener.close()
        self._idle.set()

    def _readable(self) -> None:
        if self._listener is None:
            return
        try:
            now, wall = self._clock.mono(), self._clock.wall()
            self._tell(self._listener.take(now), wall)
            if not self._listener.busy:
                self._idle.set()
            if (rest := self._listener.rest) > now:
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener.fileno())
                loop.call_later((rest - now) / SECOND + 0.001, self._rested, self._listener)
            self._arm()
        except OSError as problem:
            log.warning("netlink: %s; opened again with the next window", problem)
            self._deafen()

    def _rested(self, listener: Listener) -> None:
        if listener is self._listener:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._readable)

    def _arm(self) -> None:
        if self._listener is None or not (when := self._listener.next):
            return
        if self._timer is not None:
            if when >= self._armed:
                return
            self._timer.cancel()
        self._armed = when
        delay = max(0, when - self._clock.mono()) / SECOND
        self._timer = asyncio.get_running_loop().call_later(delay + 0.001, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._listener is None:
            return
        try:
            self._listener.due(self._clock.mono())
        except OSError as problem:
            log.warning("netlink: %s; opened again with the next window", problem)
            self._deafen()
        self._arm()

    def _tell(self, changes: Iterable[Change], wall: int) -> None:
        for change in changes:
            # Without `watch` the tables are read for their counters alone.
            if (self._settings.watch or change.kind == "session") and self._quota.passes(change):
                self._say(change.kind, change.say(), wall)

    def _say(self, kind: str, said: Said, wall: int) -> None:
        tags = {name: tag for name, tag in (("interface", said.interface), ("target", said.target)) if tag}
        self._teller.event(kind, said.text, tags=tags, detail=said.detail, wall_ns=wall)

    # -- readings --------------------------------------------------------------------------------------------

    async def _keep(self, every: int, work: Callable[[], Awaitable[None]]) -> None:
        """Do it at every full `every` of the wall clock."""
        while True:
            delay = every - self._clock.wall() % every
            if (
                delay < every // 50
            ):  # it woke early, as the wall clock is being slowed down: that was this time
                delay += every
            await asyncio.sleep(delay / SECOND)
            try:
                await work()
            except Exception:
                log.exception("the host cannot be read; tried again")

    async def _window(self) -> None:
        self._listen()
        wall = self._clock.wall()
        for kind, said in self._quota.rest():
            self._say(kind, said, wall)
        if self._listener is not None and (lost := self._listener.overflows):
            if lost > self._lost:
                text = (
                    "more happened to this host's routes and links than is told one by one: see the outcome"
                )
                self._teller.event("host", text, detail={"what": "overflow"}, wall_ns=wall)
            self._lost = lost
        state = self._state()
        if self._synchronised not in (None, state.synchronised):
            text = "the kernel calls the wall clock synchronised " + (
                "again" if state.synchronised else "no more"
            )
            detail = {"what": "synchronised", "after": state.synchronised, "error_ns": state.error_ns}
            self._teller.event("clock", text, detail=detail, wall_ns=wall)
        self._synchronised = state.synchronised

    async def _count(self) -> None:
        if self._listener is not None:
            self._idle.clear()
            self._listener.ask((LINKS,), self._clock.mono())
            self._arm()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), PATIENCE / SECOND)
        wall = self._clock.wall()
        self._picture.heed()
        chosen = self._chosen()
        names = [link.name for link in chosen]
        processors = await asyncio.to_thread(self._ask_drivers, names)
        for link in chosen:
            self._tell(self._picture.links.speed(link.ifindex, self._told.get(link.name, (0, None))[0]), wall)
        rows = [(link.name, self._fields(link)) for link in chosen]
        if processors is not None:
            rows.append(("host", {f"softnet_{name}": n for name, n in processors._asdict().items()}))
            if self._softnet is not None and (many := processors.dropped - self._softnet.dropped) > 0:
                text = f"the kernel dropped {many} received packets: the backlog of a processor was full"
                detail = {"what": "softnet", "count": many, "dropped": processors.dropped}
                self._teller.event("host", text, detail=detail, wall_ns=wall)
            self._softnet = processors
        series = [series_text("interface", {**self._teller.tags, "interface": name}) for name, _ in rows]
        self._teller.lines(
            [encode(one, fields, wall) for one, (_, fields) in zip(series, rows, strict=True) if fields]
        )
        self._read_at["interface"] = wall

    def _ask_drivers(self, names: Sequence[str]) -> Softnet | None:
        """In a thread: a driver may have to ask its card."""
        self._drivers = {name: self._drivers.get(name) or Driver(name) for name in names}
        told = {}
        for name, driver in self._drivers.items():
            began = self._clock.mono()
            told[name] = driver.speed(), None if name in self._slow else driver.drops()
            if self._clock.mono() - began > SLOW and name not in self._slow:
                log.info("the driver of %s takes long to tell its counters: not asked again", name)
                self._slow.add(name)
        self._told = told
        return softnet()

    def _chosen(self) -> list[Link]:
        """The interfaces that are counted: those that are up, or were; no loopback, and no container's."""
        links = [link for link in self._picture.links.table.current.values() if not link.flags & LOOPBACK]
        self._seen_up &= {link.ifindex for link in links}
        self._seen_up |= {link.ifindex for link in links if link.admin_up}
        leading = self._picture.targets_by
        up = [
            link
            for link in links
            if link.ifindex in self._seen_up and (link.kind not in _FLEETING or leading(link.ifindex))
        ]
        up.sort(key=lambda link: (not leading(link.ifindex), link.kind in _VIRTUAL, link.ifindex))
        return up[:MOST_INTERFACES]

    def _fields(self, link: Link) -> dict[str, Value]:
        fields: dict[str, Value] = dict(zip(_FIELDS, link.stats, strict=False))
        fields["carrier_changes"] = link.carrier_changes
        speed, drops = self._told.get(link.name, (0, None))
        if drops is not None:
            fields["rx_queue_drops"], fields["tx_queue_drops"] = drops
        if speed and link.carrier:
            fields["speed_bps"] = speed
        fields["mtu"] = link.mtu
        fields["up"] = link.admin_up and link.carrier
        return fields

    async def read_sessions(self) -> None:
        """Read this host's connections to targets now, and tell of them."""
        aims = Aims(self._targets())
        if not aims.at:
            return
        try:
            if self._connections is None:
                self._connections = Connections()
            found = await asyncio.to_thread(self._connections.to, aims.at)
        except OSError as problem:
            self._refuse("sessions are not read: the kernel refuses inet_diag", problem)
            if self._connections is not None:  # an answer may still be under way
                self._connections.close()
                self._connections = None
            return
        wall = self._clock.wall()
        links = self._picture.links
        self._tell(
            self._sessions.update(
                found, aims, self._clock.mono(), lambda name: self._picture.addresses.of(links.index(name))
            ),
            wall,
        )
        self._teller.lines(
            [
                encode(series_text("session", {**self._teller.tags, **session.tags}), session.fields, wall)
                for session in self._sessions.live
            ]
        )
        self._read_at["session"] = wall
        if self._sessions.beyond:
            self._once(f"{self._sessions.beyond} sessions to targets are not told of: there are too many")

    def _refuse(self, text: str, problem: OSError) -> None:
        self._once(f"{text} ({problem.strerror or problem})")

    def _once(self, text: str) -> None:
        """Say it the first time that it is so."""
        head = text.partition(":")[0].lstrip("0123456789 ")
        if head not in self._refused:
            self._refused.add(head)
            log.warning("%s", text)
            self._teller.event("host", text)
