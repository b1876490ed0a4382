"""Facts in, what is wrong with agents and their hosts out; pure.

stall      the host did not run the agent, so that it skipped probes or was late again and again
hidden     the kernel dropped packets because the agent's sockets were full
step       the agent's wall clock was set
silent     nothing comes from an agent, or what came had waited in its spool
carrier    a link of the host went down or came up
neighbour  the address of a gateway moved to another MAC, or stopped answering
route      the host sends what goes to a target another way
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from collectors.board import text
from collectors.diagnose.columns import Columns
from collectors.diagnose.facts import COLLECTOR, Event, Facts
from collectors.diagnose.troubles import MOST_WINDOWS, Trouble
from probe.clock import SECOND

NEVER_MIND = 2 * SECOND  # that data may take to arrive besides what it usually takes
MISSED = 3  # batches in a row that did not come
WAITING = 4  # batches more than usual in the spool
SOME, MUCH = 0.05, 0.15  # of the probes that were due: skipped, in several readings or in one
OFTEN = 6  # readings with a stall in a row
_SAME = 2  # readings: growth within so many belongs together
_LINK_KINDS = ("carrier", "operstate", "admin", "removed")


def host_troubles(facts: Facts) -> list[Trouble]:
    """Of all agents, oldest first."""
    found: list[Trouble] = []
    for agent, columns in facts.agents.items():
        if agent == COLLECTOR:
            continue
        found += _stalls(facts, agent, columns)
        found += _counted(agent, columns, "socket_drops", "hidden", _HIDDEN)
        found += _steps(facts, agent, columns)
        found += _backlog(agent, columns)
    found += _silent(facts)
    found += _events(facts)
    found += _carriers(facts, found)
    return sorted(found, key=lambda trouble: trouble.begin_ns)


_HIDDEN = "{agent} dropped {count:,} packets because the agent's sockets were full"


def _stalls(facts: Facts, agent: str, columns: Columns) -> Iterator[Trouble]:
    growth = [(a, b, n, 0) for a, b, n in columns.growth("stalls")]
    growth += [(a, b, 0, n) for a, b, n in columns.growth("skipped")]
    for group in _grouped(sorted(growth), columns.length()):
        stalls, skipped = sum(one[2] for one in group), sum(one[3] for one in group)
        readings = len({one[1] for one in group})
        begin, end = group[0][0], group[-1][1]
        share = skipped / max(1, skipped + _sent(facts, agent, begin, end))
        # Some tenths of a second, once: that happens everywhere, and harms nothing.
        if not (share >= MUCH or (share >= SOME and readings > 1) or readings >= OFTEN):
            continue
        told = [event.text for event in facts.events_of("host", begin, end + SECOND, agent)]
        why = next((f" ({said})" for said in told if "did not run the agent" in said), "")
        yield Trouble(
            "stall",
            agent,
            begin,
            _end(end, columns),
            share,
            f"{agent} did not run its agent {stalls} times, and {skipped:,} probes were skipped{why}",
            "agent",
            windows=tuple(one[1] for one in group[:MOST_WINDOWS]),
            weight=min(4.0, 25 * share + readings / 2),
        )


def _sent(facts: Facts, agent: str, since_ns: int, until_ns: int) -> int:
    """Probes of an agent in a time, and at least in as much as a window: at the rate of the windows about it.

    Batches, and so readings, also come between two windows, and before the window is closed that they are in.
    """
    total = 0.0
    for track in facts.targets:
        if track.agent == agent:
            some = track.windows.span(since_ns - 2 * track.length, until_ns)
            passed = max(until_ns - since_ns, track.length) / track.length
            total += track.windows.total("sent", some) / max(1, len(some)) * passed
    return round(total)


def _counted(agent: str, columns: Columns, name: str, effect: str, words: str) -> Iterator[Trouble]:
    growth = [(before, at, by, 0) for before, at, by in columns.growth(name)]
    for group in _grouped(growth, columns.length()):
        count = sum(one[2] for one in group)
        yield Trouble(
            effect,
            agent,
            group[0][0],
            _end(group[-1][1], columns),
            count,
            words.format(agent=agent, count=count),
            "agent",
            windows=tuple(one[1] for one in group[:MOST_WINDOWS]),
            weight=min(3.0, count / 5),
        )


def _steps(facts: Facts, agent: str, columns: Columns) -> Iterator[Trouble]:
    told = list(facts.events_of("clock", facts.since_ns, facts.now_ns, agent))
    told = [event for event in told if "stepped" in event.text or event.detail.get("what") == "step"]
    for event in told:
        yield Trouble(
            "step", agent, event.time_ns, event.time_ns, 1, f"{agent}: {event.text}", "event", weight=3.0
        )
    for before, at, by in columns.growth("clock_steps"):
        if not any(before - SECOND <= event.time_ns <= at + SECOND for event in told):
            yield Trouble(
                "step",
                agent,
                before,
                at,
                by,
                f"{agent}: its wall clock was set {by} times",
                "agent",
                windows=(at,),
                weight=3.0,
            )


def _backlog(agent: str, columns: Columns) -> Iterator[Trouble]:
    """Batches that waited, and came once they could: what the agent could not send, it tells afterwards."""
    waiting = columns.numbers("spool_batches")
    if len(waiting) < MISSED:
        return
    limit = median(waiting[: max(MISSED, len(waiting) // 2)]) + WAITING
    over = [
        (at, at, 0, 0)
        for index, at in enumerate(columns.times)
        if (columns.at("spool_batches", index) or 0) >= limit
    ]
    times, length = columns.times, columns.length()
    for group in _grouped(over, length):
        first, last = group[0][0], group[-1][0]
        some = columns.span(first, last + 1)
        most = max(int(value) for value in columns.numbers("spool_batches", some))
        yield Trouble(
            "silent",
            agent,
            max(first - min(most, WAITING + 1) * length, times[0]),
            _end(last, columns),
            most,
            f"{most:,} batches of {agent} waited in its spool: it could not send them",
            "agent",
            windows=tuple(one[0] for one in group[:MOST_WINDOWS]),
            weight=3.0,
        )


def _silent(facts: Facts) -> Iterator[Trouble]:
    """Agents of which nothing came of late, although they had sent without a gap before."""
    newest: dict[str, tuple[int, int]] = {}
    for track in facts.targets:
        newest[track.agent] = max(newest.get(track.agent, (0, 0)), (track.end_ns, track.length))
    for agent, (end, length) in newest.items():
        columns = facts.agents.get(agent)
        # Batches come when a window is closed: that is how late data usually is.
        arrived = columns.times[-1] if columns is not None and len(columns) else end
        usual = max(0, min(arrived - end, 60 * SECOND))
        age = facts.now_ns - end - usual
        if age > MISSED * length + NEVER_MIND:
            offline = any(
                event.text.startswith("agent is offline")
                for event in facts.events_of("agent", end - SECOND, facts.now_ns, agent)
            )
            said = "; its connection to the broker was lost" if offline else ""
            yield Trouble(
                "silent",
                agent,
                end,
                None,
                age / SECOND,
                f"nothing has come from {agent} for {text.age(facts.now_ns - end)}, of no target{said}",
                windows=(end - length,),
                weight=2.0 + offline,
            )


def _events(facts: Facts) -> Iterator[Trouble]:
    for event in facts.events:
        if event.kind == "neighbour" and _moved(event):
            yield _told("neighbour", event, 3.0)
        elif event.kind == "route" and event.names:
            yield _told("route", event, 2.0)
        elif event.kind == "link" and event.detail.get("what") in _LINK_KINDS:
            yield _told("carrier", event, 3.0)


def _moved(event: Event) -> bool:
    before, after = event.detail.get("before"), event.detail.get("after")
    return bool(before and after and before != after) or "failover" in event.text


def _told(effect: str, event: Event, weight: float) -> Trouble:
    where = f" {event.interface}" if event.interface and event.interface not in event.text else ""
    return Trouble(
        effect,
        event.agent,
        event.time_ns,
        event.time_ns,
        1,
        f"{event.agent}{where}: {event.text}",
        "event",
        windows=(event.time_ns,),
        weight=weight,
        names=event.names,
        interface=event.interface,
    )


def _carriers(facts: Facts, known: list[Trouble]) -> Iterator[Trouble]:
    """What interface counters say of carriers, where no event does."""
    told = [trouble for trouble in known if trouble.effect == "carrier"]
    for (agent, interface), columns in facts.interfaces.items():
        for before, at, by in columns.growth("carrier_changes"):
            if any(
                one.agent == agent
                and one.interface == interface
                and before - SECOND <= one.begin_ns <= at + SECOND
                for one in told
            ):
                continue
            yield Trouble(
                "carrier",
                agent,
                before,
                at,
                by,
                f"{agent} {interface}: its link went or came {by} times",
                "interface",
                windows=(at,),
                weight=3.0,
                interface=interface,
            )


def _grouped(
    growth: list[tuple[int, int, int, int]], length: int
) -> Iterator[list[tuple[int, int, int, int]]]:
    group: list[tuple[int, int, int, int]] = []
    for one in growth:
        if group and one[0] - group[-1][1] > _SAME * length:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _end(at: int, columns: Columns) -> int | None:
    """None while it may go on: fewer readings than belong together have followed."""
    return at if columns.times[-1] - at >= _SAME * columns.length() else None
