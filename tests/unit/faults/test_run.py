"""Verdicts in, right or wrong out: what `make faults` counts, without a network."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectors.diagnose.causes import CAUSES
from tests.faults import recording
from tests.faults.catalogue import Fault, catalogue
from tests.faults.injections import Injection
from tests.faults.run import Outcome, Result, Runner, draw_pairs, label, lasting, others, right, say, since
from tests.faults.topology import SITE

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


@pytest.mark.parametrize(("windows", "good"), [(3, True), (4, False)])
def test_a_right_verdict_counts_within_three_whole_windows_and_not_with_the_fourth(
    windows: int, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def points(state: Path, since_ns: int, until_ns: int) -> list[dict[str, Any]]:
        later = since_ns + 60 * SECOND
        return [
            {"measurement": "probe", "site": SITE, "agent": "agent-1", "time": later + n * 2 * SECOND}
            for n in range(windows)
        ]

    class Told(Runner):
        def verdicts(self) -> list[dict[str, Any]]:
            wrong = verdict("far-network", "far-network", 1 << 62)
            return [verdict("interface", "line-loss", 1 << 62), wrong]

        def report(self) -> str:
            return ""

    monkeypatch.setattr(recording, "points", points)
    site: Any = SimpleNamespace(state=Path(), window_s=2.0, timeout_s=0.1, look=lambda: None)
    fault = Fault("line-loss", ("interface",), "", Injection(), frozenset())
    # Asked at once, as soon as anything is there.
    monkeypatch.setattr("tests.faults.run._POLL_S", 0.0)
    outcome = Told(site, lambda text: None).one(fault, calm=False)
    assert (outcome.right, outcome.windows) == (good, windows)
    assert outcome.also == ["far-network"]


def test_what_else_is_named_is_told() -> None:
    said = [verdict("interface", "line-loss"), verdict("unknown", "unknown"), verdict("host", "host-stalled")]
    assert others(said, [FAULTS["line-loss"]]) == ["host-stalled"]
    out = io.StringIO()
    say(Result([Outcome(("line-loss",), "", True, 4.2, 2, also=["host-stalled"])]), out)
    assert "named besides, or before it was right: line-loss: host-stalled" in out.getvalue()


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
