"""Probe numbers in, TCP connections that are begun and at once given up out; what became of each back, with
the kernel's own round-trip time. Needs no privilege.

A probe is one non-blocking connect(2). Nobody waits for it: the kernel measures from SYN to SYN/ACK itself,
and says so in TCP_INFO as long as the connection is there, so it is enough to look at the next tick. Then the
connection is reset, which leaves no TIME_WAIT behind, and its socket used again.

A flow's connections leave from its lane's source port, so it keeps its 5-tuple, and with it its path. Only
while its last probe is still unanswered and in time, the next ones leave from ports of the kernel's choice.

A socket whose connection nobody answered is closed: its next SYN would have a sequence number right behind
the last one's. Where it was the SYN/ACK that was lost, the far end would take that for a defect of the
connection that it believes to be there, and reset it: a port that is open would seem closed. A new socket's
sequence number lies far off (RFC 6528), and the far end asks (RFC 5961 section 4).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from probe.sockets import abi
from probe.sockets.handles import MOST, SPARE, Handle, Handles
from probe.sockets.opening import SocketOptions
from probe.sockets.packet_socket import BLOCK, ROWS, Pressure, Replies, Stamps
from probe.sockets.quoted import QuotedError, quoted_error
from probe.sockets.refusals import Refusals
from probe.sockets.tcp_info import BEGINNING, CLOSE, INFO, answer_times

# What `receive` gives: a probe's number, whether it was refused, and whether the time is our clock's.
ANSWER = np.dtype([("number", "u8"), ("closed", "u1"), ("unsure", "u1"), ("pad", "V6")])

_MEMINFO_SENDING = 2  # of SO_MEMINFO's u32s: bytes that are under way within this host
_CONTROL = struct.Struct("=Qii")  # struct cmsghdr
_SOON = 250_000_000  # ns; as often the queues are drained anyway


class ConnectSocket:
    """TCP connections of one family with the same options; a `ProbeSocket` whose rows are probe numbers.

    Args:
        options: as of any probe socket; sizes and buffers have no meaning here.
        lanes: of each destination that `set_destinations` is going to name: which flow of its target it is.
        timeout: ns; a connection that is not answered by then may be given up.
    Raises: SocketError.
    """

    def __init__(self, options: SocketOptions, lanes: Sequence[int], timeout: int) -> None:
        self.family = int(options.family)
        self.raw = self.header = self.checksums = False
        self.row_offset = 0
        self.pseudo_sums: NDArray[np.int64] | None = None
        self.rows = np.zeros((ROWS, 8), np.uint8)
        self._timeout = timeout
        self._lanes = list(lanes)
        self._name_length = 16 if self.family == socket.AF_INET else abi.SOCKADDR
        self._names = np.zeros((0, abi.SOCKADDR), np.uint8)
        self._numbers = self.rows.view(">u8")[:, 0]
        self._to = np.zeros(ROWS, np.int64)
        self._waiting: dict[int, Handle] = {}  # connections under way by descriptor, the oldest first
        self._latest: list[Handle | None] = [None] * len(lanes)  # ... of them by destination, on its lane
        self._wary = [True] * len(lanes)  # destinations that may refuse
        self._left: list[tuple[int, int]] = []  # probes that left since `stamps`: number, wall ns
        self._errors: list[QuotedError] = []
        self._open: list[tuple[int, int, int, bytes]] = []  # number, sent, when we looked (wall ns), TCP_INFO
        self._closed: list[tuple[int, int]] = []  # number, when (wall ns)
        self._handles = Handles(options, lanes, self._opened, self._closing)
        self._epoll = select.epoll()
        self._refusals = Refusals()
        self.patience = MOST
        self.hurried = True
        self.crowded = "as many {} connections are under way as may be open (LimitNOFILE)"
        self.burst, self.batch = 256, max(1, min(BLOCK, self._handles.limit // 2))

    def port(self, lane: int) -> int:
        """The source port of a lane's connections."""
        return self._handles.port(lane)

    def _opened(self, handle: Handle) -> None:
        # Each change is told once; also that it was reset, which nobody asks for.
        self._epoll.register(handle.fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def _closing(self, handle: Handle) -> None:
        self._refusals.forget(handle.fd)

    # -- out -----------------------------------------------------------------------------------------------

    def set_destinations(self, addresses: list[bytes]) -> None:
        """See `ProbeSocket`; as many as there are lanes, with their ports."""
        self._names = np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, abi.SOCKADDR).copy()
        self._names_at = self._names.ctypes.data

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,  # noqa: ARG002 - SYNs have one size
        ids: NDArray[np.uint32],  # noqa: ARG002 - the low half of the number
    ) -> None:
        """See `ProbeSocket`."""
        self._to[where] = destinations
        self._refusals.start()

    def send(self, start: int, stop: int) -> tuple[int, int]:
        """See `ProbeSocket`. EAGAIN: too many connections are under way."""
        now = time.monotonic_ns()
        numbers = self._numbers[start:stop].tolist()
        for done, (to, number) in enumerate(zip(self._to[start:stop].tolist(), numbers, strict=True)):
            lane = self._lanes[to]
            latest = self._latest[to]
            if latest is not None and not self._ended(latest):
                if now - latest.left > self._timeout:
                    self._time_out(latest)
                    self._drop(latest)
                else:
                    lane = SPARE
            refused = self._begin(to, number, lane, now)
            if refused == errno.EADDRNOTAVAIL and lane != SPARE:
                # The same connection is there already: two targets have this address and port.
                refused = self._begin(to, number, SPARE, now)
            if refused:
                return done, refused
        return stop - start, 0

    def _begin(self, to: int, number: int, lane: int, now: int) -> int:
        """Let one probe leave. Returns the errno that refused it, or 0."""
        handle = self._handles.take(lane)
        if handle == errno.EAGAIN:
            self._harvest()
            handle = self._handles.take(lane)
        if isinstance(handle, int):
            return handle
        sent = time.time_ns()
        refused = handle.connect(self._names_at + to * abi.SOCKADDR, self._name_length)
        if refused:
            self._handles.release(handle)
            return refused
        if self._wary[to]:
            self._refusals.watch(handle.fd)
        handle.to, handle.number, handle.sent, handle.left = to, number, sent, now
        self._waiting[handle.fd] = handle
        if lane != SPARE:
            self._latest[to] = handle
        self._left.append((number, sent))
        return 0

    # -- back ----------------------------------------------------------------------------------------------

    def _harvest(self) -> None:
        """Write down all connections that have ended, one way or the other, and give up the old ones."""
        events = self._epoll.poll(0, BLOCK)
        while events:
            for fd, _ in events:
                if (ended := self._waiting.get(fd)) is not None:
                    self._ended(ended)
            events = self._epoll.poll(0, BLOCK) if len(events) == BLOCK else []
        # A late answer says more than none, so they have a second time-out to come.
        now = time.monotonic_ns()
        for handle in list(takewhile(lambda one: now - one.left > self._timeout, self._waiting.values())):
            self._time_out(handle)
            if now - handle.left > 2 * self._timeout:
                self._drop(handle)

    def _time_out(self, handle: Handle) -> None:
        """Nobody answered in time. That may be this host's own doing."""
        if not handle.overdue:
            handle.overdue = True
            if self._stuck(handle):
                self._never_left(handle)

    def _ended(self, handle: Handle) -> bool:
        """Whether it was answered; then that is written down, and the connection reset."""
        info = handle.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO.itemsize)
        if (state := info[0]) in BEGINNING:
            # The kernel gives it up for an ICMP error, unless that came so soon that connect(2) was not over.
            if self._take_errors(handle):
                self._drop(handle)
                return True
            return False
        if state != CLOSE or (why := self._ending(handle)) == errno.ECONNRESET:
            self._wary[handle.to] = False
            self._open.append((handle.number, handle.sent, time.time_ns(), info))
            self._release(handle)
        elif why == errno.ECONNREFUSED:
            self._wary[handle.to] = True
            noted = self._refusals.when(handle.fd)
            self._closed.append((handle.number, noted if noted > handle.sent else time.time_ns()))
            self._release(handle)
        else:
            self._drop(handle)
        return True

    def _ending(self, handle: Handle) -> int:
        """Why a connection ended: ECONNREFUSED, ECONNRESET (it was there), or 0: nobody answered.

        ICMP errors are written down.
        """
        if self._take_errors(handle):  # which clears what SO_ERROR says
            return 0
        why = handle.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if why == errno.EPIPE:  # reset after the far end had closed it
            return errno.ECONNRESET
        if why == errno.ECONNABORTED or (why == errno.ETIMEDOUT and self._stuck(handle)):
            self._never_left(handle)  # aborted by somebody on this host, as with `ss --kill`
        return why if why in (errno.ECONNREFUSED, errno.ECONNRESET) else 0

    def _stuck(self, handle: Handle) -> bool:
        """Whether its SYN is still in a queue of this host: of an interface, or for a neighbour."""
        info = handle.socket.getsockopt(socket.SOL_SOCKET, abi.SO_MEMINFO, 64)
        return memoryview(info).cast("I")[_MEMINFO_SENDING] != 0

    def _never_left(self, handle: Handle) -> None:
        self._errors.append(QuotedError(0, 0, True, handle.number.to_bytes(8, "big")))

    def _take_errors(self, handle: Handle) -> bool:
        """Empty its error queue. Returns whether an ICMP error was there."""
        found = False
        number, name = handle.number.to_bytes(8, "big"), self._names[handle.to].tobytes()
        while True:
            try:
                _, messages, _, _ = handle.socket.recvmsg(0, 256, abi.MSG_ERRQUEUE)
            except OSError:
                return found
            for level, kind, data in messages:
                control = _CONTROL.pack(_CONTROL.size + len(data), level, kind) + data
                if (error := quoted_error(control, number, name)) is not None:
                    self._errors.append(error)
                    found = True

    def _release(self, handle: Handle) -> None:
        """Somebody answered it."""
        self._forget(handle)
        self._handles.release(handle)

    def _drop(self, handle: Handle) -> None:
        """Nobody answered it."""
        self._wary[handle.to] = False
        self._forget(handle)
        self._handles.drop(handle)

    def _forget(self, handle: Handle) -> None:
        del self._waiting[handle.fd]
        if self._latest[handle.to] is handle:
            self._latest[handle.to] = None
        handle.to, handle.overdue = -1, False

    def gather(self) -> None:
        """See `ProbeSocket`: a connection that was accepted is reset, and leaves the far end alone."""
        self._harvest()

    def waits(self) -> bool:
        """See `ProbeSocket`. What takes longer is seen to when the queues are drained."""
        newest = next(reversed(self._waiting.values()), None)
        return newest is not None and time.monotonic_ns() - newest.left < _SOON

    def receive(self) -> Replies | None:
        """See `ProbeSocket`; a row is an ANSWER, and all that there are come at once."""
        self._harvest()
        answers, stamps = self._accepted()
        if self._closed:
            refused = np.zeros(len(self._closed), ANSWER)
            refused["number"] = [number for number, _ in self._closed]
            refused["closed"] = refused["unsure"] = 1
            answers = np.concatenate((answers, refused))
            stamps = np.concatenate((stamps, np.array([when for _, when in self._closed], np.int64)))
            self._closed.clear()
        if not len(answers):
            return None
        order = np.argsort(stamps, kind="stable")
        data = answers[order].view(np.uint8).reshape(len(order), ANSWER.itemsize)
        lengths = np.full(len(order), ANSWER.itemsize)
        return Replies(data, lengths, stamps[order], np.zeros((len(order), abi.SOCKADDR), np.uint8))

    def _accepted(self) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """Of the connections that came to be: answers, and when the SYN/ACK came, wall ns."""
        if not self._open:
            return np.zeros(0, ANSWER), np.zeros(0, np.int64)
        numbers, sent, looked, infos = zip(*self._open, strict=True)
        self._open.clear()
        answers = np.zeros(len(numbers), ANSWER)
        answers["number"] = numbers
        came, unsure, ours = answer_times(infos, np.array(sent, np.int64), np.array(looked, np.int64))
        answers["unsure"] = unsure
        return answers[ours], came[ours]

    def stamps(self) -> Stamps | None:
        """See `ProbeSocket`: our clock just before connect(2), so that the kernel's RTT is the difference."""
        if not self._left and not self._errors:
            return None
        left = np.array(self._left, np.int64).reshape(-1, 2)
        errors = tuple(self._errors)
        self._left.clear()
        self._errors.clear()
        return Stamps((left[:, 0] & 0xFFFFFFFF).astype(np.uint32), left[:, 1], errors, False)

    def pressure(self) -> Pressure:
        """There is no buffer that others could fill."""
        return Pressure(0, False)

    def admit(self, first_id: int, ids: int) -> None:
        """Nobody else's replies come here."""

    def dismiss(self, first_id: int, ids: int) -> None:
        """Nobody else's replies come here."""

    def close(self) -> None:
        """Reset what is under way, and give every socket and port back."""
        if not self._epoll.closed:
            self._refusals.close()
            self._handles.close()
            self._waiting.clear()
            self._epoll.close()
