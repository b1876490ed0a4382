"""An MQTT message in, a validated batch out: good lines, and bad ones each with its reason; pure.

What is refused whole raises `BatchError`, whose `reason` is one of

    topic      the topic names no batch: nobody could be told, so it is ignored
    oversized  packed or unpacked it is over the limit
    gzip       it begins as gzip and does not end as it
    encoding   it is not UTF-8
    empty      it holds no line
    foreign    a line claims to come from another agent

All but the first can only come from the agent of the topic itself (the broker's access control sees to that)
and would come again for ever, so the collector sets them aside in quarantine and acknowledges them. A single
bad line of a batch goes the same way alone, and the rest goes on.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from probe.clock import SECOND
from probe.errors import BatchError, LineError
from probe.telemetry import lines, schema, topics
from probe.telemetry.topics import BatchId

# An agent has nothing to say in a collector's name.
_KNOWN = frozenset(schema.MEASUREMENTS) - {schema.COLLECTOR.name}
_GZIP = b"\x1f\x8b"

# A host without a battery-backed clock wakes in 1970; what carries such a time would be lost in the database.
# The upper end is generous, because it is judged by this host's clock, which may be the wrong one of the two:
# behind by a year it still lets everybody in, and reset to 1970 as well.
EARLIEST_NS = 946_684_800 * SECOND  # 2000-01-01
_THIS_CODE_NS = 1_767_225_600 * SECOND  # 2026-01-01: a clock before it is wrong
_AHEAD_NS = 366 * 86_400 * SECOND

_AGENT_TAG = re.compile(r"(?:[^, \\\n]++|\\.)++(?:,(?!agent=)(?:[^, \\\n]++|\\.)++)*+,agent=")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is set aside, and why."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A validated batch: `body` holds the good lines (UTF-8, newline-ended), `count` says how many."""

    id: BatchId
    body: bytes
    count: int
    newest_ns: int  # the newest good line's time that is not in the future; 0 where there is none
    bad: tuple[BadLine, ...]


def validate(topic: str, payload: bytes, *, now_ns: int, max_bytes: int) -> Batch:
    """Judge one message; `now_ns`: wall clock; `max_bytes`: of a batch, packed and unpacked.

    Memory stays within a small multiple of `max_bytes` whatever the payload claims to unpack to.
    Raises: BatchError.
    """
    batch = topics.parse_lines(topic)
    if batch is None:
        raise BatchError("topic", f"{topic[:200]!r} is not a batch's topic")
    text = _text(payload, max_bytes)
    good, bad, newest = _sort(text, batch.agent, now_ns)
    if not good and not bad:
        raise BatchError("empty", "the batch holds no line")
    return Batch(batch, lines.join(good), len(good), newest, tuple(bad))


def unpack(payload: bytes, max_bytes: int) -> bytes:
    """A payload without its gzip, if it has one. Raises: BatchError (oversized, gzip)."""
    if len(payload) > max_bytes:
        raise BatchError("oversized", f"{len(payload)} bytes; limits.batch_bytes is {max_bytes}")
    if not payload.startswith(_GZIP):
        return payload
    gunzip = zlib.decompressobj(wbits=31)
    try:
        unpacked = gunzip.decompress(payload, max_bytes + 1)
    except zlib.error as problem:
        raise BatchError("gzip", f"not gzip: {problem}") from None
    if len(unpacked) > max_bytes:
        raise BatchError("oversized", f"unpacks to more than limits.batch_bytes, {max_bytes}")
    if not gunzip.eof:
        raise BatchError("gzip", "the gzip data ends in the middle")
    if gunzip.unused_data:
        raise BatchError("gzip", f"{len(gunzip.unused_data)} bytes follow the gzip data")
    return unpacked


def _text(payload: bytes, max_bytes: int) -> str:
    try:
        return unpack(payload, max_bytes).decode()
    except UnicodeDecodeError as problem:
        raise BatchError("encoding", f"not UTF-8: {problem.reason} at byte {problem.start}") from None


def _sort(text: str, agent: str, now_ns: int) -> tuple[list[str], list[BadLine], int]:
    """The good lines, the bad ones, and the newest good time up to now. Raises: BatchError (foreign)."""
    good: list[str] = []
    bad: list[BadLine] = []
    newest = 0
    latest = max(now_ns, _THIS_CODE_NS) + _AHEAD_NS
    head = f",agent={agent}"
    for line in text.split("\n"):
        if not line:
            continue
        measurement = line.partition(",")[0]
        mine = line.startswith((f"{measurement}{head},", f"{measurement}{head} "))
        if not mine or line.find(",agent=", len(measurement) + len(head)) >= 0:
            _refuse_foreign(line, agent)
        try:
            if measurement not in _KNOWN:
                raise LineError("not a known measurement")
            if not mine:
                raise LineError(f"does not begin with <measurement>,agent={agent}")
            lines.check(line)
            time_ns = int(line[line.rindex(" ") + 1 :])
            if not EARLIEST_NS <= time_ns <= latest:
                raise LineError(f"its time, {time_ns} ns, is before 2000 or more than a year ahead")
        except LineError as problem:
            bad.append(BadLine(line, str(problem)))
        else:
            good.append(line)
            if newest < time_ns <= now_ns:
                newest = time_ns
    return good, bad, newest


def _refuse_foreign(line: str, agent: str) -> None:
    """Raise BatchError where any tag `agent` of the line is not this one (or there are two of them)."""
    tag = _AGENT_TAG.match(line)
    if tag is None:
        return
    rest = line[tag.end() :]
    mine = rest == agent or rest.startswith((f"{agent},", f"{agent} "))
    if not mine or _AGENT_TAG.match(rest):
        raise BatchError("foreign", f"a line does not come from {agent}: {line[:120]!r}")
