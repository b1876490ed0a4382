"""HTTP requests in, targets out: who may see the board, whatever stands in the head of a request."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

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


TARGETS = (
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
