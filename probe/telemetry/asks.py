"""A question to an agent in, checked fields out; parts of its answer in, their order checked, out; and back.

    ask       {"id": 32 hex digits, "what": "ping", "target": "nyse-a", "options": {"count": 10},
               "from": "ops@desk", "wait_ns": 10000000000}
    cancel    {"id": that of the ask, "what": "cancel"}
    answer    {"id": that of the ask, "n": 0, "begun": {...}}               what is being done, and by whom
              {"id": ..., "n": 1, "lines": [{...}, ...]}                    any number of these; an empty one
                                                                            says: still at it
              {"id": ..., "n": 2, "done": true, "status": 0, "error": ""}   the last one; as an exit status

`n` counts the parts of one answer from 0, so that one that got lost is seen. `from` is what the asker says of
itself: a broker of MQTT 3.1.1 vouches for nobody.

No question is answered long after it was asked, and that without comparing two hosts' clocks: sessions are
clean, so the broker keeps none for an agent that is away; what it has retained is not heeded; a connection
that has fallen silent is over within half a minute; and at the agent `wait_ns` counts from the arrival.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from probe.errors import AskError

MAX_ASK = 4096  # bytes
MAX_ANSWER = 256 << 10  # bytes of one part
_ID = r"\A[0-9a-f]{32}\Z"

What = Literal["ping", "trace", "sessions", "links", "check", "about", "cancel"]
Id = Annotated[str, Meta(pattern=_ID)]
_Time = Annotated[int, Meta(ge=1_000_000, le=3_600_000_000_000)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What an asker may wish; times in ns, `size` bytes of IP payload, `count` probes of each flow."""

    count: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    interval_ns: _Time | UnsetType = UNSET
    timeout_ns: _Time | UnsetType = UNSET
    size: Annotated[int, Meta(ge=24, le=9000)] | UnsetType = UNSET
    flows: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    max_hops: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    protocol: Literal["icmp", "udp", "tcp"] | UnsetType = UNSET

    def given(self) -> list[str]:
        """The names of those that were."""
        return [name for name in self.__struct_fields__ if getattr(self, name) is not UNSET]


# Which of them mean something to which question, and which questions need or may have a target.
OPTIONS: Mapping[str, Sequence[str]] = {
    "ping": ("count", "interval_ns", "timeout_ns", "size", "flows"),
    "trace": ("flows", "max_hops", "protocol"),
}
NEEDS_TARGET = frozenset(OPTIONS)
MAY_HAVE_TARGET = NEEDS_TARGET | {"sessions"}


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One question. Whatever text it has is somebody's, and may be anything."""

    id: Id
    what: What
    target: Annotated[str, Meta(max_length=300)] = ""
    options: Options = Options()
    who: Annotated[str, Meta(max_length=128)] = msgspec.field(default="", name="from")
    wait_ns: Annotated[int, Meta(ge=0, le=3_600_000_000_000)] = 10_000_000_000  # for the answer to begin


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One message of an answer. Unknown keys are a newer agent's."""

    id: Id
    n: Annotated[int, Meta(ge=0)]
    begun: dict[str, Any] | UnsetType = UNSET
    lines: list[dict[str, Any]] = []
    done: bool = False
    status: Annotated[int, Meta(ge=0, le=2)] = 0
    error: str = ""


class _OnlyId(msgspec.Struct):
    id: Id


def new_id() -> str:
    """One that nobody guesses: who knows it may cancel the question."""
    return secrets.token_hex(16)


def encode(ask: Ask) -> bytes:
    """The message that asks."""
    return msgspec.json.encode(ask)


def cancel(asked: str) -> bytes:
    """The message that withdraws the ask of this id."""
    return msgspec.json.encode({"id": asked, "what": "cancel"})


def parse(payload: bytes) -> Ask:
    """What is asked. Raises: AskError where it is no question, or has options that mean nothing to it."""
    if len(payload) > MAX_ASK:
        raise AskError(f"a question of {len(payload)} bytes (allowed: at most {MAX_ASK})", 2)
    try:
        ask = msgspec.json.decode(payload, type=Ask)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        # It quotes what was written, and goes to the log.
        raise AskError(f"not a question that this agent understands: {plain(str(problem))}", 2) from None
    if wrong := [name for name in ask.options.given() if name not in OPTIONS.get(ask.what, ())]:
        raise AskError(f"{ask.what} has no option {wrong[0]}", 2)
    if ask.target and ask.what not in MAY_HAVE_TARGET:
        raise AskError(f"{ask.what} has no target", 2)
    if not ask.target and ask.what in NEEDS_TARGET:
        raise AskError(f"{ask.what} needs a target", 2)
    return ask


def id_of(payload: bytes) -> str:
    """The id of what may be no question otherwise; empty where it has none."""
    if len(payload) > MAX_ASK:
        return ""
    try:
        return msgspec.json.decode(payload, type=_OnlyId).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def begun(asked: str, about: Mapping[str, object]) -> bytes:
    """The first part of an answer."""
    return msgspec.json.encode({"id": asked, "n": 0, "begun": about})


def lines(asked: str, n: int, objects: Sequence[bytes]) -> bytes:
    """A part of an answer; `objects` are JSON texts that `is_object` has passed."""
    return b'{"id":"%b","n":%d,"lines":[%b]}' % (asked.encode(), n, b",".join(objects))


def done(asked: str, n: int, status: int, error: str = "") -> bytes:
    """The last part of an answer; `n` 0: it is the only one, a refusal."""
    return msgspec.json.encode({"id": asked, "n": n, "done": True, "status": status, "error": error})


def is_object(text: bytes) -> bool:
    """Whether it is one JSON object, as `lines` takes it."""
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def parse_part(payload: bytes) -> Part | None:
    """A part of an answer; None where it is none."""
    if len(payload) > MAX_ANSWER:
        return None
    try:
        return msgspec.json.decode(payload, type=Part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def json_line(found: object) -> str:
    """As JSON, all that is not printable as escapes: JSON leaves some of what moves a terminal's cursor as it
    is (U+009B is ESC and a bracket in one), and letters that are written backwards."""
    text = msgspec.json.encode(found).decode()
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join("\\u" + units[at : at + 4] for at in range(0, len(units), 4))


def plain(text: str, most: int = 200) -> str:
    """Somebody's text for a log or a terminal: without what moves a cursor or hides letters, and bounded."""
    short = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in short)
