"""Lines of an agent's answer in, text for people out: a ping line by line, the rest as tables at its end.

All of it was said by somebody else: a value that is missing or of another type is shown as such, and nothing
gets out that would move a terminal's cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from probe.columns import columns
from probe.findings import Finding
from probe.flow_table import FlowRow, table, verdict
from probe.paths.records import Hop, Path
from probe.ping_words import reply, summary
from probe.telemetry.asks import plain
from probe.text import duration
from probe.trace_view import told

Object = Mapping[str, Any]
_NO_REPLY = {
    "lost": "no reply",
    "duplicate": "duplicate reply",
    "error": "not sent, or an ICMP error came back for it",
}


class Display(Protocol):
    """What is printed of one answer."""

    def begun(self, about: Object) -> list[str]:
        """The agent begins."""

    def line(self, said: Object) -> list[str]:
        """One line of its answer."""

    def end(self) -> list[str]:
        """It was the last one."""


class PingText:
    """As `coloprobe ping` prints it."""

    def __init__(self, flows: int) -> None:
        self._flows = flows
        self._name = self._source = ""
        self._rows: list[FlowRow] = []

    def begun(self, about: Object) -> list[str]:
        """See `Display`."""
        self._name, host = _text(about, "target"), _text(about, "address")
        kind, port, size = _text(about, "kind"), _whole(about, "port") or 0, _whole(about, "size") or 0
        place = f"[{host}]" if ":" in host and port else host
        self._source = f"{place}:{port}" if port else host
        if kind in ("icmp", "stamp"):
            self._source = f"{size} bytes from {self._source}"
        at = f" port {port}" if port else ""
        flows = f", {self._flows} flows" if self._flows > 1 else ""
        head = f"PING {self._name} ({host}){at} from {_text(about, 'agent')}: {kind}{flows}"
        return [head]

    def line(self, said: Object) -> list[str]:
        """See `Display`."""
        if said.get("measurement") == "probe":
            return self._summary(said)
        seq, outcome = _whole(said, "seq") or 0, _text(said, "outcome")
        flow = f"flow={_whole(said, 'flow')} " if self._flows > 1 else ""
        if outcome in _NO_REPLY:
            return [f"{flow}seq={seq} {_NO_REPLY[outcome]}"]
        rtt = _whole(said, "rtt_ns")
        text = reply(
            self._source,
            seq,
            -1 if rtt is None else rtt,
            port=_text(said, "state"),
            forward=_whole(said, "forward_ns"),
            backward=_whole(said, "backward_ns"),
            stamp=_text(said, "stamp"),
            unfollowed=said.get("unfollowed") is True,
            late=outcome == "late",
        )
        return [flow + text]

    def _summary(self, point: Object) -> list[str]:
        if "flow" not in point:
            numbers = {name: value for name, value in point.items() if isinstance(value, (int, float))}
            try:
                return summary(numbers, self._name).splitlines()
            except (KeyError, ValueError, OverflowError):  # not what a point of ours has
                return [f"--- {self._name}: a summary that is not understood; --json shows it"]
        flow = _text(point, "flow")
        self._rows.append(
            FlowRow(
                int(flow) if flow.isdecimal() else len(self._rows),
                "",
                _whole(point, "sent") or 0,
                _whole(point, "lost") or 0,
                _whole(point, "errors") or 0,
                _count(point, "rtt_p50_ns"),
                _count(point, "rtt_p99_ns"),
                _count(point, "rtt_max_ns"),
                _count(point, "jitter_ns"),
            )
        )
        return []

    def end(self) -> list[str]:
        """See `Display`."""
        return ["", *table(self._rows, ""), verdict(self._rows)] if self._rows else []


class TraceText:
    """As `coloprobe trace` prints it, at the end."""

    def __init__(self) -> None:
        self._hops: dict[str, list[Hop]] = {}
        self._paths: list[tuple[str, Object]] = []

    def begun(self, about: Object) -> list[str]:
        """See `Display`."""
        where = f"{_text(about, 'target')} ({_text(about, 'address')})"
        port = f" port {about['port']}" if _whole(about, "port") else ""
        return [f"TRACE {where}{port} from {_text(about, 'agent')}"]

    def line(self, said: Object) -> list[str]:
        """See `Display`."""
        flow = _text(said, "flow")
        if said.get("measurement") == "path":
            self._paths.append((flow, said))
        elif said.get("measurement") == "hop" and _text(said, "ttl").isdecimal():
            address = _text(said, "address")
            hop = Hop(
                int(_text(said, "ttl")[:4]),
                (address,) if address else (),
                _whole(said, "sent") or 0,
                _whole(said, "received") or 0,
                _whole(said, "rtt_ns"),
                _text(said, "answer"),
                _whole(said, "mtu"),
            )
            self._hops.setdefault(flow, []).append(hop)
        return []

    def end(self) -> list[str]:
        """See `Display`."""
        if not self._paths:
            return []
        paths = [
            Path(
                number,
                tuple(self._hops.get(flow, ())),
                said.get("reached") is True,
                _text(said, "answer"),
                _whole(said, "mtu"),
                _count(said, "mtu_hop"),
                said.get("mtu_black_hole") is True,
            )
            for number, (flow, said) in enumerate(self._paths)
        ]
        return told(paths, None, None)


class FindingsText:
    """As `coloprobe check` prints it."""

    def begun(self, about: Object) -> list[str]:
        """See `Display`."""
        return [f"{_text(about, 'agent')} checks itself"]

    def line(self, said: Object) -> list[str]:
        """See `Display`."""
        state: Any = _text(said, "state")
        found = Finding(_text(said, "part"), state, _text(said, "text"), _text(said, "remedy"))
        return found.words.splitlines()

    def end(self) -> list[str]:
        """See `Display`."""
        return []


Cell = Callable[[Object], str]


class TableText:
    """A table, printed at the end."""

    def __init__(self, cells: Sequence[tuple[str, Cell, bool]], nothing: str) -> None:
        """`cells`: heading, what stands under it, and whether that is a number."""
        self._cells, self._nothing = cells, nothing
        self._agent = ""
        self._rows: list[list[str]] = []

    def begun(self, about: Object) -> list[str]:
        """See `Display`."""
        self._agent = _text(about, "agent")
        return []

    def line(self, said: Object) -> list[str]:
        """See `Display`."""
        self._rows.append([cell(said) for _, cell, _ in self._cells])
        return []

    def end(self) -> list[str]:
        """See `Display`."""
        if not self._rows:
            return [f"{self._agent}: {self._nothing}"]
        head = [name for name, _, _ in self._cells]
        return columns(head, self._rows, [name for name, _, number in self._cells if number])


def display(what: str, flows: int = 1) -> Display:
    """What shows the answer to such a question."""
    if what == "ping":
        return PingText(flows)
    if what == "trace":
        return TraceText()
    if what == "check":
        return FindingsText()
    if what == "links":
        return TableText(_LINKS, "no interface is watched")
    return TableText(_SESSIONS, "no session to a target")


# -- values that somebody else wrote -------------------------------------------------------------------------


def _text(said: Object, name: str) -> str:
    value = said.get(name)
    return "" if value is None else plain(str(value), 500)


def _whole(said: Object, name: str) -> int | None:
    value = said.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None


def _count(said: Object, name: str) -> int | None:
    value = _whole(said, name)
    return value if value is not None and value >= 0 else None


def _words(name: str) -> Cell:
    return lambda said: _text(said, name)


def _number(name: str) -> Cell:
    def cell(said: Object) -> str:
        value = _whole(said, name)
        return "" if value is None else f"{value:,}"

    return cell


def _time(name: str) -> Cell:
    def cell(said: Object) -> str:
        value = _whole(said, name)
        return "" if value is None else duration(value)

    return cell


def _rate(name: str) -> Cell:
    def cell(said: Object) -> str:
        value = _whole(said, name)
        if value is None:
            return ""
        for unit, scale in (("Gb/s", 10**9), ("Mb/s", 10**6), ("kb/s", 10**3)):
            if value >= scale:
                return f"{value / scale:.3g} {unit}"
        return f"{value} b/s"

    return cell


def _up(said: Object) -> str:
    return {True: "up", False: "DOWN"}.get(bool(said["up"]), "") if "up" in said else ""


def _stalled(said: Object) -> str:
    state = _text(said, "state")
    if said.get("stalled") is not True:
        return state
    waiting = _whole(said, "waiting_ns")
    return f"{state}, STALLED" + (f" for {duration(waiting)}" if waiting else "")


_SESSIONS: list[tuple[str, Cell, bool]] = [
    ("target", _words("target"), False),
    ("line", _words("line"), False),
    ("remote", _words("remote"), False),
    ("rtt", _time("rtt_ns"), True),
    ("min", _time("min_rtt_ns"), True),
    ("var", _time("rttvar_ns"), True),
    ("retransmits", _number("retransmits_total"), True),
    ("lost", _number("lost"), True),
    ("unacked", _number("unacked"), True),
    ("rate", _rate("delivery_rate_bps"), True),
    ("sent", _time("last_sent_ns"), True),
    ("received", _time("last_received_ns"), True),
    ("state", _stalled, False),
]
_LINKS: list[tuple[str, Cell, bool]] = [
    ("interface", _words("interface"), False),
    ("state", _up, False),
    ("speed", _rate("speed_bps"), True),
    ("mtu", _number("mtu"), True),
    ("changes", _number("carrier_changes"), True),
    ("rx packets", _number("rx_packets"), True),
    ("errors", _number("rx_errors"), True),
    ("dropped", _number("rx_dropped"), True),
    ("missed", _number("rx_missed"), True),
    ("queue drops", _number("rx_queue_drops"), True),
    ("tx packets", _number("tx_packets"), True),
    ("tx errors", _number("tx_errors"), True),
    ("tx dropped", _number("tx_dropped"), True),
    ("tx queue drops", _number("tx_queue_drops"), True),
]
