"""Reading ahead: the same bytes in the same order, few system calls, and an end to each turn."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from probe.telemetry.read_ahead import AHEAD, ReadAhead


class Counted:
    """A socket that counts its reads."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reads = 0

    def recv(self, most: int) -> bytes:
        self.reads += 1
        return self.sock.recv(most)

    def fileno(self) -> int:
        return self.sock.fileno()


@pytest.fixture
def pair() -> Iterator[tuple[ReadAhead, Counted, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        counted = Counted(near)
        yield ReadAhead(counted), counted, far


def test_single_bytes_cost_one_read(pair: tuple[ReadAhead, Counted, socket.socket]) -> None:
    ahead, counted, far = pair
    far.send(b"abcdefgh")
    assert [ahead.recv(1) for _ in range(3)] == [b"a", b"b", b"c"]
    assert ahead.pending() == 5
    assert ahead.recv(100) == b"defgh"
    assert (ahead.pending(), counted.reads) == (0, 1)
    assert ahead.fileno() == counted.fileno()


def test_the_rest_of_a_message_is_read_alone(pair: tuple[ReadAhead, Counted, socket.socket]) -> None:
    ahead, _, far = pair
    far.send(b"x")
    assert ahead.recv(1) == b"x"
    far.send(b"rest" + b"next message")
    assert ahead.recv(4) == b"rest"
    assert ahead.pending() == 0
    assert ahead.recv(1) == b"n"
    assert ahead.pending() == len("ext message")


def test_nothing_there_and_the_end(pair: tuple[ReadAhead, Counted, socket.socket]) -> None:
    ahead, _, far = pair
    for most in (1, 10):
        with pytest.raises(BlockingIOError):
            ahead.recv(most)
    far.send(b"ab")
    far.shutdown(socket.SHUT_WR)
    assert [ahead.recv(1), ahead.recv(5), ahead.recv(1), ahead.recv(5)] == [b"a", b"b", b"", b""]


def test_any_way_of_reading_gives_the_bytes_in_order(pair: tuple[ReadAhead, Counted, socket.socket]) -> None:
    ahead, counted, far = pair
    rng = random.Random(1)
    sent = rng.randbytes(3 * AHEAD)
    got = b""
    left = sent
    while len(got) < len(sent):
        if left and rng.random() < 0.2:
            size = rng.randint(1, 9000)
            far.send(left[:size])
            left = left[size:]
        try:
            got += ahead.recv(rng.choice([1, 1, 2, 500, 100_000]))
        except BlockingIOError:
            if not left:
                raise
    assert got == sent
    assert counted.reads < len(sent) // 10


def test_an_end_within_the_first_bytes_of_a_message_does_not_begin_another_turn() -> None:
    class Endless:
        """A flood of messages of 32 bytes, one byte out of step: every read ends after the first of one."""

        def __init__(self) -> None:
            self.reads = 0

        def recv(self, most: int) -> bytes:
            self.reads += 1
            return b"x" * (33 if self.reads == 1 else most)

    flood = Endless()
    ahead = ReadAhead(flood)
    for _ in range(10):
        for most in (1, 1, 30):
            while most:
                most -= len(ahead.recv(most))
        if not ahead.pending():
            break
    else:
        raise AssertionError("it goes on for ever")
    assert flood.reads < 10
