"""A kernel that tells, or refuses, in; findings with their remedies out."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from probe import check_watch
from probe.check_watch import watch_findings
from probe.host.picture import Picture
from probe.settings import Target
from probe.settings_tables import HostTable
from probe.targets import resolve
from probe.units import Duration

MEMBERS = [(Target(name="t", address="127.0.0.1"), resolve("127.0.0.1"))]


def refused(*_: object) -> Any:
    raise OSError(errno.ENOENT, "No such file or directory")


def test_what_this_kernel_tells() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        links, drops, sessions = watch_findings(HostTable(), MEMBERS)
    assert (links.part, links.state) == ("links and routes", "ok")
    assert "changes are announced; " in links.text
    assert (drops.part, drops.state) == ("queue drops", "ok")
    assert (sessions.part, sessions.state) == ("TCP sessions", "ok")
    assert int(sessions.text.split("; ")[1].split()[0]) >= 1


def test_what_is_switched_off_is_not_looked_at() -> None:
    assert list(watch_findings(HostTable(watch=False, counters=Duration(0), sessions=False), MEMBERS)) == []


def test_what_is_refused_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_watch, "Listener", refused)
    monkeypatch.setattr(check_watch, "Connections", refused)
    links, _, sessions = watch_findings(HostTable(), MEMBERS)
    assert (links.state, sessions.state) == ("warning", "warning")
    assert "host.watch = false" in links.remedy
    assert sessions.text == "the kernel does not tell of them: No such file or directory"
    assert "modprobe tcp_diag" in sessions.remedy


def test_a_table_that_is_too_large_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(Picture):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.routes[4].table.most = self.routes[16].table.most = 0

    monkeypatch.setattr(check_watch, "Picture", Small)
    finding = next(iter(watch_findings(HostTable(), MEMBERS)))
    # Where there is no route at all there is none too many.
    assert finding.state == ("ok" if " 0 routes" in finding.text else "warning")
