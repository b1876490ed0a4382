"""An ASGI app in, the same app behind `Access` out: every request and websocket is judged first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Any

from collectors.board.access import Access, Head, Refusal
from probe.clock import Clock

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Nobody shows the board inside another page, or is told where a link led from.
_ALWAYS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
# A browser that comes by a link from another site does not show a SameSite=Strict cookie, not even where
# it is redirected to; when the page itself asks once more, it does.
_ONCE_MORE = (
    "const k = 'coloprobe', last = sessionStorage.getItem(k), now = Date.now();"
    "if (now - last < 5000) sessionStorage.removeItem(k);"
    "else { sessionStorage.setItem(k, now); location.replace(location); }"
)
_PAGE = (
    '<!doctype html><meta charset="utf-8"><title>coloprobe</title><style>body {{ background: #0b0f14; '
    "color: #d7e0ea; font: 16px system-ui, sans-serif; margin: 20vh auto; max-width: 40em }}</style>"
    "<h1>coloprobe</h1><p>{text}</p><script>{script}</script>"
)
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
)


class Guard:
    """The app that a server runs. `app` is the guarded one; NiceGUI looks for it under this name."""

    def __init__(self, app: App, access: Access, clock: Clock) -> None:
        self.app = app
        self._access = access
        self._clock = clock

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        head = _head(scope)
        refusal = self._access.judge(head, self._clock.mono())
        if scope["type"] == "websocket":
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008})  # before it was accepted: HTTP 403
            return
        if refusal is not None:
            await _answer(refusal, "text/html" in head.headers.get("accept", ""), send)
            return

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            await send(message)

        await self.app(scope, receive, careful)


def _head(scope: Message) -> Head:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}; {text}" if key in headers else text  # HTTP/2 splits cookies
    return Head(
        method=scope.get("method", "WEBSOCKET"),
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
        client=(scope.get("client") or ("",))[0],
        secure=scope.get("scheme") in ("https", "wss"),
    )


async def _answer(refusal: Refusal, page: bool, send: Send) -> None:
    body, kind = f"{refusal.text}\n", "text/plain"
    headers = [*refusal.headers, ("Cache-Control", "no-store")]
    if page:
        script = _ONCE_MORE if refusal.status == 401 else ""
        body, kind = _PAGE.format(text=escape(refusal.text), script=script), "text/html"
        headers.append(("Content-Security-Policy", _PAGE_POLICY))
    headers += [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body.encode())))]
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": [*raw, *_ALWAYS]})
    await send({"type": "http.response.body", "body": body.encode()})
