"""What an agent shall trace in, one finding out: whether it can, and what to do where it cannot."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from probe.findings import Finding
from probe.settings import TraceTable
from probe.sockets.privileges import CAP_NET_RAW, permitted


def trace_finding(trace: TraceTable) -> Finding:
    """Whether paths can be traced here."""
    if not trace.every and not trace.on_event:
        return Finding("traces", "ok", "only when somebody asks (trace.every and trace.on_event are off)")
    try:
        scapy = version("scapy")
    except PackageNotFoundError:
        text = "scapy is not installed: paths are not known, nor when they change"
        return Finding("traces", "warning", text, "pip install 'coloprobe[trace]'")
    if not permitted() & (1 << CAP_NET_RAW):
        text = "without CAP_NET_RAW paths are not known, nor when they change"
        return Finding("traces", "warning", text, "AmbientCapabilities=CAP_NET_RAW in the systemd unit")
    often = f"once in {trace.every}" if trace.every else "when something happens"
    return Finding("traces", "ok", f"each target's path {often} (scapy {scapy})")
