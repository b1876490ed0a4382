"""Probe numbers in, TCP connections that are begun and at once given up out; what became of each back, with
the kernel's own round-trip time. Needs no privilege.

A probe is one non-blocking connect(2). Nobody waits for it: the kernel measures from SYN to SYN/ACK itself,
and says so in TCP_INFO as long as the connection is there, so answers are read as lazily as any. Then the
connection is reset.

A socket is not closed after that but disconnected (connect(2) to AF_UNSPEC, which sends the RST) and used
again: that costs a third less, and it keeps its options and its port. All connections of a lane leave from
one source port, which is reserved as long as this is open, so a flow keeps its 5-tuple, and with it its path.
A reset leaves no TIME_WAIT behind that would be in the way of the next one. Only while a flow's last probe is
still unanswered and in time, the next ones leave from ports of the kernel's choice.

A socket whose connection nobody answered is closed, though: its next SYN would have a sequence number right
behind the last one's. Where it was the SYN/ACK that was lost, the far end would take that for a defect of the
connection that it believes to be there, and reset it: a port that is open would seem closed. A new socket's
sequence number lies far off (RFC 6528), and the far end asks (RFC 5961 section 4).
"""

from __future__ import annotations

import ctypes
import errno
import resource
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from probe.errors import SocketError
from probe.sockets import abi
from probe.sockets.opening import SocketOptions, set_path
from probe.sockets.packet_socket import BLOCK, ROWS, Pressure, Replies, Stamps
from probe.sockets.quoted import QuotedError, quoted_error
from probe.sockets.refusals import Refusals

MOST = 8192  # connections under way at a time
RESERVED = 96  # file descriptors that are left to the rest of the process
SPARE = -1  # the lane of sockets whose port the kernel chooses, anew for each connection

# What `receive` gives: a probe's number, whether it was refused, and whether the time is our clock's.
ANSWER = np.dtype([("number", "u8"), ("closed", "u1"), ("unsure", "u1"), ("pad", "V6")])

# struct tcp_info (linux/tcp.h), as far as it is read; times before byte 64 in ms, behind it in us:
#
#   0 state(1) ca_state(1) retransmits(1) probes(1) backoff(1) options(1) wscale(1) flags(1)
#   8 rto ato snd_mss rcv_mss unacked sacked lost retrans fackets (4 each)
#  44 last_data_sent last_ack_sent last_data_recv | 56 last_ack_recv: so long ago | 60 pmtu rcv_ssthresh
#  68 rtt | 72 rttvar snd_ssthresh snd_cwnd advmss reordering rcv_rtt rcv_space | 100 total_retrans | 104
_INFO = np.dtype(
    {
        "names": ["state", "acknowledged", "rtt", "repeated"],
        "formats": ["u1", "u4", "u4", "u4"],
        "offsets": [0, 56, 68, 100],
        "itemsize": 104,
    }
)
_BEGINNING, _CLOSE = (2, 3), 7  # states: SYN_SENT and SYN_RECV; CLOSE
# The kernel repeats a SYN after 1 s (RFC 6298 section 2.1): what answers a SYN that left later than half of
# that after the probe, by the kernel's account of the RTT, answers the repetition.
_REPETITION = 500_000_000
_MEMINFO_SENDING = 2  # of SO_MEMINFO's u32s: bytes that are under way within this host
_IP_BIND_ADDRESS_NO_PORT = 24
_IPV6_AUTOFLOWLABEL = 70
_CONTROL = struct.Struct("=Qii")  # struct cmsghdr
_RESET = struct.pack("=ii", 1, 0)  # struct linger: close() sends RST

_libc = ctypes.CDLL(None, use_errno=True)
_connect = _libc.connect
_connect.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
_UNSPEC = bytes(abi.SOCKADDR)  # a sockaddr of family AF_UNSPEC


