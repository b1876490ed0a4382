"""One target in, a live line (or JSON object) for every probe and a summary at the end out: `coloprobe ping`.

It is an agent's measurement of one target, on a schedule that begins at once and may end; of several flows
people see a table instead of lines.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from probe import ping_report
from probe.clock import MILLISECOND, SECOND, Clock, SystemClock
from probe.engine.channel import FAR, Channel
from probe.engine.engine import Notice
from probe.engine.schedule import Schedule
from probe.errors import SocketError, UsageError
from probe.keys import read_key_option
from probe.measurement import Measurement, build
from probe.ping_lines import Display, JsonLines, Quiet, TextLines
from probe.ping_view import HELD_BACK, View, nth
from probe.settings import (
    MAX_MEMORY,
    MAX_RATE,
    AgentSettings,
    AgentTable,
    EngineTable,
    HostTable,
    WindowTable,
)
from probe.sockets.privileges import drop_privileges
from probe.target_settings import KINDS, Target
from probe.targets import Address, resolve
from probe.units import Duration

_WINDOW = Duration(10 * SECOND)
_DRAIN_EVERY = 10 * MILLISECOND
_LOOK_EVERY = 10 * MILLISECOND


@dataclass(frozen=True)
class PingOptions:
    """What the command line asked for; times in ns, `count` None: until interrupted, `family` 0: any.

    count: probes of each flow. clock_error: how far this host's clock may be off; None: as the kernel says.
    """

    target: Target
    count: int | None = None
    timeout: int = SECOND
    family: int = 0
    as_json: bool = False
    quiet: bool = False
    clock_error: int | None = None


class Counted(Schedule):
    """A schedule that ends after `count` probes of each flow, and leaves out none, however late.

    Args:
        target: whose flows they are.
        lanes: which of these.
        count: None: it does not end.
    The first flow's first probe is due at once, the other flows' ones spread over the interval.
    """

    def __init__(self, target: Target, lanes: range, count: int | None, rng: np.random.Generator) -> None:
        many = len(lanes)
        random = target.schedule == "poisson"
        super().__init__([int(target.interval)] * many, [random] * many, rng, [target.burst] * many)
        self._next[:] = np.array(lanes) * int(target.interval) // target.flows
        self._left = None if count is None else np.full(many, count)

    def earliest(self) -> int:
        return super().earliest() if self._left is None or self._left.any() else FAR

    def skip(self, until: int) -> int:  # noqa: ARG002 - Schedule's signature
        """Nothing: every probe is reported, also one that this host was too late for."""
        return 0

    def take(self, until: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        while True:
            flows, dues = super().take(until, limit)
            if self._left is None or not len(flows):
                return flows, dues
            wanted = nth(flows, len(self._left)) < self._left[flows]
            flows, dues = flows[wanted], dues[wanted]
            self._left -= np.bincount(flows, minlength=len(self._left))
            self._next[self._left == 0] = FAR
            if len(flows):
                return flows, dues


class _Plan:
    """Makes the schedules of the channels of one target, in the order of its flows."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._planned = 0

    def __call__(self, targets: Sequence[Target], rng: np.random.Generator) -> Schedule:
        lanes = range(self._planned, self._planned + len(targets))
        self._planned = lanes.stop
        return Counted(targets[0], lanes, self._count, rng)


