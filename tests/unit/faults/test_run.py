"""Verdicts in, right or wrong out: what `make faults` counts, without a network."""

from __future__ import annotations

import io
from typing import Any

from collectors.diagnose.causes import CAUSES
from tests.faults.catalogue import catalogue
from tests.faults.run import Outcome, Result, draw_pairs, label, lasting, right, say, since

SECOND = 1_000_000_000
FAULTS = {fault.id: fault for fault in catalogue()}


def verdict(place: str, cause: str, begin: int = 0, until: int | None = None) -> dict[str, Any]:
    return {"place": place, "cause": cause, "since": begin, "until": until}


def test_the_catalogue_has_sixteen_faults_with_causes_and_places_that_diagnose_knows() -> None:
    assert len(FAULTS) == 16
    for fault in FAULTS.values():
        assert CAUSES[fault.cause].place in fault.places


def test_one_fault_is_named_right_where_the_worst_verdict_is_its_cause_at_its_place() -> None:
    loss = FAULTS["line-loss"]
    good, other = verdict("interface", "line-loss"), verdict("gateway", "gateway-down")
    assert right([good, other], [loss])
    assert not right([other, good], [loss])
    assert not right([verdict("path", "line-loss")], [loss])
    assert not right([], [loss])


def test_of_a_pair_both_must_be_among_the_verdicts_in_any_order() -> None:
    pair = [FAULTS["line-loss"], FAULTS["port-closed"]]
    one, other = verdict("interface", "line-loss"), verdict("gateway", "port-closed")
    assert right([other, verdict("path", "firewall"), one], pair)
    assert not right([one], pair)


def test_verdicts_of_before_the_fault_and_silence_do_not_count() -> None:
    old, none = verdict("path", "route-change", 10 * SECOND, 15 * SECOND), verdict("none", "none", 0)
    new = verdict("gateway", "gateway-slow", 39 * SECOND)
    assert since([old, new, none], 40 * SECOND) == [new]
    again = verdict("interface", "nic-drops", 10 * SECOND)
    assert since([again, new], 40 * SECOND, calm=True) == [again, new]
    assert since([again, new], 40 * SECOND, calm=False) == [new]
    assert lasting([old, new, none]) == [new]
    assert label([]) == "none"
    assert label([new]) == "gateway/gateway-slow"


def test_pairs_are_drawn_by_the_seed_and_do_not_hide_each_other() -> None:
    faults = catalogue()
    drawn = draw_pairs(faults, 12, 3)
    names = [(one.id, other.id) for one, other in drawn]
    assert len(set(names)) == 12
    assert names == [(one.id, other.id) for one, other in draw_pairs(catalogue(), 12, 3)]
    assert names != [(one.id, other.id) for one, other in draw_pairs(faults, 12, 4)]
    assert not any(one.hits & other.hits for one, other in drawn)


def test_the_table_has_a_line_a_fault_and_the_sum_counts_only_what_was_right() -> None:
    out = io.StringIO()
    good = Outcome(("line-loss",), "interface/line-loss", True, 4.2, 2)
    bad = Outcome(("firewall",), "none", False, 9.0, 4)
    say(Result([good, bad], quiet=["host/host-stalled (before)"]), out)
    lines = out.getvalue().splitlines()
    assert lines[1].split() == ["line-loss", "interface/line-loss", "right", "4.2", "2"]
    assert lines[2].split() == ["firewall", "none", "WRONG", "9.0", "4"]
    assert lines[3] == "1 of 2 right, median 4.2 s"
    assert lines[-1] == "in quiet it said: host/host-stalled (before)"
