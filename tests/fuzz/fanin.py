"""What the broker and the sink tell a collector in, targets out: batches, topics, statuses, HTTP answers."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import influx
from tests.fuzz.target import Chooser, Feed, Shape, Target

NOW = 1_790_000_000_000_000_000
MOST = 4096  # bytes of a batch here
# A collector's clock may be reset, behind, right, or ahead.
_CLOCKS = (NOW, 60 * 10**9, NOW - 10**17, NOW + 10**14, 1_999_999_999_999_999_999, 4 * 10**18, 0)
_EARLIEST, _SANE = 946_684_800 * 10**9, 1_767_225_600 * 10**9  # 2000, and 2026: no clock is right before it
AGENTS = ("ny4-01", "a", "ld4-02", "ny4-012")
SPOOL = "9f2c41d0"
NEIGHBOUR = b"probe,agent=ld4-99,target=y sent=1i 1790000000000000001"
REASONS = {"topic", "oversized", "gzip", "encoding", "empty", "foreign"}
LINES = (
    f"agent,agent=ny4-01,site=NY4 batch=17i,spool_depth=0i,clock_synchronised=true {NOW - 5}",
    f"probe,agent=ny4-01,dscp=0,kind=icmp,line=A,site=NY4,target=cme-a,venue=CME sent=100i,received=99i,"
    f"loss=0.01,rtt_min_ns=81250i,rtt_mean_ns=90312.5,jitter_ns=12e2 {NOW}",
    f"probe_histogram,agent=ny4-01,kind=icmp,le=000000081920,target=cme-a count=3i {NOW}",
    f'event,agent=ny4-01,kind=path text="seen ,agent=ld4-02 \\"there\\" = 5",detail="{{\\"a\\": 1}}" {NOW}',
    f"interface,agent=ny4-01,interface=eth0 rx_packets=1i,up=t {NOW}",
    f"probe,agent=ny4-01,target=a\\ b\\,c\\=d sent=1i {NOW}",
    f"probe,agent=ny4-01,target=Zürich sent=1i {NOW}",
    f"probe,agent=ld4-02,target=x sent=1i {NOW}",
    f"collector,agent=ny4-01,collector=x batches=1i {NOW}",
)
WORDS = [
    *(
        b"agent=",
        b",agent=",
        b",agent=ny4-01",
        b",agent=ld4-02",
        b"age\\nt=",
        b"\\agent=",
        b"agent\\=",
        b"age",
    ),
    *(
        b"probe",
        b"probe,",
        b"event,",
        b"collector,",
        b"agent,",
        b"time=",
        b"sent=1i",
        b',text="',
        b"\\,",
        b"\\ ",
    ),
    *(b"sent=1u", b"sent=1,", b",loss=1i", b"new=1i,new=1,", b'text="x"'),
    *(b"\\=", b"\\\\", b'\\"', b'"', b"=", b",", b" ", b"\n", b"#", b"\\\n", b'"\n', b'="', b" =", b"e99"),
    *(b"1790000000000000000", b" 1790000000000000000\n", b"-9223372036854775808", b"1999999999999999999"),
    *(line.encode() + b"\n" for line in LINES),
]
TEXTS = [
    *(f"{line}\n".encode() for line in LINES),
    "".join(f"{line}\n" for line in LINES[:7]).encode(),
    f"{LINES[0]}\n{LINES[1]}".encode(),
]


def _packed(way: int, text: bytes) -> bytes:
    """What a batch may look like on its way, honestly or not."""
    if way == 2:
        return gzip.compress(text, 1, mtime=0)
    if way == 3:
        return gzip.compress(text[: len(text) // 2]) + gzip.compress(text[len(text) // 2 :])
    if way == 4:  # with a name in the header
        return b"\x1f\x8b\x08\x08\0\0\0\0\0\3x\0" + gzip.compress(text, mtime=0)[10:]
    if way == 5:
        return b"\x1f\x8b" + text
    if way == 6:
        return gzip.compress(text)[:-1]
    if way == 7:
        return gzip.compress(text) + b"x"
    return text


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
        payload = _packed(way, text)
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


def _gzip() -> Feed:
    from collectors.validate import unpack
    from probe.errors import BatchError

    def feed(data: bytes) -> None:
        try:
            text = unpack(data, MOST)
        except BatchError as problem:
            assert problem.reason in {"oversized", "gzip"}
            text = None
        if len(data) > MOST:
            assert text is None
            return
        if not data.startswith(b"\x1f\x8b"):
            assert text == data
            return
        expected = _inflated(zlib.decompressobj(wbits=31), data)
        if text is not None:
            assert len(text) <= MOST
            assert expected in (None, text), "others read this gzip otherwise"
        elif expected is not None:
            # Members in a row are good gzip, but no batch of ours.
            assert len(expected) > MOST, "it refuses good gzip"

    return feed


def _inflated(reader: zlib._Decompress, data: bytes) -> bytes | None:
    """All of it as one stream; None: it is none. At most a byte more than a batch has."""
    try:
        text = reader.decompress(data, MOST + 1)
    except zlib.error:
        return None
    if len(text) <= MOST and (not reader.eof or reader.unused_data):
        return None
    return text


def _deflate() -> Feed:
    """Any deflate stream that is let in, with the sums that belong to it: the database must read the same."""
    from isal import isal_zlib

    from collectors.validate import unpack
    from probe.errors import BatchError

    def feed(data: bytes) -> None:
        reader = isal_zlib.decompressobj(wbits=-15)
        try:
            text = reader.decompress(data, MOST + 1)
        except isal_zlib.error:  # type: ignore[misc] # its stubs hide that it is an exception
            return
        if not reader.eof or len(text) > MOST:
            return
        stream = data[: len(data) - len(reader.unused_data)]
        member = (
            b"\x1f\x8b\x08\0\0\0\0\0\0\3"
            + stream
            + zlib.crc32(text).to_bytes(4, "little")
            + len(text).to_bytes(4, "little")
        )
        try:
            taken = unpack(member, MOST)
        except BatchError:
            return
        assert taken == text
        # ISA-L takes incomplete Huffman codes, which zlib and Go refuse: then the database rejects the write,
        # and the batch goes on as text. What both take must be the same.
        assert _inflated(zlib.decompressobj(wbits=31), member) in (None, text), "others read it otherwise"

    return feed


def _deflate_seeds() -> list[bytes]:
    made = []
    for text in (*TEXTS, b"", b"a" * 3000, bytes(range(256)) * 3):
        for level, strategy in ((1, 0), (9, 0), (0, 0), (6, zlib.Z_FIXED), (6, zlib.Z_HUFFMAN_ONLY)):
            packer = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
            made.append(packer.compress(text) + packer.flush())
    return made


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


def _answer() -> Feed:
    from collectors.sinks.http import problem
    from probe.errors import SinkUnavailable

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        status = choose.number(1000)
        header = choose.piece().decode(errors="replace")
        failure = problem(status, {"Retry-After": header}, choose.rest, remedies={401: "x"}, now_ns=NOW)
        assert (failure is None) == (200 <= status < 300)
        if failure is None:
            return
        said = str(failure)
        assert said.encode()
        assert len(said) < 1000
        assert said.isprintable() or not set(said) & set("\r\n\v\f\x85\u2028\u2029")
        if isinstance(failure, SinkUnavailable) and failure.retry_after_s is not None:
            assert 0 <= failure.retry_after_s < 1e12

    return feed


def _answer_seeds() -> list[bytes]:
    dates = [b"", b"7", b"Mon, 21 Sep 2026 14:13:50 GMT", b"Monday, 21-Sep-26 14:13:50 +0100"]
    bodies = [
        b'{"error":"partial write: field type conflict: input field \\"sent\\" on measurement \\"probe\\" '
        b'is type string, already exists as type integer dropped=1"}\n',
        b'{"code":"invalid","message":"unable to parse"}',
        b"<html>Bad Gateway</html>",
    ]
    return [
        status.to_bytes(2, "big") + bytes((len(date),)) + date + body
        for status in (204, 400, 401, 404, 413, 429, 500, 503)
        for date in dates
        for body in bodies
    ]


def _quarantine() -> Feed:
    from collectors.quarantine import Entry
    from probe.telemetry.topics import BatchId

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        most, as_text = 1024 + choose.number(8192), choose.flag()
        reason, content = choose.piece().decode(errors="replace"), choose.rest
        held: str | bytes = content.decode(errors="replace") if as_text else content
        line = Entry(BatchId("ny4-01", SPOOL, 17), reason, held).encode(NOW, most)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert len(line) <= most + 3000, "beside the content there are a head and a reason"
        document = json.loads(line)
        assert (document["agent"], document["batch"]) == ("ny4-01", 17)

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
        collector.receive(Message(topic, _packed(way, choose.rest), retain=retained))
        assert collector._backlog.bytes <= 1 << 20

    return feed


def _receive_seeds() -> list[bytes]:
    status = b'{"state": "online", "since": 1, "version": "0.1.0"}'
    return [bytes((0, 0, 2, 0, 0, 0, 1)) + TEXTS[-1], bytes((4, 0, 0, 0, 0, 0, 1)) + status]


def _statuses() -> Sequence[bytes]:
    online = (
        b'{"state": "online", "version": "0.1.0", "since": 1790000000000000000, "settings_sha256": "00ff"}'
    )
    return [online, online.replace(b"online", b"offline") + b"\0" + online, b'{"state": "online"}', b"[]"]


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
        "gzip",
        "collectors.validate.unpack",
        "zlib reads the same, or refuses; good gzip is let in; never more than a batch",
        _gzip,
        lambda: [_packed(way, text) for text in (*TEXTS, b"", bytes(MOST + 1)) for way in (0, 2, 3, 4, 5)],
        inputs=1000,
    ),
    Target(
        "deflate",
        "collectors.validate.unpack",
        "any deflate stream with the right sums: zlib reads the same, or refuses",
        _deflate,
        _deflate_seeds,
        inputs=2000,
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
        "answer",
        "collectors.sinks.http.problem",
        "one line of bounded length; a pause that can be waited",
        _answer,
        _answer_seeds,
        words=[b'{"error":"', b'{"message":', b"\\ud800", b"Mon, 21 Sep 2026 14:13:50 GMT", b"+9999", b"["],
        inputs=600,
        shapes=[Shape(b"\1\x90\0", part) for part in (b"[", b'{"error":', b"\\", b" ", b"1", b'"')],
    ),
    Target(
        "quarantine",
        "collectors.quarantine.Entry.encode",
        "one line of JSON of bounded length",
        _quarantine,
        lambda: [bytes((4, 0, 1, 5)) + b"wrong" + text for text in (b"x" * 3000, b"\0" * 3000, *TEXTS)],
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
