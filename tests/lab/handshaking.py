"""A namespace and ports in another one in, an engine that begins handshakes with them and its counts out."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.clock import MILLISECOND
from probe.engine.channel import Flow
from probe.engine.handshake import handshake
from probe.engine.samples import CLOSED
from probe.engine.source_ports import share, width
from probe.host.netlink import Changes
from probe.packets import tcp
from probe.sockets.abi import sockaddr
from probe.sockets.opening import SocketOptions
from probe.sockets.syn_socket import SynSocket, open_syn
from probe.windows.summary import summarise
from tests.lab.capture import Packet
from tests.lab.driving import FAMILIES, TIMEOUT, Driven, address_of
from tests.lab.netlab import Namespace


def listen(namespace: Namespace, version: int, port: int, backlog: int = 128) -> socket.socket:
    """A server in there that never accepts; `accept` says at once whether it could."""
    address = address_of(namespace, version)
    server = namespace.call(
        lambda: socket.create_server((address, port), family=FAMILIES[version], backlog=backlog)
    )
    server.setblocking(False)
    return server


def nobody_connected(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return True
    return False


def tcp_counters(namespace: Namespace) -> dict[str, int]:
    """The kernel's own counters of TCP in there (RFC 4022; both IP versions)."""
    text = namespace.call(lambda: Path("/proc/thread-self/net/snmp").read_text(encoding="ascii"))
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Tcp:"))
    return dict(zip(names, map(int, values), strict=True))


@dataclass(frozen=True)
class Segment:
    """A TCP segment as captured."""

    time_ns: int
    outgoing: bool
    source: int
    destination: int
    sequence: int
    acknowledgment: int
    flags: int


def segments(packets: Sequence[Packet]) -> list[Segment]:
    """The TCP segments among captured packets, in order of time."""
    found = []
    for packet in packets:
        v4 = packet.data[0] >> 4 == 4
        if packet.data[9 if v4 else 6] != tcp.PROTOCOL:
            continue
        at = (packet.data[0] & 0xF) * 4 if v4 else 40
        head = packet.data[at : at + 20]
        ports = int.from_bytes(head[:2], "big"), int.from_bytes(head[2:4], "big")
        numbers = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
        found.append(Segment(packet.time_ns, packet.outgoing, *ports, *numbers, head[13]))
    return found


class Counting(Driven):
    """An engine whose flows' counts are asked for."""

    def finish(self) -> None:
        """Wait for what is outstanding, and close the windows."""
        self.await_rest()

    def total(self, name: str, flow: int | None = None) -> int:
        """A count of one flow, or of all, over all windows; `closed`: received, and nobody listens."""
        if name == "closed":
            return sum(
                int(((s.state & CLOSED) != 0)[: s.inside][flow is None or s.flow[: s.inside] == flow].sum())
                for cut in self.cuts
                for s in cut.samples
            )
        values = [summarise(cut, len(self.flows), self.timeout).values[name] for cut in self.cuts]
        return sum(int(column.sum() if flow is None else column[flow]) for column in values)

    def counts(self, flow: int) -> dict[str, int]:
        """What became of the probes of one flow."""
        names = ("sent", "received", "closed", "lost", "errors", "duplicates", "unstamped")
        return {name: self.total(name, flow) for name in names}


class Prober(Counting):
    """An engine in `near`, its flows in the order of `targets` (address, port), `lanes` of them each.

    `spread`: as many source ports as bursts and intervals need; or, as most tests want it, one a flow.
    """

    def __init__(
        self,
        near: Namespace,
        version: int,
        targets: Sequence[tuple[str, int]],
        *,
        lanes: int = 1,
        interval: int = 20 * MILLISECOND,
        timeout: int = TIMEOUT,
        choose_id: bool | None = None,
        options: SocketOptions | None = None,
        watch: Callable[[], Changes] | None = Changes,
        burst: int = 1,
        spread: bool = False,
    ) -> None:
        family = FAMILIES[version]
        chosen = options or SocketOptions(family)
        needed = width(interval, burst) if spread else 1
        spans = share([target for target in targets for _ in range(lanes)], [needed] * lanes * len(targets))
        ports = max(first + count for first, count in spans)
        self.socket: SynSocket = near.call(lambda: open_syn(chosen, ports, watch, choose_id=choose_id))
        flows = [
            Flow(n * lanes + lane, sockaddr(family, address), tcp.SIZE, True, lane, port)
            for n, (address, port) in enumerate(targets)
            for lane in range(lanes)
        ]
        super().__init__(
            near,
            self.socket,
            flows,
            handshake(self.socket, spans),
            interval=interval,
            burst=burst,
            timeout=timeout,
        )
