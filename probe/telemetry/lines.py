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

_KEY_ESCAPES = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ "})
_MEASUREMENT_ESCAPES = str.maketrans({",": r"\,", " ": r"\ "})
_LINE_ENDS = str.maketrans({"\n": " ", "\r": ""})
# A name cannot say a backslash before a separator: it would escape it.
_SWALLOWING = re.compile(r"\\+(?=[,= ]|\Z)")
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
    """A tag's key or value as it stands in a line; a backslash that would swallow a separator is left out."""
    if _NEEDS_ESCAPE.search(text) is None:
        return text
    return _SWALLOWING.sub("", text.translate(_LINE_ENDS)).translate(_KEY_ESCAPES)


def series_text(measurement: str, tags: Mapping[str, str]) -> str:
    """`measurement,tag=value...`: what stays the same in every line of a series. Empty tags are left out.

    `agent` comes first, because a collector compares a line's head with the topic; the rest is sorted.
    """
    parts = [_SWALLOWING.sub("", measurement.translate(_LINE_ENDS)).translate(_MEASUREMENT_ESCAPES)]
    for key in sorted(tags, key=lambda k: (k != "agent", k)):
        name, value = tag_text(key), tag_text(tags[key])
        if name and value:
            parts.append(f"{name}={value}")
    return ",".join(parts)


def field_text(value: Value) -> str:
    """A field's value as it stands in a line. Raises: LineError (NaN, infinity, an integer past 64 bits)."""
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
    """One line without its newline; `series` is from `series_text`. Raises: LineError."""
    if not fields:
        raise LineError(f"{series}: a point needs a field")
    text = ",".join(f"{tag_text(key)}={field_text(value)}" for key, value in fields.items())
    return f"{series} {text} {time_ns}"


# A key or tag value: all but separators, or these escaped. Possessive (++): hostile text takes linear time.
_NAME = r"(?:[^,= \\\n]++|\\.)++"
_MEASUREMENT = r"(?:[^, \\\n]++|\\.)++"
_TEXT = r'"(?:[^"\\\n]++|\\.)*+"'
_BOOL = r"[tT](?:rue|RUE)?+|[fF](?:alse|ALSE)?+"
_FLOAT = r"[-+]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?+[0-9]++)?+"
_VALUE = rf"(?:-?[0-9]++i|{_TEXT}|[0-9]++u|{_FLOAT}|{_BOOL})"
_LINE = re.compile(
    rf"(?P<measurement>{_MEASUREMENT})(?P<tags>(?:,{_NAME}={_NAME})*+) "
    rf"(?P<fields>{_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*+) "
    r"(?P<time>-?[0-9]{1,19})"
)
# Nearly every line: its numbers are so short that they fit into 64 bits without a look at each.
_SHORT_FLOAT = r"-?[0-9]{1,18}+(?:\.[0-9]{1,18}+)?+(?:e[-+]?[0-9]{1,2}+)?+"
_SHORT = rf"(?:-?[0-9]{{1,18}}+i|{_TEXT}|{_SHORT_FLOAT}|{_BOOL})"
_ORDINARY = re.compile(
    rf"{_MEASUREMENT}(?:,{_NAME}={_NAME})*+ {_NAME}={_SHORT}(?:,{_NAME}={_SHORT})*+ "
    r"-?(?:1[0-9]{18}|[0-9]{1,18})"
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
    return Point(_plain(match["measurement"]), tags, fields, _integer(match["time"]))


def check(line: str) -> None:
    """Raise LineError where `parse` would; nearly always cheaper."""
    if _ORDINARY.fullmatch(line) is None:
        parse(line)


def kinds(line: str) -> list[tuple[str, str]]:
    """The fields of a line as they stand there, one that stands twice as well, each with its type.

    That is 'int', 'uint', 'float', 'bool' or 'str'. Raises: LineError, as `check`.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise LineError(_complaint(line))
    return [(_plain(key), _kind(text)) for key, text in _FIELD.findall(match["fields"])]


def parse_many(text: str) -> Iterator[Point]:
    """Every line of a text. Raises: LineError at the first that is none."""
    for line in text.split("\n"):
        if line:
            yield parse(line)


def join(lines: Iterable[str]) -> bytes:
    """Lines as the body of a batch or write, each ended by a newline; UTF-8, or '?' where it has no word."""
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")


def _plain(text: str) -> str:
    return _UNESCAPE.sub(r"\1", text) if "\\" in text else text


def _value(text: str) -> Value:
    if text[0] == '"':
        return _UNESCAPE_TEXT.sub(r"\1", text[1:-1])
    if text[-1] in "iu":
        return _integer(text[:-1])
    if text[0] in "tTfF":
        return text[0] in "tT"
    value = float(text)
    if value - value != 0.0:
        raise LineError(f"{_shown(text)} does not fit into a float")
    return value


def _kind(text: str) -> str:
    if text[0] == '"':
        return "str"
    if text[-1] in "iu":
        return "int" if text[-1] == "i" else "uint"
    return "bool" if text[0] in "tTfF" else "float"


def _integer(text: str) -> int:
    # Python itself refuses to read thousands of digits, and no sink can hold more than 64 bits.
    value = int(text) if len(text) <= 20 else _INT64
    if not -_INT64 <= value < _INT64:
        raise LineError(f"{_shown(text)} does not fit into 64 bits")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _complaint(line: str) -> str:
    """Why `line` is no line, as far as one can tell."""
    shown = _shown(line)
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
