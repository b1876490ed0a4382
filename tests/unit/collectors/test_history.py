"""What was stored comes back: from the embedded store, and from what `coloprobe show --json` printed."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from collectors.history import PointHistory, StoreHistory, points, recorded
from collectors.influxql import _authorization
from collectors.show import show
from collectors.sinks.embedded import EmbeddedSink
from collectors.sinks.store import path_in
from probe.clock import SECOND, ManualClock
from probe.errors import SinkRefused, UsageError
from probe.settings import InfluxTable
from probe.telemetry.lines import Point

T = 1_700_000_000 * SECOND
CLOCK = ManualClock(wall_ns=T + SECOND)
LINES = f"""\
probe,agent=a,site=s,target=x\\ y,line=A sent=9i,loss=0.0,rtt_p50_ns={2**60}i {T}
probe,agent=a,site=s,target=x\\ y,line=A sent=8i,loss=0.25 {T + 5}
probe,agent=a,target=z,flow=1 sent=7i {T - 5}
event,agent=a,kind=link,interface=eth0 text="é \\"x\\"",detail="{{}}" {T + 1}
interface,agent=a,interface=eth0 up=true,rx_packets=1i {T + 2}
"""
EXPECTED = {
    "probe": [
        Point(
            "probe",
            {"agent": "a", "site": "s", "target": "x y", "line": "A"},
            {"sent": 9, "loss": 0.0, "rtt_p50_ns": 2**60},
            T,
        ),
        Point(
            "probe",
            {"agent": "a", "site": "s", "target": "x y", "line": "A"},
            {"sent": 8, "loss": 0.25},
            T + 5,
        ),
        Point("probe", {"agent": "a", "target": "z", "flow": "1"}, {"sent": 7}, T - 5),
    ],
    "event": [
        Point(
            "event",
            {"agent": "a", "kind": "link", "interface": "eth0"},
            {"text": 'é "x"', "detail": "{}"},
            T + 1,
        )
    ],
    "interface": [
        Point("interface", {"agent": "a", "interface": "eth0"}, {"rx_packets": 1, "up": True}, T + 2)
    ],
}


def fill(state: Path) -> None:
    async def work() -> None:
        sink = EmbeddedSink(path_in(state), clock=CLOCK)
        await sink.write(LINES.encode())
        await sink.close()

    asyncio.run(work())


def test_a_store_gives_its_points_back_series_by_series(tmp_path: Path) -> None:
    fill(tmp_path)
    history = StoreHistory(tmp_path)
    for measurement, expected in EXPECTED.items():
        assert list(points(history, T - 10, T + 10, [measurement])) == expected
    assert [p.fields for p in points(history, T, T, ["probe"])] == [EXPECTED["probe"][0].fields]
    ((_, rows),) = history.strands("probe", ("loss", "rtt_p50_ns"), T, T + 10)
    assert rows == [(T, 0.0, 2**60), (T + 5, 0.25, None)]
    history.close()


def test_what_show_prints_can_be_read_again(tmp_path: Path) -> None:
    fill(tmp_path)
    out = io.StringIO()
    show(tmp_path, 3_600 * SECOND, True, out, CLOCK)
    (tmp_path / "said.jsonl").write_text(out.getvalue(), encoding="utf-8")
    history = recorded(tmp_path / "said.jsonl")
    for measurement, expected in EXPECTED.items():
        found = list(points(history, T - 10, T + 10, [measurement]))
        assert sorted(found, key=lambda p: p.time_ns) == sorted(expected, key=lambda p: p.time_ns)
    assert history.newest_ns(T + 5) == T + 5


def test_what_is_no_recording_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for text in ('{"time": 1}', "nonsense", '{"measurement": "other", "time": 1}', "[]"):
        file.write_text(f'{{"time": 1, "measurement": "event", "text": "x"}}\n{text}\n')
        with pytest.raises(UsageError, match=r"x, line 2: .*coloprobe show --json"):
            recorded(file)
    with pytest.raises(UsageError, match="cannot read"):
        recorded(tmp_path / "missing")


def test_a_missing_store_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match="--state says where"):
        StoreHistory(tmp_path)


def test_nothing_is_no_point() -> None:
    assert list(points(PointHistory([]), 0, 1)) == []


def test_a_token_is_said_as_influxdb_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOPROBE_INFLUX_TOKEN", "secret")
    monkeypatch.setenv("COLOPROBE_INFLUX_PASSWORD", "ü")
    assert _authorization(InfluxTable(api="v2"), "f") == {"Authorization": "Token secret"}
    assert _authorization(InfluxTable(api="v1"), "f") == {}
    assert _authorization(InfluxTable(api="v1", username="b"), "f") == {"Authorization": "Basic YjrDvA=="}
