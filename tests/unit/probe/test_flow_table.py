"""Flows with one odd among them, or halves, or none: what the table marks and the sentence says."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from probe.flow_table import ERRORS, LOSS, SLOW, UNMEASURED, FlowRow, marks, table, verdict

MS, US = 1_000_000, 1_000


def flows(count: int, *, sent: int = 100, p50: int = 1200 * US, jitter: int = 30 * US) -> list[FlowRow]:
    """Flows that are alike, but for 10 us of noise."""
    rng = random.Random(count)
    return [
        FlowRow(n, str(40_000 + n), sent, 0, 0, p50 + rng.randint(0, 10 * US), 2 * p50, 3 * p50, jitter)
        for n in range(count)
    ]


def dead(row: FlowRow) -> FlowRow:
    return replace(row, lost=row.sent, p50=None, p99=None, max=None, jitter=None)


def marked(rows: list[FlowRow]) -> dict[int, str]:
    return {row.flow: mark for row, mark in zip(rows, marks(rows), strict=True) if mark}


@pytest.mark.parametrize("count", [1, 2, 3, 16, 64])
def test_flows_that_are_alike_are_called_so(count: int) -> None:
    assert marked(flows(count)) == {}
    assert verdict(flows(count)) == "all flows alike"


def test_one_that_loses_among_sixteen() -> None:
    rows = flows(16)
    rows[7] = replace(rows[7], lost=12)
    assert marked(rows) == {7: LOSS}
    assert verdict(rows) == "flow 7 loses 12 %, the other 15 lose nothing: one path of several is bad"


def test_one_that_is_dead_among_sixteen() -> None:
    rows = flows(16)
    rows[2] = dead(rows[2])
    assert marked(rows) == {2: LOSS}
    assert verdict(rows) == "flow 2 loses everything, the other 15 lose nothing: one path of several is bad"


def test_a_single_loss_is_marked_and_proves_nothing() -> None:
    rows = flows(16, sent=10)
    rows[4] = replace(rows[4], lost=1)
    assert marked(rows) == {4: LOSS}
    assert verdict(rows).endswith("the other 15 lose nothing: too little to tell a bad path from chance")


@pytest.mark.parametrize("bad", range(1, 13))
def test_any_part_of_the_flows_may_be_the_bad_one(bad: int) -> None:
    rng = random.Random(bad)
    rows = [replace(r, lost=rng.randint(10, 14)) if r.flow < bad else r for r in flows(16)]
    assert marked(rows) == dict.fromkeys(range(bad), LOSS)
    assert ("is bad" if bad == 1 else "some paths of several are bad") in verdict(rows)


def test_loss_on_all_flows_is_no_bad_flow() -> None:
    """500 runs over a line that loses 2 %: chance calls few flows bad."""
    rng = random.Random(3)
    wrong = 0
    for _ in range(500):
        rows = [replace(r, lost=sum(rng.random() < 0.02 for _ in range(100))) for r in flows(16)]
        wrong += "bad" in verdict(rows) and "chance" not in verdict(rows)
    assert wrong <= 5


def test_a_bad_flow_is_found_beside_the_loss_of_all() -> None:
    rng = random.Random(4)
    rows = [replace(r, sent=1000, lost=rng.randint(15, 25)) for r in flows(16)]
    rows[9] = replace(rows[9], lost=150)
    assert marked(rows) == {9: LOSS}
    assert verdict(rows) == "flow 9 loses 15 %, the other 15 lose 1.9 %: one path of several is bad"


def test_a_path_that_loses_by_chance_is_all_its_flows() -> None:
    losses = {1: 3, 3: 7, 5: 5, 6: 7, 7: 4, 8: 3, 10: 10, 12: 3, 13: 4, 15: 6}
    rows = [replace(row, lost=losses.get(row.flow, 0)) for row in flows(16, sent=20)]
    assert marked(rows) == dict.fromkeys(losses, LOSS)
    assert verdict(rows) == (
        "flows 1, 3, 5-8, 10, 12, 13, 15 lose 15 % to 50 %, the other 6 lose nothing: "
        "some paths of several are bad"
    )


def test_losses_that_differ_a_little_too_much_are_not_called_alike() -> None:
    """Sixteen flows of which four may be on a better path, after 20 probes each."""
    losses = [5, 6, 7, 0, 0, 7, 5, 2, 6, 3, 0, 3, 1, 7, 7, 3]
    rows = [replace(row, lost=lost) for row, lost in zip(flows(16, sent=20), losses, strict=True)]
    assert marked(rows) == {}
    assert verdict(rows) == "flows lose nothing to 35 %: too little to tell a bad path from chance"
    same = [replace(row, lost=lost) for row, lost in zip(rows, [2, 3, 5, 6] * 4, strict=True)]
    assert verdict(same) == "all flows lose alike, 20 %"


def test_all_dead() -> None:
    rows = [dead(row) for row in flows(4)]
    assert verdict(rows) == "no flow gets any reply"
    assert marked(rows) == {}


def test_two_flows_are_compared_too() -> None:
    rows = flows(2)
    rows[1] = replace(rows[1], lost=50)
    assert marked(rows) == {1: LOSS}
    assert verdict(rows) == "flow 1 loses 50 %, the other one loses nothing: one path of several is bad"


def test_one_slow_flow() -> None:
    rows = flows(16)
    rows[3] = replace(rows[3], p50=1500 * US)
    assert marked(rows) == {3: SLOW}
    assert verdict(rows) == "flow 3 takes 1.50 ms, the others 1.20 ms"


def test_one_fast_flow_is_said_and_not_marked() -> None:
    rows = flows(16)
    rows[3] = replace(rows[3], p50=500 * US)
    assert marked(rows) == {}
    assert verdict(rows) == "flow 3 takes 500 us, the others 1.20 ms"


def test_a_difference_within_a_hosts_noise_is_none() -> None:
    rows = flows(16, p50=30 * US, jitter=2 * US)
    rows[3] = replace(rows[3], p50=48 * US)
    assert verdict(rows) == "all flows alike"


def test_a_difference_that_few_jittery_samples_make_is_none() -> None:
    rows = flows(16, sent=5, jitter=2 * MS)
    rows[3] = replace(rows[3], p50=3 * MS)
    assert verdict(rows) == "all flows alike"
    rows = [replace(row, sent=500) for row in rows]
    assert marked(rows) == {3: SLOW}


@pytest.mark.parametrize(
    ("slow", "count"), [(8, 16), (5, 16), (2, 16), (11, 16), (14, 16), (8, 64), (1, 2), (1, 3), (2, 4)]
)
def test_two_paths_are_two_groups(slow: int, count: int) -> None:
    rows = [replace(r, p50=(r.p50 or 0) + 1900 * US) if r.flow < slow else r for r in flows(count)]
    text = verdict(rows)
    fast = count - slow
    assert text.startswith(f"two groups: {fast} flow{'s' if fast > 1 else ''} around 1.2")
    assert f", {slow} around 3.1" in text
    few = slow if slow * 2 < count else 0
    assert marked(rows) == dict.fromkeys(range(few), SLOW)


def test_the_groups_say_who_is_in_them() -> None:
    rows = [replace(r, p50=3 * MS) if r.flow in (0, 1, 2, 3, 7, 9, 10, 15) else r for r in flows(16)]
    assert verdict(rows) == (
        "two groups: 8 flows around 1.20 ms (4-6, 8, 11-14), 8 around 3.00 ms (0-3, 7, 9, 10, 15)"
    )


def test_four_paths_are_four_groups() -> None:
    rows = [replace(r, p50=(r.p50 or 0) + r.flow % 4 * 500 * US) for r in flows(16)]
    assert verdict(rows).startswith("four groups: 4 flows around 1.2")


def test_a_continuum_is_no_groups() -> None:
    rows = [replace(r, p50=(1000 + 100 * r.flow) * US) for r in flows(16)]
    assert verdict(rows) == "all flows alike"


def test_loss_and_delay_are_both_said() -> None:
    rows = [replace(r, p50=3 * MS, lost=20) if r.flow % 2 else r for r in flows(4)]
    assert verdict(rows) == (
        "flows 1, 3 lose 20 %, the other 2 lose nothing: some paths of several are bad; "
        "two groups: 2 flows around 1.20 ms (0, 2), 2 around 3.00 ms (1, 3)"
    )


def test_errors_and_flows_without_a_socket_are_said() -> None:
    rows = flows(4)
    rows[1] = replace(rows[1], sent=90, errors=10)
    rows[2] = FlowRow(2, "-", open=False)
    assert marked(rows) == {1: ERRORS, 2: UNMEASURED}
    assert verdict(rows) == "errors on flow 1; flow 2 could not be measured"
    assert verdict([]) == "nothing was sent on any flow"


def test_the_table_is_a_line_a_flow() -> None:
    rows = flows(2)
    rows[0] = FlowRow(0, "40000", 100, 12, 0, 600 * US, 950 * US, 2 * MS, 12 * US)
    rows[1] = FlowRow(1, "40001", 100, 0, 0, 1200 * US, 1300 * US, 20 * MS, 15 * US)
    assert table(rows, "port", width=95) == [
        "flow   port   sent  lost   loss      p50      p99      max   jitter",
        "   0  40000    100    12  12.0%   600 us   950 us  2.00 ms  12.0 us  #########          <- loss",
        "   1  40001    100     0   0.0%  1.20 ms  1.30 ms  20.0 ms  15.0 us  ##################",
    ]


def test_a_small_terminal_shows_the_worst_and_no_line_is_too_long() -> None:
    rows = flows(64)
    rows[50] = replace(rows[50], lost=30)
    rows[60] = dead(rows[60])
    lines = table(rows, "ICMP id", height=10, width=80)
    assert len(lines) == 11
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if LOSS in line] == ["50", "60"]
    assert lines[-1].strip() == "... and 55 more"
    assert table(rows, "ICMP id", height=2, width=80)[-1].strip() == "... and 63 more, 1 of them marked"
