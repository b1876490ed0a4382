"""Summaries in, lines out: what is written column by column says what one flow's fields say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.telemetry.lines import encode, parse, series_text
from probe.telemetry.points import event_line, histogram_lines, le_place, probe_fields, probe_lines
from probe.telemetry.schema import EVENT, PROBE, PROBE_HISTOGRAM
from probe.windows.histogram import LABELS, Counts
from probe.windows.summary import summarise
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.windows.drawing import TIMEOUT, windows
from tests.unit.probe.windows.plain import Probe, Said, Window

KINDS = {"int": int, "float": float, "str": str, "bool": bool}


@repeatable
@given(windows())
def test_lines_say_what_the_fields_say(window: Window) -> None:
    summaries = summarise(window.cut(1_700_000_000_000_000_000), window.flows, TIMEOUT, window.layout)
    rows = range(len(window.rows))
    series = [series_text("probe", {"agent": "ny4-01", "target": f"t {row}"}) for row in rows]
    expected = [
        encode(series[row], fields, 1_700_000_000_000_000_000)
        for row in rows
        if (fields := probe_fields(summaries, row))
    ]
    assert probe_lines(summaries, series) == expected


def full(kind: str = "icmp", flows: int = 1) -> Window:
    """Probes that give every field that their kind has: here a reflector numbers and the interface stamps."""
    said = Said(dwell=5, forward=40, backward=50, error=3) if kind == "stamp" else None
    probes = tuple(
        Probe(
            flow=n // 1_000 % flows,
            due=n,
            sent=n,
            tx=n,
            rx=n + 100 * n,
            duplicates=n == 3_000,
            hard=99 * n,
            said=said,
        )
        for n in range(1_000, 9_000, 1_000)
    )
    nothing = (0,) * flows
    numbering = (kind == "stamp",) * flows
    return Window((probes,), (True,) * flows, nothing, nothing, nothing, (kind,) * flows, numbering, (flows,))


@pytest.mark.parametrize("kind", ["icmp", "stamp", "tcp", "connect"])
@pytest.mark.parametrize("flows", [1, 2])
def test_a_full_point_has_every_field_that_the_schema_gives_its_kind_and_no_other(
    kind: str, flows: int
) -> None:
    window = full(kind, flows)
    summaries = summarise(window.cut(), flows, 1 << 40, window.layout)
    wanted = [field for field in PROBE.fields if not field.kinds or kind in field.kinds]
    for row in range(len(window.rows)):
        fields = probe_fields(summaries, row)
        assert sorted(fields) == sorted(field.name for field in wanted)
        for field in wanted:
            assert type(fields[field.name]) is KINDS[field.kind], field.name


def test_a_target_whose_flows_have_one_reply_each_has_no_jitter_in_its_line() -> None:
    probes = tuple(Probe(flow=n, due=n, sent=n, tx=n + 1, rx=n + 50) for n in range(2))
    window = Window((probes,), (True,) * 2, (0,) * 2, (0,) * 2, (0,) * 2, counts=(2,))
    series = ["probe,flow=0", "probe,flow=1", "probe,target=a"]
    lines = probe_lines(summarise(window.cut(), 2, TIMEOUT, window.layout), series)
    assert [(parse(line).fields["received"], "jitter_ns" in line) for line in lines] == [
        (1, False),
        (1, False),
        (2, False),
    ]


def test_a_flow_to_which_nothing_happened_has_no_line() -> None:
    window = full()
    quiet = Window(window.channels, (True, False), (0, 0), (0, 0), (0, 0))
    lines = probe_lines(summarise(quiet.cut(7), 2, 1 << 40), ["probe,target=a", "probe,target=b"])
    assert [parse(line).tags["target"] for line in lines] == ["a"]
    assert parse(lines[0]).time_ns == 7


def test_small_loss_ratios_stay_line_protocol() -> None:
    probes = tuple(Probe(due=n, sent=n, tx=n, rx=n + 5 if n > 1 else 0) for n in range(1, 100_001))
    window = Window((probes,), (True,), (0,), (0,), (0,))
    (line,) = probe_lines(summarise(window.cut(), 1, TIMEOUT), ["probe,target=a"])
    assert parse(line).fields["loss"] == pytest.approx(1e-5)


def counts(*rows: tuple[int, str, int]) -> Counts:
    return Counts(
        np.array([flow for flow, _, _ in rows], np.int64),
        np.array([LABELS.index(le) for _, le, _ in rows], np.int64),
        np.array([count for _, _, count in rows], np.uint32),
    )


def lines_of(tags: Sequence[Mapping[str, str]], *rows: tuple[int, str, int]) -> list[str]:
    """The `probe_histogram` lines of (flow, le, count) at 60 ns."""
    series = [series_text("probe", each) for each in tags]
    return histogram_lines(counts(*rows), series, [le_place(each) for each in tags], 60)


def test_histogram_lines_follow_the_schema() -> None:
    tags = [{"agent": "a", "target": "x"}, {"agent": "a", "target": "y"}]
    lines = lines_of(tags, (0, "000000001024", 3), (1, "+Inf", 1))
    points = [parse(line) for line in lines]
    assert [point.measurement for point in points] == [PROBE_HISTOGRAM.name] * 2
    assert points[0].tags == {"agent": "a", "target": "x", "le": "000000001024"}
    assert points[1].tags == {"agent": "a", "target": "y", "le": "+Inf"}
    assert [point.fields for point in points] == [{"count": 3}, {"count": 1}]
    assert {point.time_ns for point in points} == {60}
    assert set(points[0].tags) - {"agent"} <= set(PROBE_HISTOGRAM.tags)


# Separators, what escapes them, what looks like the tag `le`, what is left out, and more than ASCII.
ODD = st.one_of(
    st.sampled_from(
        ["", "\\", "\r", "a b", "a,le=b", ",le=", "le", "x\\", "\\,", "%s %d {}", "line\nfeed", "ü"]
    ),
    st.text(alphabet=" ,=\\\r\nle%{}aü", max_size=8),
)
TAGS = st.dictionaries(
    st.one_of(
        st.sampled_from(["agent", "site", *(set(PROBE_HISTOGRAM.tags) - {"le"}), "l", "le0", "lf"]), ODD
    ),
    ODD,
    max_size=8,
).filter(lambda tags: "le" not in tags)


@repeatable
@given(st.lists(TAGS, min_size=1, max_size=4), st.data())
def test_histogram_lines_are_those_of_their_tags(tags: list[dict[str, str]], data: st.DataObject) -> None:
    flows = st.integers(0, len(tags) - 1)
    row = st.tuples(flows, st.sampled_from(LABELS), st.integers(1, (1 << 32) - 1))
    rows = sorted(data.draw(st.lists(row, max_size=8)))
    expected = [
        encode(series_text("probe_histogram", {**tags[flow], "le": le}), {"count": count}, 60)
        for flow, le, count in rows
    ]
    assert lines_of(tags, *rows) == expected


def test_an_event_carries_its_detail_as_json() -> None:
    line = event_line({"agent": "a", "target": "x"}, "loss", 'line "A"\nis down', {"lost": 3, "why": [1]}, 5)
    point = parse(line)
    assert point.measurement == EVENT.name
    assert point.tags == {"agent": "a", "target": "x", "kind": "loss"}
    assert point.fields["text"] == 'line "A" is down'
    assert json.loads(str(point.fields["detail"])) == {"lost": 3, "why": [1]}
    assert set(point.fields) == {field.name for field in EVENT.fields}


def test_an_event_about_very_many_targets_fits_where_it_is_stored() -> None:
    targets = [f"{n}-éééééééééé" for n in range(5000)]
    detail = {"what": "removed", "before": "x" * 40_000, "targets": targets}
    point = parse(event_line({"agent": "a"}, "route", "y" * 100_000, detail, 5))
    told = json.loads(str(point.fields["detail"]))
    assert len(str(point.fields["detail"])) <= 32 << 10
    assert (told["what"], told["targets_in_all"]) == ("removed", 5000)
    assert told["targets"] == targets[: len(told["targets"])] != []
    assert len(str(point.fields["text"])) == 4 << 10
