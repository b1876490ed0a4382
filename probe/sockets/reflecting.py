"""UDP packets to our port in, each with its time, addresses and TTL; replies written in their place out.

A reply leaves from the memory that its request came in: nothing is copied. Control messages say what the
kernel knows of each packet, and from which address and with which DSCP its reply shall leave:

    received, IPv4:  SCM_TIMESTAMPING (64 bytes) | IP_PKTINFO (32) | IP_TTL (24) | IP_TOS (24)
    received, IPv6:  SCM_TIMESTAMPING (64) | IPV6_PKTINFO (40) | IPV6_HOPLIMIT (24) | IPV6_TCLASS (24)
    sent:            PKTINFO (32 or 40) | IP_TOS or IPV6_TCLASS (24) | SCM_TS_OPT_ID (24)
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import PrivilegeError, SocketError
from probe.packets.arrival import Arrival
from probe.sockets import abi
from probe.sockets.opening import enlarge, kernel_takes_ids, set_stamping
from probe.sockets.packet_socket import pressure
from probe.sockets.receive_block import ReceiveBlock
from probe.sockets.stamp_ids import KernelCounter

ROWS = 64  # packets that are answered together: the first one's reply waits for the last one's
PITCH = 9216  # bytes kept of a packet: a jumbo frame's
_BUFFER = 4 << 20  # bytes, for each direction
_STAMPS = 4 * ROWS  # TX stamps that are read together
_ECN = 0x03

# Option that asks for it, and type of the message that then comes or goes: packet info, TTL, class.
_IPV4 = (8, 8), (12, 2), (13, 1)
_IPV6 = (49, 50), (51, 52), (66, 67)

# Kind, seconds and ns of the stamp; then, of IPv4: interface, own address, destination; of IPv6: destination,
# interface; then TTL and class.
_RECEIVED = {4: Struct("=8xQqq32x16xI4s4s4x16xi4x16xB7x"), 6: Struct("=8xQqq32x16x16sI4x16xi4x16xB7x")}
# Heads are length, level and type. IPv4: interface, own address; IPv6: own address, interface. Class, id.
_SENT = {4: Struct("=QiiI4s4x4xQiiI4xQiiI4x"), 6: Struct("=Qii16sI4xQiiI4xQiiI4x")}
_HEADER = Struct("=40xQi4xI4x")  # of mmsghdr: the control messages' length, flags, the message's length
_STAMP = Struct("=8xQqq48xQ4xI32x")  # as `abi.CONTROL`: kind, seconds, ns, origin, id
_LENGTH = Struct("=Q")  # the second half of an iovec
_KIND_STAMP, _ORIGIN_STAMP = int(abi.KIND_STAMP), int(abi.ORIGIN_STAMP)


def open_reflecting(family: int, address: str, port: int, scope: int = 0) -> ReflectingSocket:
    """A socket that receives what is sent to `port` of `address` (empty: all of this family).

    Raises: PrivilegeError where the port is kept for root; SocketError where it is in use, or the address is
        not this host's, or the family is not there.
    """
    name = "IPv4" if family == socket.AF_INET else "IPv6"
    where = f"[{address}]:{port}" if ":" in address else f"{address or name}:{port}"
    try:
        handle = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as problem:
        raise SocketError(f"cannot open an {name} socket: {problem.strerror}") from None
    try:
        enlarge(handle, _BUFFER)
        if family == socket.AF_INET6:
            handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option, _ in _IPV4 if family == socket.AF_INET else _IPV6:
            level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
            handle.setsockopt(level, option, 1)
        set_stamping(handle)
        handle.bind((address, port) if family == socket.AF_INET else (address, port, 0, scope))
        if family == socket.AF_INET6:
            # What a local route delivers here may be answered from there, as on IPv4 without being asked.
            # After bind: an address that is not ours is a mistake there.
            handle.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_FREEBIND, 1)
    except OSError as problem:
        handle.close()
        raise _translated(problem, where, port) from None
    return ReflectingSocket(handle, kernel_takes_ids())


def _translated(problem: OSError, where: str, port: int) -> SocketError:
    if problem.errno in (errno.EACCES, errno.EPERM):
        return PrivilegeError(
            f"this process may not listen on {where}. Either give it CAP_NET_BIND_SERVICE (run it as root, "
            "or with AmbientCapabilities=CAP_NET_BIND_SERVICE in its systemd unit), or allow the port for "
            f"everybody: sysctl -w net.ipv4.ip_unprivileged_port_start={port}, or choose a port from 1024 on "
            "with --bind"
        )
    if problem.errno == errno.EADDRINUSE:
        return SocketError(
            f"{where} is in use by another program (which one, says: ss -ulnp 'sport = :{port}'); "
            "end it, or choose another port with --bind"
        )
    if problem.errno == errno.EADDRNOTAVAIL:
        return SocketError(f"{where}: no interface of this host has that address (see: ip address)")
    return SocketError(f"cannot listen on {where}: {problem.strerror}")


class ReflectingSocket:
    """A bound UDP socket with kernel stamps both ways; at most ROWS packets are in hand at a time.

    `choose_id`: whether the kernel takes our own TX stamp ids (SCM_TS_OPT_ID).
    """

    def __init__(self, handle: socket.socket, choose_id: bool) -> None:
        self._socket, self._choose_id = handle, choose_id
        self.fd = handle.fileno()
        self.unstamped = 0  # packets that came without a stamp, so that our clock told their time
        self.unsent: Counter[str] = Counter()  # replies that the kernel refused, by its reason
        self._version = 6 if handle.family == socket.AF_INET6 else 4
        self._level = int(socket.IPPROTO_IPV6 if self._version == 6 else socket.IPPROTO_IP)
        self._form = _RECEIVED[self._version]
        control = np.dtype((np.void, self._form.size))
        self._rx = ReceiveBlock(control, names=True, kept=PITCH, rows=ROWS)
        self._err = ReceiveBlock(abi.CONTROL, names=False, kept=8, rows=_STAMPS)
        # Packets come one by one more often than not: what is read of each costs less so than by columns.
        self._data, self._names = _memory(self._rx.data), _memory(self._rx.names)
        self._headers, self._control = _memory(self._rx.headers), _memory(self._rx.control)
        self._errors = _memory(self._err.control)
        # Of each row: length, own address, interface, class.
        self._known: list[tuple[int, bytes, int, int]] = []
        self._counter = KernelCounter()
        self._early: list[tuple[int, int]] = []
        self._next_id = 0
        self._prepare()

    def _prepare(self) -> None:
        """The headers of replies, a row each; all of them but lengths and control messages."""
        place = np.arange(ROWS, dtype=np.uint64)
        size = _SENT[self._version].size
        self._tx, self._iov = np.zeros(ROWS, abi.MMSGHDR), np.zeros(ROWS, abi.IOVEC)
        self._reply_control = np.zeros((ROWS, size), np.uint8)
        self._iov["base"] = self._rx.data.ctypes.data + place * PITCH
        self._tx["iov"] = self._iov.ctypes.data + place * abi.IOVEC.itemsize
        self._tx["iovlen"] = 1
        self._tx["name"] = self._rx.names.ctypes.data + place * abi.SOCKADDR
        self._tx["namelen"] = 16 if self._version == 4 else abi.SOCKADDR
        self._tx["control"] = self._reply_control.ctypes.data + place * size
        self._tx["controllen"] = size - (0 if self._choose_id else 24)
        self._tx_at = self._tx.ctypes.data
        self._lengths, self._replies = _memory(self._iov), _memory(self._reply_control)

    def receive(self) -> list[tuple[memoryview, Arrival]]:
        """What waits, at most ROWS packets; their bytes are valid, and free to change, till the next call."""
        count = self._rx.take(self.fd, 0)
        self._known = []
        return [self._received(row) for row in range(count)]

    def _received(self, row: int) -> tuple[memoryview, Arrival]:
        form = self._form
        used, flags, length = _HEADER.unpack_from(self._headers, row * _HEADER.size)
        if used != form.size or form.unpack_from(self._control, row * form.size)[0] != _KIND_STAMP:
            self._set_right(row, used)
        told = form.unpack_from(self._control, row * form.size)
        if self._version == 4:
            _, seconds, ns, interface, own, destination, ttl, traffic = told
            # Where they differ the kernel has chosen one of our addresses instead of a group's.
            unicast = own == destination
        else:
            _, seconds, ns, destination, interface, ttl, traffic = told
            own, unicast = destination, destination[0] != 0xFF
        stamp = seconds * 1_000_000_000 + ns
        if not stamp:
            self.unstamped += 1
            stamp = time.time_ns()
        peer = bytes(self._names[row * abi.SOCKADDR : (row + 1) * abi.SOCKADDR])
        source = peer[4:8] if self._version == 4 else peer[8:24]
        self._known.append((length, own, interface, traffic))
        arrival = Arrival(
            peer,
            source,
            peer[2] << 8 | peer[3],
            destination,
            unicast,
            ttl & 0xFF,
            stamp,
            not flags & socket.MSG_TRUNC,
        )
        return self._data[row * PITCH : row * PITCH + length], arrival

    def _set_right(self, row: int, used: int) -> None:
        """Rewrite a row's control messages, which came in another order or without a stamp, as expected."""
        self._rx.odd = True
        form = self._form
        at = row * form.size
        messages = dict(_messages(bytes(self._control[at : at + used])))
        (_, info), (_, ttl), (_, traffic) = _IPV6 if self._version == 6 else _IPV4
        stamp = messages.get((socket.SOL_SOCKET, abi.SO_TIMESTAMPING), b"").ljust(16, b"\0")
        about = messages.get((self._level, info), b"").ljust(20, b"\0")
        where: tuple[int | bytes, ...]
        if self._version == 4:
            where = int.from_bytes(about[:4], sys.byteorder), about[4:8], about[8:12]
        else:
            where = about[:16], int.from_bytes(about[16:], sys.byteorder)
        times = (int.from_bytes(stamp[a : a + 8], sys.byteorder) for a in (0, 8))
        rest = (messages.get((self._level, kind), b"\0")[0] for kind in (ttl, traffic))
        form.pack_into(self._control, at, _KIND_STAMP, *times, *where, *rest)

    def reply(self, rows: list[int]) -> list[int]:
        """Send these rows of what was received last, as long as they were, to where they came from.

        From the address that they were sent to, with their DSCP. Returns for each the id under which `stamps`
        will report when it left, or -1 where the kernel refused it. `rows`: ascending.
        """
        form, level = _SENT[self._version], self._level
        (_, info), _, (_, kind) = _IPV6 if self._version == 6 else _IPV4
        ids = [(self._next_id + n) & 0xFFFFFFFF for n in range(len(rows))]
        self._next_id += len(rows)
        for row, number in zip(rows, ids, strict=True):
            where: tuple[int | bytes, ...]
            length, own, interface, traffic = self._known[row]
            _LENGTH.pack_into(self._lengths, row * 16 + 8, length)
            if self._version == 4:
                where, size = (0, own), 28
            else:
                # Only within a link an address needs its interface beside it.
                near = own[0] == 0xFE and own[1] & 0xC0 == 0x80
                where, size = (own, interface if near else 0), 36
            form.pack_into(
                self._replies,
                row * form.size,
                *(size, level, info, *where),
                *(20, level, kind, traffic & ~_ECN),
                *(20, socket.SOL_SOCKET, abi.SCM_TS_OPT_ID, number),
            )
        left: list[int] = []
        while len(left) < len(rows):
            done = len(left)
            run = done + 1
            while run < len(rows) and rows[run] == rows[run - 1] + 1:
                run += 1
            left += self._send(rows[done], ids[done:run])
        return left

    def _send(self, row: int, ids: list[int]) -> list[int]:
        """Send as many rows as there are ids, from `row` on."""
        left = ids.copy()
        done = 0
        while done < len(ids):
            moved = abi.sendmmsg(self.fd, self._tx_at + (row + done) * abi.MMSGHDR.itemsize, len(ids) - done)
            whole = moved == len(ids) - done
            if moved > 0:
                if not self._choose_id:
                    self._counter.sent(np.array(ids[done : done + moved], np.uint32))
                done += moved
            elif moved != -errno.EINTR:
                # A reply that leaves later than it says would be a lie: it is not tried again.
                self.unsent[abi.error_name(-moved)] += 1
                left[done] = -1
                done += 1
            if not whole and not self._choose_id:
                self._restart_counter()
        return left

    def stamps(self) -> list[tuple[int, int]]:
        """When replies left: their ids with wall ns, all that the kernel has told by now."""
        early, self._early = self._early, []
        return early + self._take_stamps()

    def _take_stamps(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        count = _STAMPS
        while count == _STAMPS:
            count = self._err.take(self.fd, abi.MSG_ERRQUEUE)
            for row in range(count):
                kind, seconds, ns, origin, number = _STAMP.unpack_from(self._errors, row * _STAMP.size)
                if kind == _KIND_STAMP and origin == _ORIGIN_STAMP:
                    found.append((number, seconds * 1_000_000_000 + ns))
                else:
                    self._err.odd = True
        if found and not self._choose_id:
            numbers, times = zip(*found, strict=True)
            ids, stamps = self._counter.translate(np.array(numbers, np.uint32), np.array(times, np.int64))
            return list(zip(ids.tolist(), stamps.tolist(), strict=True))
        return found

    def _restart_counter(self) -> None:
        """Whether a refused packet took a number of the kernel's depends on who refused it: count anew."""
        self._early += self._take_stamps()
        without = (abi.STAMPING & ~abi.OPT_ID) & ~abi.OPT_TSONLY
        self._socket.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, without)
        self._socket.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, abi.STAMPING)
        self._counter.restart(time.time_ns())

    @property
    def overflowed(self) -> int:
        """Packets that found the receive buffer full, ever."""
        return pressure(self._socket).drops

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        self._socket.close()


def _memory(array: NDArray[Any]) -> memoryview:
    """All bytes of an array, to read and to write."""
    return array.reshape(-1).view(np.uint8).data


def _messages(control: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """(level, type) and data of each control message."""
    at = 0
    while at + 16 <= len(control):
        length, level, kind = (
            int.from_bytes(control[at + a : at + b], "little") for a, b in ((0, 8), (8, 12), (12, 16))
        )
        if length < 16:
            return
        yield (level, kind), control[at + 16 : at + length]
        at += (length + 7) & ~7
