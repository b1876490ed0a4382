"""A history in, facts out: everything that was stored of a time, in columns, ready to be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from collectors.diagnose.columns import Columns
from collectors.diagnose.naming import named
from collectors.history import History
from probe.telemetry.schema import MEASUREMENTS

# Of `probe`, what the rules look at: a window has twice as many fields, and a fleet a million windows.
PROBE_FIELDS = (
    *(
        "sent",
        "received",
        "lost",
        "late",
        "errors",
        "loss_burst_max",
        "rtt_min_ns",
        "rtt_p50_ns",
        "closed",
        "open",
    ),
    *("forward_p50_ns", "backward_p50_ns", "forward_lost", "backward_lost"),
)
COLLECTOR = "collector"  # the agent's id under which collectors speak


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """The windows of one target, or, with `flow`, of one of its flows. length: of a window, ns."""

    agent: str
    target: str
    venue: str
    line: str
    kind: str
    dscp: str
    flow: str
    gateway: str
    variant: str
    windows: Columns
    length: int

    @property
    def end_ns(self) -> int:
        """When its newest window ended."""
        return self.windows.times[-1] + self.length

    def __str__(self) -> str:
        return f"{self.target} flow {self.flow}" if self.flow else self.target


@dataclass(frozen=True, slots=True)
class Event:
    """One `event`; `detail` is {} where it is no JSON object."""

    time_ns: int
    agent: str
    kind: str
    target: str
    interface: str
    text: str
    detail: Mapping[str, Any]

    @property
    def names(self) -> frozenset[str]:
        """The targets that it says it is about."""
        listed = self.detail.get("targets")
        more = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        return frozenset([*more, *([self.target] if self.target else [])])


@dataclass(eq=False)
class Facts:
    """What was stored of a time. since_ns, now_ns: wall clock; `now` is when one looks.

    targets: one track a target; flows: the tracks of its flows, by (agent, target).
    agents, interfaces, sessions: columns by agent; by (agent, interface); by (agent, target), several.
    paths, hops: by (agent, target), with the flow; hops also with their TTL.
    """

    since_ns: int
    now_ns: int
    targets: list[Track] = field(default_factory=list)
    flows: dict[tuple[str, str], list[Track]] = field(default_factory=lambda: defaultdict(list))
    events: list[Event] = field(default_factory=list)
    agents: dict[str, Columns] = field(default_factory=dict)
    collectors: list[Columns] = field(default_factory=list)
    interfaces: dict[tuple[str, str], Columns] = field(default_factory=dict)
    sessions: dict[tuple[str, str], list[Columns]] = field(default_factory=lambda: defaultdict(list))
    paths: dict[tuple[str, str], dict[str, Columns]] = field(default_factory=lambda: defaultdict(dict))
    hops: dict[tuple[str, str], dict[tuple[str, int], Columns]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def events_of(self, kind: str, since_ns: int, until_ns: int, agent: str = "") -> Iterator[Event]:
        """Events of a kind with since <= time <= until, of one agent or of all, oldest first."""
        for event in self.events:
            if event.kind == kind and since_ns <= event.time_ns <= until_ns and agent in ("", event.agent):
                yield event


def gather(history: History, since_ns: int, now_ns: int, agent: str = "") -> Facts:
    """Read what was stored from `since_ns` on, of one agent or of all.

    Raises: SinkUnavailable, SinkRefused.
    """
    facts = Facts(since_ns, now_ns)
    for tags, columns in _read(history, facts, "probe", PROBE_FIELDS, agent):
        _add_track(facts, tags, columns)
    # Nobody keeps series in the same order, and the same facts shall have the same words.
    facts.targets.sort(key=lambda track: (track.agent, track.target, track.kind, track.dscp))
    for tags, columns in _read(history, facts, "agent", (), agent):
        facts.agents[tags.get("agent", "")] = columns
    for _, columns in _read(history, facts, "collector", (), ""):
        facts.collectors.append(columns)
    for tags, columns in _read(history, facts, "interface", (), agent):
        facts.interfaces[tags.get("agent", ""), tags.get("interface", "")] = columns
    for tags, columns in _read(history, facts, "session", (), agent):
        facts.sessions[tags.get("agent", ""), tags.get("target", "")].append(columns)
    for tags, columns in _read(history, facts, "path", (), agent):
        facts.paths[tags.get("agent", ""), tags.get("target", "")][tags.get("flow", "")] = columns
    for tags, columns in _read(history, facts, "hop", (), agent):
        ttl = tags.get("ttl", "")
        if ttl.isdecimal():
            hops = facts.hops[tags.get("agent", ""), tags.get("target", "")]
            hops[tags.get("flow", ""), int(ttl[:4])] = columns
    for tags, columns in _read(history, facts, "event", ("text", "detail"), agent):
        _add_events(facts, tags, columns)
    facts.events.sort(key=lambda event: (event.time_ns, event.agent, event.kind, event.target))
    facts.interfaces = dict(sorted(facts.interfaces.items()))
    return facts


def _read(
    history: History, facts: Facts, measurement: str, fields: tuple[str, ...], agent: str
) -> Iterator[tuple[Mapping[str, str], Columns]]:
    kinds = {field.name: field.kind for field in MEASUREMENTS[measurement].fields}
    names = fields or tuple(kinds)
    for tags, rows in history.strands(measurement, names, facts.since_ns, facts.now_ns):
        if agent in ("", tags.get("agent")):
            yield tags, Columns(names, rows, kinds)


def _add_track(facts: Facts, tags: Mapping[str, str], columns: Columns) -> None:
    agent, target, line = tags.get("agent", ""), tags.get("target", ""), tags.get("line", "")
    gateway, variant = named(target, line)
    track = Track(
        agent,
        target,
        tags.get("venue", ""),
        line,
        tags.get("kind", ""),
        tags.get("dscp", ""),
        tags.get("flow", ""),
        gateway,
        variant,
        columns,
        columns.length(),
    )
    if track.flow:
        facts.flows[agent, target].append(track)
    else:
        facts.targets.append(track)


def _add_events(facts: Facts, tags: Mapping[str, str], columns: Columns) -> None:
    for index, time_ns in enumerate(columns.times):
        try:
            detail = msgspec.json.decode(str(columns.at("detail", index) or "{}"))
        except (msgspec.DecodeError, RecursionError):
            detail = {}
        facts.events.append(
            Event(
                time_ns,
                tags.get("agent", ""),
                tags.get("kind", ""),
                tags.get("target", ""),
                tags.get("interface", ""),
                str(columns.at("text", index) or ""),
                detail if isinstance(detail, dict) else {},
            )
        )
