"""A TOML file in, a typed struct out, or an error that names file, key, problem and what is allowed.

msgspec does the checking; this module turns its wording ("Expected `int` >= 24 - at `$.target[0].size`") into
the operator's: the key's path, the value that stands there, and what may stand there instead.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from probe.errors import SettingsError
from probe.units import ByteSize, Duration

ID_PATTERN = r"\A[a-z0-9][a-z0-9-]{0,62}\Z"
_IDS = "a-z, 0-9 and '-', starting with a letter or digit, at most 63 characters"
_QUANTITIES = {
    Duration: "for example '250us', '100ms' or '10s'",
    ByteSize: "for example '256KiB' or '512MiB'",
}

T = TypeVar("T")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: a key it does not know is an error. Type checkers want `frozen` said again below."""


def read_toml(path: str | Path) -> dict[str, Any]:
    """The document of a file. Raises: SettingsError (unreadable, or not TOML)."""
    try:
        text = Path(path).read_bytes()
    except OSError as problem:
        raise SettingsError(
            str(path), "", f"cannot read it: {problem.strerror}", "a readable TOML file"
        ) from None
    except ValueError as problem:  # a path with a null byte
        raise SettingsError(repr(path), "", f"cannot read it: {problem}", "a readable TOML file") from None
    try:
        return tomllib.loads(text.decode())
    except (ValueError, RecursionError) as problem:  # ValueError: also no UTF-8, and numbers of 5,000 digits
        raise SettingsError(str(path), "", f"is not TOML: {problem}", "see https://toml.io") from None


def convert(raw: Any, shape: type[T], file: str, prefix: str = "") -> T:
    """`raw` as a `shape`; `prefix` is the path of `raw` in the file. Raises: SettingsError."""
    try:
        return msgspec.convert(raw, shape, dec_hook=_quantity)
    except msgspec.ValidationError as problem:
        key, what, allowed = _explain(str(problem), raw, shape, prefix)
        raise SettingsError(file, key, what, allowed) from None


def _quantity(kind: type, value: Any) -> Any:
    if issubclass(kind, (Duration, ByteSize)):
        if not isinstance(value, str):
            raise ValueError(f"{_shown(value)} is not text with a unit (allowed: {_QUANTITIES[kind]})")
        return kind.parse(value)
    raise NotImplementedError(kind)  # pragma: no cover - a settings field of a type that nobody taught us


def _explain(message: str, raw: Any, shape: type, prefix: str) -> tuple[str, str, str]:
    """msgspec's message as (key's path, problem, allowed)."""
    text, _, where = message.partition(" - at `$")
    where = where.removesuffix("`").removeprefix(".")
    path = ".".join(part for part in (prefix, where) if part)
    known = _type_at(shape, where)
    if (field := re.search(r"(unknown|missing required) field `(.*)`", text)) and isinstance(
        known, inspect.StructType
    ):
        key = ".".join(part for part in (path, field[2]) if part)
        if field[1] == "unknown":
            fields = sorted(known.fields, key=lambda field: not field.required)
            return key, "unknown key", ", ".join(field.name for field in fields)
        return key, "is missing", _allowed(next(f.type for f in known.fields if f.name == field[2]))
    what, stated, allowed = text.partition(" (allowed: ")
    if stated:  # probe.units says what is wrong itself
        return path, what, allowed.removesuffix(")")
    value = _value_at(raw, where)
    return path, f"{_shown(value)} is not allowed", _allowed(known)


def _steps(where: str) -> list[str | int]:
    """'target[0].size' as ['target', 0, 'size']."""
    return [int(index) if index else name for name, index in re.findall(r"([a-z_]+)|\[(\d+)\]", where)]


def _value_at(raw: Any, where: str) -> Any:
    for step in _steps(where):
        raw = raw[step]
    return raw


def _type_at(shape: Any, where: str) -> inspect.Type:
    """What msgspec knows about the type at the path `where` of `shape`."""
    info = inspect.type_info(shape)
    for step in _steps(where):
        if isinstance(info, inspect.VarTupleType):
            info = info.item_type
        elif isinstance(info, inspect.StructType):
            info = next(f.type for f in info.fields if f.name == step)
    return info


def _allowed(info: inspect.Type) -> str:
    """Words for what a type allows."""
    if isinstance(info, inspect.UnionType):
        info = info.types[0]
    if isinstance(info, inspect.LiteralType):
        return " or ".join(f'"{value}"' for value in info.values)
    if isinstance(info, (inspect.IntType, inspect.FloatType)):
        return f"{info.ge} to {info.le}" if info.ge != info.le else f"{info.ge}"
    if isinstance(info, inspect.StrType):
        if info.pattern == ID_PATTERN:
            return _IDS
        return (
            f"text of {info.min_length or 0} to {info.max_length} characters" if info.max_length else "text"
        )
    if isinstance(info, inspect.BoolType):
        return "true or false"
    if isinstance(info, inspect.CustomType):
        return f"text with a unit, {_QUANTITIES[info.cls]}"
    if isinstance(info, inspect.VarTupleType) and isinstance(info.item_type, inspect.LiteralType):
        return f"a list of {_allowed(info.item_type)}"
    return "a table" if isinstance(info, inspect.StructType) else "a list of tables"


def _shown(value: Any) -> str:
    text = "a table" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
