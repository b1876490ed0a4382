"""What flows of kind tcp share, and what is said where they are too many. No socket is opened."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import probe.sockets.syn_socket
from probe.clock import MILLISECOND, SystemClock
from probe.kinds import open_kind
from probe.settings import AgentSettings, AgentTable, Target
from probe.sockets.opening import SocketOptions
from probe.streams import streams_of
from probe.targets import resolve
from probe.units import Duration


def reserved(monkeypatch: pytest.MonkeyPatch, *targets: Target, host: str = "127.0.0.1") -> int:
    """Open a socket for these; how many source ports it is asked to have."""
    asked: list[int] = []
    monkeypatch.setattr(probe.sockets.syn_socket, "open_syn", lambda _, ports, __: asked.append(ports))
    address = resolve(host)
    settings: Any = AgentSettings(agent=AgentTable(id="a"), target=targets)
    streams = streams_of([(target, address) for target in targets])
    open_kind(SocketOptions(address.family), streams, settings, SystemClock())
    return asked[0]


def target(name: str, interval: int, **knobs: Any) -> Target:
    return Target(
        name=name, address="x", kind="tcp", port=7, interval=Duration(interval * MILLISECOND), **knobs
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_flows_have_ports_of_their_own_though_their_labels_differ(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    assert reserved(monkeypatch, target("t", 1000, flows=5), host=host) == 5
    assert reserved(monkeypatch, target("t", 100, flows=5, burst=2), host=host) == 5 * 2 * 4
    assert reserved(monkeypatch, target("t", 1000, flows=5), target("u", 1000), host=host) == 6
    assert not caplog.records


def test_where_there_are_not_enough_ports_it_is_said_when_one_is_used_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert reserved(monkeypatch, target("fast", 20, flows=40), target("u", 1000, flows=2)) <= 255
    (record,) = caplog.records
    assert record.getMessage().startswith("target fast: ")
    assert " is used again after 120 ms; " in record.getMessage()
