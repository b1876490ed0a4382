"""Destinations in, whether their interface stamps out: loopback as it is, and what else a host may answer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from pathlib import Path

import pytest

from probe.host import interfaces
from probe.host.interfaces import RX_HARDWARE, TX_SOFTWARE, outlets, stamped, stamping
from probe.sockets.abi import sockaddr

HERE4 = (int(socket.AF_INET), sockaddr(socket.AF_INET, "127.0.0.1"))
HERE6 = (int(socket.AF_INET6), sockaddr(socket.AF_INET6, "::1"))
FAR4 = (int(socket.AF_INET), sockaddr(socket.AF_INET, "192.0.2.1"))
FAR6 = (int(socket.AF_INET6), sockaddr(socket.AF_INET6, "2001:db8::1"))
ETHTOOL = 0x8946


class Host:
    """A host of the test's making: interfaces with ethtool's flags or none, and which way leads where."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names = {1: "lo", 2: "eth0", 3: "eth1"}
        self.flags: dict[str, int] = {}
        self.outlets: dict[int, int] = {}  # by family: the index of an interface
        self.asked: list[str] = []
        monkeypatch.setattr(interfaces, "_outlet", lambda _kernel, family, *_: self.outlets.get(family, 0))
        monkeypatch.setattr(socket, "if_indextoname", self._name)
        monkeypatch.setattr(fcntl, "ioctl", self._ioctl)

    def _name(self, index: int) -> str:
        if index not in self.names:
            raise OSError(errno.ENXIO, "No such device or address")
        return self.names[index]

    def _ioctl(self, _handle: int, request: int, argument: bytes) -> bytes:
        name = argument[:16].rstrip(b"\0").decode()
        assert request == ETHTOOL
        self.asked.append(name)
        if name not in self.flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        at = struct.unpack("16sP16x", argument)[1]
        ctypes.memmove(at + 4, struct.pack("=I", self.flags[name]), 4)
        return argument


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_loopback_stamps_in_software_what_it_sends() -> None:
    flags = stamping("lo")
    assert flags is not None
    assert flags & TX_SOFTWARE
    assert not flags & RX_HARDWARE
    assert stamped([HERE4]) == [True]


def test_loopback_stamps_ipv6_too() -> None:
    # `getsockname` of a connected socket has the same address, where IPv6 is switched on at all.
    has_ipv6 = "00000000000000000000000000000001 " in (
        Path("/proc/net/if_inet6").read_text(encoding="utf-8") if Path("/proc/net/if_inet6").exists() else ""
    )
    assert stamped([HERE6]) == [has_ipv6]


def test_an_interface_that_is_not_there_is_none_that_stamps() -> None:
    assert stamping("no-such-if0") is None


def test_nothing_asked_nothing_answered() -> None:
    assert stamped([]) == []


def test_each_destination_is_judged_by_its_own_interface(host: Host) -> None:
    host.flags = {"eth0": TX_SOFTWARE, "eth1": RX_HARDWARE}
    host.outlets = {socket.AF_INET: 2, socket.AF_INET6: 3}
    assert stamped([FAR4, FAR6, FAR4, FAR4]) == [True, False, True, True]
    assert sorted(host.asked) == ["eth0", "eth1"]  # once each


@pytest.mark.parametrize("flags", [{}, {"eth0": 0}, {"eth0": RX_HARDWARE}, {"eth1": TX_SOFTWARE}])
def test_a_driver_that_does_not_stamp_or_does_not_say_is_not_sure(host: Host, flags: dict[str, int]) -> None:
    host.flags, host.outlets = flags, {socket.AF_INET: 2}
    assert stamped([FAR4]) == [False]


@pytest.mark.parametrize("index", [0, 9])
def test_without_a_way_or_with_an_interface_that_has_gone_it_is_not_sure(host: Host, index: int) -> None:
    host.flags, host.outlets = {"eth0": TX_SOFTWARE}, {socket.AF_INET: index}
    assert stamped([FAR4]) == [False]
    assert host.asked == []


class Kernel:
    """A netlink socket that answers as it is told."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    def send(self, request: bytes) -> None:
        self.asked.append(request)

    def recv(self, _size: int) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


def route(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    body = bytes(12)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        (route(24, (1, b"\xc0\0\2\1"), (15, b"x"), (4, struct.pack("=I", 7)), (7, b"abcd")), 7),
        (route(24, (1, b"\xc0\0\2\1")), 0),
        (route(24, (4, b"\7")), 0),  # too short for an index
        (route(2), 0),  # NLMSG_ERROR
        (b"", 0),
        (route(24)[:20], 0),
        (route(24) + bytes(7), 0),  # an attribute of no length
        (OSError(errno.ENOBUFS, "No buffer space available"), 0),
    ],
)
def test_the_kernels_answer_is_read_with_care(answer: bytes | OSError, index: int) -> None:
    kernel = Kernel(answer)
    assert interfaces._outlet(kernel, *FAR4) == index  # type: ignore[arg-type]
    assert len(kernel.asked[0]) == struct.unpack_from("=I", kernel.asked[0])[0] == 36


@pytest.mark.parametrize(
    ("family", "source", "by", "attributes"),
    [
        (FAR4, "192.0.2.9", 0, struct.pack("=HH4s", 8, 2, bytes([192, 0, 2, 9]))),
        (FAR4, "", 5, struct.pack("=HHI", 8, 4, 5)),
        (FAR4, "192.0.2.9", 5, struct.pack("=HHIHH4s", 8, 4, 5, 8, 2, bytes([192, 0, 2, 9]))),
        (FAR6, "2001:db8::9", 0, struct.pack("=HH16s", 20, 2, b"\x20\1\x0d\xb8" + bytes(11) + b"\x09")),
    ],
)
def test_the_way_is_that_of_a_sockets_own_source_and_interface(
    family: tuple[int, bytes], source: str, by: int, attributes: bytes
) -> None:
    kernel = Kernel(route(24, (4, struct.pack("=I", 7))))
    assert interfaces._outlet(kernel, *family, by, source) == 7  # type: ignore[arg-type]
    (asked,) = kernel.asked
    assert asked.endswith(attributes)
    assert len(asked) == struct.unpack_from("=I", asked)[0]
    assert asked[18] == (0 if not source else 32 if family is FAR4 else 128)  # rtm_src_len


def test_by_an_interface_that_is_not_there_nothing_is_reached() -> None:
    assert outlets([HERE4, HERE6], "no-such-if0") == [0, 0]
    assert stamped([HERE4], "no-such-if0") == [False]


def test_a_link_local_destination_is_asked_for_on_its_own_interface() -> None:
    kernel = Kernel(route(2))
    family = int(socket.AF_INET6)
    interfaces._outlet(kernel, family, sockaddr(socket.AF_INET6, "fe80::1", 3))  # type: ignore[arg-type]
    assert kernel.asked[0].endswith(struct.pack("=HHI", 8, 4, 3))


def test_each_destination_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def outlet(_kernel: socket.socket, family: int, *_: object) -> int:
        asked.append(family)
        return family

    monkeypatch.setattr(interfaces, "_outlet", outlet)
    found = outlets([HERE4, HERE6, HERE4, HERE4])  # as flows of one target have it
    assert found == [socket.AF_INET, socket.AF_INET6, socket.AF_INET, socket.AF_INET]
    assert asked == [socket.AF_INET, socket.AF_INET6]
