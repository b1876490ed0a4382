"""Agents' status messages in, `event` lines out, one for each real change; pure.

Every collector sees every status (a shared subscription is told nothing about the retained ones), so all of
them write the event. They write the *same* point: its time is the second in which the status arrived plus a
number made of its content, and the same tags and time are one point, however often it is written.

A site's broker that is bridged to this one says of its bridge, on such a topic too, "1" or "0" (mosquitto's
notifications): while that is "0", nobody here knows how that site's agents are.
"""

from __future__ import annotations

import json
import zlib

from probe.clock import SECOND
from probe.telemetry import lines, schema, topics

MAX_BYTES = 4096
MAX_AGENTS = 10_000
BRIDGE = {b"1": "online", b"0": "offline"}


class StatusBook:
    """The last known state of every agent, at most `MAX_AGENTS` of them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, int | str]] = {}

    def online(self) -> list[str]:
        """The agents that said so last."""
        return [agent for agent in self._known if self.is_online(agent)]

    def is_online(self, agent: str) -> bool:
        """Whether it said so last."""
        return agent in self._known and self._known[agent][0] == "online"

    def change(self, topic: str, payload: bytes, *, retained: bool, now_ns: int) -> bytes | None:
        """The event line that a status message amounts to, or None; `now_ns`: wall clock.

        What is no status is ignored. A retained status of an agent that was not known yet is no change. The
        same state with another `since` is one: the agent was away in between.
        """
        agent = topics.parse_status(topic)
        state = _state(payload)
        if agent is None or state is None:
            return None
        before = self._known.get(agent)
        if before is None and len(self._known) >= MAX_AGENTS:
            return None
        self._known[agent] = state
        if before == state or (before is None and retained):
            return None
        if before is not None and before[0] == state[0] == "offline":
            return None
        text, since = state
        who = "bridge" if payload in BRIDGE else "agent"
        again = " again" if before is not None and before[0] == text else ""
        detail = json.dumps({"state": text, "since": since, "version": _version(payload)})
        series = lines.series_text(schema.EVENT.name, {"agent": agent, "kind": "agent"})
        time_ns = now_ns // SECOND * SECOND + zlib.crc32(f"{text} {since}".encode()) % SECOND
        return lines.join(
            [lines.encode(series, {"text": f"{who} is {text}{again}", "detail": detail}, time_ns)]
        )


def _state(payload: bytes) -> tuple[str, int | str] | None:
    """(`online` or `offline`, since when) of a status message; None where it is none."""
    if payload in BRIDGE:
        return BRIDGE[payload], ""
    document = _document(payload)
    state = document.get("state")
    if state not in ("online", "offline"):
        return None
    since = document.get("since")
    return str(state), since if isinstance(since, int) and abs(since) < 1 << 63 else _text(since or "")


def _version(payload: bytes) -> str:
    return _text(_document(payload).get("version", ""))


def _text(value: object) -> str:
    """The beginning of what it says. JSON can say half of a character, which has no place in UTF-8."""
    return str(value)[:64].encode(errors="replace").decode()


def _document(payload: bytes) -> dict[str, object]:
    if len(payload) > MAX_BYTES:
        return {}
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
