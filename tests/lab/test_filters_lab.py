"""Echo replies to many identifiers and ICMP errors in, what a filtered raw socket gets of them out."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from probe.packets import icmp
from probe.sockets import filters
from probe.sockets.opening import SocketOptions, open_icmp
from probe.sockets.packet_socket import PacketSocket
from tests.lab.netlab import Namespace
from tests.system.commands import wait_for

Pair = tuple[Namespace, Namespace]

FIRST, IDS = 0xFFFE, 4  # identifiers 0xfffe, 0xffff, 0, 1
OURS, OTHERS = [0xFFFE, 0xFFFF, 0, 1], [0xFFFD, 2, 3, 0x8000]
REJECTED_OURS, REJECTED_OTHER = 0xFFFF, 3
RECORD_ROUTE = bytes([7, 7, 4, 0, 0, 0, 0, 0])  # an IPv4 option that comes back in the reply's header


@dataclass
class Listener:
    """An open socket, and what came to it so far: echo replies and ICMP errors, by identifier."""

    socket: PacketSocket
    replies: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    headers: set[int] = field(default_factory=set)  # lengths of the replies' IPv4 headers

    def read(self) -> None:
        v4 = self.socket.family == socket.AF_INET
        while (block := self.socket.receive()) is not None:
            for row, length in zip(block.data, block.length, strict=True):
                packet = row[: int(length)].tobytes()
                header = 4 * (packet[0] & 0xF) if v4 else 0
                packet = packet[header:]
                if packet[0] == (icmp.ECHO_REPLY if v4 else icmp.ECHO6_REPLY):
                    self.replies.append(int.from_bytes(packet[4:6], "big"))
                    self.headers.add(header)
                else:
                    quoted = packet[8:]
                    quoted = quoted[4 * (quoted[0] & 0xF) :] if v4 else quoted[40:]
                    self.errors.append(int.from_bytes(quoted[4:6], "big"))


class Scene:
    """Raw sockets in `near`: one that sends, one that gets everything, one that has a program."""

    def __init__(self, pair: Pair, family: int, options: bytes, stack: contextlib.ExitStack) -> None:
        near, far = pair
        self.family, self.near = family, near
        self.header = 0 if family == socket.AF_INET6 else 20 + len(options)
        self.target = far.ipv4 if family == socket.AF_INET else far.ipv6
        protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        self.sender = near.call(
            lambda: socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        )
        stack.enter_context(self.sender)
        if options:
            self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        self.all, self.filtered = (Listener(self._listener(stack)) for _ in range(2))

    def _listener(self, stack: contextlib.ExitStack) -> PacketSocket:
        opened = self.near.call(lambda: open_icmp(SocketOptions(self.family)))
        assert opened.raw
        stack.callback(opened.close)
        return opened

    def ask(self, identifier: int) -> None:
        kind = icmp.ECHO_REQUEST if self.family == socket.AF_INET else icmp.ECHO6_REQUEST
        message = bytearray(struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + bytes(16))
        if self.family == socket.AF_INET:  # on IPv6 the kernel writes it
            message[2:4] = checksum(bytes(message))
        self.sender.sendto(message, (self.target, 0))

    def ask_all(self, identifiers: list[int], last: int) -> None:
        """Ask in this order, then once more for `last`, and read until the reply to it is everywhere."""
        for identifier in (*identifiers, last):
            self.ask(identifier)
        for listener in (self.all, self.filtered):
            wanted = listener.replies.count(last) + identifiers.count(last) + 1

            def answered(listener: Listener = listener, wanted: int = wanted) -> bool:
                listener.read()
                return listener.replies.count(last) == wanted

            wait_for(answered, "the reply to the last request")


def checksum(message: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


CASES = {
    "ipv4": (socket.AF_INET, b""),
    "options": (socket.AF_INET, RECORD_ROUTE),
    "ipv6": (socket.AF_INET6, b""),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def scene(request: pytest.FixtureRequest, pair: Pair) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        family, options = request.param
        yield Scene(pair, family, options, stack)


PROGRAMS: list[tuple[Callable[[int, int, int], filters.Program], list[int]]] = [
    (filters.own_replies, OURS),
    (filters.other_replies, OTHERS),
]


@pytest.mark.parametrize(("program", "passing"), PROGRAMS)
def test_replies_pass_by_identifier_and_errors_whoever_they_are_for(
    scene: Scene,
    pair: Pair,
    program: Callable[[int, int, int], filters.Program],
    passing: list[int],
) -> None:
    kind = "icmp" if scene.family == socket.AF_INET else "icmpv6"
    rejected = [REJECTED_OURS, REJECTED_OTHER]
    rule = pair[1].rule(
        "reject with icmpx host-unreachable",
        matches=[f"{kind} type echo-request {kind} id {identifier}" for identifier in rejected],
    )
    filters.attach(scene.filtered.socket._socket, program(scene.family, FIRST, IDS))
    asked = [identifier for pair_ in zip(OURS, OTHERS, strict=True) for identifier in pair_]
    scene.ask_all(asked, passing[0])
    assert rule.counts().hit == len(rejected)
    answered = [identifier for identifier in asked if identifier not in rejected] + [passing[0]]
    assert (scene.all.replies, scene.all.errors) == (answered, rejected)
    assert scene.filtered.replies == [identifier for identifier in answered if identifier in passing]
    assert scene.filtered.errors == rejected


def test_a_socket_that_admits_its_own_replies_does_not_call_the_others_dropped(scene: Scene) -> None:
    asked = [*OTHERS, *OURS, *OTHERS]
    scene.ask_all(asked, OURS[0])
    assert scene.filtered.replies == scene.all.replies == [*asked, OURS[0]]  # so far
    scene.filtered.socket.admit(FIRST, IDS)
    scene.filtered.replies.clear()
    scene.ask_all(asked, OURS[0])
    assert scene.filtered.replies == [*OURS, OURS[0]]
    assert scene.filtered.headers == {scene.header}
    # The kernel counts as dropped what found the buffer full, and not what was not wanted.
    assert scene.filtered.socket.pressure().drops == 0
