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

One look at the whole (`collectors.grammar`) lets nearly every batch in, which then goes on in the gzip form
it came in. Only where that is not enough is it taken apart, line by line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from isal import isal_zlib

from collectors.grammar import Grammar
from collectors.series import SeriesBook
from probe.clock import SECOND
from probe.errors import BatchError, LineError
from probe.telemetry import lines, schema, topics
from probe.telemetry.topics import BatchId

# An agent has nothing to say in a collector's name.
_KNOWN = frozenset(schema.MEASUREMENTS) - {schema.COLLECTOR.name}
_GZIP = b"\x1f\x8b"
_PLAIN_GZIP = b"\x1f\x8b\x08\x00"  # deflate, and nothing optional in the header that readers may differ on
_GZIP_ERROR = cast("type[Exception]", isal_zlib.error)  # a type that the library declares as a value
_FIELDS = {name: {field.name: field.kind for field in schema.MEASUREMENTS[name].fields} for name in _KNOWN}
_KINDS = {name: kind for fields in _FIELDS.values() for name, kind in fields.items()}

# A host without a battery-backed clock wakes in 1970; what carries such a time would be lost in the database.
# The upper end is generous, because it is judged by this host's clock, which may be the wrong one of the two:
# behind by a year it still lets everybody in, and reset to 1970 as well.
EARLIEST_NS = 946_684_800 * SECOND  # 2000-01-01
_THIS_CODE_NS = 1_767_225_600 * SECOND  # 2026-01-01: a clock before it is wrong
_AHEAD_NS = 366 * 86_400 * SECOND
_MONTH_NS = 30 * 86_400 * SECOND

