"""What the broker tells a collector in, targets out: batches, topics, statuses."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import influx
from tests.fuzz.samples import AGENTS, MOST, NEIGHBOUR, NOW, SPOOL, TEXTS, WORDS, packed
from tests.fuzz.target import Chooser, Feed, Shape, Target

# A collector's clock may be reset, behind, right, or ahead.
_CLOCKS = (NOW, 60 * 10**9, NOW - 10**17, NOW + 10**14, 1_999_999_999_999_999_999, 4 * 10**18, 0)
_EARLIEST, _SANE = 946_684_800 * 10**9, 1_767_225_600 * 10**9  # 2000, and 2026: no clock is right before it
_AGENT_TAG = re.compile(rb"(?<!\\),agent=")
REASONS = {"topic", "oversized", "gzip", "encoding", "empty", "foreign"}


def _batch() -> Feed:
    from collectors.series import SeriesBook
    from collectors.validate import Batch, validate
    from probe.errors import BatchError
    from probe.telemetry import lines, schema

    known = {name.encode() for name in schema.MEASUREMENTS} - {b"collector"}

    def judge(agent: str, payload: bytes, now: int, book: SeriesBook | None = None) -> Batch | None:
        topic = f"coloprobe/v1/{agent}/lines/{SPOOL}/17"
        try:
            batch = validate(topic, payload, now_ns=now, max_bytes=MOST, series=book)
        except BatchError as problem:
            assert problem.reason in REASONS, problem.reason
            return None
        assert (batch.id.agent, batch.id.spool, batch.id.number) == (agent, SPOOL, 17)
        return batch

    def good(batch: Batch) -> list[bytes]:
        body = gzip.decompress(batch.body) if batch.packed else batch.body
        found = body.split(b"\n")
        assert found.pop() == b"", "the last line has no end: it would run into the neighbour's first"
        assert len(found) == batch.count
        assert len(body) == batch.text_bytes <= MOST + 1
        return found

    def harmless(agent: str, found: list[bytes], now: int) -> None:
        body = b"".join(line + b"\n" for line in found)
        whole = [line for line in found if line]
        assert list(influx.blocks(body + NEIGHBOUR)) == [*whole, NEIGHBOUR], (
            "the database splits it otherwise"
        )
        for line in whole:
            point = lines.parse(line.decode())
            assert point.tags["agent"] == agent
            assert len(_AGENT_TAG.findall(line.partition(b" ")[0])) == 1, "two tags of that name"
            kinds = {field.name: str(field.kind) for field in schema.MEASUREMENTS[point.measurement].fields}
            for name, kind in lines.kinds(line.decode()):
                assert kinds.setdefault(name, kind) == kind != "uint", "it would decide a shard's type"
            assert _EARLIEST <= point.time_ns <= max(now, _SANE) + 366 * 86_400 * 10**9
            seen = influx.series(line)
            if seen is not None:  # else it refuses the line, which is set aside then
                measurement, tags = seen
                assert measurement in known
                assert tags[0] == (b"agent", agent.encode())
                assert [key for key, _ in tags].count(b"agent") == 1

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        agent, way, limited = AGENTS[choose.number(4)], choose.number(8), choose.number(4) == 3
        now = _CLOCKS[choose.number(len(_CLOCKS))]
        text = choose.rest
        payload = packed(way, text)
        book = SeriesBook(2) if limited else None
        batch = judge(agent, payload, now, book)
        if batch is None:
            return
        text = gzip.decompress(payload) if payload.startswith(b"\x1f\x8b") else payload
        found = good(batch)
        harmless(agent, found, now)
        assert batch.newest_ns <= max(now, 0)
        bad = [line.text.encode() for line in batch.bad]
        assert Counter(found + bad) == Counter(line for line in text.split(b"\n") if line), "a line is lost"
        assert batch.over_limit == sum("limits.series" in line.reason for line in batch.bad)
        if book is not None:
            assert len({line.split(b" ")[0] for line in found if b"\\" not in line}) <= 2
            return
        # A character that the quick way does not take sends the same lines by the slow one.
        slow = judge(agent, text + f'\nagent,agent={agent} note="é" {NOW}\n'.encode(), now)
        assert slow is None or good(slow)[:-1] == found, "the quick and the slow way differ"
        assert slow is not None or len(text) > MOST - 100, "the slow way refuses what the quick one takes"

    return feed


def _batch_seeds() -> list[bytes]:
    return [bytes((0, way, limited, 0)) + text for text in TEXTS for way in (0, 2) for limited in (0, 3)] + [
        bytes((0, way, 0, clock)) + TEXTS[-1] for way in range(8) for clock in range(len(_CLOCKS))
    ]


def _topic() -> Feed:
    from probe.telemetry import topics

    def feed(data: bytes) -> None:
        text = data.decode(errors="replace")
        batch, agent = topics.parse_lines(text), topics.parse_status(text)
        assert batch is None or agent is None
        if batch is not None:
            assert topics.lines(batch) == text
            assert 1 <= batch.number < 1 << 63
            assert batch.agent.isascii()
            assert not set(batch.agent) & set('/+#, ="\\\n')
        if agent is not None:
            assert topics.status(agent) == text

    return feed


def _status() -> Feed:
    from collectors.status import StatusBook
    from probe.telemetry import lines

    def feed(data: bytes) -> None:
        book = StatusBook()
        for payload in data.split(b"\0"):
            line = book.change("coloprobe/v1/ny4-01/status", payload, retained=False, now_ns=NOW)
            if line is None:
                continue
            assert line.endswith(b"\n")
            assert line.count(b"\n") == 1
            assert len(line) < 2048
            point = lines.parse(line[:-1].decode())
            assert (point.measurement, point.tags) == ("event", {"agent": "ny4-01", "kind": "agent"})
            assert NOW <= point.time_ns < NOW + 10**9
            assert list(influx.blocks(line + NEIGHBOUR)) == [line[:-1], NEIGHBOUR]

    return feed


def _receive() -> Feed:
    """The collector's ear: every message comes here, and an exception would end it."""
    from collectors.collector import Collector
    from collectors.quarantine import Quarantine
    from probe.clock import ManualClock
    from probe.settings import CollectorSettings, CollectorTable, InfluxTable, LimitsTable, MqttTable
    from probe.telemetry.mqtt import Message
    from probe.units import ByteSize

    class Nowhere:
        name = "nowhere"

        async def write(self, body: bytes, *, packed: bool = False) -> None: ...

        async def check(self) -> None: ...

        async def close(self) -> None: ...

    limits = LimitsTable(batch_bytes=ByteSize(MOST), held_bytes=ByteSize(1 << 20))
    settings = CollectorSettings(
        mqtt=MqttTable(url="mqtt://127.0.0.1"),
        influx=InfluxTable(url="http://127.0.0.1"),
        collector=CollectorTable(id="fuzz", state_dir="/nonexistent"),
        limits=limits,
    )
    clock = ManualClock(NOW)
    collector = Collector(settings, None, Nowhere(), Quarantine(Path("/nonexistent"), "fuzz", 1 << 20), clock)
    topics = [
        *(f"coloprobe/v1/{agent}/lines/{SPOOL}/17" for agent in AGENTS),
        *(f"coloprobe/v1/{agent}/status" for agent in AGENTS),
        *("", "x", "coloprobe/v1/A/status", f"coloprobe/v1/a/lines/{SPOOL}/{'9' * 40}"),
    ]

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        topic, retained, way = topics[choose.number(12)], choose.flag(), choose.number(8)
        clock.advance(choose.number(1 << 30))
        collector.receive(Message(topic, packed(way, choose.rest), retain=retained))
        assert collector._backlog.bytes <= 1 << 20

    return feed


