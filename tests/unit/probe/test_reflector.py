"""Options in, sockets on loopback and what they answer out; what is wrong is said."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe import reflector
from probe.clock import SECOND, ManualClock
from probe.errors import SocketError, UsageError
from probe.limits import RateLimit
from probe.packets.stamp import PORT
from probe.packets.timestamps import to_ntp
from probe.reflection import Reflection
from probe.reflector import ReflectOptions, Reflector, parse_bind, reflect
from probe.sockets import abi
from probe.sockets.reflecting import ROWS, ReflectingSocket, open_reflecting
from tests.unit.probe.packets.stamping import exchange

REQUEST = exchange("unauthenticated").request
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":862", "", 862),
        (":8620", "", 8620),
        ("192.0.2.1", "192.0.2.1", PORT),
        ("192.0.2.1:8620", "192.0.2.1", 8620),
        ("gateway.example:1", "gateway.example", 1),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ("[2001:db8::1]", "2001:db8::1", PORT),
        ("2001:db8::1", "2001:db8::1", PORT),
        ("[fe80::1%eth0]:862", "fe80::1%eth0", 862),
        ("", "", PORT),
    ],
)
def test_where_to_listen(text: str, host: str, port: int) -> None:
    assert parse_bind(text) == (host, port)


@pytest.mark.parametrize(
    "text", [":", ":0", ":65536", ":stamp", "host:", "[::1", "::1]:862", "[::1]x:862", ":-1"]
)
def test_what_is_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(UsageError) as problem:
        parse_bind(text)
    assert str(problem.value).startswith(f"--bind {text!r} is no address to listen on (allowed: HOST:PORT, ")
    assert "ports 1 to 65535" in str(problem.value)


def test_a_key_that_cannot_be_read_and_a_name_without_address(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^cannot read --key-file .*/none: No such file or directory$"):
        reflect(ReflectOptions(key_file=tmp_path / "none"))
    with pytest.raises(UsageError, match=r"^--bind: 'nowhere.invalid' has no address: "):
        reflect(ReflectOptions(host="nowhere.invalid", port=8620))


class Loop:
    """A reflector on loopback, with a clock of ours, and a socket that asks it."""

    def __init__(self, family: int) -> None:
        self.asking = socket.socket(family, socket.SOCK_DGRAM)
        self.socket = open_reflecting(family, "127.0.0.1" if family == socket.AF_INET else "::1", 0)
        self.asking.connect(self.socket.address)
        self.asking.settimeout(10)
        self.clock = ManualClock()
        self.estimates = 0
        rules = Reflection(b"", self.socket.address[1], RateLimit(10_000, 10_000))
        self.reflector = Reflector([self.socket], rules, self.clock, self._estimate)

    def _estimate(self) -> int:
        self.estimates += 1
        return self.estimates

    def ask(self, *requests: bytes) -> list[bytes]:
        """Send them all, then let the reflector answer."""
        for request in requests:
            self.asking.send(request)
        self.reflector.turn()
        return [self.asking.recv(65536) for _ in requests]

    def close(self) -> None:
        self.asking.close()
        self.socket.close()


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    made = Loop(request.param)
    yield made
    made.close()


def test_t3_is_our_clock_and_the_error_estimate_is_asked_for_once_a_second(loop: Loop) -> None:
    told = []
    for _ in range(4):
        (reply,) = loop.ask(REQUEST)
        seq, t3, estimate = struct.unpack_from(">IQH", reply)
        told.append((seq, t3 - to_ntp(loop.clock.wall()), estimate))
        loop.clock.advance(SECOND // 2)
    assert told == [(0, 0, 1), (1, 0, 1), (2, 0, 2), (3, 0, 2)]


def test_all_that_waits_is_answered_in_one_turn(loop: Loop) -> None:
    replies = loop.ask(*[REQUEST] * (2 * ROWS + 7))
    assert [int.from_bytes(reply[:4], "big") for reply in replies] == list(range(2 * ROWS + 7))


def test_refused_ones_between_others_keep_nobody_from_an_answer(loop: Loop) -> None:
    for n in range(ROWS):
        loop.asking.send(REQUEST if n % 3 else b"short")
    loop.reflector.turn()
    replies = [loop.asking.recv(100) for n in range(ROWS) if n % 3]
    assert [int.from_bytes(reply[:4], "big") for reply in replies] == list(range(len(replies)))
    assert loop.reflector.status() == f"{len(replies)} replies to {ROWS} packets, 1 sessions; 22 too short"


def test_packets_without_a_stamp_get_our_clocks_time_and_are_counted(loop: Loop) -> None:
    """Its control messages then stand elsewhere: TTL, addresses and DSCP are found all the same."""
    handle = loop.socket._socket
    loop.ask(REQUEST)
    handle.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, 0)
    four = handle.family == socket.AF_INET
    level = socket.IPPROTO_IP if four else socket.IPPROTO_IPV6
    loop.asking.setsockopt(level, socket.IP_TTL if four else socket.IPV6_UNICAST_HOPS, 77)
    loop.asking.setsockopt(level, socket.IP_TOS if four else socket.IPV6_TCLASS, 46 << 2)
    for _ in range(3):
        loop.asking.send(REQUEST)
    received = loop.socket.receive()
    assert loop.socket.unstamped == 3
    host = socket.inet_pton(handle.family, loop.socket.address[0])
    for packet, arrival in received:
        assert bytes(packet) == REQUEST
        assert (arrival.source, arrival.destination, arrival.ttl) == (host, host, 77)
        assert arrival.port == loop.asking.getsockname()[1]
        assert arrival.unicast
        assert arrival.whole
        assert arrival.received > 1_700_000_000 * SECOND
    assert [known[3] for known in loop.socket._known] == [46 << 2] * 3
    handle.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, abi.STAMPING)
    assert loop.socket.reply([0, 2]) == [1, 2]
    assert [len(loop.asking.recv(100)) for _ in range(2)] == [44, 44]
    assert "3 without the kernel's stamp" in loop.reflector.status()


def test_a_packet_longer_than_its_row_is_not_whole(loop: Loop) -> None:
    loop.asking.send(REQUEST + bytes(9216 - 44))
    loop.asking.send(REQUEST + bytes(9217 - 44))
    assert [(len(packet), arrival.whole) for packet, arrival in loop.socket.receive()] == [
        (9216, True),
        (9216, False),
    ]


@FAMILIES
def test_a_full_receive_buffer_is_said(family: int) -> None:
    loop = Loop(family)
    loop.socket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(50):
        loop.asking.send(REQUEST)
    dropped = loop.socket.overflowed
    loop.reflector.turn()
    assert 0 < dropped < 50
    assert f"; {dropped} lost in a full receive buffer" in loop.reflector.status()
    loop.close()


def test_ids_go_on_after_2_to_the_32(loop: Loop) -> None:
    opened: ReflectingSocket = loop.socket
    opened._next_id = 0xFFFFFFFF
    for _ in range(3):
        loop.asking.send(REQUEST)
    opened.receive()
    assert opened.reply([0, 1, 2]) == [0xFFFFFFFF, 0, 1]


def test_the_counters_are_logged_once_a_minute_where_they_have_moved(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert loop.reflector.report() == 60 * SECOND
    loop.ask(REQUEST)
    loop.clock.advance(59 * SECOND)
    assert loop.reflector.report() == SECOND
    assert caplog.messages == []
    for _ in range(3):
        loop.clock.advance(SECOND)
        assert loop.reflector.report() == 60 * SECOND
        loop.clock.advance(59 * SECOND)
    assert caplog.messages == ["1 replies to 1 packets, 1 sessions"]
    loop.asking.send(b"")
    loop.reflector.turn()
    loop.clock.advance(SECOND)
    loop.reflector.report()
    assert caplog.messages[1:] == ["1 replies to 2 packets, 1 sessions; 1 too short"]


def test_where_there_is_no_ipv6_ipv4_is_listened_on_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    opened: list[ReflectingSocket] = []

    def without_ipv6(family: int, address: str, port: int) -> ReflectingSocket:
        if family == socket.AF_INET6:
            raise SocketError("cannot open an IPv6 socket: Address family not supported by protocol")
        opened.append(open_reflecting(family, address, port))
        return opened[-1]

    monkeypatch.setattr(reflector, "open_reflecting", without_ipv6)
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert reflector._open(ReflectOptions(port=0)) == opened
    assert caplog.messages == [
        "IPv4 only: cannot open an IPv6 socket: Address family not supported by protocol"
    ]
    opened[0].close()
    # Where there is IPv6, and only its port is taken, half a reflector is none.
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    with pytest.raises(SocketError, match="cannot open an IPv6 socket"):
        reflector._open(ReflectOptions(port=0))
    assert opened[1]._socket.fileno() == -1
