"""A kind of probe and socket options in, an open socket and the kind's dialect out; imported as needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from probe.clock import Clock
from probe.engine.dialect import Speak
from probe.engine.echo import Echo
from probe.host.clock import clock_state
from probe.keys import read_key as read_key
from probe.settings import AgentSettings, Target
from probe.sockets.opening import SocketOptions, open_icmp
from probe.sockets.packet_socket import ProbeSocket
from probe.streams import Stream

log = logging.getLogger(__name__)


def open_kind(
    options: SocketOptions, streams: Sequence[Stream], settings: AgentSettings, clock: Clock
) -> tuple[ProbeSocket, Speak]:
    """What serves these flows, which are of one kind. Raises: SocketError, PrivilegeError."""
    target = streams[0].target
    if target.kind == "icmp":
        return open_icmp(options), Echo
    if target.kind == "stamp":
        return _stamp(options, target, settings, clock)
    if target.kind == "tcp":
        return _tcp(options, streams)
    return _connect(options, [stream.lane for stream in streams], settings)


def _stamp(
    options: SocketOptions, target: Target, settings: AgentSettings, clock: Clock
) -> tuple[ProbeSocket, Speak]:
    from probe.engine.reflection import KEPT, reflection
    from probe.sockets.datagram import open_datagram

    key = read_key(target.key_file) if target.key_file else b""
    return open_datagram(options, kept=KEPT), reflection(clock, own_clock_error(settings), key)


def _tcp(options: SocketOptions, streams: Sequence[Stream]) -> tuple[ProbeSocket, Speak]:
    from probe.engine.handshake import handshake
    from probe.engine.source_ports import share, width
    from probe.host.netlink import Changes
    from probe.sockets.syn_socket import open_syn

    targets = [stream.target for stream in streams]
    widths = [width(int(each.interval), each.burst, each.schedule == "poisson") for each in targets]
    spans = share(
        # Without the flow label: a target takes flows that differ in it alone for one.
        [(stream.address.sockaddr, stream.target.port) for stream in streams],
        widths,
    )
    few = {
        target: got for target, wanted, (_, got) in zip(targets, widths, spans, strict=True) if got < wanted
    }
    for target, got in few.items():
        log.warning("%s", few_ports(target, got))
    opened = open_syn(options, max(first + count for first, count in spans), Changes)
    return opened, handshake(opened, spans)


def few_ports(target: Target, ports: int) -> str:
    """What it means that each flow of a target of kind tcp has only so many source ports, and what to do."""
    again = int(target.interval) * ports / target.burst
    return (
        f"target {target.name}: so many probes to one port of one address that a flow's source port is used "
        f"again after {again / 1e6:.0f} ms; where a round trip takes longer, that loses probes (a longer "
        "interval, fewer flows or a smaller burst)"
    )


def _connect(
    options: SocketOptions, lanes: Sequence[int], settings: AgentSettings
) -> tuple[ProbeSocket, Speak]:
    from probe.engine.connection import Connection
    from probe.sockets.connecting import ConnectSocket

    return ConnectSocket(options, lanes, int(settings.window.timeout)), Connection


def own_clock_error(settings: AgentSettings) -> Callable[[], int | None]:
    """Asks how far this host's clock may be off, ns; None: it is not synchronised."""
    stated = settings.host.clock_error
    if stated is not None:
        return lambda: int(stated)

    def ask() -> int | None:
        state = clock_state()
        return state.error_ns if state.synchronised else None

    return ask