def _receive_seeds() -> list[bytes]:
    status = b'{"state": "online", "since": 1, "version": "0.1.0"}'
    return [bytes((0, 0, 2, 0, 0, 0, 1)) + TEXTS[-1], bytes((4, 0, 0, 0, 0, 0, 1)) + status]


def _statuses() -> Sequence[bytes]:
    online = (
        b'{"state": "online", "version": "0.1.0", "since": 1790000000000000000, "settings_sha256": "00ff"}'
    )
    half = [b'{"state": "online", "%s": "\\ud800"}' % key for key in (b"since", b"version")]
    return [
        *half,
        online,
        online.replace(b"online", b"offline") + b"\0" + online,
        b'{"state": "online"}',
        b"[]",
    ]


TARGETS = (
    Target(
        "batch",
        "collectors.validate.validate",
        "no line of another agent, none lost, none that the database splits otherwise; the quick way says "
        "what the slow one says",
        _batch,
        _batch_seeds,
        words=WORDS,
        inputs=1500,
        shapes=[
            Shape(b"\0\0\0\0" + head, part)
            for head in (b"", b"probe,agent=ny4-01,", b"probe,agent=ny4-01 ", b'event,agent=ny4-01 text="')
            for part in (
                b"\\",
                b"=",
                b'"',
                b",agent=",
                b"\\,",
                b",a=b",
                b" ",
                b"\n",
                b"1",
                b"a=1,",
                b"\\agent=",
                b"a",
            )
        ],
    ),
    Target(
        "topic",
        "probe.telemetry.topics.parse_lines, parse_status",
        "what is understood is written the same again",
        _topic,
        lambda: [
            b"coloprobe/v1/ny4-01/lines/9f2c41d0/17",
            b"coloprobe/v1/a/lines/9f2c41d09f2c41d09f2c41d09f2c41d0/999999999999999999",
            b"coloprobe/v1/ny4-01/status",
        ],
        words=[b"coloprobe/v1/", b"/lines/", b"/status", b"/", b"+", b"#", b"$share/x/"],
        longest=512,
        shapes=[Shape(b"coloprobe/v1/", b"a"), Shape(b"coloprobe/v1/a/lines/", b"0"), Shape(b"", b"/")],
    ),
    Target(
        "status",
        "collectors.status.StatusBook.change",
        "nothing, or one line of the measurement event about this agent",
        _status,
        _statuses,
        words=[
            b'"state"',
            b'"online"',
            b'"since"',
            b'"version"',
            b"\\ud800",
            b"\\u0000",
            b"[",
            b"{",
            b"1e999",
        ],
        inputs=600,
    ),
    Target(
        "receive",
        "collectors.collector.Collector.receive",
        "raises nothing, holds no more than it may",
        _receive,
        _receive_seeds,
        words=WORDS,
    ),
)
