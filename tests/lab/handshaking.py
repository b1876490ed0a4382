"""A namespace and ports in another one in, an engine that begins handshakes with them and its counts out."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.clock import MILLISECOND, SECOND, SystemClock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import Engine, Notice
from probe.engine.handshake import handshake
from probe.engine.samples import CLOSED, Cut
from probe.engine.schedule import Schedule
from probe.engine.source_ports import share, width
from probe.host.netlink import Changes
from probe.packets import tcp
from probe.sockets.abi import sockaddr
from probe.sockets.opening import SocketOptions
from probe.sockets.syn_socket import SynSocket, open_syn
from probe.windows.summary import summarise
from tests.lab.capture import Packet
from tests.lab.netlab import Namespace

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
TIMEOUT = 250 * MILLISECOND


def address_of(namespace: Namespace, version: int) -> str:
    return namespace.ipv4 if version == 4 else namespace.ipv6


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


class Prober:
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
        self.near, self.timeout = near, timeout
        chosen = options or SocketOptions(family)
        needed = width(interval, burst) if spread else 1
        spans = share([target for target in targets for _ in range(lanes)], [needed] * lanes * len(targets))
        ports = max(first + count for first, count in spans)
        self.socket: SynSocket = near.call(lambda: open_syn(chosen, ports, watch, choose_id=choose_id))
        self.flows = [
            Flow(n * lanes + lane, sockaddr(family, address), tcp.SIZE, True, lane, port)
            for n, (address, port) in enumerate(targets)
            for lane in range(lanes)
        ]
        count = len(self.flows)
        self.channel = Channel(
            self.socket,
            self.flows,
            Schedule([interval] * count, [False] * count, np.random.default_rng(), [burst] * count),
            capacity=8192,
            all_flows=count,
            token=np.random.default_rng().bytes(8),
            base_id=1,
            speak=handshake(self.socket, spans),
        )
        self.cuts: list[Cut] = []
        self.notices: list[Notice] = []
        self.engine = Engine(
            [self.channel],
            SystemClock(),
            window=SECOND,
            timeout=timeout,
            tick=5 * MILLISECOND,
            flows=count,
            on_cut=self.cuts.append,
            on_notice=self.notices.append,
        )

    def run(self, count: int, deadline_s: float = 30) -> None:
        """Send so many probes in all; returns once they have left."""
        until, head = time.monotonic() + deadline_s, self.channel.ledger.head
        with self.near.inside():
            while self.channel.ledger.head < head + count:
                assert time.monotonic() < until
                wake = self.engine.turn()
                time.sleep(max(0.0, wake / 1e9 - time.monotonic()))

    def finish(self) -> None:
        """Wait for what is outstanding, and close the windows."""
        with self.near.inside():
            self.engine.finish(time.sleep)

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

    @property
    def foreign(self) -> int:
        return self.channel.counters.foreign + self.channel.counters.unanswerable

    def close(self) -> None:
        self.engine.close()
        self.socket.close()
