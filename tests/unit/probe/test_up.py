"""TARGET arguments of `coloprobe up` in, an agent's settings out."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe import up
from probe.errors import UsageError
from probe.settings import Target
from probe.units import Duration

INTERVAL = Duration.parse("100ms")


def targets(*texts: str, interval: Duration = INTERVAL) -> tuple[Target, ...]:
    return up.settings_for(list(texts), "mqtt://127.0.0.1:1883", Path("/state"), interval).target


def test_every_kind_may_be_a_target_and_is_called_by_its_url() -> None:
    got = targets("192.0.2.1", "stamp://[::1]", "tcp://gw:9000", "connect://gw:9000", "icmp://192.0.2.1")
    assert [(t.name, t.kind, t.address, t.port) for t in got] == [
        ("192.0.2.1", "icmp", "192.0.2.1", 0),
        ("stamp://[::1]", "stamp", "::1", 862),
        ("tcp://gw:9000", "tcp", "gw", 9000),
        ("connect://gw:9000", "connect", "gw", 9000),
    ]


def test_the_interval_does_not_lift_the_polite_limit() -> None:
    got = targets("192.0.2.1", "tcp://gw:9000", interval=Duration.parse("10ms"))
    assert [str(target.interval) for target in got] == ["10ms", "1s"]


def test_without_any_it_is_loopback_and_the_default_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "default_gateways", lambda: ["192.0.2.1", "2001:db8::1"])
    assert [(t.name, t.address) for t in targets()] == [
        ("loopback", "127.0.0.1"),
        ("default-gateway", "192.0.2.1"),
        ("default-gateway-2", "2001:db8::1"),
    ]


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(UsageError, match="'tcp://gw' has no port"):
        targets("tcp://gw")
