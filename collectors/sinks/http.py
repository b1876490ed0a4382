"""An HTTP answer in, the sink error that it means out: what InfluxDB's status codes ask of a client; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from probe.clock import SECOND
from probe.errors import SinkError, SinkRefused, SinkRejected, SinkTooLarge, SinkUnavailable

MESSAGE_CHARACTERS = 400


def problem(
    status: int, headers: Mapping[str, str], body: bytes, *, remedies: Mapping[int, str], now_ns: int
) -> SinkError | None:
    """What an answer means; None: the sink holds the lines. `remedies`: what an operator can do, by status.

    `now_ns`: wall clock, for a Retry-After that is a date.
    """
    if 200 <= status < 300:
        return None
    said = f"HTTP {status}: {message(body)}"
    if status == 413:
        return SinkTooLarge(said)
    if status in (400, 422):
        return SinkRejected(said)
    if status == 500 and "retention policy not found" in said:
        # InfluxDB 1.x calls it an error of its own, but no retry will make the policy appear.
        return SinkRefused(f"{said}; {remedies[status]}" if status in remedies else said)
    if status in (408, 425, 429) or status >= 500:
        return SinkUnavailable(said, retry_after_s(headers.get("Retry-After"), now_ns))
    return SinkRefused(
        f"{said}; {remedies.get(status, 'is this the address of an InfluxDB? see influx.url')}"
    )


def message(body: bytes) -> str:
    """What the server says in its answer, in one line: InfluxDB's JSON, or whatever it is."""
    text = body[: 1 << 16].decode(errors="replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        text = str(document.get("error") or document.get("message") or text)
    text = " ".join(text.split()).encode(errors="replace").decode()  # JSON can say half of a character
    if len(text) > MESSAGE_CHARACTERS:
        # The end often says why: 'partial write: ... dropped=1'.
        text = f"{text[: MESSAGE_CHARACTERS - 103]}...{text[-100:]}"
    return text or "(no explanation)"


def retry_after_s(value: str | None, now_ns: int) -> float | None:
    """The header Retry-After as seconds from `now_ns` (wall clock); None where it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.fromtimestamp(now_ns / SECOND, UTC)).total_seconds())
