"""A chart's numbers in, ECharts options out: RTT band and loss above, the histograms' heat map below.

A key that begins with ':' is JavaScript, evaluated in the browser (`static/board.js` has the functions).
"""

from __future__ import annotations

from typing import Any

from collectors.board.charts import Box, Cell, extent

Options = dict[str, Any]

_DIM, _EDGE = "#8393a3", "#1e2833"
_LINEAR_AXIS, _LOG_AXIS = 0, 3
_LEFT, _RIGHT = 80, 66
# Ticks that would be further apart than an octave are ten of them apart, and so are the ends of the axis: it
# takes more than twice `splitNumber` octaves until that happens. Labels that have no room are left out.
_OCTAVES: dict[str, Any] = {"type": "log", "logBase": 2, "splitNumber": 12}


def initial() -> Options:
    """The chart before any data."""
    return {
        "animation": False,
        "useUTC": True,
        "grid": [
            {"left": _LEFT, "right": _RIGHT, "top": 14, "bottom": "38%", "outerBoundsMode": "none"},
            {"left": _LEFT, "right": _RIGHT, "top": "68%", "bottom": 26, "outerBoundsMode": "none"},
        ],
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "tooltip": {
            "trigger": "axis",
            "transitionDuration": 0,
            "backgroundColor": "#17212b",
            "borderColor": "#2b3947",
            "textStyle": {"color": "#d3dde7", "fontSize": 12},
            "axisPointer": {"type": "line", "lineStyle": {"color": "#52606e"}, "label": {"show": False}},
            ":formatter": "coloprobe.tip",
        },
        "xAxis": [_time("time", 0, labels=False), _time("heat-time", 1, labels=True)],
        "yAxis": [
            _axis("rtt", 0, "RTT", scale=True),
            _axis("loss", 0, "loss", position="right", inverse=True, min=0, max=1, splitLine={"show": False})
            | {"axisLabel": _label("coloprobe.percent"), "interval": 1},
            _axis("heat", 1, "histogram", **_OCTAVES),
            # Both scales of the band, one of them shown: an axis that changes its type loses its looks.
            _axis("rtt-log", 0, "RTT", show=False, position="left", **_OCTAVES),
        ],
        "series": [
            _custom("loss", "loss", [8], 0, 1),
            _custom("band", "band", [2, 3, 4, 5], 0, _LINEAR_AXIS),
            _custom("cells", "cell", [2, 3], 1, 2) | {"tooltip": {"show": False}},
        ],
    }


def update(
    boxes: list[Box] | None, cells: list[Cell] | None, now_ms: int, span_ms: int, *, log: bool
) -> Options:
    """What changes in a tick: the time axes always, and the data that is given."""
    axes = {"min": now_ms - span_ms, "max": now_ms}
    options: Options = {"xAxis": [{"id": "time", **axes}, {"id": "heat-time", **axes}]}
    series: list[Options] = []
    if boxes is not None:
        top = extent(boxes)["loss"]
        series += [
            {"id": "loss", "data": boxes},
            {"id": "band", "data": boxes, "yAxisIndex": _LOG_AXIS if log else _LINEAR_AXIS},
        ]
        options["yAxis"] = [
            {"id": "rtt", "show": not log},
            {"id": "rtt-log", "show": log},
            {"id": "loss", "max": top, "interval": top},
        ]
    if cells is not None:
        series.append({"id": "cells", "data": cells})
    if series:
        options["series"] = series
    return options


def merge(whole: Options, part: Options) -> None:
    """Do to `whole` (from `initial`) what the browser's chart does with `part` (from `update`)."""
    for key, changes in part.items():
        by_id = {one["id"]: one for one in whole[key]}
        for change in changes:
            by_id[change["id"]].update(change)


def _time(name: str, grid: int, *, labels: bool) -> Options:
    return {
        "id": name,
        "type": "time",
        "gridIndex": grid,
        "axisLine": {"lineStyle": {"color": "#2b3947"}},
        "axisTick": {"show": labels},
        "axisLabel": {"show": labels, "color": _DIM, "fontSize": 11, "hideOverlap": True},
        "splitLine": {"show": True, "lineStyle": {"color": "#151d26"}},
    }


def _label(function: str) -> Options:
    return {"color": _DIM, "fontSize": 11, ":formatter": function, "hideOverlap": True}


def _axis(name: str, grid: int, title: str, **more: Any) -> Options:
    return {
        "id": name,
        "type": "value",
        "gridIndex": grid,
        "name": title,
        "nameLocation": "middle",
        "nameGap": 48 if more.get("position") == "right" else 58,
        "nameTextStyle": {"color": "#52606e", "fontSize": 11},
        "axisLabel": _label("coloprobe.us"),
        "splitLine": {"lineStyle": {"color": _EDGE}},
        "axisPointer": {"show": False},
        **more,
    }


def _custom(name: str, function: str, values: list[int], x_axis: int, y_axis: int) -> Options:
    return {
        "id": name,
        "name": name,
        "type": "custom",
        ":renderItem": f"coloprobe.{function}",
        "encode": {"x": [0, 1], "y": values},
        "xAxisIndex": x_axis,
        "yAxisIndex": y_axis,
        "data": [],
        "emphasis": {"disabled": True},
    }
