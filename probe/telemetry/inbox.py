"""Messages from the broker in, a bounded queue of them out; what it has no room for is counted and let go."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """What arrived; `retain`: the broker had kept it from before the subscription."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True)
class Minor:
    """A topic that must not take the room of all others: at most `messages` wait, each of at most `size`
    bytes."""

    topic: str
    messages: int
    size: int


class Inbox:
    """In the place of aiomqtt's queue: bounded, and what it cannot hold is counted.

    Args:
        limit: messages that may wait.
        limit_bytes: of their payloads together; one is always let in.
    """

    def __init__(self, limit: int, limit_bytes: int, minor: Minor | None = None) -> None:
        self.waiting: deque[Message] = deque()
        self.news = asyncio.Event()
        self.discarded = 0
        self._limit, self._limit_bytes = limit, limit_bytes
        self._bytes = 0
        self._minor = minor
        self._minors = 0  # of those that wait

    def arrived(self, _client: Any, _userdata: Any, message: Any) -> None:
        """What paho calls with each message; aiomqtt's own way costs twice as much."""
        size = len(message.payload)
        if len(self.waiting) >= self._limit or (self._bytes and self._bytes + size > self._limit_bytes):
            self.discarded += 1
            return
        if self._minor is not None and message.topic == self._minor.topic:
            if self._minors >= self._minor.messages or size > self._minor.size:
                self.discarded += 1
                return
            self._minors += 1
        self._bytes += size
        self.waiting.append(Message(message.topic, message.payload, message.retain))
        self.news.set()

    def take(self) -> Message:
        """The one that came first; there must be one."""
        message = self.waiting.popleft()
        self._bytes -= len(message.payload)
        if self._minor is not None and message.topic == self._minor.topic:
            self._minors -= 1
        return message

    async def get(self) -> None:
        """Never returns: `messages` reads `waiting`, and aiomqtt's iterator is left to tell of the end."""
        await asyncio.get_running_loop().create_future()
