"""The exception tree in, agreement with its drawing out: the docstring is what people read."""

from __future__ import annotations

import re

import pytest

import probe.errors
from probe.errors import (
    BatchError,
    ColoprobeError,
    MissingPartError,
    SettingsError,
    SinkUnavailable,
    UsageError,
)


def drawn() -> dict[str, str]:
    """Every class in the drawing with the class it hangs from."""
    path: list[str] = []
    tree: dict[str, str] = {}
    for line in (probe.errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:[| ]   )*(?:[|`]-- )?)([A-Z]\w+) {2,}\S", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            tree[match[2]] = path[depth - 1] if depth else "Exception"
    return tree


def defined() -> dict[str, str]:
    """Every class of the module with its base."""
    classes = [value for value in vars(probe.errors).values() if isinstance(value, type)]
    return {
        cls.__name__: cls.__base__.__name__ if cls.__base__ else ""
        for cls in classes
        if cls.__module__ == probe.errors.__name__
    }


def test_the_drawing_is_the_tree() -> None:
    assert drawn() == defined()
    assert defined()["ColoprobeError"] == "Exception"
    assert defined()["PrivilegeError"] == "SocketError"


def test_every_error_is_caught_by_the_root_and_none_has_two_bases() -> None:
    for name in defined():
        cls = getattr(probe.errors, name)
        assert issubclass(cls, ColoprobeError)
        assert len(cls.__bases__) == 1


def test_only_a_wrong_command_line_or_settings_file_exits_with_2() -> None:
    statuses = {name: getattr(probe.errors, name).exit_status for name in defined()}
    assert {name for name, status in statuses.items() if status == 2} == {
        "UsageError",
        "SettingsError",
        "MissingPartError",
    }
    assert set(statuses.values()) == {1, 2}
    assert UsageError("").exit_status == 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            SettingsError("agent.toml", "agent.id", "is missing", "a name"),
            "agent.toml: agent.id: is missing (allowed: a name)",
        ),
        (SettingsError("agent.toml", "", "is not TOML"), "agent.toml: is not TOML"),
        (
            MissingPartError("scapy", "trace"),
            "scapy is not installed; install it with: pip install 'coloprobe[trace]'",
        ),
        (BatchError("too_large", "300000 bytes"), "300000 bytes"),
        (SinkUnavailable("429", retry_after_s=3.0), "429"),
    ],
)
def test_the_wording(error: ColoprobeError, text: str) -> None:
    assert str(error) == text


def test_an_error_carries_what_a_caller_acts_on() -> None:
    settings = SettingsError("agent.toml", "agent.id", "is missing", "a name")
    parts = settings.file, settings.key, settings.problem, settings.allowed
    assert parts == ("agent.toml", "agent.id", "is missing", "a name")
    assert BatchError("too_large", "").reason == "too_large"
    assert SinkUnavailable("", retry_after_s=2.5).retry_after_s == 2.5
    assert SinkUnavailable("").retry_after_s is None
