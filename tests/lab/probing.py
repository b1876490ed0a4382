"""A namespace and a kind of socket in, probes sent and every stamp, reply and error they got out.

The truth to hold TX stamps against is a capture: a packet passes the capture's tap just before the driver
stamps it, so the stamp of a probe lies between its own capture time and that of the next one.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from probe.packets import icmp
from probe.sockets.abi import sockaddr
from probe.sockets.opening import SocketOptions, open_icmp
from probe.sockets.packet_socket import QuotedError
from tests.lab.capture import Capture
from tests.lab.netlab import Namespace

TOKEN = bytes.fromhex("0123456789abcdef")
SIZE = 64
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Kind:
    """One of the ways to probe that a host may offer."""

    raw: bool
    version: int
    choose_id: bool

    def __str__(self) -> str:
        ids = "chosen" if self.choose_id else "counted"
        return f"{'raw' if self.raw else 'ping'}-ipv{self.version}-{ids}"

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.version == 4 else socket.AF_INET6

    def address(self, namespace: Namespace) -> str:
        return namespace.ipv4 if self.version == 4 else namespace.ipv6


KINDS = [Kind(*kind) for kind in itertools.product((True, False), (4, 6), (True, False))]


@dataclass
class Got:
    """What came back so far, by probe number: `tx` wall ns, one entry a stamp; `rx` wall ns of replies."""

    tx: dict[int, list[int]] = field(default_factory=dict)
    rx: dict[int, list[int]] = field(default_factory=dict)
    quoted: list[QuotedError] = field(default_factory=list)  # of ping sockets
    hard: int = 0  # times by an interface's own clock
    strange: list[bytes] = field(default_factory=list)  # packets that are no reply
    sources: list[bytes] = field(default_factory=list)  # ... and their sockaddrs


class Prober:
    """One probe socket in `near`, on its own: no engine around it."""

    def __init__(
        self,
        near: Namespace,
        addresses: Sequence[str],
        kind: Kind,
        *,
        receive_buffer: int = 16 << 20,
        hardware: frozenset[int] = frozenset(),
    ) -> None:
        self.kind = kind
        options = SocketOptions(kind.family, max_size=SIZE, receive_buffer=receive_buffer, hardware=hardware)
        self.socket = near.call(lambda: open_icmp(options, allow_raw=kind.raw, choose_id=kind.choose_id))
        assert self.socket.raw is kind.raw
        self.socket.set_destinations([sockaddr(kind.family, address) for address in addresses])
        request = icmp.ECHO_REQUEST if kind.version == 4 else icmp.ECHO6_REQUEST
        self._reply = icmp.ECHO_REPLY if kind.version == 4 else icmp.ECHO6_REPLY
        self._writer = icmp.EchoWriter(self.socket.rows, TOKEN, request, kind.version == 4 and kind.raw)
        self._header = 20 if kind.version == 4 and kind.raw else 0
        self._next = 0
        self.refused: dict[int, int] = {}
        self.left: list[int] = []
        self.got = Got()

    def send(self, count: int, to: int = 0) -> list[int]:
        """Send a batch; what is refused is passed over. Returns the numbers of those that left."""
        numbers = np.arange(self._next, self._next + count)
        self._next += count
        where = slice(0, count)
        sizes, destinations = np.full(count, SIZE), np.full(count, to)
        self._writer.write(where, numbers, np.full(count, 7, np.uint16), sizes)
        self.socket.prepare(where, destinations, sizes, numbers.astype(np.uint32))
        at, left = 0, []
        while at < count:
            moved, errno = self.socket.send(at, count)
            left += numbers[at : at + moved].tolist()
            at += moved
            if errno:
                self.refused[int(numbers[at])] = errno
                at += 1
        self.left += left
        return left

    def read(self) -> None:
        """Take all that is there."""
        while (stamps := self.socket.stamps()) is not None:
            self.got.quoted += stamps.errors
            for number, stamp in zip(stamps.ids.tolist(), stamps.stamp.tolist(), strict=True):
                self.got.tx.setdefault(number, []).append(stamp)
            if stamps.hard_stamp is not None:
                self.got.hard += len(stamps.hard_stamp)
        while (replies := self.socket.receive()) is not None:
            if replies.hard is not None:
                self.got.hard += int((replies.hard != 0).sum())
            echo = icmp.echo_view(np.ascontiguousarray(replies.data), self._header)
            for i, row in enumerate(echo):
                if row["type"] == self._reply and row["token"].tobytes() == TOKEN:
                    self.got.rx.setdefault(int(row["number"]), []).append(int(replies.stamp[i]))
                else:
                    self.got.strange.append(replies.data[i, : replies.length[i]].tobytes())
                    self.got.sources.append(replies.sources[i].tobytes())

    def wait(self, replies: int, stamps: int) -> Got:
        """Read until so many came back, and once more for what is too much."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.read()
            if len(self.got.rx) >= replies and len(self.got.tx) >= stamps:
                break
            time.sleep(0.002)
        self.read()
        return self.got

    def check_stamps(self, capture: Capture) -> None:
        """Every TX stamp belongs to the packet it is given to, by the capture (ended)."""
        wire = wire_numbers(capture)
        order = sorted(wire)
        assert order == sorted(self.left)
        following = dict(zip(order, [wire[number] for number in order[1:]] + [1 << 62], strict=True))
        for number, stamps in self.got.tx.items():
            for stamp in stamps:
                assert wire[number] <= stamp <= following[number], f"{number} has the stamp of another probe"


def wire_numbers(capture: Capture) -> dict[int, int]:
    """When each probe passed the tap, by its number."""
    return {
        int.from_bytes(echo.payload[8:16], "big"): echo.time_ns
        for echo in capture.echoes()
        if echo.request and echo.outgoing
    }
