"""Made-up ends of runs, and what is found wrong with each: a checker that cannot fail would prove nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from probe.telemetry import topics
from probe.telemetry.lines import Value, encode, join, series_text
from probe.telemetry.topics import BatchId
from tests.chaos.driver import Done
from tests.chaos.evidence import Evidence, Key, Sent, SpoolState, key, stored_points
from tests.chaos.parts import Death
from tests.chaos.plan import Fault
from tests.chaos.run import absences
from tests.chaos.verdict import Verdict, judge
from tests.chaos.wire import Published

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
AGENTS = ("agent-1", "agent-2")
SPOOLS = {"agent-1": "9f2c41d09f2c41d0", "agent-2": "00000000000000aa"}
LAST = 6


def lines(agent: str, number: int) -> list[str]:
    """What an agent of one target says in its batch of this number."""
    tags, spool = {"agent": agent}, SPOOLS[agent]
    start = START + number * SECOND
    head: dict[str, Value] = {"batch": number, "spool": spool, "spool_dropped": 0, "clock_synchronised": True}
    window = {"sent": 20, "received": 20, "loss": 0.0}
    bucket = {**tags, "target": "t1", "le": "000000100000"}
    return [
        encode(series_text("agent", tags), head, start + SECOND + 3),
        encode(series_text("probe", {**tags, "target": "t1"}), window, start),
        encode(series_text("probe_histogram", bucket), {"count": 20}, start),
    ]


def payload(agent: str, number: int) -> bytes:
    return join(lines(agent, number))


def packet(agent: str, number: int, content: bytes, to_broker: bool = True) -> Published:
    return Published(1.0, to_broker, topics.lines(BatchId(agent, SPOOLS[agent], number)), content)


def ack(agent: str, ranges: list[list[int]]) -> Published:
    document = json.dumps({SPOOLS[agent]: ranges}).encode()
    return Published(START / SECOND + LAST + 3, True, topics.ack(agent), document)


def whole() -> Evidence:
    """A run in which everything is as it should be."""
    sent = Sent()
    for agent in AGENTS:
        for number in range(1, LAST + 1):
            sent.add(packet(agent, number, payload(agent, number)))
            sent.add(packet(agent, number, payload(agent, number), to_broker=False))
        sent.add(ack(agent, [[1, LAST - 1], [LAST, LAST]]))
    stored: dict[Key, dict[str, object]] = {}
    for points in sent.points.values():
        stored |= {key(point): dict(point.fields) for point in points}
    return Evidence(
        spools=[SpoolState(agent, SPOOLS[agent], LAST, 0, 0) for agent in AGENTS],
        sent=sent,
        stored=stored,  # type: ignore[arg-type]
        seen={(agent, "t1"): 20 * LAST for agent in AGENTS},
        absent={agent: [] for agent in AGENTS},
        full={"agent-1"},
    )


def find(evidence: Evidence, measurement: str, number: int, agent: str = "agent-1") -> Key:
    """The point that batch `number` carries of this measurement."""
    points = evidence.sent.points[BatchId(agent, SPOOLS[agent], number)]
    return next(key(point) for point in points if point.measurement == measurement)


def test_a_good_run_is_good() -> None:
    verdict = judge(whole())
    assert verdict.problems == []
    assert (verdict.batches, verdict.points, verdict.lost) == (12, 36, 0)
    assert verdict.slowest_s == pytest.approx(7)  # batch 1: made at second 2, acknowledged at second 9
    assert verdict.probes_sent == verdict.probes_seen == 240


def test_what_is_sent_or_delivered_again_is_counted_and_no_problem() -> None:
    evidence = whole()
    for _ in range(3):
        evidence.sent.add(packet("agent-1", 2, payload("agent-1", 2)))
    evidence.sent.add(packet("agent-2", 2, payload("agent-2", 2), to_broker=False))
    verdict = judge(evidence)
    assert verdict.good
    assert (verdict.sent_again, verdict.delivered_again) == (3, 1)


def lose(evidence: Evidence, number: int, agent: str = "agent-1") -> None:
    """Take everything of one batch out of the database."""
    for point in evidence.sent.points[BatchId(agent, SPOOLS[agent], number)]:
        del evidence.stored[key(point)]


def a_batch_is_missing(evidence: Evidence) -> None:
    lose(evidence, 3)


def the_last_batch_is_missing_and_only_its_spool_knows(evidence: Evidence) -> None:
    lose(evidence, LAST)
    del evidence.sent.points[BatchId("agent-1", SPOOLS["agent-1"], LAST)]
    evidence.seen["agent-1", "t1"] -= 20


def the_last_batch_of_a_simulated_agent_is_missing(evidence: Evidence) -> None:
    del evidence.absent["agent-2"], evidence.seen["agent-2", "t1"]
    lose(evidence, LAST, "agent-2")


def more_is_missing_than_was_dropped(evidence: Evidence) -> None:
    evidence.spools[0] = SpoolState("agent-1", SPOOLS["agent-1"], LAST, 0, 1)
    lose(evidence, 3)
    lose(evidence, 4)


def a_batch_that_was_acknowledged_is_missing(evidence: Evidence) -> None:
    """And a full disk would have been an excuse for any other one."""
    evidence.spools[0] = SpoolState("agent-1", SPOOLS["agent-1"], LAST, 0, 1)
    lose(evidence, 3)


def a_batch_was_dropped_and_not_counted(evidence: Evidence) -> None:
    del evidence.sent.acknowledged[BatchId("agent-1", SPOOLS["agent-1"], 2)]


def a_batch_was_dropped_without_need(evidence: Evidence) -> None:
    evidence.full.clear()
    evidence.spools[0] = SpoolState("agent-1", SPOOLS["agent-1"], LAST, 0, 1)


def lines_were_dropped(evidence: Evidence) -> None:
    at = find(evidence, "agent", 4)
    evidence.stored[at]["lines_dropped"] = 3


def a_collector_refused(evidence: Evidence) -> None:
    at = "collector", frozenset({("agent", "collector"), ("collector", "collector-2")}), START
    evidence.stored[at] = {"rejected": 2, "quarantined": 0}


def a_batch_still_waits(evidence: Evidence) -> None:
    evidence.spools[0] = SpoolState("agent-1", SPOOLS["agent-1"], LAST, 1, 0)


def a_point_is_missing(evidence: Evidence) -> None:
    del evidence.stored[find(evidence, "probe_histogram", 4)]


def a_point_is_altered(evidence: Evidence) -> None:
    evidence.stored[find(evidence, "probe", 4)]["loss"] = 0.5


def a_field_is_missing(evidence: Evidence) -> None:
    del evidence.stored[find(evidence, "probe", 4)]["loss"]


def nobody_sent_a_point(evidence: Evidence) -> None:
    measurement, tags, time_ns = find(evidence, "probe_histogram", 4)
    evidence.stored[measurement, tags, time_ns + 1] = {"count": 0}


def a_window_is_there_twice(evidence: Evidence) -> None:
    """As if an agent, killed before it noted that a window had been sent, had told of it again."""
    measurement, tags, time_ns = find(evidence, "probe", 4)
    again = encode(
        series_text(measurement, dict(tags)), {"sent": 20, "received": 20, "loss": 0.0}, time_ns + 7
    )
    head, *rest = lines("agent-1", 5)
    evidence.sent = Sent()
    for agent in AGENTS:
        for number in range(1, LAST + 1):
            mine = join([head, again, *rest]) if (agent, number) == ("agent-1", 5) else payload(agent, number)
            evidence.sent.add(packet(agent, number, mine))
    evidence.stored[measurement, tags, time_ns + 7] = {"sent": 20, "received": 20, "loss": 0.0}
    evidence.seen["agent-1", "t1"] += 20  # so that nothing else tells


def a_window_is_missing(evidence: Evidence) -> None:
    """It was lost between measuring and spooling: no batch is missing."""
    for measurement in ("probe", "probe_histogram"):
        at = find(evidence, measurement, 4)
        del evidence.stored[at]
        batch = evidence.sent.points[BatchId("agent-1", SPOOLS["agent-1"], 4)]
        batch[:] = [point for point in batch if key(point) != at]
    evidence.seen["agent-1", "t1"] -= 20


def a_point_is_overwritten(evidence: Evidence) -> None:
    """A batch of another number has a point of the same tags and time."""
    head, window, bucket = lines("agent-1", 7)
    _, earlier, _ = lines("agent-1", 5)
    evidence.sent.add(packet("agent-1", 7, join([head, window, bucket, earlier])))
    points = evidence.sent.points[BatchId("agent-1", SPOOLS["agent-1"], 7)]
    evidence.stored |= {key(point): dict(point.fields) for point in points}
    evidence.seen["agent-1", "t1"] += 20


def a_number_is_used_twice(evidence: Evidence) -> None:
    evidence.sent.add(packet("agent-1", 4, payload("agent-1", 5)))


def more_probes_are_told_of_than_were_sent(evidence: Evidence) -> None:
    evidence.seen["agent-1", "t1"] -= 1


def probes_are_not_told_of(evidence: Evidence) -> None:
    evidence.seen["agent-1", "t1"] += 1


def replies_are_in_no_histogram(evidence: Evidence) -> None:
    at = find(evidence, "probe_histogram", 4)
    del evidence.stored[at]
    batch = evidence.sent.points[BatchId("agent-1", SPOOLS["agent-1"], 4)]
    batch[:] = [point for point in batch if key(point) != at]


def a_line_is_in_quarantine(evidence: Evidence) -> None:
    evidence.quarantined.append({"agent": "agent-1", "reason": "partial write: field type conflict"})


def a_part_died(evidence: Evidence) -> None:
    evidence.deaths.append(Death("collector-1", 1.0, 1, "MemoryError"))


def an_agent_left_badly(evidence: Evidence) -> None:
    evidence.bad_goodbyes["agent-2"] = [0, 1]


@pytest.mark.parametrize(
    ("spoil", "field", "words"),
    [
        (a_batch_is_missing, "lost", "1 batches lost of agent-1"),
        (the_last_batch_is_missing_and_only_its_spool_knows, "lost", "1 batches lost of agent-1"),
        (the_last_batch_of_a_simulated_agent_is_missing, "lost", "1 batches lost of agent-2"),
        (more_is_missing_than_was_dropped, "lost", "1 dropped and counted): 3, 4"),
        (
            a_batch_that_was_acknowledged_is_missing,
            "promised",
            "1 batches were acknowledged and are not in the database",
        ),
        (a_batch_was_dropped_and_not_counted, "uncounted", "1 batches left the spool of agent-1"),
        (a_batch_was_dropped_without_need, "", "1 batches dropped by agent-1, whose disk was never full"),
        (lines_were_dropped, "", "3 lines_dropped, says agent-1 of itself"),
        (a_collector_refused, "", "2 rejected, says collector-2 of itself"),
        (a_batch_still_waits, "", "1 batches still wait in the spool of agent-1"),
        (a_point_is_missing, "absent_points", "1 points are missing although their batch is there"),
        (a_point_is_altered, "altered", "1 points have other values than were sent"),
        (a_field_is_missing, "altered", "1 points have other values than were sent"),
        (nobody_sent_a_point, "foreign", "1 points are stored that no batch on the wire held"),
        (a_window_is_there_twice, "doubled", "1 windows hold more probes than fit into them: agent-1 t1"),
        (a_window_is_missing, "unexplained", "1 windows are missing while their agent was there: agent-1 t1"),
        (a_point_is_overwritten, "overwritten", "1 points were sent twice by different batches"),
        (a_number_is_used_twice, "changed", "1 batch numbers were used for two contents"),
        (more_probes_are_told_of_than_were_sent, "", "1 probes more are stored than were sent"),
        (probes_are_not_told_of, "", "1 probes were sent from agent-1 to t1 and no window tells of them"),
        (replies_are_in_no_histogram, "", "20 replies are in no histogram from agent-1 to t1"),
        (a_line_is_in_quarantine, "quarantined", "1 entries in quarantine: partial write"),
        (a_part_died, "", "collector-1 ended by itself with 1: MemoryError"),
        (an_agent_left_badly, "", "agent-2 left with [0, 1]"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_wrong_is_found(spoil: Callable[[Evidence], None], field: str, words: str) -> None:
    evidence = whole()
    spoil(evidence)
    verdict = judge(evidence)
    assert not verdict.good
    assert any(words in problem for problem in verdict.problems), verdict.problems
    if field:
        assert getattr(verdict, field) == 1


@pytest.mark.parametrize("seed", range(10))
def test_any_lost_batch_is_found(seed: int) -> None:
    evidence = whole()
    chance = random.Random(seed)
    lose(evidence, chance.randint(1, LAST), chance.choice(AGENTS))
    assert judge(evidence).lost == 1


def test_what_a_full_disk_dropped_and_counted_is_not_lost() -> None:
    evidence = whole()
    evidence.spools[0] = SpoolState("agent-1", SPOOLS["agent-1"], LAST, 0, 2)
    lose(evidence, 3)
    lose(evidence, 4)
    for number in (3, 4):
        del evidence.sent.acknowledged[BatchId("agent-1", SPOOLS["agent-1"], number)]
    verdict = judge(evidence)
    assert verdict.problems == []
    assert (verdict.missing, verdict.dropped, verdict.lost) == (2, 2, 0)


def test_what_went_with_a_killed_agent_is_explained() -> None:
    evidence = whole()
    a_window_is_missing(evidence)
    evidence.seen["agent-1", "t1"] += 20
    evidence.killed = {"agent-1"}
    evidence.absent["agent-1"] = [(START + 4 * SECOND, START + 5 * SECOND)]
    assert judge(evidence).problems == []


def test_what_a_busy_machine_did_is_explained_by_the_agent() -> None:
    evidence = whole()
    a_window_is_missing(evidence)
    tags = frozenset({("agent", "agent-1"), ("kind", "host")})
    when = START + 5 * SECOND + 200_000_000
    text = "this host did not run the agent for 1210 ms: it was stopped; probes were skipped"
    for said in (text, text.replace("1210 ms", "3 times, 1411 ms in all and at most 1210 ms")):
        evidence.stored["event", tags, when] = {"text": said, "detail": "{}"}
        assert judge(evidence).unexplained == 0
    evidence.stored["event", tags, when] = {"text": text.replace("1210", "121"), "detail": "{}"}
    assert judge(evidence).unexplained == 1


def test_when_an_agent_is_absent() -> None:
    def done(kind: str, begin: int, end: int, *where: str) -> Done:
        fault = Fault(begin, end, kind, where or ("agent-1",))
        return Done(fault, START + begin * SECOND, START + end * SECOND)

    def spans(*faults: Done) -> list[tuple[float, float]]:
        found = absences("agent-1", list(faults))
        return [((since - START) / SECOND, (until - START) / SECOND) for since, until in found]

    assert spans(done("kill", 20, 22, "agent-2"), done("drop", 20, 22, "agent-1", "broker")) == []
    assert spans(done("kill", 20, 22)) == [(15, 37)]
    assert spans(done("end", 20, 22)) == [(20, 37)]
    assert spans(done("freeze", 20, 22)) == [(19, 24)]
    # What could not be spooled waited in memory.
    assert spans(done("reload", 20, 22)) == []
    assert spans(done("fill", 8, 19, "agent-1", "disk"), done("kill", 20, 22)) == [(3, 37)]
    assert spans(done("flood", 8, 19, "agent-1", "disk"), done("end", 20, 22)) == [(8, 37)]
    assert spans(done("fill", 8, 12, "agent-1", "disk"), done("kill", 20, 22)) == [(15, 37)]


def test_rows_of_the_database_are_points() -> None:
    rows = [{"name": "probe", "time": 5, "agent": "a", "flow": "", "dscp": "0", "sent": 3, "loss": None}]
    found = stored_points("probe", rows, ["agent", "flow", "dscp"])
    assert found == {("probe", frozenset({("agent", "a"), ("dscp", "0")}), 5): {"sent": 3}}


def test_a_verdict_can_be_written_as_json() -> None:
    verdict = Verdict(lost=1)
    verdict.blame(3, "things", [1, 2, 3, 4, 5, 6])
    verdict.blame(0, "nothing")
    assert verdict.as_dict()["problems"] == ["3 things: 1, 2, 3, 4, 5 ... (6 in all)"]
    assert not verdict.good
