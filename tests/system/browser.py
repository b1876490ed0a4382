"""Headless Chromium in, what a page did out: a small driver over the debugging port.

A plain `--screenshot` fires before a live page had its first update; over the debugging port a test can wait
for what it expects, read the page, click, and see every request and every console message.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import websockets

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-port=0",
)


class NavigatedError(AssertionError):
    """The page that was asked has gone: another one is loading."""


class Tab:
    """One page. `requests`: every URL it asked for; `complaints`: console errors, warnings and exceptions;
    `frames`: what came over its websockets."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.frames: list[str] = []
        self._connection = connection
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last = 0
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Network.webSocketFrameReceived":
            self.frames.append(params["response"]["payloadData"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["entry"]))

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        self._last += 1
        self._answers[self._last] = answer = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": self._last, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, 30)
        if "navigated" in message.get("error", {}).get("message", ""):
            raise NavigatedError(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    async def open(self, url: str, width: int = 1280, height: int = 800) -> None:
        """Go to `url` in a window of this size."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.do(f"{domain}.enable")
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await self.do("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = await self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str, timeout_s: float = 30) -> Any:
        """Wait until a JavaScript expression is truthy; its value. Fails with what the page shows instead."""
        deadline = time.monotonic() + timeout_s
        await self.do("Page.bringToFront")  # a page in the background does not draw
        careful = f"(() => {{ try {{ return ({script}) }} catch {{ return null }} }})()"  # no page yet
        while True:
            with suppress(NavigatedError):
                if value := await self.run(careful):
                    return value
            if time.monotonic() > deadline:
                shown = await self.run("document.body ? document.body.innerText : ''")
                raise AssertionError(f"not seen within {timeout_s} s: {script}\n{self.complaints}\n{shown}")
            await asyncio.sleep(0.1)

    async def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        result = await self.do("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(result["data"]))

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._connection.close()


class Browser:
    """A running Chromium; `port` is its debugging port."""

    def __init__(self, port: int) -> None:
        self.port = port

    @asynccontextmanager
    async def tab(self) -> AsyncIterator[Tab]:
        """A new empty page, closed at the end."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        page = json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).read()))
        connection = await websockets.connect(page["webSocketDebuggerUrl"], max_size=64 << 20)
        tab = Tab(connection)
        try:
            yield tab
        finally:
            await tab.close()


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A headless Chromium with a fresh profile in `folder`, killed at the end."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed"
    profile = folder / "chromium"
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log
        )
    try:
        port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + 60
        while not port_file.exists() or not port_file.read_text().strip():
            assert process.poll() is None, (folder / "chromium.log").read_text()
            assert time.monotonic() < deadline, "chromium opened no debugging port"
            time.sleep(0.05)
        yield Browser(int(port_file.read_text().split()[0]))
    finally:
        process.kill()
        process.wait()