_HEAD = re.compile(r"(?:[^ \\]|\\.)*+")
_AGENT_TAG = re.compile(r"(?:[^, \\\n]++|\\.)++(?:,(?!agent=)(?:[^, \\\n]++|\\.)++)*+,agent=")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is set aside, and why."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A validated batch: `body` holds the good lines, UTF-8, each ended by a newline; `count` says how many.

    packed: whether `body` is gzip (of exactly these lines, `text_bytes` long unpacked).
    over_limit: how many of the bad lines are bad because their agent has too many series.
    """

    id: BatchId
    body: bytes
    count: int
    newest_ns: int  # the newest good line's time that is not in the future (see `_plain`); 0: there is none
    bad: tuple[BadLine, ...] = ()
    packed: bool = False
    text_bytes: int = 0
    over_limit: int = 0


def validate(
    topic: str, payload: bytes, *, now_ns: int, max_bytes: int, series: SeriesBook | None = None
) -> Batch:
    """Judge one message; `now_ns`: wall clock; `max_bytes`: of a batch, packed and unpacked.

    series: what counts each agent's series; None: they are not limited.
    Memory stays within a small multiple of `max_bytes` whatever the payload claims to unpack to.
    Raises: BatchError.
    """
    batch = topics.parse_lines(topic)
    if batch is None:
        raise BatchError("topic", f"{topic[:200]!r} is not a batch's topic")
    text = unpack(payload, max_bytes)
    if text.isascii():
        plain = _plain(batch, text, now_ns, series)
        if plain is not None:
            count, newest = plain
            packed = payload.startswith(_PLAIN_GZIP)
            return Batch(batch, payload if packed else text, count, newest, (), packed, len(text))
    return _by_line(batch, _decoded(text), now_ns, series)


def unpack(payload: bytes, max_bytes: int) -> bytes:
    """A payload without its gzip, if it has one. Raises: BatchError (oversized, gzip)."""
    if len(payload) > max_bytes:
        raise BatchError("oversized", f"{len(payload)} bytes; limits.batch_bytes is {max_bytes}")
    if not payload.startswith(_GZIP):
        return payload
    gunzip = isal_zlib.decompressobj(wbits=31)
    try:
        unpacked = gunzip.decompress(payload, max_bytes + 1)
    except _GZIP_ERROR as problem:
        raise BatchError("gzip", f"not gzip: {problem}") from None
    if len(unpacked) > max_bytes:
        raise BatchError("oversized", f"unpacks to more than limits.batch_bytes, {max_bytes}")
    if not gunzip.eof:
        raise BatchError("gzip", "the gzip data ends in the middle")
    if gunzip.unused_data:
        raise BatchError("gzip", f"{len(gunzip.unused_data)} bytes follow the gzip data")
    return unpacked


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as problem:
        raise BatchError("encoding", f"not UTF-8: {problem.reason} at byte {problem.start}") from None


def _latest(now_ns: int) -> int:
    return max(now_ns, _THIS_CODE_NS) + _AHEAD_NS


@lru_cache(maxsize=2)
def _grammar(month: int) -> Grammar:
    return Grammar(_KNOWN, _KINDS, _latest(month * _MONTH_NS))


def _plain(batch: BatchId, text: bytes, now_ns: int, series: SeriesBook | None) -> tuple[int, int] | None:
    """Lines and the newest time up to now, of the first and last, where all are plainly good; else None."""
    found = _grammar(now_ns // _MONTH_NS).read(text)
    if found is None:
        return None
    if series is None or not series.knows(batch.agent, found.heads):
        mine = f"agent={batch.agent}".encode()
        if any(head.split(b",", 2)[1] != mine for head in found.heads):
            return None
        if series is not None and not series.admit_all(batch.agent, found.heads, now_ns):
            return None
    return found.count, max((time for time in (found.first, found.last) if time <= now_ns), default=0)


def _by_line(batch: BatchId, text: str, now_ns: int, series: SeriesBook | None) -> Batch:
    """A batch line by line. Raises: BatchError (foreign, empty)."""
    good, bad, newest = _sort(text, batch.agent, now_ns, series)
    if not good and not bad:
        raise BatchError("empty", "the batch holds no line")
    over = 0
    if series is not None and good:
        heads = [_HEAD.match(line)[0].encode() for line in good]  # type: ignore[index] # it matches nothing, too
        refused = series.admit(batch.agent, dict.fromkeys(heads), now_ns)
        if refused:
            reason = f"its agent has more than limits.series, {series.limit}, series"
            bad += [BadLine(line, reason) for line, head in zip(good, heads, strict=True) if head in refused]
            good = [line for line, head in zip(good, heads, strict=True) if head not in refused]
            over = len(heads) - len(good)
    body = lines.join(good)
    return Batch(batch, body, len(good), newest, tuple(bad), False, len(body), over)


def _sort(
    text: str, agent: str, now_ns: int, series: SeriesBook | None
) -> tuple[list[str], list[BadLine], int]:
    """The good lines, the bad ones, and the newest good time up to now. Raises: BatchError (foreign)."""
    good: list[str] = []
    bad: list[BadLine] = []
    newest = 0
    latest = _latest(now_ns)
    head = f",agent={agent}"
    for line in text.split("\n"):
        if not line:
            continue
        measurement = line.partition(",")[0]
        mine = line.startswith((f"{measurement}{head},", f"{measurement}{head} "))
        if not mine or line.find(",agent=", len(measurement) + len(head)) >= 0:
            _refuse_foreign(line, agent)
        if measurement not in _KNOWN:
            bad.append(BadLine(line, "not a known measurement"))
            continue
        try:
            if not mine:
                raise LineError(f"does not begin with <measurement>,agent={agent}")
            lines.check(line)
            unknown = _unknown_fields(line, measurement)
            time_ns = int(line[line.rindex(" ") + 1 :])
            if not EARLIEST_NS <= time_ns <= latest:
                raise LineError(f"its time, {time_ns} ns, is before 2000 or more than a year ahead")
            if series is not None and not series.admit_fields(agent, unknown, now_ns):
                raise LineError(
                    f"its agent has more than {series.FIELDS} fields that the schema does not have"
                )
        except LineError as problem:
            bad.append(BadLine(line, str(problem)))
        else:
            good.append(line)
            if newest < time_ns <= now_ns:
                newest = time_ns
    return good, bad, newest


def _unknown_fields(line: str, measurement: str) -> list[str]:
    """The fields of a line that the schema does not have: of an agent that is newer, one would hope.

    Raises: LineError where one that it has is of another type, or one has two types. In a shard of InfluxDB
    the first value of a field decides its type: one such line, of a time to come, and everybody's lines are
    rejected when it has come.
    """
    schema_has = _FIELDS[measurement]
    unknown: dict[str, str] = {}
    for name, kind in lines.kinds(line):
        wanted = schema_has.get(name) or unknown.setdefault(name, kind)
        if kind != wanted or kind == "uint":
            raise LineError(f"its field {name[:80]} is {kind}, not {'int' if wanted == 'uint' else wanted}")
    return [f"{measurement} {name}" for name in unknown]


def _refuse_foreign(line: str, agent: str) -> None:
    """Raise BatchError where any tag `agent` of the line is not this one (or there are two of them)."""
    tag = _AGENT_TAG.match(line) if ",agent=" in line else None
    if tag is None:
        return
    rest = line[tag.end() :]
    mine = rest == agent or rest.startswith((f"{agent},", f"{agent} "))
    if not mine or _AGENT_TAG.match(rest):
        raise BatchError("foreign", f"a line does not come from {agent}: {line[:120]!r}")
