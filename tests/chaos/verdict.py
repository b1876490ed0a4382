"""Evidence in, a verdict out: which batches and points are lost, doubled, altered or unexplained; pure.

What "no point is there twice" means. In InfluxDB the same tags and time are one point, so a plain repetition
cannot be seen there, and does not matter. What would matter, and is looked for:

- two batches with a point of the same tags and time: one overwrites the other (`overwritten`);
- a number given out twice, for two different contents (`changed`);
- a stored point that nobody sent, or with other values than were sent (`foreign`, `altered`);
- the same time measured twice under different starts, as after a restart: the probes of a window length of
  one series would be more than fit into it (`doubled`), and more in all than the targets saw (`surplus`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from probe.telemetry.lines import Point
from tests.chaos.evidence import Evidence, Key, Span, key

_SHOWN = 5
# Counters that nothing which the script does may move, by measurement.
_ALARMS = {
    "agent": ("windows_dropped", "lines_dropped"),
    "collector": ("rejected", "quarantined"),
}

_STALL = re.compile(r"did not run the agent for (\d+ times, .* at most )?(\d+) ms")
_SUMMED_UP_NS = 15_000_000_000  # an agent tells of several stalls together, at most every 10 s


@dataclass
class Verdict:
    """The counts, and a sentence for each thing that must not be."""

    batches: int = 0
    points: int = 0
    missing: int = 0  # batches given a number and not in the database
    dropped: int = 0  # batches that a spool says it had to drop
    lost: int = 0  # missing beyond what was dropped and counted
    promised: int = 0  # acknowledged by a collector and not in the database
    uncounted: int = 0  # never acknowledged, not waiting, and not counted as dropped
    sent_again: int = 0
    delivered_again: int = 0
    overwritten: int = 0
    changed: int = 0
    told_twice: int = 0  # events of one agent's going, written by two collectors at two times
    absent_points: int = 0
    foreign: int = 0
    altered: int = 0
    doubled: int = 0
    quarantined: int = 0
    unexplained: int = 0  # windows missing while their agent was there
    slowest_s: float = 0.0  # from a batch's making to its first acknowledgement
    probes_sent: int = 0
    probes_seen: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def blame(self, count: int, text: str, examples: object = None) -> None:
        """Note a problem where there is one."""
        if count:
            some = f": {_some(examples)}" if examples else ""
            self.problems.append(f"{count} {text}{some}")


def judge(evidence: Evidence) -> Verdict:
    """Look at everything."""
    verdict = Verdict()
    _batches(evidence, verdict)
    _points(evidence, verdict)
    _windows(evidence, verdict)
    _probes(evidence, verdict)
    _counters(evidence, verdict)
    verdict.quarantined = len(evidence.quarantined)
    verdict.blame(
        verdict.quarantined, "entries in quarantine", [e.get("reason") for e in evidence.quarantined]
    )
    for death in evidence.deaths:
        verdict.problems.append(f"{death.part} ended by itself with {death.status}: {death.words[-600:]}")
    for name, statuses in evidence.bad_goodbyes.items():
        verdict.problems.append(f"{name} left with {statuses}")
    return verdict


def _batches(evidence: Evidence, verdict: Verdict) -> None:
    held: dict[tuple[str, str], set[int]] = defaultdict(set)
    for (measurement, tags, _), fields in evidence.stored.items():
        if measurement == "agent":
            held[dict(tags)["agent"], str(fields["spool"])].add(int(fields["batch"]))
    ends: dict[tuple[str, str], int] = defaultdict(int)
    dropped: dict[tuple[str, str], int] = defaultdict(int)
    for state in evidence.spools:
        ends[state.agent, state.spool] = state.last
        dropped[state.agent, state.spool] = state.dropped
        verdict.blame(state.waiting, f"batches still wait in the spool of {state.agent}")
        if state.agent not in evidence.full:
            verdict.blame(state.dropped, f"batches dropped by {state.agent}, whose disk was never full")
    for batch in evidence.sent.points:  # a spool that was replaced is known from the wire alone
        at = batch.agent, batch.spool
        ends[at] = max(ends[at], batch.number)
    for at, numbers in held.items():
        ends[at] = max(ends[at], *numbers)
    for at, last in ends.items():
        missing = set(range(1, last + 1)) - held[at]
        verdict.batches += last
        verdict.missing += len(missing)
        verdict.dropped += dropped[at]
        lost = max(0, len(missing) - dropped[at])
        verdict.lost += lost
        where = f"of {at[0]} (spool {at[1]}, numbers 1 to {last}, {dropped[at]} dropped and counted)"
        verdict.blame(lost, f"batches lost {where}", sorted(missing))
    sent = evidence.sent
    promised = [batch for batch in sent.acknowledged if batch.number not in held[batch.agent, batch.spool]]
    verdict.promised = len(promised)
    verdict.blame(len(promised), "batches were acknowledged and are not in the database", promised)
    for state in evidence.spools:
        known = sum((batch.agent, batch.spool) == (state.agent, state.spool) for batch in sent.acknowledged)
        uncounted = max(0, state.last - known - state.dropped - state.waiting)
        verdict.uncounted += uncounted
        verdict.blame(uncounted, f"batches left the spool of {state.agent} unacknowledged and uncounted")
    verdict.sent_again = sum(sent.to_broker.values()) - len(sent.to_broker)
    verdict.delivered_again = sum(sent.to_collectors.values()) - len(sent.to_collectors)
    verdict.changed = len(sent.changed)
    verdict.blame(verdict.changed, "batch numbers were used for two contents", sorted(map(str, sent.changed)))


def _counters(evidence: Evidence, verdict: Verdict) -> None:
    """What parts say of themselves: nothing was let go for want of room, nothing was refused."""
    for batch, when in evidence.sent.acknowledged.items():
        for point in evidence.sent.points.get(batch, []):
            if point.measurement == "agent":
                verdict.slowest_s = max(verdict.slowest_s, when - point.time_ns / 1e9)
    for measurement, counters in _ALARMS.items():
        for counter in counters:
            highest: dict[str, int] = defaultdict(int)
            for (stored, tags, _), fields in evidence.stored.items():
                if stored == measurement:
                    who = dict(tags).get("collector") or dict(tags)["agent"]
                    highest[who] = max(highest[who], int(fields.get(counter, 0)))
            for who, count in highest.items():
                verdict.blame(count, f"{counter}, says {who} of itself")


def _points(evidence: Evidence, verdict: Verdict) -> None:
    wanted: dict[Key, Point] = {}
    overwritten: list[Key] = []
    present: set[tuple[str, str, int]] = set()
    for (measurement, tags, _), fields in evidence.stored.items():
        if measurement == "agent":
            present.add((dict(tags)["agent"], str(fields["spool"]), int(fields["batch"])))
    unheld: set[Key] = set()
    for batch, points in evidence.sent.points.items():
        for point in points:
            at = key(point)
            if at in wanted:
                overwritten.append(at)
            wanted[at] = point
            if (batch.agent, batch.spool, batch.number) not in present:
                unheld.add(at)
    verdict.overwritten = len(overwritten)
    verdict.blame(len(overwritten), "points were sent twice by different batches", overwritten)
    own = {at for at in evidence.stored if at not in wanted and _is_collectors(at)}
    # "offline" is said once for each connection, whose time is in it; who saw it later says it later.
    gone = Counter(
        (at[1], str(evidence.stored[at].get("detail")))
        for at in own
        if "offline" in str(evidence.stored[at].get("text"))
    )
    verdict.told_twice = sum(gone.values()) - len(gone)
    stored = evidence.stored.keys() - own
    verdict.points = len(stored)
    absent = wanted.keys() - stored - unheld  # those of a missing batch are told already
    foreign = stored - wanted.keys()
    altered = [at for at in stored & wanted.keys() if dict(wanted[at].fields) != evidence.stored[at]]
    verdict.absent_points, verdict.foreign, verdict.altered = len(absent), len(foreign), len(altered)
    verdict.blame(len(absent), "points are missing although their batch is there", absent)
    verdict.blame(len(foreign), "points are stored that no batch on the wire held", foreign)
    verdict.blame(len(altered), "points have other values than were sent", altered)


def _is_collectors(at: Key) -> bool:
    """Whether a collector says it, of itself or of an agent's status."""
    measurement, tags, _ = at
    return measurement == "collector" or (measurement == "event" and ("kind", "agent") in tags)


