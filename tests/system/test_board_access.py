"""The board in a real Chromium, with the link and without it; and asked by what is no browser."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.asking import SOCKET, asked, socket_says
from tests.system.browser import Browser, chromium
from tests.system.test_station import Running, agent, child, now_window

TOKEN = "a-token-has-no-spaces"
# What an agent may call a target, and a page must not do; as text, and as a tag of line protocol.
TEXT = "</script></textarea><img/src=x/onerror=window.done=1>{{window.done=1}}<script>window.done=1</script>"
CODE = TEXT.replace("=", r"\=")
ROWS = "document.querySelectorAll('.targets tr[data-id]').length"


@contextlib.contextmanager
def page_of_another_site(link: str) -> Iterator[str]:
    """The URL of a page, of another site than 127.0.0.1, with a link."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'<a href="{link}">the board</a>'.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.browser
def test_with_the_link_there_is_the_board_and_without_it_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(running: Running, browser: Browser) -> None:
        async with agent(running.mqtt, "ny4-01") as ny4:
            start = now_window()
            await ny4.send(
                ny4.probe("secret-gateway", start, 30_000),
                ny4.probe(CODE, start, 30_000, flow=CODE),
                ny4.probe(CODE, start, 30_000),
                f'event,agent=ny4-01,interface={CODE},kind=link text="{TEXT}" {start}',
                f'agent,agent=ny4-01,site={CODE} batch=2i,version="{TEXT}" {start + 1}',
            )
            async with browser.tab() as tab:
                await tab.open(running.board)
                await tab.until("document.body.innerText.includes('asks for its token')")
                await tab.open(f"{running.board}/?token=guessed-guessed-guessed")
                page = "document.documentElement.outerHTML"
                shown = await tab.until(f"{page}.includes('not the board') && {page}")
                assert "secret-gateway" not in shown
                assert "ny4-01" not in shown
                assert not [url for url in tab.requests if "socket" in url or "_nicegui" in url]

            async with browser.tab() as tab:
                # A link in somebody's web mail: the cookie is the strict one, and works all the same.
                with page_of_another_site(f"{running.board}/?span=1+h&token={TOKEN}") as mail:
                    await tab.open(mail)
                    await tab.until("!!document.querySelector('a')")
                    await tab.run("document.querySelector('a').click()")
                    await tab.until(f"{ROWS} === 2 && document.body.innerText.includes('secret-gateway')")
                assert TOKEN not in await tab.run("location.href + document.cookie + document.referrer")
                # What it was told is what is shown, and nothing of what it had to show.
                told = "".join([await tab.run("document.documentElement.outerHTML"), *tab.frames])
                assert "secret-gateway" in told
                assert TOKEN not in told
                assert str(tmp_path) not in told
                assert any(url.startswith("ws:") for url in tab.requests)
            async with browser.tab() as later:  # the browser keeps it
                await later.open(running.board)
                await later.until(f"{ROWS} === 2")
                names = "[...document.querySelectorAll('.targets td.name')]"
                row = f"{names}.find(cell => cell.innerText.includes('img'))"
                assert await later.until(f"{row}.innerText") == TEXT
                await later.run(f"{row}.click()")
                for part in (".title .what", ".events", ".foot", ".flows"):
                    await later.until(f"document.querySelector('{part}').innerText.includes('onerror=')")
                assert await later.run("typeof window.done") == "undefined"
                assert later.complaints == []

    monkeypatch.setenv("COLOPROBE_BOARD_TOKEN", TOKEN)
    with child(tmp_path / "state", says="a wrong token from 127.0.0.1 (told once)\n") as running:
        for path in ("/", "/board/board.js", "/_nicegui/auto/static/x.js", SOCKET + "polling"):
            assert asked(running.board + path)[0] == 401
        assert asked(f"{running.board}/healthz") == (200, "ok\n")
        status, body = asked(running.board, Authorization=f"Bearer {TOKEN}")
        assert (status, "coloprobe" in body, TOKEN in body) == (200, True, False)
        assert asyncio.run(socket_says(running.board)) == "403"
        assert asyncio.run(socket_says(running.board, Cookie=f"coloprobe={TOKEN}")) == "403"
        assert asyncio.run(socket_says(running.board, Authorization=f"Bearer {TOKEN}")).startswith('0{"sid"')
        with chromium(tmp_path) as browser:
            asyncio.run(main(running, browser))
