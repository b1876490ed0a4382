"""A socket that loses announcements in, everything told once all the same out."""

from __future__ import annotations

import errno
import os
import select
import socket
import time

import pytest

from probe.clock import MILLISECOND, SECOND
from probe.host.listener import BUDGET, PATIENCE, PAUSE, SETTLED, Listener
from probe.host.picture import PARTS, Picture
from probe.host.rtnetlink import DONE, ERROR, INTERRUPTED, Message, messages
from tests.unit.probe.host.kernel import GATEWAY, datagram, link, route

PORT = 4711
ROWS = [link(), route("10.60.0.0/16", "10.99.0.2")]


class Kernel:
    """A netlink socket and what is behind it: tables, and a queue that may overflow."""

    def __init__(self) -> None:
        self.rows = list(ROWS)
        self.queue: list[bytes | int] = []
        self.asked: list[tuple[int, int]] = []
        self.silent = self.interrupted = self.refusing = False
        self.sender = 0

    def setsockopt(self, *_: object) -> None: ...

    def bind(self, _: object) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int:
        return 99

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0

    def send(self, request: bytes) -> None:
        (asked,) = messages(request)
        kind, family = asked.kind - 2, asked.body[0]
        self.asked.append((kind, family))
        if self.silent:
            return
        rows = [row for row in self.rows if row.kind == kind and family in (0, row.body[0])]
        flags = INTERRUPTED if self.interrupted else 0
        for row in rows:
            self.queue.append(datagram(row._replace(sequence=asked.sequence, port=PORT, flags=flags)))
        end = Message(ERROR if self.refusing else DONE, flags, asked.sequence, PORT, bytes(4))
        self.queue.append(datagram(end))

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        if not self.queue:
            raise BlockingIOError
        first = self.queue.pop(0)
        if isinstance(first, int):
            raise OSError(first, os.strerror(first))
        return first, (self.sender, 0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(socket, "socket", lambda *_: made)
    return made


def listening(kernel: Kernel, now: int = 0) -> Listener:
    made = Listener(Picture(lambda: GATEWAY), True, now)
    made.ask(PARTS, now)
    assert heard(made, now) == []
    assert not made.busy
    assert kernel.asked == list(PARTS)
    kernel.asked.clear()
    return made


def heard(listener: Listener, now: int) -> list[str]:
    """Until there is nothing more."""
    said = []
    for _ in range(1000):
        said += [change.say().text for change in listener.take(now)]
    return said


def test_what_was_lost_is_found_by_reading_everything_once_it_is_quiet(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.rows[0] = link(carrier=0, changes=2)
    kernel.queue += [errno.ENOBUFS, datagram(link(carrier=0, changes=2))]
    assert heard(made, 1 * SECOND) == ["eth0 lost its carrier"]
    assert (made.overflows, kernel.asked) == (1, [])
    kernel.rows[1] = route("10.60.0.0/16", "10.99.0.3")
    made.due(made.next)
    said = heard(made, made.next)
    assert kernel.asked == list(PARTS)
    # The link was told already.
    assert [text.split(" now")[0] for text in said] == ["the route to 10.60.0.0/16 is by 10.99.0.3 on eth0"]


def test_it_is_not_read_before_the_queue_was_empty(kernel: Kernel) -> None:
    """Until then the kernel drops announcements, and does not say so again."""
    made = listening(kernel)
    kernel.queue += [errno.ENOBUFS, *[datagram(link())] * 100]
    list(made.take(1 * SECOND))
    made.due(made.next)
    assert kernel.asked == []
    heard(made, 1 * SECOND)
    made.due(made.next)
    heard(made, 2 * SECOND)
    assert kernel.asked == list(PARTS)


def test_readings_of_everything_keep_their_distance(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.queue.append(errno.ENOBUFS)
    heard(made, 1 * SECOND)
    made.due(2 * SECOND)
    for _ in range(50):  # it takes half a second
        list(made.take(2 * SECOND + 500 * MILLISECOND))
    assert len(kernel.asked) == len(PARTS)
    kernel.queue.append(errno.ENOBUFS)
    heard(made, 3 * SECOND)
    assert made.next == 2 * SECOND + 500 * MILLISECOND + 20 * 500 * MILLISECOND > 3 * SECOND + PAUSE
    made.due(made.next - 1)
    assert len(kernel.asked) == len(PARTS)
    made.due(made.next)
    assert len(kernel.asked) == len(PARTS) + 1


def test_of_a_flood_so_many_are_taken_in_a_second(kernel: Kernel) -> None:
    made = listening(kernel)
    routes = [route(f"10.{n >> 8}.{n & 255}.0/24", "10.99.0.2") for n in range(BUDGET + 300)]
    kernel.queue += [datagram(one) for one in routes]
    kernel.rows += routes
    assert made.rest == 0
    assert len(heard(made, 1 * SECOND)) == BUDGET
    assert made.rest == 2 * SECOND
    # What the buffer could not hold is found by reading everything.
    del kernel.queue[200:]
    kernel.queue.insert(0, errno.ENOBUFS)
    assert len(heard(made, 2 * SECOND)) == 200
    assert made.rest == 0
    made.due(made.next)
    assert len(heard(made, 3 * SECOND)) == 100


def test_what_another_program_sends_is_not_the_kernels_word(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.sender = 1234
    kernel.queue.append(datagram(link(carrier=0, changes=2)))
    assert heard(made, 1 * SECOND) == []


def test_ipv4_routes_that_go_with_their_interface_are_looked_for(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.rows = [link(up=0, carrier=0, changes=2)]
    kernel.queue.append(datagram(kernel.rows[0]))
    assert heard(made, 1 * SECOND) == ["eth0 was switched off by somebody on this host"]
    assert made.next == 1 * SECOND + SETTLED
    made.due(made.next)
    assert heard(made, 2 * SECOND) == [
        "the route to 10.60.0.0/16 is gone: it was by 10.99.0.2 on eth0; it leads to cme-a"
    ]
    assert kernel.asked == [(24, 2)]


def test_a_table_that_changes_while_it_is_read_is_read_again_and_believed_in_the_end(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.interrupted = True
    kernel.rows = [link(mtu=1400)]
    made.ask(((16, 0),), 1 * SECOND)
    assert heard(made, 1 * SECOND) == ["the MTU of eth0 is 1400 now, and was 1500"]
    assert kernel.asked == [(16, 0)] * 4


def test_rows_that_never_end_are_given_up_and_asked_for_again(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.silent = True
    made.ask(((16, 0),), 1 * SECOND)
    made.due(made.next)
    assert kernel.asked == [(16, 0)]
    kernel.silent = False
    made.due(1 * SECOND + PATIENCE + 1)
    assert heard(made, 20 * SECOND) == []
    assert not made.busy
    assert kernel.asked == [(16, 0), *PARTS]


def test_a_kernel_without_such_a_table(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.refusing = True
    made.ask(((24, 10), (16, 0)), 1 * SECOND)
    assert heard(made, 1 * SECOND) == []
    assert not made.busy


def test_other_errors_are_the_callers(kernel: Kernel) -> None:
    made = listening(kernel)
    kernel.queue.append(errno.EBADF)
    with pytest.raises(OSError, match="Bad file"):
        list(made.take(1 * SECOND))


def test_the_real_kernel_answers() -> None:
    made = Listener(Picture(list), True, time.monotonic_ns())
    try:
        made.ask(PARTS, time.monotonic_ns())
        end = time.monotonic() + 30
        while made.busy:
            assert time.monotonic() < end
            select.select([made], [], [], 1)
            list(made.take(time.monotonic_ns()))
        assert "lo" in {row.name for row in made.picture.links.table.current.values()}
        assert made.picture.addresses.of(made.picture.links.index("lo"))
    finally:
        made.close()
