"""HTTP requests in, targets out: who may see the board, whatever stands in the head of a request."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from tests.fuzz.files import directory
from tests.fuzz.samples import NOW, SPOOL
from tests.fuzz.target import Feed, Shape, Target

_TOKEN = "a-token-of-some-length"
_LOOPBACK = (b"localhost", b"127.", b"::1", b"0:1", b"7f")


def _guard() -> Feed:
    from collectors.board.access import Access, Head, Token
    from collectors.board.guard import Guard
    from probe.clock import ManualClock

    clock = ManualClock()
    token = Token(_TOKEN, b"key")
    opened = Access(token, "c").judge(Head("GET", "/", f"token={_TOKEN}", {}, ""), 0)
    assert opened is not None
    proof = dict(opened.headers)["Set-Cookie"].partition("=")[2].partition(";")[0]

    async def ask(access: Access, scope: MutableMapping[str, Any]) -> tuple[bool, list[Any]]:
        """Whether the board was reached, and what was answered in its place."""
        reached, answers = [], []

        async def app(*_: Any) -> None:
            reached.append(True)

        async def receive() -> MutableMapping[str, Any]:
            return {}

        async def send(message: MutableMapping[str, Any]) -> None:
            answers.append(message)

        await Guard(app, access, clock)(scope, receive, send)
        return bool(reached), answers

    def feed(data: bytes) -> None:
        head, *lines = data.split(b"\n")
        method, path, query, client = (head.split(b" ") + [b""] * 4)[:4]
        headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
        scope: dict[str, Any] = {
            "type": "websocket" if method == b"WS" else "http",
            "path": path.decode(errors="replace"),
            "query_string": query,
            "headers": headers,
            "client": (client.decode("latin-1"), 1),
        }
        if scope["type"] == "http":
            scope["method"] = method.decode("latin-1")
        for with_token in (True, False):
            reached, answers = asyncio.run(ask(Access(token if with_token else None, "c"), scope))
            assert reached != bool(answers)
            if reached and scope["path"] != "/healthz":
                if with_token:
                    assert _TOKEN.encode() in data or proof.encode() in data, "without the token"
                else:
                    # Whatever else stands there, which no browser sends.
                    hosts = b" ".join(b"".join(value.split()) for name, value in headers if name == b"host")
                    assert any(one in hosts.lower() for one in _LOOPBACK), "by another name"
            for answer in answers[:1]:
                for name, value in answer.get("headers", ()):
                    assert not set(name + value) & set(b"\r\n\0"), "a header within a header"
                    if name == b"location":
                        assert value.startswith(b"/")
                        assert not value.startswith((b"//", b"/\\")), "it leads somewhere else"

    return feed


def _seeds() -> list[bytes]:
    from collectors.board.access import Access, Head, Token

    opened = Access(Token(_TOKEN, b"key"), "c").judge(Head("GET", "/", f"token={_TOKEN}", {}, ""), 0)
    assert opened is not None
    cookie = dict(opened.headers)["Set-Cookie"].partition(";")[0].encode()
    link = f"token={_TOKEN}".encode()
    return [
        b"GET / " + link + b"&last=1h 192.0.2.7\nhost: 127.0.0.1:8080",
        b"GET /flows  ::1\nhost: [::1]:8080\ncookie: a=b; " + cookie + b"\naccept: text/html",
        b"WS /_nicegui_ws/ x=1 192.0.2.7\nhost: localhost\norigin: http://localhost\ncookie: " + cookie,
        b"POST / " + link + b" 192.0.2.7\nhost: a.example\nauthorization: Bearer " + _TOKEN.encode(),
        b"GET //evil.example/ " + link + b" 192.0.2.7\nhost: 127.0.0.1",
        b"GET /healthz  x\n",
    ]


def _shown() -> Feed:
    """Whatever a collector lets in, the board and `coloprobe show` can show."""
    import io

    from collectors.board import markup
    from collectors.board.feed import Feed as Reading
    from collectors.show import show
    from collectors.sinks.embedded import EmbeddedSink
    from collectors.validate import validate
    from probe.clock import ManualClock
    from probe.errors import BatchError

    here = directory()
    path = here / "store.sqlite"
    clock = ManualClock(NOW)

    async def look(body: bytes) -> list[str]:
        sink = EmbeddedSink(path, clock=clock)
        await sink.write(body)
        await sink.close()
        reading = Reading(path, clock)
        try:
            view = await reading.refresh()
            assert not view.problem, view.problem
            said = [markup.chips(view.rows), markup.events(view.events), markup.agents(view.agents)]
            for row in view.rows:
                chart = await reading.chart(int(str(row["id"])), 3600 * 10**9)
                said.append(markup.flows(chart.flows))
        finally:
            reading.close()
        return said

    def feed(data: bytes) -> None:
        topic = f"coloprobe/v1/ny4-01/lines/{SPOOL}/17"
        try:
            batch = validate(topic, data, now_ns=NOW, max_bytes=1 << 16)
        except BatchError:
            return
        for file in here.iterdir():
            file.unlink()
        page = "".join(asyncio.run(look(batch.body)))
        assert "<script" not in page, "what agents say is text"
        for json in (True, False):
            out = io.StringIO()
            show(here, 3600 * 10**9, json, out, clock)
            assert out.getvalue().encode() or not batch.count or json
            assert json or not set(out.getvalue()) & set("\x1b\r\x07"), "it would move a terminal's cursor"

    return feed


def _shown_seeds() -> list[bytes]:
    made = []
    for number in range(3):
        at = NOW - 10**10 * (3 - number)
        flow = "agent=ny4-01,dscp=0,kind=icmp,line=A,site=NY4,target=<script>,venue=CME"
        values = (
            "sent=10i,received=9i,lost=1i,loss=0.1,rtt_min_ns=5i,rtt_p50_ns=9i,rtt_p99_ns=12i,rtt_max_ns=15i"
        )
        made += [
            f"probe,{flow} {values},jitter_ns=3i {at}",
            f"probe,{flow},flow=1 {values} {at}",
            f"probe,{flow},flow=2 {values} {at}",
            f"probe_histogram,{flow},le=000000000010 count={number}i {at}",
            f"probe_histogram,{flow},le=+Inf count=1i {at}",
            f"agent,agent=ny4-01,site=NY4 batch={number}i,cpu_ns={number}i,clock_synchronised=true {at}",
            f'event,agent=ny4-01,kind=path,target=x text="<script>",detail="{{\\"a\\": 1}}" {at}',
        ]
    lines = [f"{line}\n".encode() for line in made]
    return [b"".join(lines), *(b"".join(lines[n::7]) for n in range(7))]


TARGETS = (
    Target(
        "shown",
        "collectors.board.feed.Feed, markup, collectors.show",
        "what was let in can be shown, as text, and moves no terminal's cursor",
        _shown,
        _shown_seeds,
        words=[
            *(f"={number}i".encode() for number in (0, -1, 2**63 - 1, -(2**63), 10**12)),
            *(
                b"=1e300",
                b"=-0.0",
                b"=1e-300",
                b"le=",
                b"+Inf",
                b"le=0",
                b"flow=",
                b"sent=0i",
                b"kind=",
                b"\x1b[2J",
            ),
            *(b"loss=", b"rtt_p50_ns=", b"forward_p50_ns=1i", b"open=1i", b"</td>", b"<script>", b'detail="'),
        ],
        inputs=16,
        guided=False,
    ),
    Target(
        "board",
        "collectors.board.guard.Guard, access.Access",
        "nobody in without the token, or by another name than loopback's; no header within a header",
        _guard,
        _seeds,
        words=[
            *(
                b"\ncookie: ",
                b"\nhost: ",
                b"\norigin: ",
                b"\nauthorization: Bearer ",
                b"token=",
                b"c=",
                b";",
                b"%0d%0a",
            ),
            *(b"localhost", b"127.1", b"@", b"//", b"/\\", b"&", b"%00", b"[::1]", b"[", b"]"),
        ],
        longest=1024,
        inputs=250,
        shapes=[
            Shape(b'GET /  x\nhost: 127.0.0.1\ncookie: c="', part, b'"')
            for part in (b"\\", b"\\1", b";", b"c=", b"=", b" ")
        ]
        + [Shape(b"GET / ", part, b" x\n") for part in (b"&", b"token=&", b"%", b"%2", b";", b"=")]
        + [Shape(b"GET /  x\nhost: ", part) for part in (b"[", b"a.", b"@", b":", b"1.")],
    ),
)
