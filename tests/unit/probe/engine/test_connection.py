"""Answers of connections in, the ledger's rows out."""

from __future__ import annotations

import numpy as np

from probe.clock import SECOND, ManualClock
from probe.engine.connection import Connection
from probe.engine.dialect import ChannelCounters, Desk, Flow
from probe.engine.ledger import Ledger
from probe.engine.samples import CLOSED, ERROR, LOCAL, SENT
from probe.engine.stamps import WallToMono
from probe.sockets.connecting import ANSWER
from probe.sockets.memory import MemorySocket, lossless
from probe.sockets.packet_socket import Replies
from probe.sockets.quoted import QuotedError


class Desked:
    """A dialect with ten probes of one flow, all of which have left."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.ledger = Ledger(2048, 1)
        self.counters = ChannelCounters()
        socket = MemorySocket(self.clock, lossless(0), rows=np.zeros((64, 8), np.uint8))
        self.rows = socket.rows
        flows = [Flow(0, bytes(28), 60)]
        self.dialect = Connection(Desk(socket, flows, self.ledger, self.counters, bytes(8), 0))
        dues = self.clock.mono_ns + np.arange(10)
        numbers = self.ledger.plan(np.zeros(10, np.int64), dues)
        self.dialect.write(slice(0, 10), numbers, np.zeros(10, np.int64), dues)
        self.ledger.leave(10, self.clock.mono_ns)
        self.ledger.settle()
        self.to_mono = WallToMono(self.clock)

    def read(self, *answers: tuple[int, int, int, int]) -> None:
        """(number, closed, unsure, ns ago), a second later."""
        self.clock.advance(SECOND)
        rows = np.zeros(len(answers), ANSWER)
        for row, (number, closed, unsure, _) in zip(rows, answers, strict=True):
            row["number"], row["closed"], row["unsure"] = number, closed, unsure
        stamps = np.array([self.clock.wall_ns - ago for *_, ago in answers], np.int64)
        data = rows.view(np.uint8).reshape(len(rows), ANSWER.itemsize)
        replies = Replies(data, np.full(len(rows), 16), stamps, np.zeros((len(rows), 28), np.uint8))
        self.to_mono.refresh()
        self.dialect.read(replies, self.clock.mono_ns, self.to_mono)


def test_a_row_is_the_number_of_its_probe() -> None:
    rows = Desked().rows[:10]
    assert [int.from_bytes(row.tobytes(), "big") for row in rows] == list(range(10))


def test_answers_have_the_kernels_time_and_refusals_ours_and_all_their_own() -> None:
    it = Desked()
    it.read((3, 0, 0, 900), (4, 1, 1, 700), (5, 0, 1, 500), (6, 0, 0, 300))
    now, ledger = it.clock.mono_ns, it.ledger
    assert ledger.rx[:10].tolist() == [0, 0, 0, now - 900, now - 700, now - 500, now - 300, 0, 0, 0]
    assert np.flatnonzero(ledger.unstamped[:10]).tolist() == [4, 5]
    assert np.flatnonzero(ledger.state[:10] & CLOSED).tolist() == [4]
    assert it.counters.foreign == 0


def test_an_answer_to_no_probe_of_ours_is_foreign() -> None:
    it = Desked()
    it.read((10, 1, 1, 5), (1 << 40, 0, 0, 5), (9, 1, 1, 5))
    assert it.counters.foreign == 2
    assert np.flatnonzero(it.ledger.state[:20] & CLOSED).tolist() == [9]
    assert np.flatnonzero(it.ledger.rx).tolist() == [9]


def test_errors_are_of_the_probe_that_they_quote() -> None:
    it = Desked()
    it.dialect.failed(QuotedError(3, 13, False, (2).to_bytes(8, "big")))
    it.dialect.failed(QuotedError(0, 0, True, (7).to_bytes(8, "big")))
    states = it.ledger.state[:10].tolist()
    assert (states[2], states[7]) == (SENT | ERROR, SENT | ERROR | LOCAL)
    assert states.count(SENT) == 8
