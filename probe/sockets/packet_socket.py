"""A block of prepared rows in, packets on the wire out; replies, TX stamps and ICMP errors back, each with
the kernel's time.

One socket carries every probe of one address family with the same socket options. All memory that the kernel
touches
is allocated once: a ring of packet rows to send, and one block each for what comes back on the ordinary and
on the error queue.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probe.sockets import abi, filters
from probe.sockets.both_clocks import arrivals, departures
from probe.sockets.quoted import QuotedError as QuotedError
from probe.sockets.quoted import quoted_error
from probe.sockets.receive_block import BLOCK as BLOCK
from probe.sockets.receive_block import PITCH as PITCH
from probe.sockets.receive_block import ReceiveBlock
from probe.sockets.stamp_ids import KernelCounter

ROWS = 1024  # rows of the send ring: also the longest plan; UIO_MAXIOV caps one call at as many
_HEADER = abi.MMSGHDR.itemsize
_MESSAGE = 2304  # bytes of buffer that a small packet or a stamp takes at most

# ICMP errors that a socket with IP_RECVERR reports on the next call although that call's own packet is fine
# (sk_err; net/ipv4/icmp.c and net/ipv6/icmp.c say which become which).
_LEFT_OVER = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ECONNREFUSED,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EMSGSIZE,
        errno.EOPNOTSUPP,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EACCES,
    }
)


@dataclass(frozen=True)
class Replies:
    """What one receive call took: `data` uint8 (n, kept), `length` bytes on the wire, `stamp` wall ns (0:
    none)."""

    data: NDArray[np.uint8]
    length: NDArray[np.integer]
    stamp: NDArray[np.int64]
    sources: NDArray[np.uint8]  # sockaddr bytes, (n, 28); zeros where nobody wants to know
    full: bool = False  # there may be more
    hard: NDArray[np.int64] | None = None  # ns of the interface's own clock (0: none), where asked for


@dataclass(frozen=True)
class Stamps:
    """What one error-queue call took: ids (uint32) and wall ns (int64) of TX stamps; `errors` where they come
    that way."""

    ids: NDArray[np.uint32]
    stamp: NDArray[np.int64]
    errors: tuple[QuotedError, ...]
    full: bool  # the call took all it could: there may be more
    hard_ids: NDArray[np.uint32] | None = None  # of TX stamps by the interface's own clock
    hard_stamp: NDArray[np.int64] | None = None  # ... which are these, ns


@dataclass(frozen=True)
class Pressure:
    """A receive buffer's state. `drops`: packets that found it full, ever. `full`: the next one would, too.

    The kernel does not count the TX stamps that it drops, so `full` is all that tells of them.
    """

    drops: int
    full: bool


class ProbeSocket(Protocol):
    """What the engine asks of a socket; `PacketSocket` is the real one, `MemorySocket` its twin for tests."""

    family: int
    raw: bool
    header: bool  # each packet received begins with its IPv4 header
    rows: NDArray[np.uint8]  # the packets to send, one a row, as many as a plan may have: write, then `send`
    row_offset: int  # the byte of a row at which the message begins, behind what headers are ours to write
    checksums: bool  # whether the message's checksum is ours to write, or the kernel's
    pseudo_sums: (
        NDArray[np.int64] | None
    )  # per destination: what it covers besides the message; None: nothing
    patience: int  # probes whose reply and TX stamp the receive buffer surely holds unread
    burst: int  # probes in one send call; after a whole one its queues are worth a `gather`
    batch: int  # probes after which it is time to empty it; at most `patience`
    hurried: bool  # something stands open until its answer is taken: `gather` at every tick while it `waits`
    crowded: str  # what is full where `send` returns EAGAIN, in words; {}: the family's name

    def set_destinations(self, addresses: list[bytes]) -> None:
        """Sockaddrs (28 bytes) that `prepare` refers to by index."""

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        """Say for the rows of `where`: to whom, how many bytes, and under which id the TX stamp comes
        back."""

    def send(self, start: int, stop: int) -> tuple[int, int]:
        """Send rows [start, stop). Returns (how many left, errno that refused the next one, or 0)."""

    def gather(self) -> None:
        """Take what has come off the kernel's queues, unread: the sooner its buffers are free, the warmer."""

    def waits(self) -> bool:
        """Of a hurried socket: whether an answer may come in a moment."""

    def receive(self) -> Replies | None:
        """One block of replies, valid until the next call; None when there are none."""

    def stamps(self) -> Stamps | None:
        """One block of the error queue; None when it is empty."""

    def pressure(self) -> Pressure:
        """Whether the receive buffer is full, and what that has cost."""

    def admit(self, first_id: int, ids: int) -> None:
        """From now on take, of all echo replies, only those with these identifiers (mod 2^16)."""

    def dismiss(self, first_id: int, ids: int) -> None:
        """From now on take no echo replies with these identifiers: they are another socket's."""

    def close(self) -> None:
        """Give the socket back."""


SEND_BUFFER = "the send buffer for {} probes is full"


