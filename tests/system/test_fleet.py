"""The fleet simulator against real servers: what was acknowledged is there, once; all figures are told."""

from __future__ import annotations

import gzip
import json
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest

from benchmarks.discard import Discard
from benchmarks.fleet import delay, page
from benchmarks.fleet.__main__ import main
from benchmarks.fleet.database import database
from benchmarks.fleet.delay import Round
from benchmarks.fleet.hosts import Host
from benchmarks.fleet.page import BEGIN, END
from benchmarks.fleet.player import allow_connections
from benchmarks.fleet.pool import render, text_of
from benchmarks.fleet.pump import Pump
from benchmarks.fleet.rate import rate, share, stats
from benchmarks.fleet.rig import rig
from benchmarks.fleet.setup import QUICK, Setup, quantile
from benchmarks.fleet.spools import MemorySpool
from benchmarks.report import Report, machine
from collectors.validate import validate
from probe.telemetry.lines import parse_many
from probe.telemetry.schema import AGENT, PROBE
from tests.system.collecting import CollectorProcess
from tests.system.servers import Influx, Server

ROOT = Path(__file__).parents[2]
START_NS = 1_790_000_000_000_000_000
TINY = replace(
    QUICK, rounds=1, slot_s=0.3, warm_s=0.1, pool=10, in_flight=8, share_s=0.3, arms=1, arm_lines=200,
    try_lines=100, connections=(2,), windows=1, window_s=1.0, short_windows=1, every_ms=20, quiet_s=0.1,
)  # fmt: skip


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(5, 20, TINY, Report(), tmp_path)


def test_what_a_fleet_says_was_acknowledged_is_in_the_database_once(
    mosquitto: Server, influxdb: Influx, tmp_path: Path
) -> None:
    collecting = CollectorProcess(
        tmp_path,
        f'[mqtt]\nurl = "mqtt://127.0.0.1:{mosquitto.port}"\nshare_group = "c"\n'
        f'[influx]\nurl = "http://127.0.0.1:{influxdb.port}"\napi = "v1"\ndatabase = "coloprobe"\n',
    )
    collecting.start()
    file = tmp_path / "fleet.json"
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-W", "error", "-m", "benchmarks.fleet"),
                *("--mqtt", f"mqtt://127.0.0.1:{mosquitto.port}", "--agents", "5", "--targets", "20"),
                *("--window", "1s", "--for", "2500ms", "--wait", "60s", "--json", str(file)),
            ],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        status = collecting.stop()
    assert status == 0
    told = json.loads(file.read_text())
    assert told["complete"]
    assert len(told["agents"]) == 5
    for agent in told["agents"]:
        numbers = influxdb.query(f"select batch from agent where agent = '{agent['agent']}'")
        assert [row["batch"] for row in numbers] == list(range(1, agent["last"] + 1))
        assert agent["last"] >= 1
        assert agent["acknowledged"] == agent["last"]
        [row] = influxdb.query(f"select count(sent) as n from probe where agent = '{agent['agent']}'")
        assert row["n"] == 20 * agent["last"] == agent["lines"] - agent["last"]
    assert sum(agent["lines"] for agent in told["agents"]) == told["sums"]["lines"]
    assert collecting.set_aside() == []


def test_a_counting_sink_has_the_lines_that_the_pump_sent(tmp_path: Path) -> None:
    pool = render(5, 20, 4, window_s=1.0, start_ns=time.time_ns() - 10**10)
    with rig(tmp_path, count=True) as made:
        with Pump(made.broker.port, pool, connection_each=True) as pump:
            pump.saturate(60.0, 8, once=True)
            assert pump.acknowledged == len(pool.batches) == 20
            assert pump.lines == pool.lines == 20 * 21
            for due, sent, acknowledged in pump.times.values():
                assert 0 < due <= sent < acknowledged
        tally = stats(made.sinks[0])
        made.check()
    assert tally["lines"] - tally["own_lines"] == pool.lines
    assert tally["text_bytes"] > sum(len(text) for text in pool.texts())


