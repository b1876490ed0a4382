"""The embedded store: what is written is there, once, merged, bounded, and readable while it is written."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from collectors.sinks.embedded import EmbeddedSink
from collectors.sinks.store import Reader, path_in
from probe.clock import SECOND, ManualClock
from probe.errors import SinkRefused, SinkRejected, SinkUnavailable
from probe.telemetry.lines import Point

T = 1_700_000_000 * SECOND


def write(path: Path, *bodies: str, **options: int) -> None:
    async def work() -> None:
        sink = EmbeddedSink(path, clock=ManualClock(wall_ns=T), **options)
        try:
            for body in bodies:
                await sink.write(body.encode())
        finally:
            await sink.close()

    asyncio.run(work())


def read(path: Path) -> list[Point]:
    with Reader(path) as reader:
        return list(reader.points())


def test_a_point_comes_back_as_it_was(tmp_path: Path) -> None:
    path = path_in(tmp_path / "new" / "folder")
    write(
        path,
        f'event,agent=a,kind=link,target=x\\ y text="said \\"up\\", é",detail="{{\\"a\\": 1}}",ok=true {T}\n',
        f"probe,agent=a,target=t sent={2**63 - 1}i,loss=0.25,low={-(2**63)}i,one=1.0 {T + 1}\n",
    )
    assert read(path) == [
        Point(
            "event",
            {"agent": "a", "kind": "link", "target": "x y"},
            {"text": 'said "up", é', "detail": '{"a": 1}', "ok": True},
            T,
        ),
        Point(
            "probe",
            {"agent": "a", "target": "t"},
            {"sent": 2**63 - 1, "loss": 0.25, "low": -(2**63), "one": 1.0},
            T + 1,
        ),
    ]
    (point,) = [p for p in read(path) if p.measurement == "probe"]
    assert isinstance(point.fields["one"], float)
    assert isinstance(point.fields["sent"], int)


def test_writing_twice_changes_nothing_and_later_fields_win(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    body = f"probe,agent=a,target=t sent=10i,loss=0.0 {T}\n"
    write(path, body, body)
    assert read(path) == [Point("probe", {"agent": "a", "target": "t"}, {"sent": 10, "loss": 0.0}, T)]
    write(
        path, f"probe,target=t,agent=a sent=12i,rtt_max_ns=5i {T}\n", f"probe,agent=a,target=u sent=1i {T}\n"
    )
    assert read(path) == [
        Point("probe", {"agent": "a", "target": "t"}, {"sent": 12, "loss": 0.0, "rtt_max_ns": 5}, T),
        Point("probe", {"agent": "a", "target": "u"}, {"sent": 1}, T),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "probe,agent=a sent=1i\n",
        "probe,agent=a sent=1e999 1\n",
        "probe,agent=a sent=99999999999999999999i 1\n",
        "probe,agent=a sent=" + "9" * 5000 + "i 1\n",
        "probe,agent=a sent=1i 9999999999999999999\n",
        "probe,agent=\udcff sent=1i 1\n",
    ],
)
def test_a_line_that_cannot_be_stored_is_refused_and_nothing_is_half_written(
    tmp_path: Path, bad: str
) -> None:
    path = path_in(tmp_path)
    good = f"probe,agent=b,target=t sent=1i {T}\n"

    async def work() -> None:
        sink = EmbeddedSink(path, clock=ManualClock(wall_ns=T))
        with pytest.raises(SinkRejected):
            await sink.write((good + bad).encode(errors="surrogateescape"))
        assert read(path) == []
        await sink.write(good.encode())
        await sink.close()
        await sink.close()
        with pytest.raises(SinkUnavailable, match="closed"):
            await sink.write(good.encode())

    asyncio.run(work())
    assert [p.fields["sent"] for p in read(path)] == [1]


def test_old_points_go_and_so_do_series_that_have_none(tmp_path: Path) -> None:
    path, clock = path_in(tmp_path), ManualClock(wall_ns=T)

    async def work() -> None:
        sink = EmbeddedSink(path, clock=clock, max_age=600 * SECOND)
        await sink.write(f"probe,agent=a,target=gone sent=1i {T}\n".encode())
        await sink.write(f"probe,agent=a,target=kept sent=1i {T}\n".encode())
        with Reader(path) as reader:
            assert [s.tags["target"] for s in reader.series("probe")] == ["gone", "kept"]
            clock.advance(7200 * SECOND)
            await sink.write(f"probe,agent=a,target=kept sent=2i {clock.wall()}\n".encode())
            assert sink.aged == 2
            assert reader.changed()
            assert [s.tags["target"] for s in reader.series("probe")] == ["kept"]
            assert [p.fields["sent"] for p in reader.points()] == [2]
        # A series that was forgotten may come again.
        await sink.write(f"probe,agent=a,target=gone sent=3i {clock.wall()}\n".encode())
        await sink.close()

    asyncio.run(work())
    assert sorted((p.tags["target"], p.fields["sent"]) for p in read(path)) == [("gone", 3), ("kept", 2)]


def test_the_file_stays_below_its_size_and_keeps_the_newest(tmp_path: Path) -> None:
    path, limit = path_in(tmp_path), 2 << 20
    text = "x" * 400

    async def work() -> int:
        sink = EmbeddedSink(path, clock=ManualClock(wall_ns=T), max_bytes=limit)
        for k in range(200):
            await sink.write(
                "".join(
                    f'event,agent=a n={k}i,text="{text}" {T + k * 100 + i}\n' for i in range(100)
                ).encode()
            )
        await sink.close()
        return sink.dropped

    dropped = asyncio.run(work())
    assert path.stat().st_size <= limit * 1.1
    points = read(path)
    assert len(points) + dropped == 200 * 100
    assert [p.time_ns for p in points] == list(range(T + dropped, T + 20_000))


def test_a_reader_sees_each_commit_while_a_writer_writes(tmp_path: Path) -> None:
    path = path_in(tmp_path)

    async def work() -> None:
        sink = EmbeddedSink(path, clock=ManualClock(wall_ns=T))
        with Reader(path) as reader:
            assert reader.changed()
            assert not reader.changed()
            for k in range(50):
                await sink.write(f"probe,agent=a,target=t{k % 3} sent={k}i {T + k}\n".encode())
                assert reader.changed()
                assert not reader.changed()
                (series,) = reader.series("probe", target=f"t{k % 3}")
                latest = reader.latest(series.id)
                assert latest is not None
                assert (latest.time_ns, latest.fields) == (T + k, {"sent": k})
            (series,) = reader.series("probe", target="t0", agent="a")
            assert [p.time_ns - T for p in reader.tail(series.id, 99, T + 30)] == [30, 33, 36, 39, 42, 45, 48]
            assert [p.time_ns - T for p in reader.tail(series.id, 2, T + 30, T + 42)] == [39, 42]
            assert reader.by_id(series.id) == series
            assert (reader.first_ns(series.id), reader.first_ns(12345)) == (T, None)
            assert reader.series("probe", target="none") == []
            assert reader.latest(12345) is None
        await sink.close()

    asyncio.run(work())


def test_points_come_in_order_of_time_across_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collectors.sinks.store._PAGE", 7)
    path = path_in(tmp_path)
    body = [f"probe,agent=a,target=t{s} n={k}i {T + k}\n" for k in range(20) for s in range(3)]
    random.Random(1).shuffle(body)
    write(path, "".join(body))
    with Reader(path) as reader:
        points = list(reader.points(T + 5))
    assert [p.time_ns - T for p in points] == [k for k in range(5, 20) for _ in range(3)]
    assert len({(p.tags["target"], p.time_ns) for p in points}) == 45


def test_what_is_no_store_is_named_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match=r"no store at .*--state"):
        Reader(tmp_path / "store.sqlite")
    text = tmp_path / "text"
    text.write_text("this is a file of some other program, long enough for a header " * 4)
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("create table cookies (a)")
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        for use in (Reader, EmbeddedSink):
            with pytest.raises(SinkRefused, match="is not a coloprobe store"):
                use(path)
        assert path.read_bytes() == before
    with pytest.raises(SinkRefused, match="cannot make the store"):
        EmbeddedSink(text / "below" / "store.sqlite")


_WRITER = """
import asyncio, sys, time
from pathlib import Path
from collectors.sinks.embedded import EmbeddedSink

