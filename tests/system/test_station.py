"""The fan-in of one process: real MQTT in, the store, and the board in a real Chromium.

The points here are made up and sent by the test; what an agent measures is tested where the agent is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from collectors.sinks.store import Reader, path_in
from collectors.station import station
from probe.clock import SECOND
from probe.errors import SinkError, SinkRefused, UsageError
from probe.settings import MqttTable
from probe.telemetry import topics
from probe.telemetry.mqtt import Connection, connect
from tests.system.asking import SOCKET, asked, socket_says
from tests.system.browser import Browser, Tab, chromium

L = 2 * SECOND
SPOOL = "5e57e57e"

_STATION = """
import asyncio, signal, sys, warnings
from collectors.station import station

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with station(board="127.0.0.1:0", broker="127.0.0.1:0", state_dir=sys.argv[1]) as st:
        print(st.board_url, st.mqtt_url, flush=True)
        await stop.wait()

asyncio.run(main())
print("ended", flush=True)
"""


@dataclass
class Running:
    board: str
    mqtt: str


@contextmanager
def child(state: Path, *, killed: bool = False, says: str = "") -> Iterator[Running]:
    """A station in a process of its own. Ending it is clean (status 0), unless it is `killed`.

    says: the whole of its log at the end.
    """
    errors = state.parent / "station.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "always::ResourceWarning", "-c", _STATION, str(state)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=state.parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().split()
        assert len(line) == 2, errors.read_text()
        yield Running(line[0], line[1])
        if killed:
            return
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, errors.read_text()
        assert process.stdout.read() == "ended\n"
        assert errors.read_text() == says
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class MadeUpAgent:
    """Sends made-up batches and waits for each acknowledgement, as an agent does."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name, self._connection, self._batch = name, connection, 0

    async def send(self, *lines: str) -> None:
        self._batch += 1
        health = f"batch={self._batch}i,spool_batches=1i,rss_bytes=60000000i"
        body = "\n".join((f"agent,agent={self.name} {health} {time.time_ns()}", *lines, "")).encode()
        await self._connection.publish(topics.lines(topics.BatchId(self.name, SPOOL, self._batch)), body)
        async with asyncio.timeout(20):
            async for message in self._connection.messages():
                ranges = json.loads(message.payload).get(SPOOL, [])
                if any(first <= self._batch <= last for first, last in ranges):
                    return

    def probe(self, target: str, start: int, p50: int, lost: int = 0, flow: str = "") -> str:
        fields = f"sent=20i,received={20 - lost}i,lost={lost}i,loss={lost / 20}"
        if lost < 20:
            fields += f",rtt_min_ns={p50 * 9 // 10}i,rtt_p50_ns={p50}i,rtt_p99_ns={p50 * 2}i"
            fields += f",rtt_max_ns={p50 * 3}i,jitter_ns=700i"
        tag = f",flow={flow}" if flow else ""
        return f"probe,agent={self.name}{tag},kind=icmp,line=A,target={target},venue=TEST {fields} {start}"


@asynccontextmanager
async def agent(url: str, name: str) -> AsyncIterator[MadeUpAgent]:
    async with connect(MqttTable(url=url), client_id=name, username=name, password=None) as connection:
        await connection.subscribe(topics.ack(name))
        yield MadeUpAgent(name, connection)


