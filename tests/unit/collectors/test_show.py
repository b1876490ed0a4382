"""`coloprobe show` over a real store."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from collectors.show import as_object, show
from collectors.sinks.embedded import EmbeddedSink
from collectors.sinks.store import path_in
from probe.clock import SECOND, ManualClock
from probe.errors import SinkRefused
from probe.telemetry.lines import Point

T = 1_700_000_000 * SECOND
L = 10 * SECOND
HOUR = 3_600 * SECOND
CLOCK = ManualClock(wall_ns=T + 20 * SECOND)


def fill(state: Path, body: str) -> None:
    async def work() -> None:
        sink = EmbeddedSink(path_in(state), clock=CLOCK)
        await sink.write(body.encode())
        await sink.close()

    asyncio.run(work())


def shown(state: Path, *, json: bool, last_ns: int = HOUR) -> str:
    out = io.StringIO()
    show(state, last_ns, json, out, CLOCK)
    return out.getvalue()


def test_json_is_one_object_a_point_in_order_of_time(tmp_path: Path) -> None:
    fill(
        tmp_path,
        f'event,agent=a,kind=link text="é \\"x\\"" {T + 5}\n'
        f"probe,agent=a,target=t sent=9007199254740993i,loss=0.0 {T}\n"
        f"probe,agent=a,target=t sent=1i {T - 2 * HOUR}\n",
    )
    lines = [json.loads(line) for line in shown(tmp_path, json=True).splitlines()]
    assert lines == [
        {"time": T, "measurement": "probe", "agent": "a", "target": "t", "sent": 2**53 + 1, "loss": 0.0},
        {"time": T + 5, "measurement": "event", "agent": "a", "kind": "link", "text": 'é "x"'},
    ]


def test_names_that_collide_lose_nothing() -> None:
    point = Point(
        "m",
        {"time": "tag", "a": "tag", "tag.time": "x"},
        {"a": 1, "measurement": 2, "field.a": 3, "time": 4},
        9,
    )
    found = as_object(point)
    assert (found["time"], found["measurement"], found["a"]) == (9, "m", "tag")
    assert sorted(map(str, found.values())) == sorted(["9", "m", "tag", "tag", "x", "1", "2", "3", "4"])


def test_the_table_has_the_worst_first_and_sums_over_the_time_asked_for(tmp_path: Path) -> None:
    def probe(target: str, n: int, lost: int, most: int) -> str:
        return (
            f"probe,agent=ny4-01,kind=icmp,target={target},venue=CME sent=10i,received={10 - lost}i,"
            f"lost={lost}i,loss={lost / 10},jitter_ns=900i,rtt_p50_ns=30000i,rtt_p99_ns=50000i,"
            f"rtt_max_ns={most}i {T + n * SECOND}\n"
        )

    fill(
        tmp_path,
        probe("fine", 0, 0, 2_000_000)
        + probe("fine", 10, 0, 80_000)
        + probe("lossy", 0, 2, 70_000)
        + probe("lossy", 10, 0, 70_000)
        + probe("fine,flow=1", 10, 0, 1),
    )
    lines = [line.split() for line in shown(tmp_path, json=False).splitlines()]
    assert not {"line", "forward", "open"} & set(lines[0])  # nobody has one
    assert [line[0] for line in lines] == ["target", "lossy", "fine"]
    assert " ".join(lines[1][4:]) == "loss 2 20 2 10.0 % 900 ns 30.0 µs 50.0 µs 70.0 µs 0 s"
    assert " ".join(lines[2][4:]) == "ok 2 20 0 0 % 900 ns 30.0 µs 50.0 µs 2.00 ms 0 s"


def test_what_only_some_kinds_have_stands_in_columns_of_its_own(tmp_path: Path) -> None:
    fill(
        tmp_path,
        f"probe,agent=a,kind=stamp,target=site sent=9i,received=9i,lost=0i,forward_p50_ns=-1200i,"
        f"backward_p50_ns=3000000i {T}\n"
        f"probe,agent=a,kind=tcp,target=port sent=1i,received=1i,lost=0i,open=1i,closed=0i {T + L}\n"
        f"probe,agent=a,kind=tcp,target=port sent=1i,received=1i,lost=0i,open=0i,closed=1i "
        f"{T + L + SECOND}\n",
    )
    head, *lines = shown(tmp_path, json=False).splitlines()
    assert head.split()[-6:] == ["max", "forward", "backward", "open", "closed", "age"]
    assert lines[0].startswith("port    a      tcp    closed  ")
    assert lines[0].split()[-4:-2] == ["1", "1"]
    assert lines[1].startswith("site    a      stamp  ok  ")
    assert "-1.20 µs   3.00 ms" in lines[1]


def test_nothing_to_show_says_so(tmp_path: Path) -> None:
    fill(tmp_path, f"probe,agent=a,target=t sent=1i {T - 2 * HOUR}\n")
    assert "no target has data of the last 60 min" in shown(tmp_path, json=False)
    assert shown(tmp_path, json=True) == ""
    with pytest.raises(SinkRefused, match="there is no store"):
        shown(tmp_path / "elsewhere", json=True)


def test_a_tag_cannot_drive_the_terminal(tmp_path: Path) -> None:
    fill(tmp_path, f"probe,agent=a,target=x\x1b[2Jy sent=1i,received=1i {T}\n")
    assert "x?[2Jy" in shown(tmp_path, json=False)
    assert "\x1b" not in shown(tmp_path, json=True)