def _windows(evidence: Evidence, verdict: Verdict) -> None:
    """No time is measured twice, and none is missing while the agent was there."""
    length, full = evidence.window_ns, evidence.window_ns // evidence.interval_ns
    slots: dict[frozenset[tuple[str, str]], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (measurement, tags, time_ns), fields in evidence.stored.items():
        if measurement == "probe" and dict(tags)["agent"] in evidence.absent:
            slots[tags][time_ns // length].append(int(fields["sent"]))
    doubled: list[str] = []
    unexplained: list[str] = []
    dropped = {state.agent for state in evidence.spools if state.dropped}
    stalls = _stalls(evidence)
    for tags, by_slot in slots.items():
        name = dict(tags)
        at = f"{name['agent']} {name['target']}"
        # Where a run ends and another begins, each has a schedule of its own: one probe more for each.
        doubled += [
            f"{at} {slot * length}" for slot, sent in by_slot.items() if sum(sent) > full + len(sent) - 1
        ]
        if name["agent"] in dropped:
            continue
        spans = evidence.absent[name["agent"]] + stalls[name["agent"]]
        unexplained += [
            f"{at} {slot * length}"
            for slot in range(min(by_slot), max(by_slot) + 1)
            if slot not in by_slot and not _touches(slot * length, (slot + 1) * length, spans)
        ]
    verdict.doubled, verdict.unexplained = len(doubled), len(unexplained)
    verdict.blame(len(doubled), "windows hold more probes than fit into them", doubled)
    verdict.blame(len(unexplained), "windows are missing while their agent was there", unexplained)


def _stalls(evidence: Evidence) -> dict[str, list[Span]]:
    """When agents were not run although nobody stopped them, by their own account: this machine is busy."""
    stalls: dict[str, list[Span]] = defaultdict(list)
    for (measurement, tags, time_ns), fields in evidence.stored.items():
        if measurement == "event" and (said := _STALL.search(str(fields["text"]))):
            worst_ns = int(said[2]) * 1_000_000
            if worst_ns > evidence.window_ns // 2:
                before = _SUMMED_UP_NS if said[1] else worst_ns + evidence.window_ns
                stalls[dict(tags)["agent"]].append((time_ns - before, time_ns))
    return stalls


def _touches(begin: int, end: int, spans: list[Span]) -> bool:
    return any(begin < until and since < end for since, until in spans)


def _probes(evidence: Evidence, verdict: Verdict) -> None:
    """Never more probes told of than the targets got; as many, where the agent was never killed."""
    told: dict[tuple[str, str], int] = defaultdict(int)
    answered: dict[tuple[str, str], int] = defaultdict(int)
    in_histograms: dict[tuple[str, str], int] = defaultdict(int)
    dropped = {state.agent for state in evidence.spools if state.dropped}
    for (measurement, tags, _), fields in evidence.stored.items():
        name = dict(tags)
        if measurement == "probe" and "flow" not in name:
            told[name["agent"], name["target"]] += int(fields["sent"])
            answered[name["agent"], name["target"]] += int(fields["received"])
        elif measurement == "probe_histogram":
            in_histograms[name["agent"], name["target"]] += int(fields["count"])
    for at, seen in evidence.seen.items():
        verdict.probes_sent += told[at]
        verdict.probes_seen += seen
        where = f"{at[0]} to {at[1]}"
        verdict.blame(max(0, told[at] - seen), f"probes more are stored than were sent from {where}")
        verdict.blame(
            max(0, in_histograms[at] - answered[at]) if at[0] not in dropped else 0,
            f"replies more are in the histograms than in the windows from {where}",
        )
        if at[0] not in evidence.killed and at[0] not in dropped:
            verdict.blame(
                max(0, seen - told[at]), f"probes were sent from {where} and no window tells of them"
            )
            verdict.blame(
                max(0, answered[at] - in_histograms[at]), f"replies are in no histogram from {where}"
            )


def _some(examples: object) -> str:
    listed = list(examples) if isinstance(examples, (list, set, tuple)) else [examples]
    more = f" ... ({len(listed)} in all)" if len(listed) > _SHOWN else ""
    return ", ".join(str(one) for one in listed[:_SHOWN]) + more