@dataclass(slots=True, eq=False)
class _Line:
    """One socket, for one connection after the other. `to`: the destination, -1: none."""

    handle: socket.socket
    fd: int
    lane: int
    to: int = -1
    number: int = 0
    sent: int = 0  # wall ns
    left: int = 0  # monotonic ns
    overdue: bool = False  # its time-out is over


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
        self.patience = MOST
        self.blocked = 0  # probes that could not leave because as many connections as may be were under way
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED
        self.burst, self.batch = 256, max(1, min(BLOCK, self._limit // 2))
        self._options, self._timeout = options, timeout
        self._lanes = list(lanes)
        self._name_length = 16 if self.family == socket.AF_INET else abi.SOCKADDR
        self._names = np.zeros((0, abi.SOCKADDR), np.uint8)
        self._unspec = ctypes.create_string_buffer(_UNSPEC, abi.SOCKADDR)
        self._unspec_at = ctypes.addressof(self._unspec)
        self._numbers = self.rows.view(">u8")[:, 0]
        self._to = np.zeros(ROWS, np.int64)
        self._lines: dict[int, _Line] = {}  # by descriptor
        self._waiting: dict[int, _Line] = {}  # the same, of those under way, the oldest first
        self._latest: list[_Line | None] = [None] * len(
            lanes
        )  # under way from its lane's port, by destination
        self._wary = [True] * len(lanes)  # destinations that may refuse
        self._left: list[tuple[int, int]] = []  # probes that left since `stamps`: number, wall ns
        self._errors: list[QuotedError] = []
        self._open: list[tuple[int, int, int, bytes]] = []  # number, sent, when we looked (wall ns), TCP_INFO
        self._closed: list[tuple[int, int]] = []  # number, when (wall ns)
        self._free: dict[int, list[_Line]] = {SPARE: []}  # by lane
        self._ports: dict[int, int] = {SPARE: 0}  # by lane
        self._holders: list[socket.socket] = []  # of the ports
        self._epoll = select.epoll()
        self._refusals = Refusals()
        try:
            for lane in sorted(set(lanes)):
                self._reserve(lane)
        except BaseException:
            self.close()
            raise

    def port(self, lane: int) -> int:
        """The source port of a lane's connections."""
        return self._ports[lane]

    # -- sockets -------------------------------------------------------------------------------------------

    def _reserve(self, lane: int) -> None:
        """Take a port for the lane. Nobody gets it by chance: who asks for any port gets another one."""
        holder = self._socket(0)
        self._holders.append(holder)
        if not self._options.source:
            holder.bind(("", 0))
        self._ports[lane] = holder.getsockname()[1]
        self._free[lane] = []

    def _socket(self, port: int, *, late: bool = False) -> socket.socket:
        """`port`: 0: any; `late`: it is chosen by the connection, not here. Raises: SocketError, OSError."""
        handle = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if self.family == socket.AF_INET:
                handle.setsockopt(socket.IPPROTO_IP, abi.IP_RECVERR, 1)
            else:
                handle.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_RECVERR, 1)
                handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # The kernel would give each connection another flow label, and with it another path.
                handle.setsockopt(socket.IPPROTO_IPV6, _IPV6_AUTOFLOWLABEL, 0)
            if late:
                handle.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            set_path(handle, self._options, port)
        except BaseException:
            handle.close()
            raise
        return handle

    def _line(self, lane: int) -> _Line | None:
        """A socket of the lane that is free; None where there are too many."""
        free = self._free[lane]
        if free:
            return free.pop()
        if len(self._lines) >= MOST and not self._close_a_free_one():
            return None
        for _ in range(2):
            try:
                handle = self._socket(self._ports[lane], late=lane == SPARE)
            except OSError as problem:
                if problem.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise SocketError(f"cannot open a connection: {problem.strerror}") from None
            else:
                if (fd := handle.fileno()) < self._limit:  # the kernel gives out the lowest
                    line = self._lines[fd] = _Line(handle, fd, lane)
                    # Each change is told once; also that it was reset, which nobody asks for.
                    self._epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
                    return line
                handle.close()
            if not self._close_a_free_one():
                return None
        return None

    def _close_a_free_one(self) -> bool:
        """Make room for another lane's socket."""
        free = max(self._free.values(), key=len)
        if not free:
            return False
        self._close(free.pop())
        return True

    def _close(self, line: _Line) -> None:
        del self._lines[line.fd]
        self._refusals.forget(line.fd)
        line.handle.close()

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

    def send(self, start: int, stop: int) -> tuple[int, int]:
        """See `ProbeSocket`. EAGAIN: too many connections are under way."""
        now = time.monotonic_ns()
        numbers = self._numbers[start:stop].tolist()
        for done, (to, number) in enumerate(zip(self._to[start:stop].tolist(), numbers, strict=True)):
            lane = self._lanes[to]
            latest = self._latest[to]
            if latest is not None and not self._ended(latest):
                if now - latest.left > self._timeout:
                    self._overdue(latest)
                    self._drop(latest)
                else:
                    lane = SPARE
            refused = self._begin(to, number, lane, now)
            if refused == errno.EADDRNOTAVAIL and lane != SPARE:
                # The same connection is there already: two targets have this address and port.
                refused = self._begin(to, number, SPARE, now)
            if refused:
                self.blocked += refused == errno.EAGAIN
                return done, refused
        return stop - start, 0

    def _begin(self, to: int, number: int, lane: int, now: int) -> int:
        """Let one probe leave. Returns the errno that refused it, or 0."""
        line = self._line(lane)
        if line is None:
            self._harvest()
            if (line := self._line(lane)) is None:
                return errno.EAGAIN
        fd = line.fd
        sent = time.time_ns()
        if _connect(fd, self._names_at + to * abi.SOCKADDR, self._name_length) != 0:
            refused = ctypes.get_errno()
            if refused != errno.EINPROGRESS:
                self._release(line)
                return refused
        if self._wary[to]:
            self._refusals.watch(fd)
        line.to, line.number, line.sent, line.left = to, number, sent, now
        self._waiting[fd] = line
        if lane != SPARE:
            self._latest[to] = line
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
        overdue = list(takewhile(lambda line: now - line.left > self._timeout, self._waiting.values()))
        for line in overdue:
            self._overdue(line)
            if now - line.left > 2 * self._timeout:
                self._drop(line)

    def _overdue(self, line: _Line) -> None:
        """Its time-out is over. That may be this host's own doing."""
        if not line.overdue:
            line.overdue = True
            if self._stuck(line):
                self._never_left(line)

    def _ended(self, line: _Line) -> bool:
        """Whether it was answered; then that is written down, and the connection reset."""
        info = line.handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.itemsize)
        if (state := info[0]) in _BEGINNING:
            # The kernel gives it up for an ICMP error, unless that came so soon that connect(2) was not over.
            if self._take_errors(line):
                self._drop(line)
                return True
            return False
        if state != _CLOSE or (why := self._ending(line)) == errno.ECONNRESET:
            self._wary[line.to] = False
            self._open.append((line.number, line.sent, time.time_ns(), info))
            self._release(line)
        elif why == errno.ECONNREFUSED:
            self._wary[line.to] = True
            noted = self._refusals.when(line.fd)
            self._closed.append((line.number, noted if noted > line.sent else time.time_ns()))
            self._release(line)
        else:
            self._drop(line)
        return True

    def _ending(self, line: _Line) -> int:
        """Why a connection ended: ECONNREFUSED, ECONNRESET (it was there), or 0: nobody answered.

        ICMP errors are written down.
        """
        if self._take_errors(line):  # which clears what SO_ERROR says
            return 0
        why = line.handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if why == errno.EPIPE:  # reset after the far end had closed it
            return errno.ECONNRESET
        if why == errno.ECONNABORTED or (why == errno.ETIMEDOUT and self._stuck(line)):
            self._never_left(line)  # aborted by somebody on this host, as with `ss --kill`
        return why if why in (errno.ECONNREFUSED, errno.ECONNRESET) else 0

    def _stuck(self, line: _Line) -> bool:
        """Whether its SYN is still in a queue of this host: with a network interface, or for a neighbour."""
        info = line.handle.getsockopt(socket.SOL_SOCKET, abi.SO_MEMINFO, 64)
        return memoryview(info).cast("I")[_MEMINFO_SENDING] != 0

    def _never_left(self, line: _Line) -> None:
        self._errors.append(QuotedError(0, 0, True, line.number.to_bytes(8, "big")))

    def _take_errors(self, line: _Line) -> bool:
        """Empty its error queue. Returns whether an ICMP error was there."""
        found = False
        number, name = line.number.to_bytes(8, "big"), self._names[line.to].tobytes()
        while True:
            try:
                _, messages, _, _ = line.handle.recvmsg(0, 256, abi.MSG_ERRQUEUE)
            except OSError:
                return found
            for level, kind, data in messages:
                control = _CONTROL.pack(_CONTROL.size + len(data), level, kind) + data
                if (error := quoted_error(control, number, name)) is not None:
                    self._errors.append(error)
                    found = True

    def _release(self, line: _Line) -> None:
        """Reset its connection, where there is one, and keep the socket for the next."""
        self._end(line)
        if _connect(line.fd, self._unspec_at, abi.SOCKADDR) == 0:
            self._free[line.lane].append(line)
        else:
            self._close(line)

    def _drop(self, line: _Line) -> None:
        """Nobody answered it."""
        self._wary[line.to] = False
        self._end(line)
        self._close(line)

    def _end(self, line: _Line) -> None:
        if line.to >= 0:
            del self._waiting[line.fd]
            if self._latest[line.to] is line:
                self._latest[line.to] = None
            line.to = -1
            line.overdue = False

    def gather(self) -> None:
        """There is nothing to make room for."""

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
        numbers, sents, looked, infos = zip(*self._open, strict=True)
        self._open.clear()
        info = np.frombuffer(b"".join(infos), _INFO)
        sent, rtt = np.array(sents, np.int64), info["rtt"] * np.int64(1_000)
        answers, stamps = np.zeros(len(sent), ANSWER), sent + rtt
        answers["number"] = numbers
        repeated = info["repeated"] != 0
        if repeated.any():
            # The kernel knows no RTT to the microsecond then, only how long ago the answer came.
            came = np.array(looked, np.int64) - info["acknowledged"] * np.int64(1_000_000)
            stamps = np.where(repeated, came, stamps)
            answers["unsure"] = repeated
            ours = ~repeated | (came - sent - rtt < _REPETITION)
            answers, stamps = answers[ours], stamps[ours]
        return answers, stamps

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
        if self._epoll.closed:
            return
        self._refusals.close()
        for line in self._lines.values():
            line.handle.close()
        for holder in self._holders:
            holder.close()
        self._lines.clear()
        self._waiting.clear()
        self._free.clear()
        self._holders.clear()
        self._epoll.close()
