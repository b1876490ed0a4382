"""Hosts with and without scapy and privileges in, what `coloprobe check` says of traces out."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from probe import check_trace
from probe.settings import TraceTable
from probe.units import Duration


def test_what_is_missing_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_trace, "version", lambda name: "2.8.0")
    monkeypatch.setattr(check_trace, "permitted", lambda: 1 << 13)
    found = check_trace.trace_finding(TraceTable())
    assert (found.state, found.text) == ("ok", "each target's path once in 10m (scapy 2.8.0)")
    found = check_trace.trace_finding(TraceTable(every=Duration(0)))
    assert found.text == "each target's path when something happens (scapy 2.8.0)"

    monkeypatch.setattr(check_trace, "permitted", lambda: 0)
    found = check_trace.trace_finding(TraceTable())
    assert (found.state, "AmbientCapabilities=CAP_NET_RAW" in found.remedy) == ("warning", True)

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(check_trace, "version", missing)
    found = check_trace.trace_finding(TraceTable())
    assert (found.state, found.remedy) == ("warning", "pip install 'coloprobe[trace]'")
    found = check_trace.trace_finding(TraceTable(every=Duration(0), on_event=False))
    assert (found.state, found.remedy) == ("ok", "")