def ping(options: PingOptions, *, out: TextIO = sys.stdout, clock: Clock | None = None) -> int:
    """Probe until the count is reached or a signal comes. Returns the exit status: 0, or 1 where nothing was
    received.

    Raises: UsageError, ResolveError, PrivilegeError, SocketError.
    """
    clock = clock or SystemClock()
    target = options.target
    _check(options)
    address = _address(options)
    cuts = ping_report.Cuts(target.kind, target.flows)
    measurement = build(
        _settings(options, address),
        clock,
        cuts.add,
        _complain,
        plan=_Plan(options.count),
        drain_every=_DRAIN_EVERY,
        linger=HELD_BACK,
    )
    drop_privileges()
    engine, channels = measurement.engine, list(measurement.engine.channels)
    reasons = dict.fromkeys(one.reason for one in measurement.unmeasured)
    if not channels:
        raise SocketError("; ".join(reasons))
    for reason in reasons:
        print(f"{target.name}: {reason}", file=sys.stderr)
    flows = _Flows(target, channels)
    if flows.note:
        print(flows.note, file=sys.stderr)
    view = View(channels, target.flows, options.timeout, int(target.interval))
    display = _display(options, address, measurement, flows, out)
    if not options.as_json:
        print(_headline(target, address, channels[0]), file=out, flush=True)
    wanted = FAR if options.count is None else options.count * len(flows.opened)
    stop, look = _Interrupt(), 0
    try:
        while not stop.asked and view.told < wanted:
            wake = engine.turn()
            now = clock.mono()
            if now >= look:
                look = now + _LOOK_EVERY
                # A reply that waits unread while this process is stalled is not lost.
                for news in view.update(engine.drained):
                    display.show(news)
                display.tick(now)
            time.sleep(max(0, wake - clock.mono()) / 1e9)
        engine.finish(time.sleep)
        for news in view.update(FAR):
            display.show(news)
        display.end()
    finally:
        measurement.close()
    summaries = cuts.summaries(options.timeout)
    whole = target.flows if target.flows > 1 else 0
    if options.as_json:
        tags = {"target": target.name, "kind": target.kind, "dscp": str(target.dscp)}
        said = "\n".join(ping_report.points(summaries, tags, target.flows))
    else:
        said = ping_report.text(summaries, whole, target.name, _no_delays(channels))
        said += _reflector(channels, int(summaries.values["received"][whole]))
        if target.flows > 1:
            from probe.ping_table import flow_rows, flows_text

            rows = flow_rows(summaries, flows.identities, flows.opened)
            said += "\n" + flows_text(rows, flows.heading)
    print(said, file=out, flush=True)
    return 0 if summaries.values["received"][whole] else 1


def _check(options: PingOptions) -> None:
    """Whether this host can do that much at all. Raises: UsageError."""
    target = options.target
    asked = f"--flows {target.flows} and --burst {target.burst} at -i {target.interval}"
    if target.rate > MAX_RATE:
        problem = f"{asked} are {target.rate:,.0f} probes/s"
        raise UsageError(f"{problem} (allowed: at most {MAX_RATE:,})")
    if target.key_file:
        read_key_option(target.key_file)
    remembered = target.rate * (_WINDOW + 2 * options.timeout + HELD_BACK) / SECOND
    if remembered * KINDS[target.kind].row > MAX_MEMORY:
        problem = f"{asked} with -W {Duration(options.timeout)} mean remembering {remembered:,.0f} probes"
        raise UsageError(f"{problem} (allowed: at most {MAX_MEMORY // KINDS[target.kind].row:,})")


def _address(options: PingOptions) -> Address:
    """Where it goes. Raises: UsageError, ResolveError."""
    target = options.target
    if options.family and target.family not in (0, options.family):
        asked = "-4" if options.family == socket.AF_INET else "-6"
        raise UsageError(f"--source: {target.source!r} is not of the family that {asked} asks for")
    return resolve(target.address, options.family or target.family)


def _settings(options: PingOptions, address: Address) -> AgentSettings:
    """Those of an agent with this one target."""
    error = options.clock_error
    scope = int.from_bytes(address.sockaddr[24:28], sys.byteorder)
    literal = f"{address.text}%{scope}" if scope and "%" not in address.text else address.text
    return AgentSettings(
        agent=AgentTable(id="ping"),
        target=(msgspec.structs.replace(options.target, address=literal),),
        window=WindowTable(length=_WINDOW, timeout=Duration(options.timeout)),
        engine=EngineTable(tick=Duration(MILLISECOND)),
        host=HostTable(clock_error=None if error is None else Duration(error)),
    )


def _complain(said: Notice) -> None:
    print(said.text, file=sys.stderr)


