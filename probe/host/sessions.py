"""TCP connections as the kernel tells of them in, live sessions to targets out, and what happened to them.
Pure.

A session has a slot: a small number for each target, the lowest that is free, used again when it has ended.
So a gateway that is connected to a thousand times a day makes one series and not a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from probe.clock import SECOND
from probe.host.inet_diag import Connection, Info, info
from probe.host.table import Change, Said
from probe.host.watched import Aims, Watched, text_of

MOST_OF_A_TARGET, MOST = 16, 256  # sessions that are told of; of what is beyond, how many there are
STALL = 1 * SECOND
_EPHEMERAL = 32768  # ports from here on are given out by kernels (ip_local_port_range), and mean nothing


@dataclass
class Session:
    """A connection to a target.

    waiting_ns: how long data has been without an acknowledgement, at least, as far as one can know.
    stalled: that is too long, or the other end has no room for more.
    """

    target: Watched
    slot: int
    connection: Connection
    info: Info
    waiting_ns: int = 0
    stalled: bool = False
    readings: int = 1
    # Data that was sent and not acknowledged at some reading: since when, and what had been acknowledged.
    _since: int = 0
    _acknowledged: int | None = None

    @property
    def remote(self) -> str:
        """The tag: an address, with the port where that is the target's own."""
        address, port = text_of(self.connection.remote), self.connection.remote_port
        if not self.target.port and port >= _EPHEMERAL:
            return address
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    @property
    def tags(self) -> dict[str, str]:
        own = {"target": self.target.name, "venue": self.target.venue, "line": self.target.line}
        return {**own, "remote": self.remote, "session": str(self.slot)}

    @property
    def fields(self) -> dict[str, int | float | bool | str]:
        """The fields of the point, in the schema's order; what the kernel does not tell is absent."""
        told = self.info
        values: dict[str, int | bool | str | None] = {
            "rtt_ns": told.rtt_ns,
            "rttvar_ns": told.rttvar_ns,
            "min_rtt_ns": told.min_rtt_ns,
            "retransmits_total": told.total_retransmits,
            "lost": told.lost,
            "unacked": told.unacked,
            "delivery_rate_bps": told.delivery_rate_bps,
            "bytes_sent": told.bytes_sent,
            "bytes_received": told.bytes_received,
            "last_sent_ns": told.last_sent_ns,
            "last_received_ns": told.last_received_ns,
            "waiting_ns": self.waiting_ns,
            "path_mtu": told.path_mtu or None,
            "state": self.connection.state,
            "stalled": self.stalled,
        }
        return {name: value for name, value in values.items() if value is not None}

    def judge(self, now: int) -> None:
        """How long what was sent has been waiting. `now`: monotonic time of this reading."""
        told = self.info
        if not told.unacked:
            self._since, self.waiting_ns = 0, 0
        else:
            # After n time-outs in a row, each twice as long as the one before, the last of which set the
            # present RTO: RTO/2 + RTO/4 ... ago. Each repetition counts as sending.
            repeating = told.rto_ns - (told.rto_ns >> min(told.retransmits, 30))
            proven = min(told.last_acknowledged_ns, told.last_sent_ns + repeating)
            if self.connection.state == "SYN-SENT":  # it has sent no data and heard nothing, ever
                proven = repeating
            if not self._since or self._acknowledged != told.bytes_acknowledged:
                self._since, self._acknowledged = now - proven, told.bytes_acknowledged
            self.waiting_ns = max(now - self._since, proven)
        self.stalled = self.waiting_ns >= STALL or told.probes > 1


@dataclass
class Sessions:
    """The sessions of one agent, from reading to reading. `own`: inodes of sockets of this very process,
    asked for only where there is a connection to a target: probes connect as well."""

    own: Callable[[], set[int]]
    beyond: int = 0  # at the last reading
    _live: dict[bytes, Session] = field(default_factory=dict)  # by cookie

    @property
    def live(self) -> Sequence[Session]:
        return sorted(self._live.values(), key=lambda session: (session.target.name, session.slot))

    def update(
        self,
        found: Iterable[Connection],
        aims: Aims,
        now: int,
        addresses: Callable[[str], set[bytes]] = lambda _: set(),
    ) -> Iterator[Change]:
        """A reading. `addresses`: those of an interface, to tell lines A and B to one gateway apart."""
        kept: dict[bytes, Session] = {}
        new: list[Connection] = []
        self.beyond = 0
        found = list(found)
        own = self.own() if found else set()
        for connection in found:
            session = self._live.get(connection.cookie)
            told = info(connection.info)
            if connection.inode in own or told is None:
                continue
            if session is None or session.target not in aims.watched:
                new.append(connection)
                continue
            session.connection, session.info = connection, told
            session.readings += 1
            kept[connection.cookie] = session
        gone = [session for cookie, session in self._live.items() if cookie not in kept]
        self._live = kept
        yield from self._ended(gone)
        for connection in new:
            self._begun(connection, aims, addresses)
        for session in kept.values():
            was = session.stalled
            session.judge(now)
            if session.stalled != was:
                yield self._stall(session)

    def _begun(self, connection: Connection, aims: Aims, addresses: Callable[[str], set[bytes]]) -> None:
        target = _whose(connection, aims, addresses)
        told = info(connection.info)
        if target is None or told is None:
            return
        taken = {s.slot for s in self._live.values() if s.target.name == target.name}
        if len(taken) >= MOST_OF_A_TARGET or len(self._live) >= MOST:
            self.beyond += 1
            return
        slot = next(n for n in range(MOST_OF_A_TARGET) if n not in taken)
        self._live[connection.cookie] = Session(target, slot, connection, told)

    def _ended(self, gone: Iterable[Session]) -> Iterator[Change]:
        for session in gone:
            if session.readings > 1 and session.connection.state in ("ESTABLISHED", "CLOSE-WAIT"):
                text = f"{_who(session)} has ended"
                text += "; what it had sent last was not acknowledged" if session.info.unacked else ""
                yield _change(session, "ended", {}, text)

    def _stall(self, session: Session) -> Change:
        told = session.info
        if not session.stalled:
            return _change(session, "stall", {"phase": "end"}, f"{_who(session)} goes on")
        if told.probes > 1:
            text = f"{_who(session)} is stalled: the other end takes no more data"
        else:
            text = (
                f"{_who(session)} is stalled: {told.unacked} segments sent, "
                f"no acknowledgement for {session.waiting_ns / SECOND:.1f} s"
            )
        return _change(session, "stall", {"phase": "begin"}, text)


def _who(session: Session) -> str:
    return f"session {session.slot} to {session.target.name} ({session.remote})"


def _change(session: Session, what: str, more: dict[str, object], text: str) -> Change:
    detail: dict[str, object] = {
        "what": what,
        **more,
        "session": session.slot,
        "remote": session.remote,
        "unacked": session.info.unacked,
        "waiting_ns": session.waiting_ns,
        "retransmits_total": session.info.total_retransmits,
        "targets": [session.target.name],
    }
    return Change("session", what, what == "stall", lambda: Said(text, detail, target=session.target.name))


def _whose(connection: Connection, aims: Aims, addresses: Callable[[str], set[bytes]]) -> Watched | None:
    """The target that a connection belongs to: by its port rather than by any, and by the interface that the
    connection's own address is of."""
    best, target = -1, None
    for watched in aims.at.get(connection.remote, ()):
        if watched.port not in (0, connection.remote_port):
            continue
        points = 2 * bool(watched.port)
        if watched.interface:
            its = addresses(watched.interface)
            points += (1 if connection.local in its else -1) if its else 0
        if points > best:
            best, target = points, watched
    return target
