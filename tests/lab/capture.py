"""A namespace in, every IP packet that crossed one of its interfaces out, with the kernel's own time of it.

The kernel stamps a packet when it hands it to the driver (outgoing) or takes it from it (incoming). That is
closer to the wire than a program's clock, and taken by somebody else: what measured times are held against.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections import defaultdict, deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from tests.lab.netlab import Namespace

_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_ETH_P_IPV6 = 0x86DD
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_OUTGOING = 4
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_TIMESPEC = struct.Struct("@qq")
_PROTO_ICMP = 1
_PROTO_ICMPV6 = 58
# ICMP type -> (is an echo, is a request), per IP version
_ECHO_TYPES = {(4, 8): True, (4, 0): False, (6, 128): True, (6, 129): False}


@dataclass(frozen=True, slots=True)
class Packet:
    """`time_ns`: wall clock, ns since the epoch. `data`: from the IP header on, cut at the snap length."""

    time_ns: int
    outgoing: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Echo:
    """An ICMP or ICMPv6 echo request or reply."""

    time_ns: int
    outgoing: bool
    request: bool
    source: str
    destination: str
    dscp: int
    identifier: int
    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A request seen leaving and its first reply seen coming; wall clock ns, None: no reply."""

    target: str
    identifier: int
    sequence: int
    payload: bytes
    sent_ns: int
    received_ns: int | None

    @property
    def rtt_ns(self) -> int | None:
        return None if self.received_ns is None else self.received_ns - self.sent_ns


class Capture:
    """`with Capture(namespace) as capture: ...`; afterwards the packets are there, complete and in order.

    `quiet`: they wait in the kernel's buffer until the end. Waking a reader for each packet takes time
    between the tap and the driver, which then is in what is compared with a driver's TX stamp; and a core's
    time.

    Raises: AssertionError at the end where the kernel dropped packets here: then there is no truth to compare
    with.
    """

    def __init__(
        self,
        namespace: Namespace,
        interface: str = "",
        *,
        snap: int = 2048,
        buffer: int = 64 << 20,
        quiet: bool = False,
    ) -> None:
        self._namespace = namespace
        self._interface = interface or namespace.interface
        self._snap = snap
        self._buffer = buffer
        self._quiet = quiet
        self._read_end, self._write_end = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"capture {self._interface}", daemon=True)
        self._socket = namespace.call(self._open)
        self.packets: list[Packet] = []

    def _open(self) -> socket.socket:
        # Without a protocol it hears nothing yet: whatever is queued before bind() would be of any interface.
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self._buffer)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.bind((self._interface, _ETH_P_ALL))
        return opened

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write_end)
        self._thread.join()
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        dropped: int = struct.unpack("@II", statistics)[1]
        self._socket.close()
        os.close(self._read_end)
        self.packets.sort(key=lambda packet: packet.time_ns)
        if problem is None:
            assert dropped == 0, f"the capture lost {dropped} packets"

    def _run(self) -> None:
        poll = select.poll()
        if not self._quiet:
            poll.register(self._socket, select.POLLIN)
        poll.register(self._read_end, select.POLLIN)
        stopping = False
        while not stopping:
            stopping = any(descriptor == self._read_end for descriptor, _ in poll.poll())
            self._drain()

    def _drain(self) -> None:
        while True:
            try:
                data, control, _, address = self._socket.recvmsg(self._snap, 64)
            except BlockingIOError:
                return
            protocol, kind = address[1], address[2]
            if protocol in (_ETH_P_IP, _ETH_P_IPV6):
                seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
                self.packets.append(Packet(seconds * 10**9 + nanoseconds, kind == _PACKET_OUTGOING, data))

    def echoes(self) -> list[Echo]:
        """The echo requests and replies among the packets, in order of time."""
        return [echo for packet in self.packets if (echo := parse_echo(packet)) is not None]

    def round_trips(self) -> list[RoundTrip]:
        """One row for every request that left, in order of time, with its reply.

        They are paired by address, id, sequence and payload. Where the same four come again (a sequence
        number that wrapped), the oldest unanswered request gets the reply.
        """
        waiting: defaultdict[tuple[str, int, int, bytes], deque[int]] = defaultdict(deque)
        requests: list[Echo] = []
        answers: list[int | None] = []
        for echo in self.echoes():
            if echo.request and echo.outgoing:
                key = echo.destination, echo.identifier, echo.sequence, echo.payload
                waiting[key].append(len(requests))
                requests.append(echo)
                answers.append(None)
            elif not echo.request and not echo.outgoing:
                unanswered = waiting[echo.source, echo.identifier, echo.sequence, echo.payload]
                if unanswered:
                    answers[unanswered.popleft()] = echo.time_ns
        return [
            RoundTrip(r.destination, r.identifier, r.sequence, r.payload, r.time_ns, answer)
            for r, answer in zip(requests, answers, strict=True)
        ]


def parse_echo(packet: Packet) -> Echo | None:
    """The echo request or reply that `packet` is; None where it is something else or cut short."""
    data = packet.data
    version = data[0] >> 4 if data else 0
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    if version == 4 and len(data) >= 20 and data[9] == _PROTO_ICMP:
        header = (data[0] & 15) * 4
        end = int.from_bytes(data[2:4], "big")
        traffic_class = data[1]
        source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    elif version == 6 and len(data) >= 40 and data[6] == _PROTO_ICMPV6:
        header = 40
        end = 40 + int.from_bytes(data[4:6], "big")
        traffic_class = int.from_bytes(data[:2], "big") >> 4 & 0xFF
        source, destination = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    else:
        return None
    body = data[header:end]
    request = _ECHO_TYPES.get((version, body[0])) if len(body) >= 8 else None
    if request is None:
        return None
    identifier, sequence = struct.unpack_from("!HH", body, 4)
    return Echo(
        packet.time_ns,
        packet.outgoing,
        request,
        str(source),
        str(destination),
        traffic_class >> 2,
        identifier,
        sequence,
        body[8:],
    )
