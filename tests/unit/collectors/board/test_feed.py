"""The feed over a real store: what viewers share, when it changes, and what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from collectors.board import feed as feeds
from collectors.board.charts import SPANS
from collectors.board.feed import Feed
from collectors.sinks.embedded import EmbeddedSink
from collectors.sinks.store import path_in
from probe.clock import SECOND, ManualClock

T = 1_700_000_000 * SECOND
L = 2 * SECOND


def line(n: int, target: str = "t", lost: int = 0, extra: str = "") -> str:
    return (
        f"probe,agent=a,kind=icmp,target={target}{extra} sent=20i,received={20 - lost}i,lost={lost}i,"
        f"loss={lost / 20},rtt_min_ns=20000i,rtt_p50_ns=30000i,rtt_p99_ns=50000i,rtt_max_ns=90000i "
        f"{T + n * L}\n"
    )


def run(tmp_path: Path, work: Callable[[EmbeddedSink, Feed, ManualClock], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = ManualClock(wall_ns=T + L)
        sink = EmbeddedSink(path_in(tmp_path), clock=clock)
        feed = Feed(sink.path, clock)
        try:
            await work(sink, feed, clock)
        finally:
            feed.close()
            feed.close()
            await sink.close()

    asyncio.run(main())


def test_rows_appear_change_and_grow_stale(tmp_path: Path) -> None:
    async def work(sink: EmbeddedSink, feed: Feed, clock: ManualClock) -> None:
        assert (await feed.refresh()).rows == ()
        await sink.write(line(0).encode())
        first = await feed.refresh()
        assert [(row["target"], row["state"]) for row in first.rows] == [("t", "ok")]
        assert await feed.refresh() is first  # nothing new: the same view, nothing to push
        clock.advance(L)
        await sink.write((line(1, lost=1) + line(1, "u")).encode())
        second = await feed.refresh()
        assert second.version == first.version + 1
        assert {row["target"]: row["state"] for row in second.rows} == {"t": "loss", "u": "ok"}
        clock.advance(600 * SECOND)  # the agents vanish: no commit, and still the page says so
        assert {row["state"] for row in (await feed.refresh()).rows} == {"stale"}

    run(tmp_path, work)


def test_what_comes_late_is_filled_in(tmp_path: Path) -> None:
    async def work(sink: EmbeddedSink, feed: Feed, clock: ManualClock) -> None:
        clock.advance(100 * L)
        await sink.write(line(100).encode())
        assert (await feed.refresh()).rows[0]["history"] == 0
        await sink.write("".join(line(n, lost=20) for n in range(50, 60)).encode())
        clock.advance(feeds.WHOLE_EVERY)
        await sink.write(line(101).encode())
        row = (await feed.refresh()).rows[0]
        assert row["history"] == 200 / 240
        assert (row["state"], row["end"]) == ("stale", (T + 102 * L) // 1_000_000)

    run(tmp_path, work)


def test_flows_are_not_targets_and_the_far_future_is_not_now(tmp_path: Path) -> None:
    async def work(sink: EmbeddedSink, feed: Feed, clock: ManualClock) -> None:
        await sink.write((line(0) + line(0, extra=",flow=3") + line(10_000, "ahead")).encode())
        assert [row["target"] for row in (await feed.refresh()).rows] == ["t"]
        await sink.write(line(10_000).encode())
        assert [row["end"] for row in (await feed.refresh()).rows] == [(T + 10 * SECOND) // 10**6]

    run(tmp_path, work)


def test_a_target_is_drawn_without_its_flows_and_they_are_listed_beside_it(tmp_path: Path) -> None:
    async def work(sink: EmbeddedSink, feed: Feed, clock: ManualClock) -> None:
        flows = "".join(line(0, lost=2 * n, extra=f",flow={n}") for n in range(3))
        others = line(0, "u", extra=",flow=9") + line(0, "u") + line(0, extra=",line=B,flow=7")
        histogram = f"probe_histogram,agent=a,{{}}kind=icmp,target=t,le=000000040960 count={{}}i {T}\n"
        histograms = histogram.format("", 60) + histogram.format("flow=1,", 20)
        await sink.write((line(0, lost=6) + flows + others + histograms).encode())
        rows = {row["target"]: row for row in (await feed.refresh()).rows}
        assert set(rows) == {"t", "u"}
        chart = await feed.chart(int(str(rows["t"]["id"])), SPANS["5 min"])
        assert [(box[6], box[7]) for box in chart.boxes] == [(20, 6)]
        assert [cell[4] for cell in chart.cells] == [60]
        assert [(flow.name, flow.loss) for flow in chart.flows] == [("0", 0.0), ("1", 0.1), ("2", 0.2)]

    run(tmp_path, work)


def test_a_chart_is_shared_and_made_anew_only_for_new_data(tmp_path: Path) -> None:
    async def work(sink: EmbeddedSink, feed: Feed, clock: ManualClock) -> None:
        histogram = f"probe_histogram,agent=a,kind=icmp,target=t,le=000000040960 count=20i {T}\n"
        other = f"probe_histogram,agent=a,kind=icmp,target=u,le=000000040960 count=99i {T}\n"
        await sink.write((line(0) + histogram + other).encode())
        key = int(str((await feed.refresh()).rows[0]["id"]))
        chart = await feed.chart(key, SPANS["5 min"])
        assert [box[6] for box in chart.boxes] == [20]
        assert [cell[4] for cell in chart.cells] == [20]
        assert await feed.chart(key, SPANS["5 min"]) is chart
        clock.advance(L)
        await sink.write(line(1).encode())
        await feed.refresh()
        assert len((await feed.chart(key, SPANS["5 min"])).boxes) == 2
        assert (await feed.chart(12345, SPANS["5 min"])).boxes == []

    run(tmp_path, work)


def test_agents_and_events(tmp_path: Path) -> None:
    async def work(sink: EmbeddedSink, feed: Feed, clock: ManualClock) -> None:
        events = "".join(f'event,agent=a,kind=link text="number {n}" {T + n}\n' for n in range(30))
        await sink.write((f"agent,agent=a batch=1i,spool_batches=1i {T}\n" + events).encode())
        view = await feed.refresh()
        assert [event.words for event in view.events] == [f"number {n}" for n in range(29, 9, -1)]
        assert [(health.agent, health.live) for health in view.agents] == [("a", True)]
        clock.advance(120 * SECOND)
        assert [health.live for health in (await feed.refresh()).agents] == [False]

    run(tmp_path, work)


def test_a_missing_store_is_a_sentence_on_the_page_until_it_comes(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock(wall_ns=T + L)
        feed = Feed(path_in(tmp_path), clock)
        assert "there is no store at" in (await feed.refresh()).problem
        assert (await feed.chart(1, SPANS["5 min"])).boxes == []
        sink = EmbeddedSink(path_in(tmp_path), clock=clock)
        await sink.write(line(0).encode())
        view = await feed.refresh()
        assert (view.problem, len(view.rows)) == ("", 1)
        await sink.close()
        feed.close()

    asyncio.run(main())
