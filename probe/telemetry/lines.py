"""Points in, lines of the Influx line protocol out, and back; pure text, no clock, no socket.

    measurement[,tag=value...] field=value[,field=value...] timestamp
    probe,agent=ny4-01,target=cme-a sent=40i,loss=0.0,text="a b" 1700000000000000000

Integers end in `i`, strings are quoted, the timestamp is integer ns since the epoch and is required here (a
point whose time the server makes up would be wrong). A line holds no newline: text fields lose theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from probe.errors import LineError

Value = int | float | bool | str

_KEY_ESCAPES = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ ", "\n": r"\ ", "\r": ""})
_MEASUREMENT_ESCAPES = str.maketrans({",": r"\,", " ": r"\ ", "\n": r"\ ", "\r": ""})
_TEXT_ESCAPES = str.maketrans({"\\": "\\\\", '"': r"\"", "\n": " ", "\r": ""})
_NEEDS_ESCAPE = re.compile(r"[,= \n\r\\]")
_INT64 = 1 << 63


@dataclass(frozen=True)
class Point:
    """One point: `time_ns` is integer ns since the epoch."""

    measurement: str
    tags: Mapping[str, str]
    fields: Mapping[str, Value]
    time_ns: int = field(default=0)


def tag_text(text: str) -> str:
    """A tag's key or value as it stands in a line (a trailing backslash would swallow the separator)."""
    if _NEEDS_ESCAPE.search(text) is None:
        return text
    return text.rstrip("\\").translate(_KEY_ESCAPES)


def series_text(measurement: str, tags: Mapping[str, str]) -> str:
    """`measurement,tag=value...`: what stays the same in every line of a series. Empty tags are left out.

    `agent` comes first, because a collector compares the head of each line with the topic; the rest is sorted.
    """
    parts = [measurement.translate(_MEASUREMENT_ESCAPES)]
    for key in sorted(tags, key=lambda k: (k != "agent", k)):
        value = tag_text(tags[key])
        if value:
            parts.append(f"{tag_text(key)}={value}")
    return ",".join(parts)


def field_text(value: Value) -> str:
    """One field's value as it stands in a line. Raises: LineError for NaN, infinities and integers past 64 bits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise LineError(f"{value} does not fit into 64 bits")
        return f"{value}i"
    if isinstance(value, float):
        if value - value != 0.0:
            raise LineError(f"{value} has no place in line protocol")
        return repr(value)
    return f'"{value.translate(_TEXT_ESCAPES)}"'


def encode(series: str, fields: Mapping[str, Value], time_ns: int) -> str:
    """One line without its newline; `series` is from `series_text`. Raises: LineError (no field, or a bad value)."""
    if not fields:
        raise LineError(f"{series}: a point needs a field")
    text = ",".join(f"{tag_text(key)}={field_text(value)}" for key, value in fields.items())
    return f"{series} {text} {time_ns}"


# A key or tag value: anything but separators, or escaped ones. Possessive (++), so hostile text costs linear time.
_NAME = r"(?:[^,= \\\n]++|\\.)++"
_MEASUREMENT = r"(?:[^, \\\n]++|\\.)++"
_VALUE = r'(?:-?\d++i|"(?:[^"\\\n]++|\\.)*+"|\d++u|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[tT](?:rue|RUE)?+|[fF](?:alse|ALSE)?+)'
_LINE = re.compile(
    rf"(?P<measurement>{_MEASUREMENT})(?P<tags>(?:,{_NAME}={_NAME})*+) (?P<fields>{_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*+) "
    r"(?P<time>-?\d{1,19})"
)
_TAG = re.compile(rf",({_NAME})=({_NAME})")
_FIELD = re.compile(rf",?({_NAME})=({_VALUE})")
_UNESCAPE = re.compile(r"\\([,= ])")
_UNESCAPE_TEXT = re.compile(r'\\(["\\])')


def parse(line: str) -> Point:
    """One line as a point. Raises: LineError, saying which part is wrong."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise LineError(_complaint(line))
    tags = {_plain(key): _plain(value) for key, value in _TAG.findall(match["tags"])}
    fields = {_plain(key): _value(text) for key, text in _FIELD.findall(match["fields"])}
    return Point(_plain(match["measurement"]), tags, fields, int(match["time"]))


def check(line: str) -> None:
    """Raise LineError where `line` is no line; cheaper than `parse`, and as strict on syntax."""
    if _LINE.fullmatch(line) is None:
        raise LineError(_complaint(line))


def parse_many(text: str) -> Iterator[Point]:
    """Every line of a text. Raises: LineError at the first that is none."""
    for line in text.split("\n"):
        if line:
            yield parse(line)


def join(lines: Iterable[str]) -> bytes:
    """Lines as the body of a batch or a write: UTF-8, each ended by a newline."""
    return "".join(f"{line}\n" for line in lines).encode()


def _plain(text: str) -> str:
    return _UNESCAPE.sub(r"\1", text) if "\\" in text else text


def _value(text: str) -> Value:
    if text[0] == '"':
        return _UNESCAPE_TEXT.sub(r"\1", text[1:-1])
    if text[-1] in "iu":
        return int(text[:-1])
    if text[0] in "tTfF":
        return text[0] in "tT"
    return float(text)


def _complaint(line: str) -> str:
    """Why `line` is no line, as far as one can tell."""
    shown = repr(line if len(line) <= 80 else line[:77] + "...")
    head = re.match(rf"{_MEASUREMENT}(?:,{_NAME}={_NAME})* ", line)
    if head is None:
        return f"no measurement and tags before the first space: {shown}"
    rest = line[head.end() :]
    fields = re.match(rf"{_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*", rest)
    if fields is None:
        return f"no field=value after the tags: {shown}"
    if not rest[fields.end() :].strip():
        return f"no timestamp: {shown}"
    return f"not a field or timestamp at character {head.end() + fields.end()}: {shown}"