def _display(
    options: PingOptions, address: Address, measurement: Measurement, flows: _Flows, out: TextIO
) -> Display:
    if options.quiet:
        return Quiet()
    if options.as_json:
        return JsonLines(options.target, measurement.engine.to_mono.wall, out)
    if options.target.flows == 1:
        return TextLines(options.target, address.text, out)
    if not out.isatty():
        return Quiet()
    from shutil import get_terminal_size

    from probe.ping_table import LiveTable

    return LiveTable(flows.identities, flows.heading, flows.opened, out, get_terminal_size)


def _headline(target: Target, address: Address, channel: Channel) -> str:
    port = f" port {target.port}" if target.port else ""
    how = {
        "icmp": "raw socket" if channel.socket.raw else "ping socket",
        "stamp": "UDP socket",
        "tcp": "raw socket, half-open",
        "connect": "connections",
    }[target.kind]
    text = f"PING {target.address} ({address.text}){port}: {target.size} bytes of IP payload, {how}"
    if target.flows > 1:
        text += f", {target.flows} flows, a probe each every {target.interval}"
    return text


class _Flows:
    """What tells the packets of a target's flows apart.

    heading: what `identities` are. opened: flows that have a socket. note: why they may share a path, or a
    flow have several; empty: they do not.
    """

    def __init__(self, target: Target, channels: Sequence[Channel]) -> None:
        named: dict[int, str] = {}
        self.heading = "source port"
        for channel in channels:
            for position, flow in enumerate(channel.flows):
                if target.kind != "icmp":
                    named[flow.index] = _ports(channel, position)
                elif channel.socket.family == socket.AF_INET6:
                    self.heading = "flow label"
                    named[flow.index] = f"0x{int.from_bytes(flow.destination[4:8], 'big'):05x}"
                else:
                    self.heading = "ICMP id"
                    raw = channel.socket.raw
                    named[flow.index] = str((channel.base_id + position) & 0xFFFF) if raw else "one for all"
        self.note = ""
        if target.flows > 1 and "one for all" in named.values():
            self.note = "without CAP_NET_RAW, ICMP flows over IPv4 do not differ: they take one path"
        elif target.flows > 1 and any("+" in ports for ports in named.values()):
            # See `probe.engine.source_ports`.
            self.note = (
                "TCP flows as fast as this take several source ports in turn, and so perhaps several paths; "
                "a flow keeps one where its probes are 350 ms or more apart (-i) and no burst"
            )
        self.identities = [named.get(flow, "-") for flow in range(target.flows)]
        self.opened = frozenset(named)


def _ports(channel: Channel, position: int) -> str:
    """The source port of a flow, and how many it has besides."""
    from probe.sockets.datagram import DatagramSocket

    if isinstance(channel.socket, DatagramSocket):
        return str(channel.socket.port)
    from probe.engine.handshake import Handshake

    if isinstance(channel.dialect, Handshake):
        first, *others = channel.dialect.ports_of(position)
        return f"{first}" + (f" +{len(others)}" if others else "")
    from probe.sockets.connecting import ConnectSocket

    assert isinstance(channel.socket, ConnectSocket)
    return str(channel.socket.port(channel.flows[position].lane))


def _no_delays(channels: Sequence[Channel]) -> str:
    """Why replies of reflectors may tell no one-way delays; empty: there are no reflectors."""
    reflected = channels[0].ledger.reflected
    if reflected is None:
        return ""
    if reflected.own_error() is None:
        return "this host's clock is not synchronised; where it is, but the kernel is not told: --clock-error"
    return "the reflector's clock is not synchronised"


def _reflector(channels: Sequence[Channel], received: int) -> str:
    """A line about a reflector that is silent, or that cannot be believed: who else sends to our ports?"""
    if channels[0].ledger.reflected is None:
        return ""
    strange = sum(one.counters.foreign for one in channels)
    if not strange:
        if received:
            return ""
        return (
            "\nno answer: does a STAMP reflector listen there (coloprobe reflect), does UDP get through, and "
            "is the key (--key-file) the same at both ends?"
        )
    asked = "is that a STAMP reflector, and the key (--key-file) the same at both ends?"
    return f"\npackets that are no replies to these probes: {strange}; {asked}"


class _Interrupt:
    """SIGINT and SIGTERM as a flag: the summary is still printed."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True
