"""Targets in, how many sockets their flows share, and what is said where those are many. None is opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest

from probe import sharing
from probe.clock import SystemClock
from probe.engine.echo import Echo
from probe.settings import AgentSettings, AgentTable, EngineTable, Target
from probe.sharing import open_groups
from probe.streams import streams_of
from probe.targets import resolve


@dataclass
class Opened:
    family: int


@pytest.mark.parametrize(("classes", "said"), [(4, []), (5, [True])])
def test_more_sockets_than_can_be_served_are_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, classes: int, said: list[bool]
) -> None:
    def open_one(options: Any, *_: object) -> tuple[Opened, Any]:
        return Opened(options.family), Echo

    monkeypatch.setattr(sharing, "open_kind", open_one)
    targets = tuple(
        Target(name=f"{n}", address="x", kind="stamp", port=862, flows=64, dscp=n % classes)
        for n in range(2 * classes)
    )
    settings = AgentSettings(
        agent=AgentTable(id="a"), target=targets, engine=EngineTable(hardware_stamps="off")
    )
    here = resolve("127.0.0.1")
    with caplog.at_level(logging.WARNING):
        shared = open_groups(streams_of([(target, here) for target in targets]), settings, SystemClock())
    assert len(shared.groups) == 64 * classes
    told = [record.getMessage().startswith("the targets need 320 sockets") for record in caplog.records]
    assert told == said
