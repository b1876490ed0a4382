"""Ports of this host's loopback in, what connections to them say out: real sockets, and no privilege."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND
from probe.errors import SocketError
from probe.sockets.abi import sockaddr
from probe.sockets.connecting import ANSWER, ConnectSocket
from probe.sockets.opening import SocketOptions

PATIENCE_S = 10.0
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = [socket.AF_INET, socket.AF_INET6]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def server(family: socket.AddressFamily, backlog: int = 64) -> socket.socket:
    """It is connected to, and accepts nobody."""
    return socket.create_server((LOOPBACK[family], 0), family=family, backlog=backlog)


def port_of(there: socket.socket) -> int:
    return int(there.getsockname()[1])


@dataclass
class Got:
    """By probe number: when it left and when the answer came (wall ns)."""

    left: dict[int, int] = field(default_factory=dict)
    came: dict[int, int] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)
    errors: list[int] = field(default_factory=list)


class Connects:
    """A `ConnectSocket` and all that came of it; destinations are ports of the loopback."""

    def __init__(
        self,
        family: socket.AddressFamily,
        ports: list[int],
        lanes: list[int] | None = None,
        timeout: int = 5 * SECOND,
    ) -> None:
        self.it = ConnectSocket(SocketOptions(family), lanes or [0] * len(ports), timeout)
        raw = sockaddr(family, LOOPBACK[family])
        self.it.set_destinations([raw[:2] + port.to_bytes(2, "big") + raw[4:] for port in ports])
        self.got = Got()
        self._next = 0

    def send(self, *to: int) -> tuple[int, int]:
        """One probe to each; numbers go on from the last one that left."""
        count = len(to)
        numbers = np.arange(self._next, self._next + count)
        self.it.rows[:count] = numbers.astype(">u8").view(np.uint8).reshape(count, 8)
        self.it.prepare(slice(0, count), np.array(to), 60, numbers.astype(np.uint32))
        left, refused = self.it.send(0, count)
        self._next += left
        return left, refused

    def read(self) -> None:
        if (replies := self.it.receive()) is not None:
            answers = replies.data.view(ANSWER)[:, 0]
            assert (np.diff(replies.stamp) >= 0).all()
            for answer, stamp in zip(answers, replies.stamp.tolist(), strict=True):
                number = int(answer["number"])
                assert number not in self.got.came
                self.got.came[number] = stamp
                self.got.closed |= {number} if answer["closed"] else set()
                self.got.unsure |= {number} if answer["unsure"] else set()
        if (stamps := self.it.stamps()) is not None:
            self.got.left.update(zip(stamps.ids.tolist(), stamps.stamp.tolist(), strict=True))
            self.got.errors += [int.from_bytes(error.quoted, "big") for error in stamps.errors]

    def until(self, done: Callable[[], bool]) -> Got:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline
            self.read()
            time.sleep(0.001)
        return self.got

    def answered(self, count: int) -> Got:
        return self.until(lambda: len(self.got.came) >= count)


Opener = Callable[..., Connects]


@pytest.fixture
def connects() -> Iterator[Opener]:
    opened: list[Connects] = []

    def make(*arguments: object, **options: object) -> Connects:
        opened.append(Connects(*arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for each in opened:
        each.it.close()


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """This process may open so many more, and what `ConnectSocket` leaves to others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 96 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def deaf(family: socket.AddressFamily) -> Iterator[int]:
    """A port of a server whose queue is full: nobody is answered any more."""
    with server(family, 0) as there, contextlib.ExitStack() as stack:
        for _ in range(4):
            one = stack.enter_context(socket.socket(family))
            one.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                one.connect(there.getsockname())
        yield port_of(there)


@pytest.mark.parametrize("family", FAMILIES)
def test_open_and_closed_ports_are_told_apart_again_and_again(
    family: socket.AddressFamily, connects: Opener
) -> None:
    with server(family) as there, socket.socket(family) as shut:
        shut.bind((LOOPBACK[family], 0))
        it = connects(family, [port_of(there), port_of(shut)])
        for n in range(1, 6):
            assert it.send(0, 1) == (2, 0)
            it.answered(2 * n)
        got = it.got
        assert sorted(got.left) == sorted(got.came) == list(range(10))
        assert got.closed == got.unsure == {1, 3, 5, 7, 9}
        assert got.errors == []
        for number, came in got.came.items():
            assert came >= got.left[number]
            if number not in got.closed:  # the kernel's RTT, which is in us
                assert (came - got.left[number]) % 1000 == 0
        # The port that they left from is reserved.
        with socket.socket(family) as other, pytest.raises(OSError, match="in use"):
            other.bind((LOOPBACK[family], it.it.port(0)))


