"""News of probes and summaries in, what `coloprobe ping` writes of them out."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.samples import ABSENT, CLOSED, ERROR, HIDDEN, LOCAL, REFUSED, SENT, SKIPPED
from probe.flow_table import LOSS, SLOW
from probe.ping_lines import JsonLines, TextLines
from probe.ping_report import Cuts, points, text
from probe.ping_table import LiveTable, flow_rows, flows_text
from probe.ping_view import OUTCOMES, STAMPS, News
from probe.sockets.memory import Fate
from probe.target_settings import Target
from probe.units import Duration
from tests.unit.probe.engine.driving import Driver
from tests.unit.probe.engine.reflecting import Course, StampDriver

TIMEOUT = 200 * MILLISECOND
TARGET = Target(name="there", address="192.0.2.1", interval=Duration(100 * MILLISECOND))


def changed(**values: object) -> Target:
    return msgspec.structs.replace(TARGET, **values)


# -- lines ---------------------------------------------------------------------------------------------------


def news(
    *probes: tuple[str, int],
    stamp: str = "kernel",
    state: int = SENT,
    delays: tuple[int, int] = (ABSENT, ABSENT),
    flows: Sequence[int] = (),
    unfollowed: bool = False,
    again: bool = False,
    refusal: int = 0,
) -> News:
    """`probes`: outcome and RTT."""
    count = len(probes)
    return News(
        np.array(list(flows) or [0] * count),
        np.arange(count),
        np.array([OUTCOMES.index(outcome) for outcome, _ in probes], np.uint8),
        np.full(count, STAMPS.index(stamp), np.uint8),
        np.arange(count) * 1000 + 5,
        np.array([rtt for _, rtt in probes], np.int64),
        np.full(count, state, np.uint8),
        np.full(count, delays[0]),
        np.full(count, delays[1]),
        np.full(count, unfollowed),
        again,
        refusal,
    )


def as_text(told: News, target: Target = TARGET, address: str = "192.0.2.1") -> list[str]:
    out = io.StringIO()
    TextLines(target, address, out).show(told)
    return out.getvalue().splitlines()


def as_json(told: News, target: Target = TARGET) -> list[dict[str, object]]:
    out = io.StringIO()
    JsonLines(target, lambda mono: mono + 10_000, out).show(told)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_an_echo_is_a_line() -> None:
    told = news(("received", 1500), ("lost", -1), ("late", 2500), ("duplicate", -1))
    assert as_text(told) == [
        "64 bytes from 192.0.2.1: seq=0 rtt=1.50 us",
        "seq=1 no reply",
        "64 bytes from 192.0.2.1: seq=2 rtt=2.50 us  late",
        "seq=3 duplicate reply",
    ]
    first, lost, late, duplicate = as_json(told)
    assert first == {
        "flow": 0,
        "seq": 0,
        "sent_ns": 10_005,
        "rtt_ns": 1500,
        "stamp": "kernel",
        "outcome": "received",
    }
    assert list(first) == ["flow", "seq", "sent_ns", "rtt_ns", "stamp", "outcome"]
    assert "rtt_ns" not in lost
    assert (late["outcome"], late["rtt_ns"]) == ("late", 2500)
    assert duplicate == {"flow": 0, "seq": 3, "sent_ns": 13_005, "stamp": "kernel", "outcome": "duplicate"}


@pytest.mark.parametrize(
    ("state", "knobs", "words"),
    [
        (SKIPPED, {}, "not sent: this host was stalled"),
        (REFUSED, {}, "not sent: EPERM: Operation not permitted"),
        (SENT | ERROR | LOCAL, {}, "not sent: no neighbour answers for it"),
        (SENT | ERROR, {}, "ICMP error: unreachable"),
        (SENT | ERROR, {"ttl": 3}, "ICMP error: unreachable or TTL exceeded"),
        (SENT | ERROR, {"dont_fragment": True}, "ICMP error: unreachable or too big"),
        (SENT | HIDDEN, {}, "no reply, which this host's full receive buffer may have dropped"),
        (SENT, {}, "not sent: held back or dropped by this host"),
    ],
)
def test_an_error_says_why(state: int, knobs: dict[str, object], words: str) -> None:
    assert as_text(news(("error", -1), state=state, refusal=1), changed(**knobs)) == [f"seq=0 {words}"]


@pytest.mark.parametrize("kind", ["tcp", "connect"])
def test_a_port_is_open_or_closed(kind: str) -> None:
    target = changed(kind=kind, port=443)
    for state, word in ((SENT, "open"), (SENT | CLOSED, "closed")):
        told = news(("received", 1500), ("lost", -1), state=state)
        assert as_text(told, target) == [f"192.0.2.1:443: seq=0 {word} rtt=1.50 us", "seq=1 no reply"]
        assert [probe.get("state") for probe in as_json(told, target)] == [word, None]
    assert as_text(news(("received", 1)), target, "2001:db8::1")[0].startswith("[2001:db8::1]:443: ")


def test_a_reflectors_delays_are_shown_where_there_are_any() -> None:
    target = changed(kind="stamp", port=862, size=84)
    told = news(("received", 3_010_000), delays=(1_520_000, -1_490_000))
    assert as_text(told, target) == [
        "84 bytes from 192.0.2.1:862: seq=0 rtt=3.01 ms fwd 1.52 ms back -1.49 ms"
    ]
    (probe,) = as_json(told, target)
    assert (probe["forward_ns"], probe["backward_ns"]) == (1_520_000, -1_490_000)
    (probe,) = as_json(news(("received", 3_010_000)), target)
    assert "forward_ns" not in probe
    assert "backward_ns" not in probe
    assert "unfollowed" not in probe
    told = news(("received", 3_010_000), unfollowed=True)
    assert as_text(told, target)[0].endswith("seq=0 rtt=3.01 ms  (no follow-up)")
    assert as_json(told, target)[0]["unfollowed"] is True


def test_the_stamps_origin_is_told() -> None:
    assert as_text(news(("received", 1500), stamp="user")) == [
        "64 bytes from 192.0.2.1: seq=0 rtt=1.50 us  (no kernel timestamp)"
    ]
    assert as_text(news(("received", 1500), stamp="hw"))[0].endswith("rtt=1.50 us  (hardware)")
    assert as_json(news(("received", 1500), stamp="hw"))[0]["stamp"] == "hw"
    assert "rtt_ns" not in as_json(news(("received", -1)))[0]


# -- the live table ------------------------------------------------------------------------------------------


def live(flows: int, size: tuple[int, int] = (120, 40)) -> tuple[LiveTable, io.StringIO]:
    out = io.StringIO()
    identities = [str(40_000 + n) for n in range(flows)]
    return LiveTable(identities, "source port", frozenset(range(flows)), out, lambda: size), out


def test_the_live_table_counts_as_the_summary_does() -> None:
    display, _ = live(2)
    display.show(news(("received", 1000), ("received", 3000), ("lost", -1), ("late", 9000), flows=[0] * 4))
    display.show(news(("late", 9000), flows=[0], again=True))
    display.show(news(("duplicate", -1), flows=[0], again=True))
    display.show(news(("error", -1), flows=[1], state=SENT | ERROR))
    display.show(news(("error", -1), flows=[1], state=REFUSED))
    first, second = display.rows()
    assert (first.sent, first.lost, first.errors) == (4, 2, 0)
    assert (first.p50, first.p99, first.max, first.jitter) == (1000, 3000, 3000, 125)
    assert (second.sent, second.lost, second.errors) == (1, 1, 2)
    assert (second.p50, second.jitter) == (None, None)


def test_quantiles_are_of_the_last_replies_and_the_maximum_is_of_all() -> None:
    display, _ = live(1)
    display.show(news(("received", 9_000_000)))
    for _ in range(50):
        display.show(news(*[("received", 1000)] * 100))
    (row,) = display.rows()
    assert (row.sent, row.p99, row.max, row.jitter) == (5001, 1000, 9_000_000, 0)


def test_it_is_drawn_over_itself_and_gone_at_the_end() -> None:
    display, out = live(3)
    display.tick(0)
    display.show(news(*[("received", 1000)] * 3, flows=[0, 1, 2]))
    display.tick(100 * MILLISECOND)  # too soon
    assert out.getvalue().count("flow  source port") == 1
    display.tick(300 * MILLISECOND)
    drawn = out.getvalue()
    assert drawn.count("flow  source port") == 2
    assert drawn.count("\x1b[5F\x1b[J") == 1  # headings, three flows, and the verdict
    display.end()
    assert out.getvalue() == drawn + "\x1b[5F\x1b[J"
    display.end()
    assert out.getvalue().count("\x1b[") == 4


def test_it_fits_a_small_terminal() -> None:
    display, out = live(64, (70, 12))
    display.show(news(*[("received", 1000 + n) for n in range(64)], flows=range(64)))
    display.tick(0)
    lines = out.getvalue().splitlines()
    assert len(lines) < 12
    assert max(map(len, lines)) < 70
    display.show(
        news(*[("received", 1_000_000 * (1 + n % 2)) for n in range(64)] * 3, flows=[*range(64)] * 3)
    )
    out.truncate(0)
    display.tick(SECOND)
    lines = out.getvalue().splitlines()
    assert len(lines) < 12
    assert max(len(line.rpartition("J")[2]) for line in lines) < 70
    assert "two groups: 32 flows around 1.00 ms" in out.getvalue()


# -- the summary ---------------------------------------------------------------------------------------------


def cuts_of(driver: Driver | StampDriver, kind: str, length: int = SECOND) -> Cuts:
    driver.run(length)
    driver.finish()
    cuts = Cuts(kind, driver.flows)
    for cut in driver.cuts:
        cuts.add(cut)
    return cuts


def test_of_one_flow_there_is_one_point() -> None:
    cuts = cuts_of(Driver(lambda n, _: Fate(() if n % 4 == 1 else (MILLISECOND,))), "icmp", 970 * MILLISECOND)
    tags = {"target": "there", "kind": "icmp", "dscp": "0"}
    (line,) = points(cuts.summaries(TIMEOUT), tags, 1)
    point = json.loads(line)
    assert list(point)[:5] == ["time", "measurement", "target", "kind", "dscp"]
    assert (point["measurement"], point["lost"], point["rtt_max_ns"]) == ("probe", 24, MILLISECOND)
    said = text(cuts.summaries(TIMEOUT), 0, "there")
    assert said.startswith(f"\n--- there: {point['sent']} sent, {point['received']} received, ")
    assert f" 24 lost ({24 / point['sent']:.2%})" in said
    assert "0 reordered, 0 errors, longest loss burst 1, 0 without kernel stamps" in said
    assert "rtt min 1.00 ms  p50 1.00 ms" in said
    assert "one-way" not in said


def test_of_several_flows_the_targets_point_comes_first() -> None:
    delay = {0: 1, 1: 1, 2: 1, 3: 5}
    order: dict[int, int] = {}

    def fate(_: int, packet: bytes) -> Fate:
        flow = order.setdefault(int.from_bytes(packet[4:6], "big"), len(order))
        return Fate((delay[flow] * MILLISECOND,))

    driver = Driver(fate, flows=4)
    cuts = cuts_of(driver, "icmp")
    summaries = cuts.summaries(TIMEOUT)
    whole, *each = [json.loads(line) for line in points(summaries, {"target": "there"}, 4)]
    assert "flow" not in whole
    assert [point["flow"] for point in each] == ["0", "1", "2", "3"]
    assert sum(point["sent"] for point in each) == whole["sent"]
    assert max(point["rtt_max_ns"] for point in each) == whole["rtt_max_ns"] == 5 * MILLISECOND
    rows = flow_rows(summaries, ["a", "b", "c", "d"], frozenset({0, 1, 2, 3}))
    assert sorted(row.p50 or 0 for row in rows) == [MILLISECOND] * 3 + [5 * MILLISECOND]
    said = flows_text(rows, "name")
    assert [line.split()[0] for line in said.splitlines() if SLOW in line] == [
        str(n) for n, row in enumerate(rows) if row.p50 == 5 * MILLISECOND
    ]
    assert said.endswith("takes 5.00 ms, the others 1.00 ms")


def test_a_flow_without_a_socket_has_a_row_and_a_bare_point() -> None:
    driver = Driver(lambda *_: Fate(()), flows=1)
    cuts = Cuts("stamp", 2)
    driver.run(SECOND)
    driver.finish()
    for cut in driver.cuts:
        strays = replace(
            cut.strays, **{name: np.zeros(2, np.int64) for name in ("late", "duplicates", "errors")}
        )
        samples = tuple(replace(part, stamping=np.zeros(2, np.bool_)) for part in cut.samples)
        cuts.add(replace(cut, samples=samples, strays=strays))
    summaries = cuts.summaries(TIMEOUT)
    dead, absent = flow_rows(summaries, ["40000", "-"], frozenset({0}))
    assert (dead.lost, dead.open) == (dead.sent, True)
    assert (absent.sent, absent.open) == (0, False)
    assert LOSS not in flows_text([absent], "source port")
    assert len(points(summaries, {}, 2)) == 3


def test_a_reflectors_summary_has_both_ways_and_how_far_they_may_be_off() -> None:
    ways = {7: "F", 8: "B", 20: "F"}
    driver = StampDriver(lambda _, n: Course(way=ways.get(n, "")))
    said = text(cuts_of(driver, "stamp").summaries(TIMEOUT), 0, "stamp://there", "unused")
    assert "forward min 3.00 ms  p50 3.00 ms" in said
    assert "backward min 5.00 ms  p50 5.00 ms" in said
    assert "one-way delays: clock error at most 42.0 ms" in said
    assert "lost: 2 on the way there, 1 back" in said
    # That of the reply before the one that was lost on its way back, and the last one's.
    assert "no RTT is taken of 2 replies, as the reflector did not tell" in said
    assert "unused" not in said


def test_a_late_reply_with_the_reflectors_stamp_may_stand_beside_one_in_time_without() -> None:
    """Then there is no RTT and no way back, but a way there."""
    driver = StampDriver(lambda _, n: Course(back=5 * MILLISECOND if n else 199 * MILLISECOND))
    cuts = cuts_of(driver, "stamp", 45 * MILLISECOND)
    said = text(cuts.summaries(TIMEOUT), 0, "stamp://there", "unused")
    assert "2 sent, 1 received, 1 lost" in said
    assert "1 late" in said
    assert "forward min 3.00 ms" in said
    assert "backward min" not in said
    assert "rtt" not in said
    assert "no RTT is taken of 1 reply" in said


def test_without_one_way_delays_it_says_why() -> None:
    driver = StampDriver(own_error=None)
    said = text(cuts_of(driver, "stamp").summaries(TIMEOUT), 0, "stamp://there", "the clock is wrong")
    assert "no one-way delays: the clock is wrong" in said
    assert "forward" not in said


def test_nothing_sent_is_said() -> None:
    cuts = cuts_of(Driver(lambda *_: Fate()), "icmp", 0)
    assert text(cuts.summaries(TIMEOUT), 0, "there") == "nothing was sent"
