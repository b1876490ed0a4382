"""A request and flows in, the sockets of one trace out: whole packets leave, and what may be answers comes
in.

Times are the kernel's: of a packet that left from the error queue of the socket that sent it, of one that
came from its control message (SO_TIMESTAMPNS). Where one of them is missing our own clock stands in, and the
answer says so. Packets leave with the IP header that they are given: nothing is put into fragments, and one
that is larger than the interface's MTU is refused, with that MTU (IP_RECVERR).

Ports are reserved by sockets that are bound and do nothing: no program of this host gets one, and the kernel,
which knows of no connection there, answers SYN/ACK with RST by itself before anybody accepts.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from probe.errors import PrivilegeError, SocketError
from probe.paths.identity import FIRST_PORT, PORTS, Flow
from probe.paths.records import Request
from probe.sockets import abi, filters

_SO_TIMESTAMPNS = 35
# What the kernel has learnt of a path's MTU is neither heeded nor added to (ip(7), IP_MTU_DISCOVER).
_PMTUDISC_INTERFACE = 4
_TX = abi.TX_SOFTWARE | abi.SOFTWARE | abi.OPT_ID | abi.OPT_TSONLY
_TAKES_NO_ID = (errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH)  # refused before they are counted
_ICMP4 = (0, 3, 11)  # echo reply, unreachable, time exceeded
_ICMP6 = (1, 2, 3, 129)  # unreachable, too big, time exceeded, echo reply
_LARGEST = 65_535
_BUFFER = 4 << 20
_LOCAL = 1  # origin of an error that this host made
_AT_ONCE = 256  # packets of one socket, before the others have their turn


@dataclass(frozen=True)
class Arrival:
    """A packet that may be an answer. how: "icmp", "tcp" or "udp" (then `flow` is that of the port).

    source: 4 or 16 bytes, port: of UDP. rx_ns: wall clock. by_kernel: whether the kernel took it.
    """

    how: str
    data: bytes
    source: bytes
    port: int
    flow: int
    rx_ns: int
    by_kernel: bool


class Wire:
    """Opened with CAP_NET_RAW, used without.

    flows: those asked for, with the ports that they really have. source: this host's address, packed.
    Raises: PrivilegeError; SocketError where source, interface or route are missing.
    """

    def __init__(self, request: Request, flows: Sequence[Flow]) -> None:
        self.family = request.family
        self._request = request
        self._six = request.family == socket.AF_INET6
        self._stamps: dict[int, int] = {}  # by probe: when it left, wall clock
        self._by_id: dict[int, int] = {}  # by the kernel's count of what left: the probe
        self._count = 0
        self._mtu = 0  # of the interface, as told with a refusal
        self._receivers: dict[int, tuple[socket.socket, str, int]] = {}  # by descriptor
        self._opened = ExitStack()
        with ExitStack() as failing:
            failing.callback(self.close)
            try:
                self._open(request, flows)
            except PermissionError:
                raise PrivilegeError(
                    "tracing paths needs CAP_NET_RAW: run it as root, or with "
                    "AmbientCapabilities=CAP_NET_RAW in its systemd unit"
                ) from None
            except OSError as problem:
                raise SocketError(f"cannot trace to {request.address}: {problem.strerror}") from None
            failing.pop_all()

    def _open(self, request: Request, flows: Sequence[Flow]) -> None:
        family = request.family
        found = socket.getaddrinfo(request.address, None, family, socket.SOCK_RAW, 0, socket.AI_NUMERICHOST)
        where = found[0][4]
        self._where = (*where[:1], 0, *where[2:])
        self.destination = socket.inet_pton(family, str(where[0]).partition("%")[0])
        self.source = self._own_address(request)
        self._sender = self._socket(socket.SOCK_RAW, socket.IPPROTO_RAW)
        if self._six:
            self._sender.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_RECVERR, 1)
        else:
            self._sender.setsockopt(socket.IPPROTO_IP, abi.IP_RECVERR, 1)
        self._sender.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, _TX)
        self.flows = self._reserve(request, flows)
        self._open_icmp()
        if request.protocol == "tcp":
            raw = self._socket(socket.SOCK_RAW, socket.IPPROTO_TCP)
            filters.attach(raw, filters.own_segments(family, [flow.port for flow in self.flows]))
            self._receive_by(raw, "tcp")
        self._poll = select.poll()
        for descriptor in self._receivers:
            self._poll.register(descriptor, select.POLLIN)
        self._poll.register(self._sender, 0)  # its errors
        time.sleep(0.005)  # the kernel switches stamping on in the background

    def _own_address(self, request: Request) -> bytes:
        """Where packets to the target are from: the source asked for, or the route's."""
        with self._new(socket.SOCK_DGRAM, 0) as asked:
            if request.source:
                with _saying(f"cannot send from {request.source}"):
                    asked.bind((request.source, 0))
            try:
                asked.connect((*self._where[:1], 9, *self._where[2:]))
            except OSError as problem:
                # EACCES is no lack of privileges here, which would be every trace's trouble.
                prohibited = "a broadcast address, or a route that prohibits it"
                why = prohibited if isinstance(problem, PermissionError) else problem.strerror
                raise SocketError(f"no route to {request.address}: {why}") from None
            return socket.inet_pton(request.family, str(asked.getsockname()[0]).partition("%")[0])

    def _open_icmp(self) -> None:
        if self._six:
            raw = self._socket(socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            words = [0xFFFFFFFF] * 8
            for kind in _ICMP6:
                words[kind >> 5] &= ~(1 << (kind & 31))
            raw.setsockopt(socket.IPPROTO_ICMPV6, abi.ICMP6_FILTER, struct.pack("=8I", *words))
        else:
            raw = self._socket(socket.SOCK_RAW, socket.IPPROTO_ICMP)
            blocked = 0xFFFFFFFF & ~sum(1 << kind for kind in _ICMP4)
            raw.setsockopt(abi.SOL_RAW, abi.ICMP_FILTER, struct.pack("=I", blocked))
        filters.attach(raw, filters.own_replies(self.family, self.flows[0].ident, len(self.flows)))
        self._receive_by(raw, "icmp")

    def _new(self, kind: int, protocol: int) -> socket.socket:
        made = socket.socket(self.family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        if self._six:
            made.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_MTU_DISCOVER, _PMTUDISC_INTERFACE)
        else:
            made.setsockopt(socket.IPPROTO_IP, abi.IP_MTU_DISCOVER, _PMTUDISC_INTERFACE)
        if self._request.interface:
            name = self._request.interface
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
            except OSError as problem:
                made.close()
                if isinstance(problem, PermissionError):
                    raise
                raise SocketError(f"cannot send by interface {name!r}: {problem.strerror}") from None
        return made

    def _socket(self, kind: int, protocol: int) -> socket.socket:
        return self._opened.enter_context(self._new(kind, protocol))

    def _receive_by(self, handle: socket.socket, how: str, flow: int = -1) -> None:
        handle.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        with suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._receivers[handle.fileno()] = (handle, how, flow)

    def _reserve(self, request: Request, flows: Sequence[Flow]) -> list[Flow]:
        """The flows with ports that nobody else on this host gets: those wished for, or the next free
        ones."""
        if request.protocol == "icmp":
            return list(flows)
        kind = socket.SOCK_STREAM if request.protocol == "tcp" else socket.SOCK_DGRAM
        made = []
        for flow in flows:
            handle = self._new(kind, 0)
            self._opened.enter_context(handle)
            if self._six:
                handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.append(replace(flow, port=_bind(handle, flow.port)))
            if request.protocol == "udp":
                self._receive_by(handle, "udp", flow.number)
        return made

    # -- use -------------------------------------------------------------------------------------------------

    def send(self, packet: bytes, number: int, label: int = 0) -> None:
        """A whole packet, the probe `number`. Raises: OSError as the kernel refuses it."""
        where = self._where
        if self._six:
            where = (where[0], 0, label, where[3])
        try:
            self._sender.sendto(packet, where)
        except OSError as refusal:
            if refusal.errno not in _TAKES_NO_ID:
                self._count += 1
            raise
        self._by_id[self._count & 0xFFFFFFFF] = number
        self._count += 1

    def interface_mtu(self, header: bytes) -> int:
        """MTU of the interface that packets leave by, bytes; 0: it does not say.

        header: that of an IP packet to the target. The kernel is asked with a packet that it refuses.
        """
        self._mtu = 0
        size = _LARGEST
        if self._six:
            packet = header[:4] + (size - 40).to_bytes(2, "big") + header[6:40]
        else:
            packet = header[:2] + size.to_bytes(2, "big") + header[4:20]
        try:
            self.send(packet.ljust(size, b"\0"), -1)
        except OSError as refusal:
            if refusal.errno == errno.EMSGSIZE:
                self._errors()
            return self._mtu
        return size  # loopback, as a rule

    def left_at(self, number: int) -> int | None:
        """When a probe left, by the kernel, wall clock; None: it did not say."""
        self._errors()
        return self._stamps.get(number)

    def receive(self, timeout_ns: int) -> list[Arrival]:
        """What has come, after waiting for it at most so long."""
        found: list[Arrival] = []
        for descriptor, events in self._poll.poll(max(timeout_ns, 0) / 1e6):
            if descriptor == self._sender.fileno():
                self._errors()
            elif events & (select.POLLIN | select.POLLERR):
                handle, how, flow = self._receivers[descriptor]
                found += self._read(handle, how, flow)
        return found

    def _read(self, handle: socket.socket, how: str, flow: int) -> list[Arrival]:
        found: list[Arrival] = []
        for _ in range(_AT_ONCE):
            try:
                data, control, _, name = handle.recvmsg(_LARGEST, 256)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error for this socket, which comes by the raw one as well
            now = time.time_ns()
            stamp = _stamp(control)
            source, port = socket.inet_pton(self.family, str(name[0]).partition("%")[0]), int(name[1])
            if how == "tcp" and not self._six:
                data = data[(data[0] & 15) * 4 :] if data else data
            found.append(Arrival(how, data, source, port, flow, stamp or now, stamp is not None))
        return found

    def _errors(self) -> None:
        """Read the error queue: when packets left, and the interface's MTU."""
        while True:
            try:
                _, control, _, _ = self._sender.recvmsg(64, 512, abi.MSG_ERRQUEUE)
            except OSError:
                return
            when, extended = 0, b""
            for level, kind, data in control:
                if (level, kind) == (socket.SOL_SOCKET, abi.SO_TIMESTAMPING) and len(data) >= 16:
                    seconds, rest = struct.unpack_from("=qq", data)
                    when = seconds * 1_000_000_000 + rest
                elif len(data) >= 16:
                    extended = data
            if not extended:
                continue
            number, origin, info, ident = struct.unpack_from("=IB3xII", extended)
            if origin == abi.ORIGIN_TIMESTAMPING:
                probe = self._by_id.pop(ident, None)
                if probe is not None and when:
                    self._stamps[probe] = when
            elif origin == _LOCAL and number == errno.EMSGSIZE:
                self._mtu = info

    def close(self) -> None:
        self._opened.close()


class _saying:  # noqa: N801 - a context manager
    """`what` before the reason where a call in the block fails. Raises: SocketError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, OSError) and not isinstance(problem, PermissionError):
            raise SocketError(f"{self._what}: {problem.strerror}") from None


def _bind(handle: socket.socket, wished: int) -> int:
    """The port that it has then."""
    for step in range(PORTS):
        port = FIRST_PORT + (wished - FIRST_PORT + step) % PORTS
        try:
            handle.bind(("", port))
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    raise SocketError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free to trace from")


def _stamp(control: Sequence[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) >= 16:
            seconds, rest = struct.unpack_from("=qq", data)
            return int(seconds * 1_000_000_000 + rest)
    return None


def strerror(problem: OSError) -> str:
    """What an error of the kernel is called."""
    return os.strerror(problem.errno) if problem.errno else str(problem)
