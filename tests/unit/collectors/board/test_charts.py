"""Windows and histograms in, chart numbers out: nothing is hidden when neighbours are put together."""

from __future__ import annotations

import pytest

from collectors.board import options
from collectors.board.charts import MAX_BOXES, MAX_COLUMNS, SPANS, boxes, bucket, cells, extent, shown_span
from collectors.board.rows import Window
from probe.clock import SECOND
from probe.windows.histogram import BOUNDS, LABELS

T = 1_699_999_200 * SECOND  # aligned to an hour
L = 2 * SECOND


def window(n: int, **fields: float) -> Window:
    base = {"sent": 10, "received": 10, "lost": 0, "loss": 0.0}
    rtt = {f"rtt_{name}_ns": v for name, v in (("min", 20e3), ("p50", 30e3), ("p99", 50e3), ("max", 90e3))}
    return Window(T + n * L, {**base, **rtt, **fields})


def test_a_short_span_shows_every_window() -> None:
    assert boxes([window(n) for n in range(3)], SPANS["5 min"]) == [
        [(T + n * L) / 1e6, (T + (n + 1) * L) / 1e6, 20.0, 30.0, 50.0, 90.0, 10, 0, 0.0] for n in range(3)
    ]


def test_a_restart_off_the_grid_keeps_its_own_box() -> None:
    late = Window(T + 3 * L + 700_000_000, window(0).fields)
    starts = [box[0] for box in boxes([window(0), window(1), window(2), late, window(4)], SPANS["5 min"])]
    assert starts == [t / 1e6 for t in (T, T + L, T + 2 * L, late.start_ns, T + 4 * L)]


def test_a_long_span_hides_neither_spike_nor_loss() -> None:
    windows = [window(n) for n in range(10_800)]
    windows[5_000] = window(5_000, rtt_max_ns=7e9, sent=10, received=9, lost=1)
    windows[7_000] = window(7_000, rtt_min_ns=1e3)
    drawn = boxes(windows, SPANS["6 h"])
    assert len(drawn) <= MAX_BOXES + 1
    assert max(box[5] or 0 for box in drawn) == 7e6
    assert min(box[2] or 1e9 for box in drawn) == 1.0
    assert sum(int(box[6] or 0) for box in drawn) == 108_000
    assert sum(int(box[7] or 0) for box in drawn) == 1
    ends = [box[1] for box in drawn]
    assert ends[:-1] == [box[0] for box in drawn[1:]]


def test_nothing_received_has_a_loss_and_no_rtt() -> None:
    lost = Window(T, {"sent": 10, "received": 0, "lost": 10, "loss": 1.0})
    assert boxes([lost], SPANS["5 min"])[0][2:] == [None, None, None, None, 10, 10, 100.0]
    silent = Window(T, {"sent": 0, "received": 0, "lost": 0})
    assert boxes([silent], SPANS["5 min"])[0][6:] == [0, 0, None]
    assert boxes([], SPANS["5 min"]) == []


def test_bucket_bounds_are_those_that_agents_count_in() -> None:
    for low, high, label in zip(BOUNDS, BOUNDS[1:], LABELS[1:], strict=False):
        assert bucket(label) == (low, high)
    for nothing in ("+Inf", "", "-5", "0", "x", "9" * 30):
        assert bucket(nothing) is None


def test_the_heat_map_adds_up() -> None:
    def column(n: int, count: int) -> Window:
        return Window(T + n * 60 * SECOND, {"count": count})

    narrow = cells(
        [("000000040960", [column(0, 90), column(1, 10)]), ("000000049152", [column(1, 40)])], SPANS["1 h"]
    )
    assert narrow == [
        [T / 1e6, T / 1e6 + 60_000, 32.768 * 1.0, 40.96, 90, 1.0],
        [T / 1e6 + 60_000, T / 1e6 + 120_000, 32.768, 40.96, 10, 0.25],
        [T / 1e6 + 60_000, T / 1e6 + 120_000, 40.96, 49.152, 40, 1.0],
    ]
    wide = cells(
        [("000000040960", [Window(T + n * 10 * SECOND, {"count": 1}) for n in range(2_160)])], SPANS["6 h"]
    )
    assert len(wide) <= MAX_COLUMNS + 1
    assert sum(int(cell[4]) for cell in wide) == 2_160
    assert cells([], SPANS["1 h"]) == []
    assert cells([("+Inf", [column(0, 1)])], SPANS["1 h"]) == []


@pytest.mark.parametrize(("worst", "top"), [(0, 1), (0.2, 1), (0.5, 2), (10, 50), (17, 100), (100, 100)])
def test_the_loss_axis_leaves_room_for_the_band(worst: float, top: float) -> None:
    assert extent([[0, 1, 1, 1, 1, 1, 10, 1, worst]]) == {"loss": top}


def test_a_fresh_start_fills_the_chart() -> None:
    minute = 60 * SECOND
    assert [shown_span(15 * minute, history) // minute for history in (0, 5 * minute, 99 * minute)] == [
        1,
        5,
        15,
    ]


def test_only_what_changed_is_sent() -> None:
    assert options.update(None, None, 1000, 300, log=False).keys() == {"xAxis"}
    both = options.update([[0, 1, 1.0, 1.0, 1.0, 1.0, 1, 0, 0.0]], [], 1000, 300, log=True)
    assert [series["id"] for series in both["series"]] == ["loss", "band", "cells"]
    whole = options.initial()
    options.merge(whole, both)
    assert [len(series["data"]) for series in whole["series"]] == [1, 1, 0]
    assert whole["xAxis"][0] == {**options.initial()["xAxis"][0], "min": 700, "max": 1000}
    known = {part["id"] for key in ("xAxis", "yAxis", "series") for part in options.initial()[key]}
    assert {part["id"] for key in ("xAxis", "yAxis", "series") for part in both[key]} <= known