def now_window() -> int:
    """The start of the newest window that is over."""
    return (time.time_ns() // L - 1) * L


_ROWS = "[...document.querySelectorAll('.targets tr[data-id]')]"
_CELLS = _ROWS + ".map(row => [...row.cells].map(cell => cell.innerText.trim()))"
_FLOWS = "[...document.querySelectorAll('.flows td:first-child')].map(cell => cell.parentElement)"
_FLOWS += ".map(row => [...row.cells].map(cell => cell.innerText.trim()))"
_WIDTH = "document.querySelector('.plot canvas').clientWidth"
# How many pixels of the chart have the colour of the median's bar.
_MEDIAN = """(() => { const c = document.querySelector('.plot canvas'); if (!c) return 0;
  const x = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true});
  x.drawImage(c, 0, 0); const d = x.getImageData(0, 0, c.width, c.height).data; let n = 0;
  for (let i = 0; i < d.length; i += 4) if (d[i] === 0x9b && d[i + 1] === 0xe0 && d[i + 2] === 0xff) n++;
  return n })()"""


@pytest.mark.browser
def test_the_board_moves_when_points_arrive(tmp_path: Path) -> None:
    async def main(running: Running, browser: Browser) -> None:
        async with browser.tab() as tab, browser.tab() as other:
            await tab.open(f"{running.board}/?target=gw-b&span=5+min")
            await tab.until("document.body.innerText.includes('Waiting for the first window')")
            async with agent(running.mqtt, "ny4-01") as ny4:
                start = now_window()
                history = [
                    ny4.probe(t, start - n * L, 30_000) for n in range(1, 30) for t in ("gw-a", "gw-b")
                ]
                event = f'event,agent=ny4-01,kind=link,interface=eth0 text="eth0 is <b>down</b>" {start}'
                await ny4.send(*history, event)
                await tab.until(f"{_CELLS}.length === 2")
                rows = {row[1]: row for row in await tab.run(_CELLS)}
                assert rows["gw-b"][:6] == ["ok", "gw-b", "TEST", "A", "ny4-01", "icmp"]
                assert rows["gw-b"][6:13] == ["0 %", "0 %", "700 ns", "30.0 µs", "60.0 µs", "90.0 µs", "20"]
                await tab.until("document.querySelector('.title .what').innerText.startsWith('gw-b')")
                await tab.until(f"{_MEDIAN} > 50")
                await tab.until("document.querySelector('.events').innerText.includes('eth0 is <b>down</b>')")
                await tab.until("document.querySelector('.foot').innerText.includes('ny4-01')")

                # Flows stand beside the target that has them; they are no targets, and leave when it does.
                await tab.until("!document.querySelector('.flows-panel').checkVisibility()")
                wide = await tab.run(_WIDTH)
                flows = [ny4.probe("gw-b", start, 30_000, lost=20 * (n == 3), flow=str(n)) for n in range(16)]
                await ny4.send(*flows)
                await tab.until(f"{_FLOWS}.length === 16")
                assert [row[:2] for row in await tab.run(_FLOWS) if row[1] != "0 %"] == [["3", "100 %"]]
                assert len(await tab.run(_CELLS)) == 2
                await tab.until(f"{_WIDTH} < {wide} - 200")
                await tab.run(f"{_ROWS}.find(row => row.cells[1].innerText === 'gw-a').click()")
                await tab.until("!document.querySelector('.flows-panel').checkVisibility()")
                await tab.until(f"{_WIDTH} === {wide}")

                # Numbers move, and for a second viewer too.
                await other.open(running.board)
                await other.until(f"{_CELLS}.length === 2")
                await ny4.send(ny4.probe("gw-a", start, 41_500), ny4.probe("gw-b", start, 52_000, lost=5))
                for page in (tab, other):
                    await page.until(f"{_CELLS}.some(r => r[1] === 'gw-a' && r[9] === '41.5 µs')")
                    await page.until(
                        f"{_CELLS}.some(r => r[1] === 'gw-b' && r[0] === 'loss' && r[6] === '25.0 %')"
                    )
                await ny4.send(ny4.probe("gw-a", start + L, 41_500, lost=20))
                await tab.until(f"{_CELLS}.some(r => r[1] === 'gw-a' && r[0] === 'no reply' && r[9] === '–')")  # noqa: RUF001

                await use(tab)
            for page in (tab, other):
                assert page.complaints == []
                assert page.requests
                assert all(url.split("/")[2].startswith("127.0.0.1:") for url in page.requests if "//" in url)

    with child(tmp_path / "state") as running:
        assert asked(f"{running.board}/healthz") == (200, "ok\n")
        # It is on loopback, so it answers to no other name, and to no page from elsewhere.
        for path in ("/", "/board/board.js", SOCKET + "polling"):
            status, body = asked(running.board + path, Host="rebound.example")
            assert (status, "open it by http://127.0.0.1" in body) == (421, True)
        assert asyncio.run(socket_says(running.board, Origin="http://evil.example")) == "403"
        assert asyncio.run(socket_says(running.board, Origin=running.board)).startswith('0{"sid"')
        with chromium(tmp_path) as browser:
            asyncio.run(main(running, browser))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


async def use(tab: Tab) -> None:
    """What a person does: pick a row, sort, filter, choose a span."""
    for picked in ("gw-b", "gw-a"):  # one of them is not the one that is shown
        await tab.run(f"{_ROWS}.find(row => row.cells[1].innerText === '{picked}').click()")
        await tab.until(f"document.querySelector('.title .what').innerText.startsWith('{picked}')")
        await tab.until(f"location.search.includes('target={picked}')")
    await tab.run("document.querySelector('.head .q-toggle').click()")
    await tab.until(f"{_CELLS}[0][0] === 'no reply'")
    await tab.run("[...document.querySelectorAll('.title .q-btn')].find(b => b.innerText === '1 h').click()")
    await tab.until("location.search.includes('span=1+h')")
    await tab.run("document.querySelector('.head .q-field input').focus()")
    await tab.do("Input.insertText", text="gw-b")
    await tab.until(f"{_CELLS}.length === 1 && {_CELLS}[0][1] === 'gw-b'")


def test_a_batch_is_stored_once_however_often_it_comes_and_survives_kill_minus_nine(tmp_path: Path) -> None:
    async def send(url: str) -> None:
        async with agent(url, "ny4-01") as ny4:
            for n in range(20):
                await ny4.send(ny4.probe("t", start + n * L, 30_000))

    start, state = now_window() - 100 * L, tmp_path / "state"
    with child(state, killed=True) as running:
        asyncio.run(send(running.mqtt))
    with Reader(path_in(state)) as reader:
        assert sum(point.measurement == "probe" for point in reader.points()) == 20
    with child(state) as running:
        asyncio.run(send(running.mqtt))
    with Reader(path_in(state)) as reader:
        points = list(reader.points())
    assert sum(point.measurement == "probe" for point in points) == 20
    assert {p.fields["batch"] for p in points if p.measurement == "agent"} == set(range(1, 21))


def test_what_cannot_be_had_is_told_before_anything_runs(tmp_path: Path) -> None:
    async def start(board: str = "127.0.0.1:0", broker: str = "127.0.0.1:0", below: str = "") -> None:
        async with station(board=board, broker=broker, state_dir=tmp_path / below):
            raise AssertionError("it started")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("board", "broker"):
            with pytest.raises(UsageError, match=f"--{option} {address}: the port is in use"):
                asyncio.run(start(**{option: address}))
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkRefused, match="cannot make the store"):
        asyncio.run(start(below="file/below"))


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def test_it_can_be_left_and_entered_again_in_one_process(tmp_path: Path) -> None:
    async def main() -> None:
        start = now_window()
        for round_ in range(2):
            async with station(board="127.0.0.1:0", broker="127.0.0.1:0", state_dir=tmp_path) as running:
                url = f"{running.board_url}/healthz"
                answer = await asyncio.to_thread(read, url)
                assert answer == b"ok\n"
                async with agent(running.mqtt_url, "a") as one:
                    await one.send(one.probe("t", start - round_ * L, 1000))
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    with Reader(path_in(tmp_path)) as reader:
        assert sum(point.measurement == "probe" for point in reader.points()) == 2


def test_a_collector_that_ends_by_itself_ends_the_station(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    async def run() -> None:
        failed = asyncio.Event()
        async with station(
            board="127.0.0.1:0", broker="127.0.0.1:0", state_dir=tmp_path, on_failure=failed.set
        ):
            async with asyncio.timeout(30):
                await failed.wait()

    monkeypatch.setattr("collectors.collector.run", broken)
    monkeypatch.setattr("collectors.station._SUBSCRIBED_S", 0.1)
    with pytest.raises(SinkError, match=r"the collector ended .*a defect"):
        asyncio.run(run())
