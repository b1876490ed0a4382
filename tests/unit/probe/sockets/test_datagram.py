"""The UDP probe socket on the real kernel, over loopback: sizes, stamps, and errors with where they went."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from probe.errors import SocketError
from probe.sockets.abi import sockaddr
from probe.sockets.datagram import DatagramSocket, open_datagram
from probe.sockets.opening import SocketOptions
from probe.sockets.packet_socket import QuotedError

FAMILIES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
SIZE = 84


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    found: socket.AddressFamily = request.param
    return found


@pytest.fixture
def peer(family: socket.AddressFamily) -> Iterator[socket.socket]:
    """Somebody who listens."""
    with socket.socket(family, socket.SOCK_DGRAM) as listening:
        listening.bind((FAMILIES[family], 0))
        listening.settimeout(5)
        yield listening


def destination(family: socket.AddressFamily, port: int) -> bytes:
    raw = sockaddr(family, FAMILIES[family])
    return raw[:2] + port.to_bytes(2, "big") + raw[4:]


class Taken:
    """Whatever has come so far."""

    def __init__(self, probe_socket: DatagramSocket) -> None:
        self._socket = probe_socket
        self.tx: dict[int, int] = {}
        self.errors: list[QuotedError] = []
        self.replies: list[bytes] = []
        self.rx: list[int] = []

    def until(self, stamps: int, replies: int, errors: int) -> None:
        deadline = time.monotonic() + 5
        while (len(self.tx), len(self.replies), len(self.errors)) != (stamps, replies, errors):
            assert time.monotonic() < deadline, vars(self)
            while (some := self._socket.stamps()) is not None:
                self.tx |= dict(zip(some.ids.tolist(), some.stamp.tolist(), strict=True))
                self.errors += some.errors
            while (got := self._socket.receive()) is not None:
                self.replies += [
                    row[:length].tobytes() for row, length in zip(got.data, got.length, strict=True)
                ]
                self.rx += got.stamp.tolist()


@pytest.mark.parametrize("choose_id", [None, False], ids=["chosen", "counted"])
def test_sizes_are_of_ip_payload_and_everything_is_stamped(
    family: socket.AddressFamily, peer: socket.socket, choose_id: bool | None
) -> None:
    opened = open_datagram(SocketOptions(family, max_size=200), choose_id=choose_id)
    try:
        opened.set_destinations([destination(family, peer.getsockname()[1])])
        opened.rows[:, :192] = np.arange(192, dtype=np.uint8)
        sizes = np.array([SIZE, 52, 200])
        opened.prepare(slice(0, 3), np.zeros(3, np.int64), sizes, np.array([70, 80, 90], np.uint32))
        assert opened.send(0, 3) == (3, 0)
        opened.prepare(slice(3, 4), np.zeros(1, np.int64), 100, np.array([100], np.uint32))
        assert opened.send(3, 4) == (1, 0)
        ports = set()
        for size in (*sizes.tolist(), 100):
            data, address = peer.recvfrom(9000)
            assert data == bytes(range(size - 8))
            ports.add(address[1])
            peer.sendto(data[::-1], address)
        assert len(ports) == 1
        taken = Taken(opened)
        taken.until(4, 4, 0)
        assert sorted(taken.tx) == [70, 80, 90, 100]
        assert all(0 < tx <= rx for tx, rx in zip(sorted(taken.tx.values()), sorted(taken.rx), strict=True))
        assert [reply[:4] for reply in taken.replies] == [
            bytes(range(size - 8))[::-1][:4] for size in (*sizes.tolist(), 100)
        ]
    finally:
        opened.close()


def test_a_refusal_comes_with_what_it_quotes_and_where_that_went(
    family: socket.AddressFamily, peer: socket.socket
) -> None:
    closed = peer.getsockname()[1]
    peer.close()
    opened = open_datagram(SocketOptions(family, max_size=SIZE))
    try:
        opened.set_destinations([destination(family, closed)])
        opened.rows[:, :76] = np.arange(76, dtype=np.uint8)
        opened.prepare(slice(0, 2), np.zeros(2, np.int64), SIZE, np.array([1, 2], np.uint32))
        # The error of the first is pending when the second is sent: it leaves all the same.
        assert opened.send(0, 1) == (1, 0)
        assert opened.send(1, 2) == (1, 0)
        taken = Taken(opened)
        taken.until(2, 0, 2)
        for error in taken.errors:
            assert error.quoted == bytes(range(76))
            assert (error.type, error.code) == ((3, 3) if family == socket.AF_INET else (1, 4))
            there = destination(family, closed)
            assert error.destination[:4] == there[:4]
            assert error.destination[8:24] == there[8:24]
    finally:
        opened.close()


def test_an_address_that_is_not_ours_is_refused_in_words(family: socket.AddressFamily) -> None:
    nobodys = "192.0.2.7" if family == socket.AF_INET else "2001:db8::7"
    with pytest.raises(SocketError, match=f"cannot send from {nobodys}"):
        open_datagram(SocketOptions(family, source=nobodys))
