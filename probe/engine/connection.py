"""Probe numbers in, rows of a `ConnectSocket` out; its answers in, the ledger filled: kind `connect`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.engine.dialect import Desk
from probe.engine.ledger import Indices
from probe.engine.samples import CLOSED
from probe.engine.stamps import WallToMono
from probe.sockets.connecting import ANSWER
from probe.sockets.packet_socket import QuotedError, Replies


class Connection:
    """TCP connections: the kernel knows whose each answer is, so a row is the probe's number and no more."""

    def __init__(self, desk: Desk) -> None:
        self._ledger, self._counters = desk.ledger, desk.counters
        self._numbers = desk.socket.rows.view(">u8")[:, 0]

    def write(self, where: slice, numbers: Indices, flows: Indices, dues: Indices) -> None:  # noqa: ARG002
        """See `Dialect`."""
        self._numbers[where] = numbers

    def read(self, replies: Replies, now: int, to_mono: WallToMono) -> None:
        """See `Dialect`."""
        ledger, came = self._ledger, to_mono(replies.stamp)
        answers = replies.data.view(ANSWER)[:, 0]
        numbers = answers["number"].astype(np.int64)
        unsure = answers["unsure"] != 0
        known = ledger.answered(numbers, np.where(unsure, 0, came), now)
        if not known.all():
            self._counters.foreign += int((~known).sum())
        if unsure.any():
            # Our clock stood there when it came, not only when it was read.
            of = known & unsure & (came != 0)
            ledger.rx[ledger.row(numbers[of])] = came[of]
            ledger.state[ledger.row(numbers[known & (answers["closed"] != 0)])] |= CLOSED

    def failed(self, error: QuotedError) -> None:
        """See `Dialect`."""
        self._ledger.failed(int.from_bytes(error.quoted, "big"), error.local)

    def know(self, siblings: NDArray[np.uint64]) -> None:
        """See `Dialect`: no socket sees another's answers."""

    def narrow(self) -> None:
        """See `Dialect`: nobody else can fill a buffer."""
