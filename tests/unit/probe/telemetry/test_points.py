"""Summaries in, lines out: what is written column by column says what one flow's fields say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from probe.telemetry.lines import encode, parse, series_text
from probe.telemetry.points import event_line, histogram_lines, probe_fields, probe_lines
from probe.telemetry.schema import EVENT, PROBE, PROBE_HISTOGRAM
from probe.windows.summary import summarise
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.windows.drawing import TIMEOUT, windows
from tests.unit.probe.windows.plain import Probe, Window

KINDS = {"int": int, "float": float, "str": str, "bool": bool}


@repeatable
@given(windows())
def test_lines_say_what_the_fields_say(window: Window) -> None:
    summaries = summarise(window.cut(1_700_000_000_000_000_000), window.flows, TIMEOUT)
    series = [
        series_text("probe", {"agent": "ny4-01", "target": f"t {flow}"}) for flow in range(window.flows)
    ]
    expected = [
        encode(series[flow], fields, 1_700_000_000_000_000_000)
        for flow in range(window.flows)
        if (fields := probe_fields(summaries, flow))
    ]
    assert probe_lines(summaries, series) == expected


def full() -> Window:
    probes = tuple(
        Probe(due=n, sent=n, tx=n, rx=n + 100 * n, duplicates=n == 3) for n in range(1_000, 5_000, 1_000)
    )
    return Window((probes,), (True,), (0,), (0,), (0,))


def test_a_full_point_has_every_field_of_the_schema_and_no_other() -> None:
    fields = probe_fields(summarise(full().cut(), 1, 1 << 40), 0)
    assert sorted(fields) == sorted(field.name for field in PROBE.fields)
    for field in PROBE.fields:
        assert type(fields[field.name]) is KINDS[field.kind], field.name


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


def test_histogram_lines_follow_the_schema() -> None:
    tags = [{"agent": "a", "target": "x"}, {"agent": "a", "target": "y"}]
    lines = histogram_lines([(0, "000000001024", 3), (1, "+Inf", 1)], tags, 60)
    points = [parse(line) for line in lines]
    assert [point.measurement for point in points] == [PROBE_HISTOGRAM.name] * 2
    assert points[0].tags == {"agent": "a", "target": "x", "le": "000000001024"}
    assert points[1].tags == {"agent": "a", "target": "y", "le": "+Inf"}
    assert [point.fields for point in points] == [{"count": 3}, {"count": 1}]
    assert {point.time_ns for point in points} == {60}
    assert set(points[0].tags) - {"agent"} <= set(PROBE_HISTOGRAM.tags)


def test_an_event_carries_its_detail_as_json() -> None:
    line = event_line({"agent": "a", "target": "x"}, "loss", 'line "A"\nis down', {"lost": 3, "why": [1]}, 5)
    point = parse(line)
    assert point.measurement == EVENT.name
    assert point.tags == {"agent": "a", "target": "x", "kind": "loss"}
    assert point.fields["text"] == 'line "A" is down'
    assert json.loads(str(point.fields["detail"])) == {"lost": 3, "why": [1]}
    assert set(point.fields) == {field.name for field in EVENT.fields}