def test_every_figure_is_told_and_stands_on_the_page(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.fleet.database.FORMS", ("members",))
    played = [
        Round("uplinks", 5, 0.4, 1, spread=True, real=True),
        Round("thrown", 5, 0.4, 1, spread=False, real=False, thrown=True),
    ]
    monkeypatch.setattr(delay, "rounds", lambda _: played)
    setup.report.data = {"machine": machine(), "agents": 5, "targets": 20}
    for part in (rate, share, database, delay.delay):
        part(setup)
    file = tmp_path / "fleet.json"
    setup.report.write_json(file)
    data = json.loads(file.read_text())
    assert data["rate"].keys() == {"1", "5"}
    for slots in data["rate"].values():
        [slot] = slots
        assert slot["lines"] >= slot["batches"] * 21 > 0  # more where a minute ended: its histograms
        assert slot["cpu_s"] >= 0
        assert slot["writes"] > 0
    assert sum(data["share"]["lines"]) == data["share"]["sent"] > 0
    assert data["database"]["lines"] == data["database"]["straight"][0]["lines"]
    # A collector adds a line about itself now and then.
    assert data["database"]["through"][0]["lines"] >= data["database"]["lines"]
    for run, one in zip(data["delay"], played, strict=True):
        assert len(run["acknowledged"]) == 5
        assert len(run["answered"]) == (0 if one.thrown else 5)
        assert all(sent <= heard for sent, heard in zip(run["sent"], run["acknowledged"], strict=True))
        assert all(value > 0 for value in run["answered"])
        assert run["complaints"] == []
    assert {bar["what"].split()[0] for bar in data["bars"]} == {"[a]", "[b]", "[c]", "[d]", "[e]"}
    assert all(bar["values"] for bar in data["bars"])
    markdown = tmp_path / "scaling.md"
    markdown.write_text(f"# Scaling\n\n{BEGIN}\nold\n{END}\n\n## More\n")
    page.write_into(markdown, data)
    text = markdown.read_text()
    assert text.startswith(f"# Scaling\n\n{BEGIN}\n## Measured")
    assert text.endswith(f"{END}\n\n## More\n")
    assert "old" not in text
    assert len(re.findall(r"^\| .* windows \|", text, re.MULTILINE)) == len(page.SIZES)


def test_simulated_lines_are_an_agents_own() -> None:
    host = Host("ny4-01", 3, 20, 10**10, 7)
    lines = host.window(0, START_NS) + host.histogram(0, START_NS)
    assert lines == Host("ny4-01", 3, 20, 10**10, 7).window(0, START_NS) + host.histogram(0, START_NS)
    assert not set(lines) & set(host.window(1, START_NS))
    [payload] = host.batches(lines, 5, START_NS + 10**10)
    batch = validate(
        f"coloprobe/v1/ny4-01/lines/{host.spool}/5", payload, now_ns=START_NS + 2 * 10**10, max_bytes=1 << 18
    )
    assert (batch.count, batch.bad) == (len(lines) + 1, ())
    head, *points = parse_many(text_of(payload).decode())
    assert set(head.fields) == {field.name for field in AGENT.fields}
    assert (head.fields["batch"], head.fields["spool"]) == (5, host.spool)
    whole = {field.name for field in PROBE.fields if not field.kinds} - {"hardware"}
    for point in points[:20]:
        assert set(point.fields) == whole
        fields = {name: int(value) for name, value in point.fields.items()}
        assert fields["sent"] == fields["received"] + fields["lost"] == 100
        ladder = [fields[f"rtt_{name}_ns"] for name in ("min", "p50", "p90", "p99", "p999", "max")]
        assert ladder == sorted(ladder)
        assert fields["rtt_min_ns"] <= fields["rtt_mean_ns"] <= fields["rtt_max_ns"]
    assert sum(int(point.fields["count"]) for point in points[20:]) == 20 * 600
    assert {point.measurement for point in points[20:]} == {"probe_histogram"}


def test_a_spool_in_memory_keeps_its_limit_and_its_numbers() -> None:
    spool = MemorySpool("0123456789abcdef", 25)
    assert [spool.append(lambda n: bytes(10) + bytes([n])) for _ in range(4)] == [1, 2, 3, 4]
    assert (spool.depth, spool.bytes, spool.dropped, spool.last) == (2, 22, 2, 4)
    assert (spool.get(2), spool.get(3)) == (None, bytes(10) + b"\x03")
    assert spool.numbers(0, 1) == [3]
    assert spool.numbers(3, 9) == [4]
    assert spool.forget([(1, 3)], "fedcba9876543210") == 0
    assert spool.forget([(1, 3), (4, 10**9)], "0123456789abcdef") == 2
    assert (spool.depth, spool.bytes, spool.forgotten) == (0, 0, 2)


@contextmanager
def discarding(*, count: bool) -> Iterator[Discard]:
    with Discard(count=count) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def sink() -> Iterator[Discard]:
    with discarding(count=True) as server:
        yield server


def test_the_sink_answers_as_influxdb_and_counts(sink: Discard) -> None:
    connection = HTTPConnection("127.0.0.1", sink.port, timeout=30)

    def ask(method: str, path: str, body: bytes | None = None, *, packed: bool = False) -> int:
        connection.request(method, path, body, {"Content-Encoding": "gzip"} if packed else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    member = gzip.compress(b"a v=1i 1\nb v=1i 1\n")
    big = gzip.compress(b"".join(b"c v=%di 1\n" % n for n in range(100_000)))
    assert ask("GET", "/ping") == 204
    assert ask("GET", "/health") == 200
    assert ask("GET", "/else") == 404
    assert ask("POST", "/write?db=x", b"") == 204
    assert ask("POST", "/write?db=x", b"\n\na v=1i 1\n\nb v=2i 1") == 204
    assert ask("POST", "/api/v2/write?bucket=x", member + member + big, packed=True) == 204
    assert ask("POST", "/write?db=x", member + b"\x1f\x8b no member", packed=True) == 400
    assert ask("POST", "/write?db=x", member[:-4], packed=True) == 400
    with socket.create_connection(("127.0.0.1", sink.port), 30) as raw:
        head = b"POST /write HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        raw.sendall(head + b"9\r\nd v=1i 1\n\r\n0\r\n\r\n")
        assert raw.makefile("rb").read().startswith(b"HTTP/1.1 204 ")
    connection.request("GET", "/stats")
    tally = json.loads(connection.getresponse().read())
    connection.close()
    assert tally["lines"] == 2 + 4 + 100_000 + 1
    assert (tally["writes"], tally["refused"], tally["connections"]) == (6, 2, 2)


def test_the_sink_throws_away_what_is_large_and_stays_in_step() -> None:
    with discarding(count=False) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        for _ in range(3):
            connection.request("POST", "/write?db=x", bytes(3_000_001))
            with connection.getresponse() as answer:
                assert answer.status == 204
        connection.request("POST", "/write?db=x", b"no gzip", {"Content-Encoding": "gzip"})
        with connection.getresponse() as answer:
            assert (answer.status, "error" in json.loads(answer.read())) == (400, True)
        connection.close()
        assert (server.tally.body_bytes, server.tally.largest) == (9_000_010, 3_000_001)
        assert (server.tally.writes, server.tally.lines) == (4, 0)


def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert quantile([3.0], 0.01) == quantile([3.0], 0.99) == 3.0


def test_more_connections_than_the_kernel_allows_are_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    allow_connections(100)
    allow_connections(300)
    assert asked == [(428, 512)]
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(OSError, match=r"1000 agents need 1128 .* may have 512: .*ulimit -Hn 1128"):
        allow_connections(1000)


@pytest.mark.parametrize(
    "wrong",
    [
        "--agents 0",
        "--targets -1",
        "--windows x",
        "--window 0s",
        "--in-flight 2000",
        "--write --quick",
        "--mqtt",
        "--mqtt http://x",
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(wrong.split())
    assert refused.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err.splitlines()[-1]