def test_each_lane_has_its_port_and_keeps_it(connects: Opener) -> None:
    with server(socket.AF_INET) as there:
        it = connects(socket.AF_INET, [port_of(there)] * 3, [0, 1, 2])
        ports = set()
        for n in range(1, 5):
            it.send(0, 1, 2)
            # Accepted before they are reset, so that there is somebody to ask for a port.
            for _ in range(3):
                connection, address = there.accept()
                connection.close()
                ports.add(address[1])
            it.answered(3 * n)
        assert ports == {it.it.port(lane) for lane in range(3)}
        assert len(ports) == 3
        assert it.got.unsure == set()


def test_two_targets_at_one_address_and_port_are_both_answered(connects: Opener) -> None:
    with server(socket.AF_INET) as there:
        it = connects(socket.AF_INET, [port_of(there)] * 2)
        assert it.send(0, 1, 0, 1) == (4, 0)
        got = it.answered(4)
        assert got.unsure == got.closed == set()


def test_a_destination_that_the_kernel_refuses_does_not_stop_the_others(connects: Opener) -> None:
    with server(socket.AF_INET) as there:
        it = connects(socket.AF_INET, [port_of(there)] * 3)
        it.it._names[1, 4:8] = 255  # the broadcast address
        assert it.send(0, 1, 2) == (1, errno.ENETUNREACH)
        assert it.send(2) == (1, 0)
        got = it.answered(2)
        assert sorted(got.left) == [0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_an_answer_it_is_given_up_and_its_descriptor_with_it(
    family: socket.AddressFamily, connects: Opener
) -> None:
    with deaf(family) as port, server(family) as there:
        it = connects(family, [port, port_of(there)], timeout=50 * MILLISECOND)
        before = descriptors()
        assert it.send(0, 0, 0) == (3, 0)
        assert descriptors() == before + 3
        it.until(lambda: descriptors() == before)
        assert it.got.came == {}
        assert it.got.errors == []
        assert it.send(1) == (1, 0)
        assert it.answered(1).unsure == set()


def test_with_no_descriptor_left_probes_wait_until_others_have_ended(connects: Opener) -> None:
    with deaf(socket.AF_INET) as silent, server(socket.AF_INET) as there:
        it = connects(socket.AF_INET, [silent, port_of(there)], [0, 1], timeout=200 * MILLISECOND)
        with few_descriptors(5):
            small = connects(socket.AF_INET, [silent, port_of(there)], [0, 1], timeout=200 * MILLISECOND)
        assert small.it.batch < it.it.batch
        left, refused = small.send(*[0] * 20)
        assert refused == errno.EAGAIN
        assert 0 < left < 20
        assert small.send(1) == (0, errno.EAGAIN)
        small.until(lambda: small.send(1) == (1, 0))
        small.until(lambda: left in small.got.came)
        # What is free already makes room for another lane's.
        assert small.send(*[1] * 20)[0] >= 1


def test_no_descriptor_is_left_behind(connects: Opener) -> None:
    before = descriptors()
    with server(socket.AF_INET) as there, socket.socket() as shut:
        shut.bind(("127.0.0.1", 0))
        it = connects(socket.AF_INET, [port_of(there), port_of(shut)] * 20, [*range(10)] * 4)
        for n in range(1, 4):
            it.send(*range(40))
            it.answered(40 * n)
        it.send(*range(40))
        it.it.close()
        it.it.close()
    assert descriptors() == before


def test_a_source_or_interface_that_is_not_there_is_an_error_that_says_so() -> None:
    before = descriptors()
    with pytest.raises(SocketError, match=r"cannot send from 192\.0\.2\.1"):
        ConnectSocket(SocketOptions(socket.AF_INET, source="192.0.2.1"), [0], SECOND)
    with pytest.raises(SocketError, match="interface 'none0'"):
        ConnectSocket(SocketOptions(socket.AF_INET6, interface="none0"), [0], SECOND)
    assert descriptors() == before
