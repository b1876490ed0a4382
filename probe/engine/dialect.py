"""A channel's socket, flows and ledger in, what a kind of probe needs to write packets and read answers out.

A channel plans, sends and drains; what stands in a packet, and which probe an answer belongs to, its
dialect knows. There is one a kind: `echo` (ICMP), `reflection` (STAMP), `handshake` (TCP SYN), `connection`
(connect).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probe.engine.ledger import Indices, Ledger
from probe.engine.stamps import WallToMono
from probe.sockets.packet_socket import ProbeSocket, QuotedError, Replies


@dataclass(frozen=True)
class Flow:
    """One stream of probes with a fixed 5-tuple.

    index: its place in the agent's list of flows.
    destination: 28 bytes of sockaddr, as the socket wants it (a raw socket: port 0).
    size: bytes of IP payload.
    stamped: the way there is known to take TX stamps, before any was seen.
    lane: it is the n-th flow of its target, from 0.
    port: the destination's, where the kind has ports.
    """

    index: int
    destination: bytes
    size: int
    stamped: bool = False
    lane: int = 0
    port: int = 0


@dataclass
class ChannelCounters:
    """What happened to this socket since it was opened."""

    refused: int = 0
    skipped: int = 0
    foreign: int = 0
    unanswerable: int = 0  # ICMP errors that quote no probe of ours
    last_errno: int = 0
    drops: int = 0  # packets that came while the receive buffer was full
    damaged: int = 0  # packets that the kernel dropped at this socket for another reason
    blocked: int = 0  # times that the send buffer was full
    stayed: int = 0  # probes that the kernel took and that never left


@dataclass(frozen=True)
class Desk:
    """What a channel gives its dialect to work with.

    token: 8 secret bytes of this channel and run.
    base_id: 16-bit identifier of the channel's first flow; the others follow (mod 2^16).
    """

    socket: ProbeSocket
    flows: Sequence[Flow]
    ledger: Ledger
    counters: ChannelCounters
    token: bytes
    base_id: int


class Dialect(Protocol):
    """How one kind of probe is written, and how its answers are read."""

    def write(self, where: slice, numbers: Indices, flows: Indices, dues: Indices) -> None:
        """Fill the socket's rows of `where` with probes.

        numbers: of the probes, int64. flows: places in the desk's list of flows. dues: monotonic ns.
        """

    def read(self, replies: Replies, now: int, to_mono: WallToMono) -> None:
        """Book a block of received packets in the ledger; count what is foreign. `now`: monotonic ns."""

    def failed(self, error: QuotedError) -> None:
        """Book an ICMP error that came by the socket's error queue."""

    def know(self, siblings: NDArray[np.uint64]) -> None:
        """Tokens (host order) of other channels whose replies this socket may see: they are not foreign."""

    def narrow(self) -> None:
        """Others fill the receive buffer: keep them out, where the kernel can tell them apart."""


Speak = Callable[[Desk], Dialect]
