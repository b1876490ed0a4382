"""Targets with their addresses in, the sockets that serve them out: which flows share one, and which cannot.

A target has one flow or several. What a socket fixes for all its packets (family, DSCP, TTL, source,
interface, DF) divides flows into groups; STAMP's flows also differ in their source port, so each needs a
socket of its own, shared with the same flow of every other target.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from probe.clock import Clock
from probe.engine.dialect import Flow, Speak
from probe.engine.echo import Echo
from probe.errors import PrivilegeError, SocketError
from probe.host.hardware import clock_of
from probe.host.interfaces import has_clock, outlets
from probe.host.netlink import Hop
from probe.kinds import open_kind
from probe.settings import AgentSettings, Target
from probe.sockets.opening import SocketOptions
from probe.sockets.packet_socket import ProbeSocket
from probe.sockets.ring_opening import Secret
from probe.streams import Stream
from probe.ways import Follower, choose

log = logging.getLogger(__name__)

_CHANNEL_FLOWS = 30_000  # of one socket: its flows need distinct 16-bit identifiers
_JUMBO = 2048  # probes larger than this get a socket of their own, so that its rows alone are large
_MANY = 256  # sockets that an agent can serve without being busy with them


@dataclass(frozen=True)
class Group:
    """Flows that one socket serves."""

    socket: ProbeSocket
    streams: list[Stream]
    secret: Secret
    speak: Speak = Echo
    kind: str = "icmp"
    hardware: bool = False

    def flows(self, indices: Sequence[int], stamped: Sequence[bool]) -> list[Flow]:
        """For its channel: `indices` into the agent's list of flows, in the order of the streams."""
        made = []
        for stream, index, sure in zip(self.streams, indices, stamped, strict=True):
            target = stream.target
            # A raw socket has no use for a port, and on IPv6 takes it for the protocol's number.
            there = stream.destination(target.port if self.kind in ("stamp", "connect") else 0)
            made.append(Flow(index, there, target.size, sure, stream.lane, target.port))
        return made


@dataclass(frozen=True)
class Shared:
    """What could be opened, and for whom what could not."""

    groups: list[Group]
    problems: list[tuple[Target, str]]
    follower: Follower | None


def open_groups(streams: Sequence[Stream], settings: AgentSettings, clock: Clock) -> Shared:
    """Open what the flows need. Raises: PrivilegeError where the kernel allows no probe socket at all."""
    ring = settings.engine.backend == "ring"
    ways: Sequence[Hop | str] = [""] * len(streams)
    if ring:
        ways = choose([(s.target, s.address) for s in streams])
    wish = settings.engine.hardware_stamps
    # A ring has the kernel's stamps alone.
    plain = [stream for stream, way in zip(streams, ways, strict=True) if isinstance(way, str)]
    clocks = _clocks(plain, switch=wish == "on") if wish != "off" else {}
    waiting = {
        (s.target.name, way): (s.target, s.address, way)
        for s, way in zip(streams, ways, strict=True)
        if isinstance(way, str) and way
    }
    shared = Shared([], [], Follower(list(waiting.values()), clock.mono()) if ring else None)
    clocked = [clocks.get(stream.target.name, _NO_CLOCK) for stream in streams]
    together = sorted(zip(streams, ways, clocked, strict=True), key=_key)
    next_id = secrets.randbelow(1 << 16)
    refusal: PrivilegeError | None = None
    for _, members in groupby(together, _key):
        everybody = list(members)
        for at in range(0, len(everybody), _CHANNEL_FLOWS):
            part = everybody[at : at + _CHANNEL_FLOWS]
            secret = Secret(secrets.token_bytes(8), next_id & 0xFFFF, len(part))
            next_id += len(part)
            flows = [stream for stream, _, _ in part]
            try:
                shared.groups.append(_open(part, settings, clock, secret, shared))
            except SocketError as problem:
                refusal = problem if isinstance(problem, PrivilegeError) else refusal
                names = {stream.target.name: stream.target for stream in flows}
                shared.problems.extend((target, str(problem)) for target in names.values())
    if refusal is not None and not shared.groups:
        raise refusal
    if len(shared.groups) > _MANY:
        log.warning("%s", many_sockets(len(shared.groups)))
    for family in (socket.AF_INET, socket.AF_INET6):
        _divide([g for g in shared.groups if g.socket.family == family and g.kind == "icmp"])
    return shared


