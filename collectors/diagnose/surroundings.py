"""A case in, what hosts, interfaces, sessions and paths say about it out; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

from collectors.board import text
from collectors.diagnose.cases import Case
from collectors.diagnose.columns import Columns
from collectors.diagnose.facts import Track
from collectors.diagnose.symptoms import Symptom
from collectors.diagnose.troubles import MOST_WINDOWS, Trouble

DROPS = (
    "rx_dropped",
    "tx_dropped",
    "rx_missed",
    "rx_errors",
    "tx_errors",
    "rx_queue_drops",
    "tx_queue_drops",
)
HOST = "host"  # the interface that is none: what the kernel counts of all
FEW = 3  # packets: interfaces drop some of what nobody wants, all the time
PART = 0.2  # of the lost probes: fewer drops than that explain nothing
TIMES = 4.0  # the rate of drops before: less is as ever
_Change = tuple[Track, str, tuple[int, Any, Any], tuple[int, Any, Any]]
SESSION_SHIFT = 0.2  # of a session's RTT
_OWN = {
    "carrier": "carrier",
    "neighbour": "mac-changed",
    "route": "route-event",
    "stall": "stalled",
    "hidden": "hidden",
    "step": "stepped",
    "silent": "silence",
}


def around(case: Case) -> Iterator[Symptom]:
    """What is not in the windows themselves."""
    yield from _hosts(case)
    yield from _interfaces(case)
    yield from _paths(case)
    yield from _hops(case)
    yield from _sessions(case)


def _hosts(case: Case) -> Iterator[Symptom]:
    for effect, name in _OWN.items():
        found = [
            one for agent in case.agents for one in case.index.by_agent[agent] if _belongs(case, one, effect)
        ]
        if not found:
            continue
        first = found[0]
        more = f" ({len(found)} such)" if len(found) > 1 else ""
        windows = tuple(one.begin_ns for one in found[:MOST_WINDOWS])
        weight = max(one.weight for one in found) / 3
        yield Symptom(name, first.text + more, first.measurement, windows, min(1.4, weight))
    silent = {one.agent for one in case.troubles if one.effect == "silent"}
    if len(silent) > 1:
        yield Symptom("several-agents", f"it is so with {', '.join(sorted(silent))}")


def _belongs(case: Case, trouble: Trouble, effect: str) -> bool:
    return (
        trouble.effect == effect
        and trouble not in case.index.explained
        and trouble.begin_ns <= case.until_ns
        and (trouble.end_ns is None or trouble.end_ns >= case.begin_ns - case.slack)
        and (not trouble.names or any(track.target in trouble.names for track in case.hits) or not case.hits)
    )


def _interfaces(case: Case) -> Iterator[Symptom]:
    if not case.effects & {"loss", "down", "unsent"}:
        return
    lost = sum(
        track.windows.total("lost", track.windows.span(case.begin_ns, case.until_ns)) for track in case.hits
    )
    known = False
    for (agent, interface), columns in case.index.facts.interfaces.items():
        if agent not in case.agents or interface == "lo":
            continue
        known = known or (interface != HOST and columns.times[-1] > case.begin_ns)
        names = ("softnet_dropped",) if interface == HOST else DROPS
        for name in names:
            now, before = _rates(case, columns, name)
            if now < FEW or now < PART * lost or (before and now < TIMES * before):
                continue
            words = f"{agent} {interface}: {name} grew by {now:,} meanwhile"
            yield Symptom("host-drops" if interface == HOST else "interface-drops", words, "interface")
            return
    if known:
        yield Symptom("no-drops", f"no interface of {', '.join(case.agents)} counts drops", "interface")


def _rates(case: Case, columns: Columns, name: str) -> tuple[int, float]:
    """By how much a counter grew in the time of the case, and would have at the rate of before."""
    now = columns.grown(name, case.begin_ns, case.until_ns)
    if not now:
        return 0, 0.0
    earlier = case.begin_ns - columns.times[0]
    if earlier <= 0:
        return now, 0.0
    before = sum(by for _, at, by in columns.growth(name) if at <= case.begin_ns)
    return now, before / earlier * max(case.until_ns - case.begin_ns, 1)


def _paths(case: Case) -> Iterator[Symptom]:
    facts = case.index.facts
    changed: list[_Change] = []
    same: list[_Change] = []
    for track in case.hits:
        for flow, columns in facts.paths.get((track.agent, track.target), {}).items():
            ids = [
                (time_ns, columns.at("path_id", n), columns.at("hop_list", n))
                for n, time_ns in enumerate(columns.times)
                if columns.at("path_id", n) and columns.at("reached", n) != 0
            ]
            before = [one for one in ids if one[0] <= case.begin_ns]
            after = [one for one in ids if case.begin_ns < one[0] <= case.until_ns + case.slack]
            if before and after:
                (same if before[-1][1] == after[0][1] else changed).append(
                    (track, flow, before[-1], after[0])
                )
    told = [
        event
        for event in facts.events
        # What a trace saw before it began was not the reason for it.
        if event.kind == "path"
        and case.begin_ns <= event.time_ns <= case.until_ns + case.slack
        and any(event.agent == track.agent and event.target == track.target for track in case.hits)
    ]
    if changed:
        track, flow, old, new = changed[0]
        more = f"; so it is with {len(changed) - 1} more" if len(changed) > 1 else ""
        words = f"the path to {track.target} (flow {flow}) was {old[2]}, and is {new[2]} now{more}"
        yield Symptom("path-changed", words, "path", (new[0],))
    elif told:
        words = f"{told[0].agent}, {told[0].target}: {told[0].text}"
        yield Symptom("path-changed", words, "event", (told[0].time_ns,))
    elif same:
        track, flow, _, new = same[0]
        words = f"the path to {track.target} is the same as before, as are {len(same) - 1} more"
        yield Symptom("path-same", words if len(same) > 1 else words.split(",")[0], "path", (new[0],))
    small = [(track, n) for track in case.hits if (n := _shrunk(case, track.agent, track.target)) is not None]
    if small:
        track, mtu = small[0]
        yield Symptom("mtu-shrunk", f"only {mtu:,} bytes pass to {track.target} since then", "path")


def _shrunk(case: Case, agent: str, target: str) -> int | None:
    for columns in case.index.facts.paths.get((agent, target), {}).values():
        sizes = [(at, columns.at("mtu", n)) for n, at in enumerate(columns.times)]
        before = [mtu for at, mtu in sizes if mtu and at <= case.begin_ns]
        after = [mtu for at, mtu in sizes if mtu and at > case.begin_ns]
        if before and after and after[-1] < before[-1]:
            return int(after[-1])
    return None


def _hops(case: Case) -> Iterator[Symptom]:
    """From which hop on it is slow. Loss at a hop says little: routers answer as they like."""
    if "slow" not in case.effects:
        return
    votes: dict[str, list[str]] = defaultdict(list)
    for trouble in case.troubles:
        track = trouble.track
        if track is None or trouble.effect != "slow":
            continue
        by_flow: dict[str, dict[int, Columns]] = defaultdict(dict)
        for (flow, ttl), columns in case.index.facts.hops.get((track.agent, track.target), {}).items():
            by_flow[flow][ttl] = columns
        for hops in by_flow.values():
            slow = {ttl for ttl, columns in hops.items() if _hop_slower(case, columns, trouble.size)}
            if not slow:
                continue
            first, last = min(slow), max(hops)
            # Who is slow is slow from there on; a router alone answers slowly because it has better to do.
            if last not in slow:
                continue
            where = "first" if first == 1 else "last" if first == last else "middle"
            votes[where].append(f"{track.target}: hop {first} of {last} is the first slow one")
    if votes:
        where = max(votes, key=lambda one: len(votes[one]))
        yield Symptom(f"{where}-hop", votes[where][0], "hop")


def _hop_slower(case: Case, columns: Columns, size: float) -> bool:
    before = columns.numbers("rtt_ns", columns.span(0, case.begin_ns))
    after = columns.numbers("rtt_ns", columns.span(case.begin_ns, case.until_ns + case.slack))
    return bool(before and after) and min(after) - min(before) > size / 2


def _sessions(case: Case) -> Iterator[Symptom]:
    worse, fine = [], []
    for track in case.hits:
        for columns in case.index.facts.sessions.get((track.agent, track.target), []):
            name = f"{track.agent}'s session to {track.target}"
            if case.effects & {"loss", "down"}:
                again = columns.grown("retransmits_total", case.begin_ns, case.until_ns)
                stalled = any(columns.numbers("stalled", columns.span(case.begin_ns, case.until_ns)))
                if again or stalled:
                    worse.append(f"{name} sent {again:,} segments again meanwhile")
                elif columns.span(case.begin_ns, case.until_ns):
                    fine.append(name)
            elif "slow" in case.effects:
                before = columns.numbers("rtt_ns", columns.span(0, case.begin_ns))
                after = columns.numbers(
                    "rtt_ns", columns.span(case.begin_ns + case.slack // 3, case.until_ns)
                )
                if not before or not after:
                    continue
                old, new = median(before), max(after)
                if new > old * (1 + SESSION_SHIFT):
                    worse.append(f"{name} went from {text.duration(old)} to {text.duration(new)}")
    if worse:
        yield Symptom("session-too", worse[0], "session")
    elif fine:
        yield Symptom("session-fine", f"{fine[0]} goes on without a repetition", "session")
