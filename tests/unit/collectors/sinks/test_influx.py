"""Both write APIs against a server of the standard library that answers whatever a test wants."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from collectors.sinks import Sink
from collectors.sinks.influx import open_sink
from probe.errors import SettingsError, SinkRefused, SinkRejected, SinkTooLarge, SinkUnavailable
from probe.settings import CollectorSettings, CollectorTable, InfluxTable
from probe.units import Duration

BODY = b"probe,agent=a sent=40i 1700000000000000001\n"


@dataclass
class Request:
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Answers:
    """What the server says, and what it was asked."""

    port: int = 0
    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    judge: Callable[[bytes], int] | None = None  # says the status for a body


@pytest.fixture
def server() -> Iterator[Answers]:
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = urlsplit(self.path)
            answers.requests.append(
                Request(
                    parts.path, parse_qs(parts.query), {k.title(): v for k, v in self.headers.items()}, body
                )
            )
            self.send_response(answers.judge(body) if answers.judge else answers.status)
            for name, value in answers.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answers.body)))
            self.end_headers()
            self.wfile.write(answers.body)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the base class's name

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        answers.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield answers
        http.shutdown()
        thread.join()


def settings(port: int, api: str, **more: object) -> CollectorSettings:
    influx = InfluxTable(url=f"http://127.0.0.1:{port}", api=api, org="colo", **more)  # type: ignore[arg-type]
    return CollectorSettings(collector=CollectorTable(id="c"), influx=influx)


def use(sink: Sink, *bodies: bytes, check: bool = False) -> None:
    async def main() -> None:
        try:
            for body in bodies:
                await sink.write(body)
            if check:
                await sink.check()
        finally:
            await sink.close()
            await sink.close()

    asyncio.run(main())


API = pytest.mark.parametrize("api", ["v1", "v2"])


def test_v2_sends_compressed_lines_with_bucket_organization_and_token(
    server: Answers, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token\n")
    use(open_sink(settings(server.port, "v2", bucket="b", token_file=str(token)), "f"), BODY)
    [request] = server.requests
    assert request.path == "/api/v2/write"
    assert request.query == {"org": ["colo"], "bucket": ["b"], "precision": ["ns"]}
    assert request.headers["Authorization"] == "Token secret-token"
    assert request.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(request.body) == BODY


def test_v1_sends_compressed_lines_with_database_policy_and_basic_authentication(
    server: Answers, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("pass:wörd\n", encoding="utf-8")
    more = {"database": "d b", "retention_policy": "rp", "username": "bob", "password_file": str(password)}
    use(open_sink(settings(server.port, "v1", **more), "f"), BODY)
    [request] = server.requests
    assert request.path == "/write"
    assert request.query == {"db": ["d b"], "precision": ["ns"], "rp": ["rp"]}
    assert (
        base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode() == "bob:pass:wörd"
    )
    assert request.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(request.body) == BODY


def reads_all(body: bytes) -> int:
    """InfluxDB 1.x, 2.x and others in Go."""
    try:
        gzip.decompress(body)
    except (OSError, EOFError):
        return 400
    return 204


def reads_the_first(body: bytes) -> int:
    zlib.decompressobj(wbits=31).decompress(body)
    return 204


def wants_points(answer: Callable[[bytes], int]) -> Callable[[bytes], int]:
    """No line is an error to some servers."""

    def judge(body: bytes) -> int:
        text = zlib.decompressobj(wbits=31).decompress(body)
        return answer(body) if text.strip() else 400

    return judge


def fickle(body: bytes) -> int:
    """Says sometimes this and sometimes that of a body without lines."""
    return 204 if zlib.decompressobj(wbits=31).decompress(body).strip() else next(TURNS)


TURNS = cycle([204, 400, 500])


@API
@pytest.mark.parametrize(
    ("judge", "passed_on"),
    [
        (reads_all, True),
        (reads_the_first, False),
        (wants_points(reads_all), False),
        (wants_points(reads_the_first), False),
        (fickle, False),
        (lambda _: 204, False),
    ],
)
def test_members_are_passed_on_only_to_a_server_that_surely_reads_them_all(
    server: Answers, api: str, judge: Callable[[bytes], int], passed_on: bool
) -> None:
    server.judge = judge
    body = gzip.compress(BODY) + gzip.compress(BODY)

    async def main() -> None:
        sink = open_sink(settings(server.port, api, bucket="b"), "f")
        for _ in range(2):
            await sink.write(body, packed=True)
        await sink.close()

    asyncio.run(main())
    *asked, first, second = [request.body for request in server.requests]
    assert len(asked) == 3
    for sent in (first, second):
        assert (sent == body) == passed_on
        alone = zlib.decompressobj(wbits=31)
        assert (alone.decompress(sent) == BODY + BODY) != passed_on
    assert all(not line.strip() for sent in asked for line in [zlib.decompressobj(wbits=31).decompress(sent)])


@API
def test_a_server_that_was_away_is_asked_again_what_it_reads(server: Answers, api: str) -> None:
    body = gzip.compress(BODY) + gzip.compress(BODY)
    server.judge = reads_all

    async def main() -> None:
        sink = open_sink(settings(server.port, api, bucket="b"), "f")
        await sink.write(body, packed=True)
        server.judge = lambda _: 503
        with pytest.raises(SinkUnavailable):
            await sink.write(body, packed=True)
        server.judge = reads_the_first
        await sink.write(body, packed=True)
        await sink.close()

    asyncio.run(main())
    assert server.requests[3].body == body
    assert gzip.decompress(server.requests[-1].body) == BODY + BODY
    assert server.requests[-1].body != body


@API
def test_no_secret_no_authorization(server: Answers, api: str) -> None:
    use(open_sink(settings(server.port, api), "f"), BODY)
    assert "Authorization" not in server.requests[0].headers


@API
def test_one_attempt_a_write_over_one_connection(server: Answers, api: str) -> None:
    server.status = 503
    sink = open_sink(settings(server.port, api), "f")
    with pytest.raises(SinkUnavailable, match="HTTP 503"):
        use(sink, BODY)
    assert len(server.requests) == 1


@API
@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, SinkRefused, "collector.toml: check influx."),
        (403, SinkRefused, "right to write"),
        (404, SinkRefused, "create"),
        (302, SinkRefused, "influx.url"),
        (413, SinkTooLarge, "said so"),
        (400, SinkRejected, "said so"),
        (422, SinkRejected, "said so"),
        (500, SinkUnavailable, "said so"),
    ],
)
def test_answers_become_our_errors_with_the_servers_words(
    server: Answers, api: str, status: int, kind: type[Exception], says: str
) -> None:
    server.status = status
    server.body = json.dumps({"error" if api == "v1" else "message": "said so"}).encode()
    server.headers = {"Location": "/elsewhere"}
    with pytest.raises(kind, match=says) as caught:
        use(open_sink(settings(server.port, api), "collector.toml"), BODY)
    assert type(caught.value) is kind
    assert f"HTTP {status}: said so" in str(caught.value)
    assert len(server.requests) == 1


@API
def test_retry_after_is_understood(server: Answers, api: str) -> None:
    server.status, server.headers = 429, {"Retry-After": "17"}
    with pytest.raises(SinkUnavailable) as caught:
        use(open_sink(settings(server.port, api), "f"), BODY)
    assert caught.value.retry_after_s == 17


@API
def test_check_says_what_a_write_would_meet_and_writes_nothing(server: Answers, api: str) -> None:
    use(open_sink(settings(server.port, api), "f"), check=True)
    assert gzip.decompress(server.requests[0].body) == b""
    server.status = 400  # 'there is no point in it': then it got that far
    use(open_sink(settings(server.port, api), "f"), check=True)
    server.status = 401
    with pytest.raises(SinkRefused):
        use(open_sink(settings(server.port, api), "f"), check=True)


@API
def test_nobody_there(api: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sink = open_sink(settings(closed.getsockname()[1], api), "collector.toml")
        with pytest.raises(
            SinkUnavailable, match=r"cannot connect: .*refused.*collector\.toml: see influx\.url"
        ):
            use(sink, BODY)


@API
def test_a_server_that_does_not_answer_costs_the_timeout_only(api: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        timeout = Duration.parse("50ms")
        sink = open_sink(settings(silent.getsockname()[1], api, timeout=timeout), "f")
        with pytest.raises(SinkUnavailable, match=r"influx\.timeout"):
            use(sink, BODY)


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(answer)


@API
@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n\xff\xfe"],
)
def test_a_server_that_talks_nonsense_is_no_crash(api: str, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, answer))
        thread.start()
        with pytest.raises((SinkUnavailable, SinkRejected)):
            use(open_sink(settings(listener.getsockname()[1], api), "f"), BODY)
        thread.join()


@API
def test_a_server_without_tls_is_told_of_as_such(api: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        thread.start()
        table = InfluxTable(url=f"https://127.0.0.1:{listener.getsockname()[1]}", api=api, org="o")  # type: ignore[arg-type]
        plain = CollectorSettings(collector=CollectorTable(id="c"), influx=table)
        with pytest.raises(SinkRefused, match=r"no TLS.*influx\.url"):
            use(open_sink(plain, "f"), BODY)
        thread.join()


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"api": "v1", "database": ""}, "influx.database"),
        ({"api": "v2", "bucket": ""}, "influx.bucket"),
        ({"api": "v2", "token_file": "/nonexistent"}, "influx.token_file"),
        ({"api": "v1", "password_file": "/nonexistent"}, "influx.password_file"),
    ],
)
def test_settings_that_cannot_work_name_the_key(more: dict[str, str], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_sink(settings(1, **more), "collector.toml")
    assert (caught.value.file, caught.value.key) == ("collector.toml", key)


def test_a_password_without_a_user_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOPROBE_INFLUX_PASSWORD", "x")
    with pytest.raises(SettingsError, match=r"influx\.username"):
        open_sink(settings(1, "v1"), "collector.toml")


def _in_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_a_collectors_process_has_no_numpy_and_gets_it_back_when_it_asks() -> None:
    code = (
        "import sys\n"
        "from collectors import collector\n"
        "from collectors.sinks.influx import open_sink\n"
        "from probe.settings import CollectorSettings, CollectorTable\n"
        "light = 'influxdb_client' not in sys.modules\n"
        "open_sink(CollectorSettings(collector=CollectorTable(id='c')), 'f')\n"
        "free = 'numpy' not in sys.modules\n"
        "import numpy\n"
        "print(light, free, int(numpy.array([3]).sum()))\n"
    )
    assert _in_fresh_process(code) == "True True 3"


def test_a_missing_client_names_the_extra() -> None:
    code = (
        "import sys\n"
        "sys.modules['influxdb_client'] = None\n"
        "from collectors.sinks.influx import open_sink\n"
        "from probe.errors import MissingPartError\n"
        "from probe.settings import CollectorSettings, CollectorTable\n"
        "try:\n"
        "    open_sink(CollectorSettings(collector=CollectorTable(id='c')), 'f')\n"
        "except MissingPartError as problem:\n"
        "    print(problem)\n"
    )
    assert "pip install 'coloprobe[collector]'" in _in_fresh_process(code)