def many_sockets(count: int) -> str:
    """What it means that flows need so many sockets, and what to do."""
    return (
        f"the targets need {count} sockets, about {count} MB of memory, and processor time for each: "
        "flows of kind stamp share one where their place in the target, dscp, ttl, source, interface, "
        "dont_fragment and key_file are the same (fewer flows, or fewer different values of these)"
    )


# A flow, the way for whole frames if it has one, and the interfaces that share the clock of its own one.
Bound = tuple[Stream, "Hop | str", frozenset[int]]
_NO_CLOCK: frozenset[int] = frozenset()


def _clocks(streams: Sequence[Stream], *, switch: bool) -> dict[str, frozenset[int]]:
    """By the targets' names: the interfaces by whose common clock their packets are stamped, too."""
    found: dict[str, frozenset[int]] = {}
    if not has_clock():
        return found
    by_outlet: dict[int, frozenset[int]] = {}
    for stream in streams:
        target, address = stream.target, stream.address
        if target.name in found:
            continue
        (outlet,) = outlets([(address.family, address.sockaddr)], target.interface, target.source)
        if outlet not in by_outlet:
            by_outlet[outlet], reason = clock_of(outlet, switch=switch)
            if switch and reason:
                log.warning("no hardware stamps for %s: %s", target.name, reason)
        found[target.name] = by_outlet[outlet]
    return found


def _key(bound: Bound) -> tuple[str | int | bool | tuple[int, ...], ...]:
    """What one socket fixes for all its flows, and whether its rows are large."""
    stream, way, clock = bound
    target = stream.target
    return (
        *(target.kind, int(stream.address.family), target.dscp, target.ttl, target.source, target.interface),
        *(target.dont_fragment, target.size > _JUMBO, target.key_file),
        stream.lane if target.kind == "stamp" else 0,
        way.index if isinstance(way, Hop) else 0,
        tuple(sorted(clock)),
    )


def _open(
    members: Sequence[Bound], settings: AgentSettings, clock: Clock, secret: Secret, shared: Shared
) -> Group:
    """One group's socket. Raises: SocketError."""
    streams = [stream for stream, _, _ in members]
    target, address = streams[0].target, streams[0].address
    options = SocketOptions(
        address.family,
        target.dscp,
        max(stream.target.size for stream in streams),
        int(settings.engine.receive_buffer),
        target.ttl,
        target.source,
        target.interface,
        target.dont_fragment,
        members[0][2],
    )
    if target.kind == "icmp":
        hops = [way for _, way, _ in members if isinstance(way, Hop)]
        if hops and shared.follower is not None:
            pairs = [(stream.target, stream.address) for stream in streams]
            ring = shared.follower.open(options, pairs, hops, secret)
            if ring is not None:
                return Group(ring, streams, secret)
    opened, speak = open_kind(options, streams, settings, clock)
    return Group(opened, streams, secret, speak, target.kind, bool(options.hardware))


def _divide(groups: list[Group]) -> None:
    """Give each raw ICMP socket of a family its own replies, and strangers' to the first: all get a copy of
    every one, and it would cost as much to read what is others', and fill their buffers."""
    if len(groups) > 1:
        first, *others = groups
        begin = first.secret.first_id + first.secret.ids
        many = sum(group.secret.ids for group in others)
        # Identifiers were given out in this order, some perhaps to groups that could not be opened.
        span = (others[-1].secret.first_id + others[-1].secret.ids - begin) & 0xFFFF
        first.socket.dismiss(begin, max(many, span))
        for group in others:
            group.socket.admit(group.secret.first_id, group.secret.ids)
