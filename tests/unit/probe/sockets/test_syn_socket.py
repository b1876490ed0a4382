"""Routes that change in, how often source addresses are asked for out; and what a probe leaves with."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from probe.packets import tcp
from probe.sockets.abi import sockaddr
from probe.sockets.opening import SocketOptions
from probe.sockets.ports import ReservedPorts
from probe.sockets.sources import Sources
from probe.sockets.syn_socket import SynSocket

MS = 1_000_000
THERE = ["192.0.2.1", "198.51.100.9"]


class Answers(Sources):
    """Every look takes so long, and finds another address."""

    def __init__(self, now: list[int], takes: int) -> None:
        super().__init__(SocketOptions(socket.AF_INET), None)
        self._now, self._takes, self.looks, self.changed = now, takes, 0, False

    def stale(self) -> bool:
        changed, self.changed = self.changed, False
        return changed

    def to(self, addresses: Sequence[bytes]) -> list[bytes]:
        self._now[0] += self._takes
        self.looks += 1
        return [bytes([10, 0, self.looks, n]) for n, _ in enumerate(addresses)]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time, ns: its only element."""
    reading = [1000 * MS]
    monkeypatch.setattr(time, "monotonic_ns", lambda: reading[0])
    return reading


@pytest.fixture
def sources(now: list[int]) -> Answers:
    return Answers(now, 2 * MS)


@pytest.fixture(params=[True, False], ids=["chosen", "counted"])
def opened(request: pytest.FixtureRequest, sources: Answers) -> Iterator[SynSocket]:
    """It is not raw: what is tested here sends nothing."""
    handle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reserved = ReservedPorts(socket.AF_INET, 2)
    made = SynSocket(handle, reserved, sources, choose_id=request.param, hardware=frozenset())
    made.set_destinations([sockaddr(socket.AF_INET, there) for there in THERE])
    yield made
    made.close()


def test_sources_are_asked_for_when_they_change_and_never_all_the_time(
    opened: SynSocket, sources: Answers, now: list[int]
) -> None:
    opened.refresh()
    assert sources.looks == 1
    now[0] += 1000 * MS
    opened.refresh()
    assert sources.looks == 1  # nothing has changed
    for _ in range(1000):
        sources.changed = True
        opened.refresh()
        now[0] += 10 * MS
    # A look of 2 ms, then 100 ms of peace.
    assert 90 <= sources.looks <= 105
    last = sources.looks
    sources.changed = True
    opened.refresh()
    sources.changed = False
    for _ in range(100):
        now[0] += 10 * MS
        opened.refresh()
    assert sources.looks == last + 1  # a change that had to wait is not forgotten


def test_a_probe_says_the_source_that_its_checksum_covers(opened: SynSocket, sources: Answers) -> None:
    sums = opened.pseudo_sums
    assert sums is not None
    destinations = np.array([1, 0, 1])
    opened.prepare(slice(3, 6), destinations, tcp.SIZE, np.array([7, 8, 9], np.uint32))
    for row, there, number in zip((3, 4, 5), destinations.tolist(), (7, 8, 9), strict=True):
        control = opened._control[row].tobytes()
        source = control[20:24]
        assert source == bytes([10, 0, 1, there])
        assert tcp.pseudo_sum(source, socket.inet_aton(THERE[there])) == sums[there]
        # IP_PKTINFO: no interface, the source, and no address that the kernel would not look at.
        head = (28).to_bytes(8, "little") + (0).to_bytes(4, "little") + (8).to_bytes(4, "little")
        assert control[:20] + control[24:32] == head + bytes(4) + bytes(8)
        if opened.choose_id:
            assert int.from_bytes(control[48:52], "little") == number
            assert opened._tx["controllen"][row] == 56
        else:
            assert opened._tx["controllen"][row] == 32
