"""What a sink answers in, targets out; and what of it ends in a file."""

from __future__ import annotations

import json

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


TARGETS = (
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
