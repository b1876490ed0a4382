"""A file descriptor in, what waits in one of its kernel queues out: memory for a block of messages,
allocated once."""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import NDArray

from probe.errors import SocketError
from probe.sockets import abi

BLOCK = 1024  # messages that are looked at together: an interpreter that was away for long starts cold
PITCH = 128  # bytes kept of what is received: enough for an ICMP error, IP options, and our quoted header
_HEADER = abi.MMSGHDR.itemsize


class ReceiveBlock:
    """Memory for `rows` messages that the kernel fills: headers, data, control bytes, sources.

    `kept`: bytes of data of each message.
    """

    def __init__(self, control: np.dtype[np.void], names: bool, kept: int = PITCH, rows: int = BLOCK) -> None:
        self.headers = np.zeros(rows, abi.MMSGHDR)
        self.data = np.zeros((rows, kept), np.uint8)
        self.control = np.zeros(rows, control)
        self.names = np.zeros((rows, abi.SOCKADDR), np.uint8)
        self._iov = np.zeros(rows, abi.IOVEC)
        index = np.arange(rows, dtype=np.uint64)
        self._iov["base"] = self.data.ctypes.data + index * kept
        self._iov["len"] = kept
        self.headers["iov"] = self._iov.ctypes.data + index * abi.IOVEC.itemsize
        self.headers["iovlen"] = 1
        if names:
            self.headers["name"] = self.names.ctypes.data + index * abi.SOCKADDR
        self.headers["control"] = self.control.ctypes.data + index * control.itemsize
        self._control_space = control.itemsize
        self._name_space = abi.SOCKADDR if names else 0
        self.headers["controllen"] = self._control_space
        self.headers["namelen"] = self._name_space
        self._room = rows
        self._held = 0  # messages that wait here to be looked at
        self.odd = False  # the last messages changed lengths that the kernel reads as the space it may use
        self._used = 0  # rows that were written since the lengths were set
        self._at = self.headers.ctypes.data

    def fill(self, fd: int, flags: int) -> None:
        """Take messages off the kernel's queue without looking at them, as far as there is room.

        Raises: SocketError on a defect.
        """
        if self.odd and not self._held:
            # What is like all others leaves the lengths as they were; only after others they are set anew.
            self.headers["controllen"][: self._used] = self._control_space
            self.headers["namelen"][: self._used] = self._name_space
            self.odd, self._used = False, 0
        for _ in range(8):
            if self._held == self._room:
                return
            count = abi.recvmmsg(fd, self._at + self._held * _HEADER, self._room - self._held, flags)
            if count >= 0:
                self._held += count
                return
            if count == -errno.EAGAIN:
                return
            if -count in (errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK):
                raise SocketError(f"cannot receive: {abi.error_name(-count)}")
            # Anything else is the pending error of an earlier probe; it is taken off by being read.

    def take(self, fd: int, flags: int) -> int:
        """Hand over what is held, after a last `fill`. Returns the number of messages, in rows 0 to there."""
        self.fill(fd, flags)
        count, self._held = self._held, 0
        self._used = max(self._used, count)
        return count

    def arrival(self, count: int) -> NDArray[np.int64]:
        """When each of the first `count` messages arrived by the kernel's stamp, wall ns; 0: it has none."""
        control = self.control[:count]
        stamp: NDArray[np.int64] = control["sec"] * 1_000_000_000 + control["nsec"]
        plain = (self.headers["controllen"][:count] == abi.STAMP.itemsize) & (
            control["kind"] == abi.KIND_STAMP
        )
        if not plain.all():
            stamp[~plain] = 0
            self.odd = True
        return stamp