async def main():
    sink = EmbeddedSink(Path(sys.argv[1]))
    start = time.time_ns()
    for number in range(1, 1_000_000):
        line = f"agent,agent={sys.argv[2]} batch={number}i"
        lines = (f"{line},part={i}i {start + number * 20 + i}\\n" for i in range(20))
        await sink.write("".join(lines).encode())
        print(number, flush=True)

asyncio.run(main())
"""


def test_kill_minus_nine_of_the_writer_loses_no_write_that_returned(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    confirmed: set[tuple[str, int]] = set()
    for life in "123":
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), life], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        confirmed |= {(life, int(child.stdout.readline())) for _ in range(40)}
        os.kill(child.pid, signal.SIGKILL)
        confirmed |= {(life, int(line)) for line in child.stdout if line.endswith("\n")}
        child.stdout.close()
        child.wait()
        held = Counter((p.tags["agent"], p.fields["batch"]) for p in read(path))
        assert confirmed <= set(held)
        assert set(held.values()) == {20}  # whole writes, never a part of one


@pytest.mark.parametrize("damage", ["update point set fields = '{'", "update series set tags = x'7b'"])
def test_a_damaged_row_is_told_and_no_defect(tmp_path: Path, damage: str) -> None:
    path = path_in(tmp_path)
    write(path, "probe,agent=a sent=1i 1700000000000000000\n", max_age=1 << 62)
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    with pytest.raises(SinkRefused, match="is damaged"), Reader(path) as reader:
        list(reader.points())
