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
from probe.host.interfaces import RX_HARDWARE, TX_SOFTWARE, stamped, stamping
from probe.sockets.abi import sockaddr

HERE4 = (int(socket.AF_INET), sockaddr(socket.AF_INET, "127.0.0.1"))
HERE6 = (int(socket.AF_INET6), sockaddr(socket.AF_INET6, "::1"))
FAR4 = (int(socket.AF_INET), sockaddr(socket.AF_INET, "192.0.2.1"))
FAR6 = (int(socket.AF_INET6), sockaddr(socket.AF_INET6, "2001:db8::1"))
GET_ADDRESS, ETHTOOL = 0x8915, 0x8946


class Host:
    """A host of the test's making: interfaces with an IPv4 address or none, and with ethtool's flags or
    none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.addresses: dict[str, str] = {}
        self.flags: dict[str, int] = {}
        self.sources: dict[int, str] = {}  # by family: where the kernel would send from
        self.asked: list[str] = []
        self.if_inet6 = tmp_path / "if_inet6"
        monkeypatch.setattr(interfaces, "_INET6", self.if_inet6)
        monkeypatch.setattr(interfaces, "_source", lambda family, _sockaddr: self.sources.get(family, ""))
        monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(self.addresses, start=1)))
        monkeypatch.setattr(fcntl, "ioctl", self._ioctl)

    def _ioctl(self, _handle: int, request: int, argument: bytes) -> bytes:
        name = argument[:16].rstrip(b"\0").decode()
        if request == GET_ADDRESS:
            if not self.addresses[name]:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            return argument[:20] + socket.inet_aton(self.addresses[name]) + argument[24:]
        assert request == ETHTOOL
        self.asked.append(name)
        if name not in self.flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        at = struct.unpack("16sP16x", argument)[1]
        ctypes.memmove(at + 4, struct.pack("=I", self.flags[name]), 4)
        return argument


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return Host(monkeypatch, tmp_path)


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
    host.addresses = {"eth0": "198.51.100.7", "eth1": "203.0.113.7"}
    host.flags = {"eth0": TX_SOFTWARE, "eth1": RX_HARDWARE}
    host.if_inet6.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "20010db8000000000000000000000007 03 40 00 00     eth1\n",
        encoding="utf-8",
    )
    host.sources = {socket.AF_INET: "198.51.100.7", socket.AF_INET6: "2001:db8::7"}
    assert stamped([FAR4, FAR6, FAR4, FAR4]) == [True, False, True, True]
    assert sorted(host.asked) == ["eth0", "eth1"]  # once each


@pytest.mark.parametrize("flags", [{}, {"eth0": 0}, {"eth0": RX_HARDWARE}, {"eth1": TX_SOFTWARE}])
def test_a_driver_that_does_not_stamp_or_does_not_say_is_not_sure(host: Host, flags: dict[str, int]) -> None:
    host.addresses, host.flags = {"eth0": "198.51.100.7", "eth1": ""}, flags
    host.sources = {socket.AF_INET: "198.51.100.7"}
    assert stamped([FAR4]) == [False]


@pytest.mark.parametrize("source", ["", "203.0.113.9"])
def test_without_a_way_or_with_an_address_of_no_interface_it_is_not_sure(host: Host, source: str) -> None:
    host.addresses, host.flags = (
        {"eth0": "198.51.100.7", "tun0": ""},
        {"eth0": TX_SOFTWARE, "tun0": TX_SOFTWARE},
    )
    host.sources = {socket.AF_INET: source}
    assert stamped([FAR4]) == [False]
    assert host.asked == []


def test_where_ipv6_is_switched_off_ipv4_is_answered_for(host: Host) -> None:
    host.addresses, host.flags = {"eth0": "198.51.100.7"}, {"eth0": TX_SOFTWARE}
    host.sources = {socket.AF_INET: "198.51.100.7", socket.AF_INET6: "2001:db8::7"}
    assert not host.if_inet6.exists()
    assert stamped([FAR4, FAR6]) == [True, False]


def test_a_link_local_address_is_found_as_the_kernel_writes_it(host: Host) -> None:
    host.flags = {"eth0": TX_SOFTWARE}
    host.if_inet6.write_text("fe800000000000000000000000000a0b 02 40 20 80     eth0\n", encoding="utf-8")
    host.sources = {socket.AF_INET6: "fe80::a0b"}
    assert stamped([FAR6]) == [True]
