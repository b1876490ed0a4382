"""A netlink socket in, what the kernel announces and its tables row by row out.

Announcements and rows come by one socket, in the order of what happened. One table is read at a time, in
pieces as they are taken. Of a flood so many are taken in a second and no more, and what the kernel's buffer
cannot hold meanwhile is lost. After a loss everything is read again, once it is quieter, and compared.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence

from probe.clock import MILLISECOND, SECOND
from probe.host import rtnetlink
from probe.host.picture import PARTS, ROUTES_4, Part, Picture
from probe.host.rtnetlink import DONE, ERROR, GROUPS, INTERRUPTED, Message
from probe.host.table import Change

_BUFFER = 1 << 20  # bytes asked for; without privileges net.core.rmem_max is the most
_DATAGRAM = 65536
_AT_ONCE, _BYTES = 64, 32_768  # datagrams that are taken before others have a turn, and bytes of them
BUDGET = 500  # announcements a second that are taken (some 25 us each); of more only the outcome is
_REPETITIONS = 3  # of a reading during which the table changed: then it is believed as it is
PATIENCE = 10 * SECOND  # for a table's next rows
PAUSE = 2 * SECOND  # between two readings of everything; longer where one takes longer
SETTLED = 100 * MILLISECOND  # what belongs together has happened by then
# Changes (of links and addresses) with which IPv4 routes go that the kernel does not announce.
_FLUSHING = ("admin", "removed", "duplicate")
_SLOWER = 20  # times as long as the last one took


class Listener:
    """Keeps a picture to what the kernel tells.

    watch: whether announcements are wanted. now: monotonic time, ns, here and in the methods.
    Raises: OSError where netlink is refused.
    """

    def __init__(self, picture: Picture, watch: bool, now: int) -> None:
        self.picture = picture
        self.overflows = 0  # times that announcements were lost
        self._waiting: list[Part] = []
        self._reading: Part | None = None
        self._sequence = 0
        self._interrupted = False
        self._repeated = 0
        self._since = now  # when anything last came of the reading
        self._lost = False
        self._drained = True  # since then nothing was lost
        self._again = now  # not before then everything is read
        self._flushed = 0  # when IPv4 routes may have gone without a word; 0: they have not
        self._began = 0
        self._second, self._left = now, BUDGET
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        with contextlib.ExitStack() as opened:
            opened.callback(self._socket.close)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, GROUPS if watch else 0))
            opened.pop_all()
        self._port = self._socket.getsockname()[0]

    @property
    def rest(self) -> int:
        """Until then nothing will be taken; 0: there is no such time."""
        return self._second + SECOND if self._left <= 0 else 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def busy(self) -> bool:
        """Whether a reading is under way or waits."""
        return bool(self._waiting) or self._reading is not None

    def ask(self, parts: Sequence[Part], now: int) -> None:
        """Have tables read, after those that wait already. Raises: OSError."""
        self._waiting += [part for part in parts if part not in self._waiting]
        self._next(now)

    @property
    def next(self) -> int:
        """When to call `due`; 0: no need."""
        times = [self._since + PATIENCE] * (self._reading is not None)
        if not self.busy:
            times += [self._again] * self._lost + [self._flushed] * bool(self._flushed)
        return min(times, default=0)

    def due(self, now: int) -> None:
        """What time brings: reading everything after a loss, or what is not announced, and giving up on rows
        that do not come. Raises: OSError."""
        if self._reading is not None and now - self._since > PATIENCE:
            self.picture.abandon(self._reading)
            self._reading = None
            self._lost = True
        if self._lost and now >= self._again and not self.busy:
            if not self._drained:
                self._again = now + SETTLED
                return
            self._lost = False
            self._began, self._flushed = now, 0
            self.ask(PARTS, now)
        elif self._flushed and now >= self._flushed and not self.busy:
            self._flushed = 0
            self.ask((ROUTES_4,), now)

    def take(self, now: int) -> Iterator[Change]:
        """What has come, as far as it is one turn's work. Raises: OSError."""
        if now - self._second >= SECOND:
            self._second, self._left = now, BUDGET
        self.picture.heed()
        taken = 0
        for _ in range(_AT_ONCE):
            if taken > _BYTES or self._left <= 0:
                return
            try:
                data, (sender, _) = self._socket.recvfrom(_DATAGRAM)
            except BlockingIOError:
                self._drained = True
                return
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise
                self.overflows += 1
                self._drained = False  # until then the kernel drops more of them, and does not say so
                self._miss(now)
                continue
            taken += len(data)
            if sender:  # not the kernel
                continue
            for message in rtnetlink.messages(data):
                yield from self._heard(message, now)

    def _heard(self, message: Message, now: int) -> Iterator[Change]:
        if message.port == self._port and message.sequence:
            if message.sequence == self._sequence and self._reading is not None:
                yield from self._answer(message, self._reading, now)
        else:
            self._left -= 1
            for change in self.picture.announced(message):
                if change.what in _FLUSHING and not self._flushed:
                    self._flushed = now + SETTLED
                yield change

    def _answer(self, message: Message, part: Part, now: int) -> Iterator[Change]:
        self._since = now
        self._interrupted |= bool(message.flags & INTERRUPTED)
        if message.kind not in (DONE, ERROR):
            self.picture.row(message)
            return
        self._reading = None
        failed = message.kind == ERROR  # as where a kernel has no such table: it stays as it is
        if self._interrupted and not failed and self._repeated < _REPETITIONS:
            self._repeated += 1
            self.picture.abandon(part)
            self._waiting.insert(0, part)
        else:
            self._repeated = 0
            if failed:
                self.picture.abandon(part)
            else:
                yield from self.picture.end(part)
        self._next(now)
        if not self.busy and self._began:
            self._again, self._began = now + max(PAUSE, _SLOWER * (now - self._began)), 0

    def _next(self, now: int) -> None:
        if self._reading is not None or not self._waiting:
            return
        part = self._reading = self._waiting.pop(0)
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        self._interrupted, self._since = False, now
        self.picture.begin(part)
        self._socket.send(rtnetlink.dump(part[0], self._sequence, part[1]))

    def _miss(self, now: int) -> None:
        """Something was lost; once it is quieter everything is read."""
        if not self._lost:
            self._lost = True
            self._again = max(self._again, now + SETTLED)
