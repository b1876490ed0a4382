"""A feed and a listening socket in, a served board out: NiceGUI through uvicorn, in the loop that runs.

The process keeps its own signal handlers, and the port is bound before anything starts, so that a port in use
is the caller's error and not a log line. NiceGUI is one app a process, so there is one board at a time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.board.access import Access, Token
from collectors.board.feed import Feed
from probe.clock import SystemClock
from probe.errors import MissingPartError, UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

_STATIC = Path(__file__).parent / "static"
_STOP_S = 2  # for open connections
_WARM_UP_S = 5.0


@dataclass
class _Shown:
    """What the one NiceGUI app of this process shows now."""

    feed: Feed | None = None
    mqtt_url: str = ""


_shown = _Shown()


@asynccontextmanager
async def serve(
    feed: Feed, listener: socket.socket, mqtt_url: str, token: Token | None = None
) -> AsyncIterator[None]:
    """Serve the board of `feed` on `listener`, which is bound and is closed at the end.

    Whoever has no `token` sees nothing; without one it answers to this host's own names only.

    Raises: MissingPartError (NiceGUI is not installed), UsageError (this process serves a board already).
    """
    try:
        import uvicorn

        from collectors.board.guard import Guard

        app = _app()
    except ModuleNotFoundError as missing:
        listener.close()
        raise MissingPartError(f"the web board (Python module {missing.name})", "up") from None

    up = asyncio.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            up.set()

        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield  # signals belong to whoever runs the loop

    if _shown.feed is not None:
        listener.close()
        raise UsageError("this process serves a board already")
    _shown.feed, _shown.mqtt_url = feed, mqtt_url
    access = Access(token, f"coloprobe_{listener.getsockname()[1]}")
    config = uvicorn.Config(
        Guard(app, access, SystemClock()),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_S,
        ws="websockets-sansio",
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="board")
    ticking = asyncio.create_task(feed.run(), name="board feed")
    try:
        starting = asyncio.create_task(up.wait())
        await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        if not server.started:
            await serving
            raise UsageError("the board did not start; the log says why")
        await _warm_up(listener, token)
        yield
    finally:
        ticking.cancel()
        server.should_exit = True
        await asyncio.gather(serving, ticking, return_exceptions=True)
        feed.close()
        listener.close()
        _shown.feed = None


async def _warm_up(listener: socket.socket, token: Token | None) -> None:
    """Ask for the page once: the first one costs 0.1 s, which an agent beside us would feel."""
    host, port = listener.getsockname()[:2]
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a comparison
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_WARM_UP_S):
            reader, writer = await asyncio.open_connection(here, port)
            ours = f"Authorization: Bearer {token.text}\r\n" if token else ""
            request = f"GET / HTTP/1.1\r\nHost: localhost\r\n{ours}Connection: close\r\n\r\n"
            writer.write(request.encode())
            await reader.read()
            writer.close()
            await writer.wait_closed()


@cache
def _app() -> FastAPI:
    """The app of this process: NiceGUI takes its settings once."""
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse
    from fastapi.staticfiles import StaticFiles
    from nicegui import ui

    from collectors.board.page import Page

    for name in ("nicegui", "uvicorn.error", "engineio", "socketio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> str:
        return "ok\n"

    app.mount("/board", StaticFiles(directory=_STATIC))

    @ui.page("/", title="coloprobe", dark=True)
    def board(target: str = "", agent: str = "", span: str = "") -> None:
        if _shown.feed is not None:
            Page(_shown.feed, _shown.mqtt_url, target, agent, span).build()

    ui.run_with(app, title="coloprobe", dark=True, tailwind=False, show_welcome_message=False, favicon="📡")
    return app
