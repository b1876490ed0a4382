"""Targets of a settings file in, an engine with open sockets out; names that do not resolve yet are set
aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from probe.bindings import Binding, Standing, binding_of, stand
from probe.clock import SECOND, Clock
from probe.engine.channel import Channel
from probe.engine.engine import DRAIN_EVERY, Engine, Notice
from probe.engine.samples import Cut
from probe.engine.schedule import Schedule
from probe.errors import ResolveError
from probe.host.interfaces import stamped
from probe.host.processors import load
from probe.settings import AgentSettings, Target
from probe.sharing import Group, open_groups
from probe.sockets.ring import RingSocket
from probe.streams import streams_of
from probe.targets import Address, Asked, resolve_all
from probe.telemetry.lines import series_text
from probe.ways import Follower

# Makes the schedule of a channel whose flows belong to these targets.
Plan = Callable[[Sequence[Target], np.random.Generator], Schedule]

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
    awaited: bool = False  # its source or interface is not there: measured once it is

    def __str__(self) -> str:
        return self.reason + ("; it is measured as soon as that is there" if self.awaited else "")


@dataclass
class Measurement:
    """One engine and what its flow indices stand for."""

    engine: Engine
    target_tags: list[Mapping[str, str]]
    targets: list[tuple[int, int]]  # of each: its first flow, and how many it has
    unmeasured: list[Unmeasured]
    addresses: Mapping[Asked, Address] = field(default_factory=dict)  # of every host that is measured
    bindings: Mapping[Binding, Standing] = field(default_factory=dict)  # when the sockets were opened
    follower: Follower | None = None  # where whole frames are sent, or would be
    tags: list[Mapping[str, str]] = field(init=False)  # per flow
    series: list[str] = field(init=False)  # per flow: measurement and tags of its `probe` line
    target_series: list[str] = field(init=False)  # the same, per target

    def __post_init__(self) -> None:
        self.target_series = [series_text("probe", tags) for tags in self.target_tags]
        self.tags, self.series = [], []
        for tags, whole, (_, flows) in zip(self.target_tags, self.target_series, self.targets, strict=True):
            if flows == 1:
                self.tags.append(tags)
                self.series.append(whole)
                continue
            each = [{**tags, "flow": str(lane)} for lane in range(flows)]
            self.tags += each
            self.series += [series_text("probe", one) for one in each]

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
    known: Mapping[Asked, Address] | None = None,
    *,
    plan: Plan | None = None,
    drain_every: int = DRAIN_EVERY,
    linger: int = 0,
) -> Measurement:
    """Resolve every target, open the sockets that they need, and plan their probes.

    known: addresses found earlier, for hosts that name servers have no answer for now.
    plan: makes the schedule of a channel, in place of what the targets' settings say.
    drain_every: how long replies may wait unread, ns.
    linger: how much later than they might be windows are closed, ns.
    Raises: PrivilegeError where the kernel allows no probe socket at all.
    """
    plan = plan or _schedule
    unmeasured: list[Unmeasured] = []
    members: list[tuple[Target, Address]] = []
    found = resolve_all(((target.address, target.family) for target in settings.target), known)
    addresses: dict[Asked, Address] = {}
    for target in settings.target:
        asked = target.address, target.family
        address = found[asked]
        if isinstance(address, ResolveError):
            earlier = known.get(asked) if known else None
            if earlier is None:
                unmeasured.append(Unmeasured(target, str(address), unresolved=True))
                continue
            address = earlier
        addresses[asked] = address
        members.append((target, address))
    bindings = stand(members)
    shared = open_groups(streams_of(members), settings, clock)
    measured = _measured(members, shared.groups)
    unmeasured += _unopened(members, shared.problems, bindings, measured)
    flows = sum(target.flows for target in measured.values())
    first = dict(zip(measured, accumulate((t.flows for t in measured.values()), initial=0), strict=False))
    rng = np.random.default_rng()
    channels = [
        _channel(
            group, [first[s.target.name] + s.lane for s in group.streams], flows, settings, plan, rng, linger
        )
        for group in shared.groups
    ]
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
        drain_every=drain_every,
        linger=linger,
    )
    target_tags: list[Mapping[str, str]] = [tags_of(settings, target) for target in measured.values()]
    measurement = Measurement(
        engine,
        target_tags,
        [(first[t.name], t.flows) for t in measured.values()],
        unmeasured,
        addresses,
        bindings,
        shared.follower,
    )
    measurement.know()
    return measurement


def _measured(members: Sequence[tuple[Target, Address]], groups: Sequence[Group]) -> dict[str, Target]:
    """The targets, in their order, of which at least one flow has a socket."""
    served = {stream.target.name for group in groups for stream in group.streams}
    return {target.name: target for target, _ in members if target.name in served}


def _unopened(
    members: Sequence[tuple[Target, Address]],
    problems: Sequence[tuple[Target, str]],
    bindings: Mapping[Binding, Standing],
    measured: Mapping[str, Target],
) -> list[Unmeasured]:
    """Every target that has a problem, once, however many of its flows have it."""
    reasons: dict[str, list[str]] = {}
    for target, reason in problems:
        reasons.setdefault(target.name, []).append(reason)
    found = []
    for target, address in members:
        if target.name not in reasons:
            continue
        reason = "; ".join(dict.fromkeys(reasons[target.name]))
        if target.name in measured:
            reason = f"not all of its {target.flows} flows: {reason}"
        binding = binding_of(target, address)
        found.append(Unmeasured(target, reason, awaited=binding is not None and not bindings[binding]))
    return found


def _channel(
    group: Group,
    indices: list[int],
    flows: int,
    settings: AgentSettings,
    plan: Plan,
    rng: np.random.Generator,
    linger: int,
) -> Channel:
    """The channel of a group whose flows have these indices, of `flows` in all."""
    streams = group.streams
    # A ring is told of every packet by the tap, whatever the driver can do.
    ring = isinstance(group.socket, RingSocket)
    target = streams[0].target  # all of a group leave by the same interface, from the same source
    ways = ((s.address.family, s.address.sockaddr) for s in streams)
    sure = [True] * len(streams) if ring else stamped(ways, target.interface, target.source)
    # A window, the timeout after it, what a late tick or a second of backlog adds, and how long a reply may
    # wait unread.
    span = int(settings.window.length) + 2 * int(settings.window.timeout) + linger + SECOND + DRAIN_EVERY
    capacity = int(sum((span / s.target.interval + 2) * s.target.burst for s in streams)) + 1024
    return Channel(
        group.socket,
        group.flows(indices, sure),
        plan([s.target for s in streams], rng),
        capacity=capacity,
        all_flows=flows,
        token=group.secret.token,
        base_id=group.secret.first_id,
        speak=group.speak,
        reflecting=group.kind == "stamp",
        hardware=group.hardware,
    )


def _schedule(targets: Sequence[Target], rng: np.random.Generator) -> Schedule:
    return Schedule(
        [int(target.interval) for target in targets],
        [target.schedule == "poisson" for target in targets],
        rng,
        [target.burst for target in targets],
    )
