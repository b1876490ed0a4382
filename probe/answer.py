"""Lines of an answer in, numbered MQTT messages out: gathered a little, one on its way at a time, bounded.

Answers give way to batches: one message of an answer is in flight at most, and a short one. What the broker
does not take in time waits here, and beyond that the program that makes it has to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping

from probe.errors import AskError
from probe.telemetry import asks
from probe.telemetry.uplink import Reply

GATHER_S = 0.1  # lines that follow each other this closely share a message
STILL_S = 2.0  # of silence, before the asker is told that it goes on
CHUNK = 16 << 10  # bytes of lines in one message
WAITING = 256 << 10  # bytes of lines that wait for the broker
LONGEST_LINE = 64 << 10
MOST = 4 << 20  # bytes of one answer


class Answer:
    """One answer on its way to the asker of `asked`."""

    def __init__(self, asked: str, reply: Reply) -> None:
        self.lines = 0  # that were answered
        self._asked, self._reply = asked, reply
        self._n = 0
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of those that wait
        self._total = 0
        self._ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def begin(self, about: Mapping[str, object]) -> None:
        """Tell the asker that it is heard. Raises: MqttError."""
        await self._publish(asks.begun(self._asked, about))

    async def send(self, source: AsyncIterator[bytes]) -> None:
        """All lines of `source`, as they come; what it raises goes on to the caller.

        Raises: MqttError (the asker cannot be told any more), AskError (too much for one answer).
        """
        feeding = asyncio.create_task(self._feed(source))
        try:
            await self._pump()
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})
        if not feeding.cancelled():
            feeding.result()

    async def end(self, status: int, error: str = "") -> None:
        """The last part. Raises: MqttError."""
        await self._publish(asks.done(self._asked, self._n, status, error))

    async def _feed(self, source: AsyncIterator[bytes]) -> None:
        try:
            async for line in source:
                await self._room.wait()
                self._add(line.strip())
        finally:
            self._ended = True
            self._news.set()

    def _add(self, line: bytes) -> None:
        if not line:
            return
        if len(line) > LONGEST_LINE or not asks.is_object(line):
            raise AskError("a line of the answer is no JSON object, or a very long one")
        self._total += len(line)
        if self._total > MOST:
            raise AskError(f"the answer is longer than {MOST >> 20} MiB; this is its beginning")
        self._waiting.append(line)
        self._bytes += len(line)
        if self._bytes > WAITING:
            self._room.clear()
        self._news.set()

    async def _pump(self) -> None:
        """Publish until all is published that was fed."""
        while not (self._ended and not self._waiting):
            try:
                async with asyncio.timeout(STILL_S):
                    await self._news.wait()
            except TimeoutError:
                await self._publish(asks.lines(self._asked, self._n, []))
                continue
            if not self._ended:
                await asyncio.sleep(GATHER_S)
            while self._waiting:
                await self._publish(asks.lines(self._asked, self._n, self._take()))
            if not self._ended:
                self._news.clear()

    def _take(self) -> list[bytes]:
        """As many lines as a message may have, at least one."""
        taken: list[bytes] = []
        size = 0
        while self._waiting and (not taken or size + len(self._waiting[0]) <= CHUNK):
            line = self._waiting.popleft()
            taken.append(line)
            size += len(line)
        self._bytes -= size
        if self._bytes <= WAITING // 2:
            self._room.set()
        self.lines += len(taken)
        return taken

    async def _publish(self, payload: bytes) -> None:
        self._n += 1  # also where it fails: the asker sees that one is missing
        await self._reply(payload)
