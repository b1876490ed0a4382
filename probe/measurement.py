"""Targets of a settings file in, an engine with open sockets out; names that do not resolve yet are set
aside."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from probe.clock import SECOND, Clock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import DRAIN_EVERY, Engine, Notice
from probe.engine.samples import Cut
from probe.engine.schedule import Schedule
from probe.errors import PrivilegeError, ResolveError, SocketError
from probe.host.interfaces import stamped
from probe.host.netlink import Hop
from probe.host.processors import load
from probe.settings import AgentSettings, Target
from probe.sockets.opening import SocketOptions, open_icmp
from probe.sockets.packet_socket import ProbeSocket
from probe.sockets.ring import RingSocket
from probe.sockets.ring_opening import Secret
from probe.targets import Address, resolve_all
from probe.telemetry.lines import series_text
from probe.ways import Follower, choose

_CHANNEL_FLOWS = 30_000  # of one socket: its flows need distinct ICMP identifiers
_JUMBO = 2048  # probes larger than this get a socket of their own, so that its rows alone are large


# What `Measurement.counters` counts: fields of the measurement `agent`.
COUNTERS = (
    *("socket_drops", "foreign_packets", "skipped", "overrun"),
    *("late_ticks", "stalls", "clock_steps", "cpu_wait_ns", "damaged_packets"),
)


@dataclass(frozen=True)
class Unmeasured:
    """A target that is not measured now, and why."""

    target: Target
    reason: str
    unresolved: bool = False  # its name has no address yet: to be tried again


@dataclass
class Measurement:
    """One engine and what its flow indices stand for."""

    engine: Engine
    tags: list[Mapping[str, str]]  # per flow
    series: list[str]  # per flow: measurement and tags of its `probe` line
    unmeasured: list[Unmeasured]
    addresses: Mapping[str, Address] = field(default_factory=dict)  # of every host that is measured
    follower: Follower | None = None  # where whole frames are sent, or would be

    def close(self) -> None:
        """Give every socket back."""
        self.engine.close()
        if self.follower is not None:
            self.follower.close()

    def ways(self) -> list[str]:
        """How probes are sent where it is not as usual goes into the log; returned: where it is not as
        wished."""
        return self.follower.tell() if self.follower is not None else []

    @property
    def flows(self) -> int:
        return len(self.tags)

    def know(self, others: Sequence[Measurement] = ()) -> None:
        """Tell every channel whose replies it sees besides its own: those of this one and of `others`."""
        channels = [channel for each in (self, *others) for channel in each.engine.channels]
        for channel in self.engine.channels:
            channel.know([other for other in channels if other.socket.family == channel.socket.family])

    def counters(self) -> dict[str, int]:
        """What the sockets saw, summed over all of them."""
        channels = self.engine.channels
        return {
            "socket_drops": sum(channel.counters.drops for channel in channels),
            "damaged_packets": sum(channel.counters.damaged for channel in channels),
            "foreign_packets": sum(
                channel.counters.foreign + channel.counters.unanswerable for channel in channels
            ),
            "skipped": sum(channel.counters.skipped for channel in channels),
            "overrun": sum(channel.ledger.overrun for channel in channels),
            "late_ticks": self.engine.counters.late_ticks,
            "stalls": self.engine.counters.stalls,
            "clock_steps": self.engine.counters.clock_steps,
            "cpu_wait_ns": self.engine.trouble.waited,
        }


@dataclass(frozen=True)
class _Group:
    """Targets that one socket serves."""

    socket: ProbeSocket
    members: list[tuple[Target, Address]]
    secret: Secret


def _open(
    members: Sequence[tuple[Target, Address]], settings: AgentSettings, clock: Clock
) -> tuple[list[_Group], list[Unmeasured], Follower | None]:
    """Open what the targets need. Raises: PrivilegeError where the kernel allows no probe socket at all."""
    ways: Sequence[Hop | str] = [""] * len(members)
    if settings.engine.backend == "ring":
        ways = choose(members)
    # What one socket fixes for all its flows: family, DSCP, whether its rows are large, interface (0: any).
    groups: dict[tuple[int, int, bool, int], list[tuple[Target, Address, Hop | str]]] = {}
    for (target, address), way in zip(members, ways, strict=True):
        outlet = way.index if isinstance(way, Hop) else 0
        key = address.family, target.dscp, target.size > _JUMBO, outlet
        groups.setdefault(key, []).append((target, address, way))
    opened: list[_Group] = []
    problems: list[Unmeasured] = []
    waiting = [(t, a, way) for (t, a), way in zip(members, ways, strict=True) if isinstance(way, str) and way]
    follower = Follower(waiting, clock.mono()) if settings.engine.backend == "ring" else None
    next_id = {int(f): secrets.randbelow(1 << 16) for f in (socket.AF_INET, socket.AF_INET6)}
    for (family, dscp, _, outlet), everybody in groups.items():
        for at in range(0, len(everybody), _CHANNEL_FLOWS):
            part = everybody[at : at + _CHANNEL_FLOWS]
            size = max(target.size for target, _, _ in part)
            options = SocketOptions(family, dscp, size, int(settings.engine.receive_buffer))
            secret = Secret(secrets.token_bytes(8), next_id[family], len(part))
            next_id[family] += len(part)
            pairs = [(target, address) for target, address, _ in part]
            hops = [way for _, _, way in part if isinstance(way, Hop)]
            try:
                if outlet and follower is not None and (ring := follower.open(options, pairs, hops, secret)):
                    opened.append(_Group(ring, pairs, secret))
                else:
                    opened.append(_Group(open_icmp(options), pairs, secret))
            except PrivilegeError:
                raise
            except SocketError as problem:
                problems.extend(Unmeasured(target, str(problem)) for target, _ in pairs)
    for family in next_id:
        _divide([group for group in opened if group.socket.family == family])
    return opened, problems, follower


def _divide(groups: list[_Group]) -> None:
    """Give each raw socket of a family its own replies, and strangers' to the first: all get a copy of every
    one,
    and it would cost as much to read what is others', and fill their buffers."""
    if len(groups) > 1:
        first, *others = groups
        ids = sum(group.secret.ids for group in others)
        first.socket.dismiss(first.secret.first_id + first.secret.ids, ids)
        for group in others:
            group.socket.admit(group.secret.first_id, group.secret.ids)