class PacketSocket:
    """A raw, ping or UDP socket with kernel stamps both ways; `None` in an argument is what ICMP echo needs.

    Args:
        handle: the open socket, options set (see `probe.sockets.opening`), SO_TIMESTAMPING among them.
        raw: whether it is a raw socket.
        choose_id: whether the kernel takes our own TX stamp ids (SCM_TS_OPT_ID, Linux 6.13); otherwise its
            counter is followed.
        max_size: largest message in bytes that will be sent.
        header: whether each packet received begins with its IP header (None: raw socket on IPv4).
        names: whether `Replies.sources` is wanted (None: on IPv6, where no header says it).
        checksums: whether the message's checksum is ours to write (None: raw socket on IPv4).
        quotes: whether ICMP errors come by the error queue: IP_RECVERR is set (None: not a raw socket).
        kept: bytes kept of each packet received, and of what an error quotes.
        hardware: where SO_TIMESTAMPING is `abi.HARDWARE_STAMPING`, indices of the interfaces that share the
            clock which stamps this socket's probes; `Replies.hard` and `Stamps.hard_stamp` are that clock's.
    """

    def __init__(
        self,
        handle: socket.socket,
        *,
        raw: bool,
        choose_id: bool,
        max_size: int,
        header: bool | None = None,
        names: bool | None = None,
        checksums: bool | None = None,
        quotes: bool | None = None,
        kept: int = PITCH,
        hardware: Collection[int] = (),
    ) -> None:
        self.family = int(handle.family)
        self.raw = raw
        self.row_offset = 0
        v4 = self.family == socket.AF_INET
        self.header = raw and v4 if header is None else header
        self.checksums = raw and v4 if checksums is None else checksums
        self._quotes = not raw if quotes is None else quotes
        # A raw ICMP socket hears of everybody's echo replies.
        self._overhears = raw and handle.proto in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
        self.pseudo_sums: NDArray[np.int64] | None = None
        self.choose_id = choose_id
        self._socket = handle
        buffer = handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        # The kernel books its own overhead too: about 1.7 kB for a TX stamp and 1.3 kB for a small reply.
        each = 6144 if hardware else 4096
        self.patience = max(16, buffer // (2 * (each + 2 * max_size)))
        self.burst, self.batch = 256, min(BLOCK, self.patience)
        self.crowded, self.hurried = SEND_BUFFER, False
        self._fd = handle.fileno()
        pitch = -(-max_size // 64) * 64
        self.rows = np.zeros((ROWS, pitch), np.uint8)
        self._tx = np.zeros(ROWS, abi.MMSGHDR)
        self._iov = np.zeros(ROWS, abi.IOVEC)
        self._iov["base"] = self.rows.ctypes.data + np.arange(ROWS, dtype=np.uint64) * pitch
        self._tx["iov"] = self._iov.ctypes.data + np.arange(ROWS, dtype=np.uint64) * abi.IOVEC.itemsize
        self._tx["iovlen"] = 1
        self._tx["namelen"] = 16 if self.family == socket.AF_INET else abi.SOCKADDR
        self._size = 0  # what every row's length is set to; 0: they differ
        self._send_id = np.zeros(ROWS, abi.SEND_ID)
        self._send_id["len"] = 20
        self._send_id["level"] = socket.SOL_SOCKET
        self._send_id["type"] = abi.SCM_TS_OPT_ID
        if choose_id:
            self._tx["control"] = (
                self._send_id.ctypes.data + np.arange(ROWS, dtype=np.uint64) * abi.SEND_ID.itemsize
            )
            self._tx["controllen"] = abi.SEND_ID.itemsize
        self._tx_at = self._tx.ctypes.data
        self._names = np.zeros((0, abi.SOCKADDR), np.uint8)
        self._ids = np.zeros(ROWS, np.uint32)
        self._counter = KernelCounter(hardware=bool(hardware))
        self._stamping = handle.getsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING)
        self._hardware = np.array(sorted(hardware), np.uint32)
        self._early: list[Stamps] = []  # taken off the error queue before the counter was restarted
        # The source is in the IP header where that is delivered; of an ICMP error on IPv6 it is wanted.
        arrival = abi.ARRIVAL if hardware else abi.STAMP
        self._rx = ReceiveBlock(arrival, names=not v4 if names is None else names, kept=kept)
        self._err = ReceiveBlock(abi.CONTROL, names=self._quotes, kept=kept if self._quotes else PITCH)

    def set_destinations(self, addresses: list[bytes]) -> None:
        self._names = np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, abi.SOCKADDR).copy()
        self._tx["name"] = self._names.ctypes.data

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        if len(self._names) > 1:
            self._tx["name"][where] = self._names.ctypes.data + destinations * abi.SOCKADDR
        if not isinstance(sizes, int):
            self._size = 0
            self._iov["len"][where] = sizes
        elif sizes != self._size:
            self._size = sizes
            self._iov["len"] = sizes
        if self.choose_id:
            self._send_id["id"][where] = ids
        else:
            self._ids[where] = ids

    def send(self, start: int, stop: int) -> tuple[int, int]:
        # The function itself: this is what a tick is made of.
        moved = abi.call_sendmmsg(self._fd, self._tx_at + start * _HEADER, stop - start, abi.MSG_DONTWAIT)
        if moved == stop - start:  # as nearly always
            if not self.choose_id:
                self._counter.sent(self._ids[start:stop])
            return moved, 0
        return self._send_rest(start, stop, moved if moved >= 0 else -ctypes.get_errno())

    def _send_rest(self, start: int, stop: int, moved: int) -> tuple[int, int]:
        """`send` after its first call, which returned `moved`."""
        done = start
        left_over = 0
        refused = 0
        while True:
            if moved > 0:
                if not self.choose_id:
                    self._counter.sent(self._ids[done : done + moved])
                done += moved
                left_over = 0
                if done >= stop:
                    break
            elif -moved in _LEFT_OVER and self._quotes and left_over != -moved:
                left_over = -moved  # perhaps the error of an earlier probe: ask once more
            elif moved != -errno.EINTR:
                refused = -moved
                break
            if not self.choose_id:
                self._resynchronise()
            moved = abi.sendmmsg(self._fd, self._tx_at + done * _HEADER, stop - done)
        if refused and not self.choose_id:
            self._resynchronise()
        return done - start, refused

    def gather(self) -> None:
        self._err.fill(self._fd, abi.MSG_ERRQUEUE)
        self._rx.fill(self._fd, 0)

    def waits(self) -> bool:
        return False

    def receive(self) -> Replies | None:
        count = self._rx.take(self._fd, 0)
        if count <= 0:
            return None
        data, length, names = self._rx.data[:count], self._rx.headers["len"][:count], self._rx.names[:count]
        if not len(self._hardware):
            return Replies(data, length, self._rx.arrival(count), names, count == BLOCK)
        self._rx.odd = True
        used = self._rx.headers["controllen"][:count]
        came = arrivals(self._rx.control[:count], used, self._hardware)
        return Replies(data, length, came.stamp, names, count == BLOCK, came.hard)

    def stamps(self) -> Stamps | None:
        return self._early.pop(0) if self._early else self._take_stamps()

    def _take_stamps(self) -> Stamps | None:
        count = self._err.take(self._fd, abi.MSG_ERRQUEUE)
        if count <= 0:
            return None
        # Of a stamp the kernel says no name, and takes the space for it away.
        self._err.odd |= self._quotes
        control = self._err.control[:count]
        stamped = (control["origin"] == abi.ORIGIN_STAMP) & (control["kind"] == abi.KIND_STAMP)
        errors: tuple[QuotedError, ...] = ()
        if not stamped.all():
            self._err.odd = True
            seen = (self._error(int(i)) for i in np.flatnonzero(~stamped))
            errors = tuple(error for error in seen if error is not None)
            control = control[stamped]
        full = count == BLOCK
        if not len(self._hardware):
            ids, stamp = control["id"], control["sec"] * 1_000_000_000 + control["nsec"]
            if not self.choose_id:
                ids, stamp = self._counter.translate(ids, stamp)
            return Stamps(ids, stamp, errors, full)
        left = departures(control)
        ids, stamp, hard_ids, hard = left.ids, left.stamp, left.hard_ids, left.hard_stamp
        if not self.choose_id:
            ids, stamp = self._counter.translate(ids, stamp)
            hard_ids, hard = self._counter.translate_hard(hard_ids, hard)
        return Stamps(ids, stamp, errors, full, hard_ids, hard)

    def _error(self, i: int) -> QuotedError | None:
        """The ICMP error of row i."""
        head = self._err.headers[i]
        return quoted_error(
            self._err.control[i : i + 1].view(np.uint8).tobytes()[: int(head["controllen"])],
            self._err.data[i, : int(head["len"])].tobytes(),
            self._err.names[i, : int(head["namelen"])].tobytes(),
        )

    def _resynchronise(self) -> None:
        """Restart the kernel's id counter: whether a refused packet took an id depends on who refused it.

        A call that moved only a part was refused too, and sendmmsg does not say so.
        """
        while (stamps := self._take_stamps()) is not None:
            self._early.append(replace(stamps, full=True))  # there is more behind it
        without = (self._stamping & ~abi.OPT_ID) & ~abi.OPT_TSONLY
        self._socket.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, without)
        self._socket.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, self._stamping)
        self._counter.restart(time.time_ns())

    def pressure(self) -> Pressure:
        return pressure(self._socket)

    def admit(self, first_id: int, ids: int) -> None:
        if self._overhears:
            filters.attach(self._socket, filters.own_replies(self.family, first_id, ids))

    def dismiss(self, first_id: int, ids: int) -> None:
        if self._overhears:
            filters.attach(self._socket, filters.other_replies(self.family, first_id, ids))

    def close(self) -> None:
        self._socket.close()


def pressure(handle: socket.socket) -> Pressure:
    """The state of its receive buffer."""
    raw = handle.getsockopt(socket.SOL_SOCKET, abi.SO_MEMINFO, 64)
    info = memoryview(raw).cast("I")
    full = info[abi.MEMINFO_RECEIVED] + _MESSAGE > info[abi.MEMINFO_ROOM]
    return Pressure(info[abi.MEMINFO_DROPS], full)
