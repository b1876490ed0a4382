"""Closed windows in, lines out: summaries at once, histograms at the end of their own longer window."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.samples import Cut
from probe.reporting import _PIECE, Reporter
from probe.telemetry.lines import Point, parse
from tests.unit.probe.windows.measured import Targets
from tests.unit.probe.windows.plain import Probe, Window

WINDOW = 10 * SECOND
HISTOGRAM = 60 * SECOND
NOON = 1_700_000_040 * SECOND  # a multiple of both


def reporter(histogram: int = HISTOGRAM) -> Reporter:
    return Reporter(Targets([{"agent": "a", "target": "x"}], [1]), histogram, SECOND)


def window(start: int, probes: int = 3, end: int = 0) -> Cut:
    """A window with so many probes of an RTT of 1 ms."""
    rows = tuple(Probe(due=n, sent=n, tx=n, rx=n + MILLISECOND) for n in range(1, probes + 1))
    end = end or (start // WINDOW + 1) * WINDOW
    return Window((rows,), (True,), (0,), (0,), (0,)).cut(start, end)


def points(lines: Sequence[str], measurement: str) -> list[Point]:
    return [point for point in map(parse, lines) if point.measurement == measurement]


def histograms(lines: Sequence[str]) -> list[tuple[int, object]]:
    """(seconds after NOON, count), one a histogram window: all probes here share one bucket."""
    found = points(lines, "probe_histogram")
    assert all(point.tags["le"] == "000001048576" for point in found)
    return [((point.time_ns - NOON) // SECOND, point.fields["count"]) for point in found]


def test_every_window_gives_its_summary_at_once() -> None:
    made = reporter().lines(window(NOON))
    (point,) = points(made, "probe")
    assert (point.time_ns, point.fields["sent"], point.fields["rtt_max_ns"]) == (NOON, 3, MILLISECOND)
    assert histograms(made) == []


def test_a_histogram_is_written_with_the_window_that_ends_on_its_boundary() -> None:
    it = reporter()
    made = [it.lines(window(NOON + n * WINDOW)) for n in range(12)]
    assert [histograms(lines) for lines in made] == [
        *[[]] * 5,
        [(0, 18)],
        *[[]] * 5,
        [(60, 18)],
    ]


def test_a_histogram_that_the_agent_began_in_starts_with_the_agent() -> None:
    it = reporter()
    starts = [NOON + 37 * SECOND, NOON + 40 * SECOND, NOON + 50 * SECOND]
    assert histograms([line for start in starts for line in it.lines(window(start))]) == [(37, 9)]


def test_stopping_writes_the_histogram_that_is_open_once() -> None:
    it = reporter()
    it.lines(window(NOON))
    it.lines(window(NOON + WINDOW, end=NOON + WINDOW + SECOND))
    assert histograms(it.finish()) == [(0, 6)]
    assert it.finish() == []


@pytest.mark.parametrize("away", [60, 70, 90, 3600])
def test_a_host_that_slept_past_the_boundary_mixes_no_two_histograms(away: int) -> None:
    it = reporter()
    made = it.lines(window(NOON + 37 * SECOND))
    # Less than a histogram's length may have passed since 37 s, and still that one ended at 60 s.
    made += it.lines(window(NOON + away * SECOND))
    assert histograms(made) == [(37, 3)]
    assert histograms(it.finish()) == [(away, 3)]


def test_a_step_of_the_clock_ends_a_histogram() -> None:
    it = reporter()
    made = it.lines(window(NOON + 20 * SECOND)) + it.lines(window(NOON + 30 * SECOND))
    made += it.lines(window(NOON - 25 * SECOND))  # an hour of summer time, a correction of NTP
    assert histograms(made) == [(20, 6)]
    made = it.lines(window(NOON - 20 * SECOND)) + it.lines(window(NOON - WINDOW))
    assert histograms(made) == [(-25, 9)]


def test_nothing_received_gives_no_histogram() -> None:
    it = reporter(WINDOW)
    assert histograms(it.lines(window(NOON, probes=0))) == []


def test_no_two_histograms_share_a_time() -> None:
    it = reporter()
    times = [
        point.time_ns
        for start in (0, 10, 25, 30, 40, 95, 100, 110, 230, 300)
        for point in points(it.lines(window(NOON + start * SECOND)), "probe_histogram")
    ]
    assert len(times) > 2
    assert all(earlier < later for earlier, later in itertools.pairwise(times))


def test_a_target_with_several_flows_has_a_point_of_its_own_and_one_a_flow() -> None:
    tags = [{"agent": "a", "target": name, "kind": kind} for name, kind in (("x", "tcp"), ("y", "icmp"))]
    targets = Targets([*tags, {"agent": "a", "target": "z", "kind": "icmp"}], [1, 3, 1])
    rows = tuple(
        Probe(flow=flow, due=n, sent=n, tx=n, rx=n + (flow + 1) * MILLISECOND)
        for n, flow in enumerate((0, 1, 2, 3, 4, 1), start=1)
    )
    it = Reporter(targets, HISTOGRAM, SECOND)
    nothing = (0,) * 5
    cut = Window((rows,), (True,) * 5, nothing, nothing, nothing).cut(NOON, NOON + WINDOW)
    made = it.lines(cut)
    found = [(p.tags["target"], p.tags.get("flow"), p.fields["sent"]) for p in points(made, "probe")]
    assert sorted(found, key=str) == [
        ("x", None, 1),
        ("y", "0", 2),
        ("y", "1", 1),
        ("y", "2", 1),
        ("y", None, 4),
        ("z", None, 1),
    ]
    has_port = [p.tags["target"] for p in points(made, "probe") if "open" in p.fields]
    assert has_port == ["x"]
    # A histogram is a target's, of all its flows.
    buckets = points(it.finish(), "probe_histogram")
    assert not [p for p in buckets if "flow" in p.tags]
    assert [sum(int(p.fields["count"]) for p in buckets if p.tags["target"] == name) for name in "xyz"] == [
        1,
        4,
        1,
    ]


def test_targets_beyond_one_piece_have_their_own_points() -> None:
    counts = [64, 1, 2] * 40
    targets = Targets([{"agent": "a", "target": f"t{n}"} for n in range(len(counts))], counts)
    flows = sum(counts)
    rows = tuple(
        Probe(flow=flow, due=n, sent=n, tx=n, rx=n + flow + 1)
        for n, flow in enumerate(list(range(flows)) * 5, start=1)
    )
    nothing = (0,) * flows
    cut = Window((rows,), (True,) * flows, nothing, nothing, nothing).cut(NOON, NOON + WINDOW)
    assert len(rows) > _PIECE
    found = points(Reporter(targets, HISTOGRAM, SECOND).lines(cut), "probe")
    whole = {p.tags["target"]: p for p in found if "flow" not in p.tags}
    assert len(found) == flows + sum(count > 1 for count in counts)
    for tags, (first, count) in zip(targets.target_tags, targets.targets, strict=True):
        fields = whole[tags["target"]].fields
        assert (fields["sent"], fields["rtt_min_ns"]) == (5 * count, first + 1)
        assert fields["rtt_max_ns"] == first + count