def tags_of(settings: AgentSettings, target: Target) -> dict[str, str]:
    """The tags of a target's points."""
    return {
        "agent": settings.agent.id,
        "site": settings.agent.site,
        "target": target.name,
        "venue": target.venue,
        "line": target.line,
        "kind": target.kind,
        "dscp": str(target.dscp),
    }


def build(
    settings: AgentSettings,
    clock: Clock,
    on_cut: Callable[[Cut], None],
    on_notice: Callable[[Notice], None],
    known: Mapping[str, Address] | None = None,
) -> Measurement:
    """Resolve every target, open the sockets that they need, and plan their probes.

    `known`: addresses found earlier, for hosts that name servers have no answer for now.
    Raises: PrivilegeError where the kernel allows no probe socket at all.
    """
    unmeasured: list[Unmeasured] = []
    members: list[tuple[Target, Address]] = []
    found = resolve_all(target.address for target in settings.target)
    addresses: dict[str, Address] = {}
    for target in settings.target:
        address = found[target.address]
        if isinstance(address, ResolveError):
            earlier = known.get(target.address) if known else None
            if earlier is None:
                unmeasured.append(Unmeasured(target, str(address), unresolved=True))
                continue
            address = earlier
        addresses[target.address] = address
        members.append((target, address))
    opened, problems, follower = _open(members, settings, clock)
    unmeasured += problems
    flows = sum(len(group.members) for group in opened)
    rng = np.random.default_rng()
    channels = []
    measured: list[Target] = []
    for group in opened:
        part, ring = group.members, isinstance(group.socket, RingSocket)
        intervals = [int(target.interval) for target, _ in part]
        schedule = Schedule(intervals, [target.schedule == "poisson" for target, _ in part], rng)
        # A ring is told of every packet by the tap, whatever the driver can do.
        sure = [True] * len(part) if ring else stamped((a.family, a.sockaddr) for _, a in part)
        streams = [
            Flow(len(measured) + i, address.sockaddr, target.size, sure[i])
            for i, (target, address) in enumerate(part)
        ]
        measured.extend(target for target, _ in part)
        # A window, the timeout after it, what a late tick or a second of backlog adds, and how long a reply
        # may
        # wait unread.
        span = int(settings.window.length) + 2 * int(settings.window.timeout) + SECOND + DRAIN_EVERY
        capacity = int(sum(span / interval + 2 for interval in intervals)) + 1024
        channels.append(
            Channel(
                group.socket,
                streams,
                schedule,
                capacity=capacity,
                all_flows=flows,
                token=group.secret.token,
                base_id=group.secret.first_id,
            )
        )
    engine = Engine(
        channels,
        clock,
        window=int(settings.window.length),
        timeout=int(settings.window.timeout),
        tick=int(settings.engine.tick),
        flows=flows,
        on_cut=on_cut,
        on_notice=on_notice,
        load=load,
    )
    tags = [tags_of(settings, target) for target in measured]
    measurement = Measurement(
        engine, list(tags), [series_text("probe", t) for t in tags], unmeasured, addresses, follower
    )
    measurement.know()
    return measurement
