"""What a sink answers in, targets out; and what of it ends in a file."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from contextlib import suppress

from tests.fuzz.samples import NOW, SPOOL, TEXTS
from tests.fuzz.target import Chooser, Feed, Shape, Target


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
    never = b"Mon, 21 Sep 99999999999999999999 14:13:50 GMT"
    dates = [b"", b"7", never, b"Mon, 21 Sep 2026 14:13:50 GMT", b"Monday, 21-Sep-26 14:13:50 +0100"]
    bodies = [
        b'{"error":"partial write: field type conflict: input field \\"sent\\" on measurement \\"probe\\" '
        b'is type string, already exists as type integer dropped=1"}\n',
        b'{"code":"invalid","message":"unable to parse"}',
        b"<html>Bad Gateway</html>",
        b'{"error":"half a character: \\ud800"}',
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


def _http() -> Feed:
    """Both clients against a server that answers anything: all that comes out is one of our errors."""
    from collectors.sinks.influx import InfluxV1, InfluxV2
    from probe.clock import ManualClock
    from probe.errors import SinkError
    from probe.settings import InfluxTable
    from probe.units import Duration

    clock = ManualClock(NOW)

    async def run(data: bytes, version: int) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        table = InfluxTable(
            url=f"http://127.0.0.1:{port}", database="d", bucket="b", org="o", timeout=Duration(5 * 10**9)
        )
        sink: InfluxV1 | InfluxV2
        if version == 1:
            sink = InfluxV1(table, None, "f", clock, None)
        else:
            sink = InfluxV2(table, "token", "f", clock, None)
        try:
            await sink.write(b"probe,agent=a sent=1i 1790000000000000000\n")
        except SinkError as problem:
            assert len(str(problem)) < 2000
            assert str(problem).encode()
        else:
            assert data.startswith(b"HTTP/"), "it takes for an answer what is none"
        finally:
            await sink.close()
            server.close()

    def feed(data: bytes) -> None:
        for version in (1, 2):
            asyncio.run(run(data, version))

    return feed


def _http_seeds() -> list[bytes]:
    json_type = b"Content-Type: application/json\r\n"
    bodies = [
        b'{"error":"partial write: dropped=1"}',
        b'{"code":"invalid","message":"x"}',
        b"[5]",
        b"\xff\xfe",
    ]
    made = [
        b"HTTP/1.1 204 No Content\r\nX-Influxdb-Version: 1.6.7\r\n\r\n",
        b"",
        b"HTTP/1.1",
        b"SSH-2.0-x\r\n",
    ]
    for status in (
        b"400 Bad Request",
        b"401 Unauthorized",
        b"404 Not Found",
        b"429 Slow",
        b"500 Error",
        b"503 X",
    ):
        for body in bodies:
            length = b"Content-Length: %d\r\n\r\n" % len(body)
            made.append(b"HTTP/1.1 " + status + b"\r\nRetry-After: 5\r\n" + json_type + length + body)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
    packed = b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b'{"error":"x"}')
    made += [b"HTTP/1.1 400 Bad\r\n" + rest for rest in (chunked, packed, b"Content-Encoding: br\r\n\r\nx")]
    return [*made, b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n"]


TARGETS = (
    Target(
        "sink-http",
        "collectors.sinks.influx (both clients behind it)",
        "whatever a server answers is a yes or one of the sink's errors, of bounded length",
        _http,
        _http_seeds,
        words=[
            *(
                b"HTTP/1.1 ",
                b"\r\n",
                b"\r\n\r\n",
                b"Content-Length: ",
                b"Transfer-Encoding: chunked\r\n",
                b"200",
                b"204",
            ),
            *(
                b"Content-Encoding: gzip\r\n",
                b"Content-Encoding: deflate\r\n",
                b"Location: ",
                b"Retry-After: ",
            ),
            *(
                b"-1",
                b"ffffffffffffffff\r\n",
                b"100 Continue",
                b"301",
                b"307",
                b"Connection: close\r\n",
                b"\\ud800",
            ),
        ],
        inputs=50,
        guided=False,
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
)
