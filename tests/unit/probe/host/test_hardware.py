"""Drivers of the test's making in, what is found out and switched on out; and loopback as it is."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass, field

import pytest

from probe.host import hardware
from probe.host.hardware import RX_ALL, RX_NONE, TX_OFF, TX_ON, Config, clock_of, describe, switch_on
from probe.host.interfaces import RAW_HARDWARE, RX_HARDWARE, RX_SOFTWARE, TX_HARDWARE, TX_SOFTWARE

ETHTOOL, SET, GET = 0x8946, 0x89B0, 0x89B1
SOFT = TX_SOFTWARE | RX_SOFTWARE
HARD = TX_HARDWARE | RX_HARDWARE | RAW_HARDWARE
PTP_EVENTS = 12  # HWTSTAMP_FILTER_PTP_V2_EVENT
ONE_STEP = 2
NOTHING, ALL = (0, TX_OFF, RX_NONE), (0, TX_ON, RX_ALL)


@dataclass
class Driver:
    """What ethtool says of an interface, and what its clock stamps.

    can: tx_types and rx_filters. refuses: errno of SIOCSHWTSTAMP. takes: what it is set to whatever is asked.
    """

    flags: int = SOFT | HARD
    clock: int = 0
    can: tuple[int, int] = (1 << TX_OFF | 1 << TX_ON, 1 << RX_NONE | 1 << RX_ALL)
    config: tuple[int, int, int] | None = NOTHING
    refuses: int = 0
    takes: list[tuple[int, int, int]] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)


class Host:
    """Interfaces 2, 3, ... with these drivers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drivers: dict[str, Driver] = {}
        monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(self.drivers, 2)))
        monkeypatch.setattr(socket, "if_indextoname", self._name)
        monkeypatch.setattr(fcntl, "ioctl", self._ioctl)

    def _name(self, index: int) -> str:
        return list(self.drivers)[index - 2]

    def _ioctl(self, _handle: int, request: int, argument: bytes) -> bytes:
        raw, at = struct.unpack("16sP16x", argument)
        driver = self.drivers[raw.rstrip(b"\0").decode()]
        if request == ETHTOOL:
            tx, rx = driver.can
            ctypes.memmove(at + 4, struct.pack("=IiI12xI", driver.flags, driver.clock, tx, rx), 28)
        elif request == GET:
            if driver.config is None:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            ctypes.memmove(at, struct.pack("=3i", *driver.config), 12)
        else:
            assert request == SET
            wanted = struct.unpack("=3i", ctypes.string_at(at, 12))
            driver.asked.append(wanted)
            if driver.refuses:
                raise OSError(driver.refuses, os.strerror(driver.refuses))
            driver.config = driver.takes.pop(0) if driver.takes else wanted
        return argument


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def on(host: Host, **driver: object) -> hardware.Hardware:
    host.drivers["eth0"] = Driver(**driver)  # type: ignore[arg-type]
    return switch_on("eth0")


def test_loopback_has_no_clock() -> None:
    found = describe("lo")
    assert (found.software_tx, found.software_rx) == (True, True)
    assert (found.hardware_tx, found.hardware_rx, found.clock, found.on, found.able) == (
        *(False, False, -1),
        *(False, False),
    )
    assert found.reason == "it has no clock of its own"
    assert str(found) == "software TX and RX"
    assert switch_on("lo") == found
    assert clock_of(socket.if_nametoindex("lo"), switch=True) == (frozenset(), "it has no clock of its own")


@pytest.mark.parametrize("name", ["no-such-if0", "a-name-that-no-interface-can-have"])
def test_an_interface_that_is_not_there_says_nothing(name: str) -> None:
    found = switch_on(name)
    assert not found.on
    assert not found.able
    assert "does not say" in found.reason


def test_the_drivers_refusal_to_say_what_it_does_is_an_error_of_the_ioctl() -> None:
    for name in ("lo", "no-such-if0", "a-name-that-no-interface-can-have"):
        with pytest.raises(OSError, match=r"not supported|No such device"):
            hardware._get(name)


def test_a_card_that_is_off_is_switched_on(host: Host) -> None:
    host.drivers["eth0"] = Driver(clock=4)
    before = describe("eth0")
    assert (before.hardware_tx, before.hardware_rx, before.clock) == (True, True, 4)
    assert before.able
    assert not before.on
    assert before.reason == "switched off (sent: nothing, received: nothing)"
    assert str(before) == (
        "software TX and RX, hardware TX and RX, clock /dev/ptp4 "
        "(stamps now, sent: nothing, received: nothing)"
    )
    assert host.drivers["eth0"].asked == []
    after = switch_on("eth0")
    assert after.on
    assert after.reason == ""
    assert after.config == Config(*ALL)
    assert host.drivers["eth0"].asked == [ALL]


def test_what_is_on_is_left_alone(host: Host) -> None:
    found = on(host, config=ALL)
    assert found.on
    assert host.drivers["eth0"].asked == []


@pytest.mark.parametrize(
    ("config", "becomes"),
    [
        ((0, TX_ON, PTP_EVENTS), (0, TX_ON, RX_ALL)),
        ((0, TX_OFF, PTP_EVENTS), (0, TX_ON, RX_ALL)),
        ((0, TX_OFF, RX_ALL), (0, TX_ON, RX_ALL)),
        ((0, ONE_STEP, PTP_EVENTS), (0, ONE_STEP, RX_ALL)),
        ((1, TX_OFF, RX_NONE), (1, TX_ON, RX_ALL)),  # a bond says so, and wants to hear it again
    ],
)
def test_what_others_asked_for_is_only_added_to(
    host: Host, config: tuple[int, int, int], becomes: tuple[int, int, int]
) -> None:
    assert on(host, config=config).on
    assert host.drivers["eth0"].config == becomes


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        ({"flags": SOFT, "clock": -1}, "no clock of its own"),
        ({"clock": -1}, "no clock of its own"),
        ({"flags": SOFT | RX_HARDWARE | RAW_HARDWARE}, "does not stamp what is sent"),
        ({"can": (1 << TX_OFF, 1 << RX_ALL)}, "does not stamp what is sent"),
        ({"flags": SOFT | TX_HARDWARE | RAW_HARDWARE}, "does not stamp what is received"),
        ({"can": (3, 1 << RX_NONE | 1 << PTP_EVENTS | 1 << 15)}, "PTPv2 events, NTP packets alone"),
        ({"can": (3, 0)}, "clock stamps nothing alone"),
        ({"config": None}, "Operation not supported"),
    ],
)
def test_what_cannot_be_is_said_and_not_tried(host: Host, driver: dict[str, object], reason: str) -> None:
    found = on(host, **driver)
    assert not found.on
    assert not found.able
    assert reason in found.reason
    assert host.drivers["eth0"].asked == []


def test_without_the_privilege_that_is_the_reason(host: Host) -> None:
    found = on(host, refuses=errno.EPERM)
    assert not found.on
    assert found.able
    assert "CAP_NET_ADMIN" in found.reason
    assert host.drivers["eth0"].config == NOTHING


def test_a_driver_that_refuses_is_quoted(host: Host) -> None:
    found = on(host, refuses=errno.ERANGE)
    assert not found.on
    assert "Numerical result out of range" in found.reason


def test_a_driver_that_takes_less_gets_back_what_it_had(host: Host) -> None:
    had = (0, TX_ON, PTP_EVENTS)
    found = on(host, config=had, takes=[(0, TX_ON, RX_NONE)])
    assert not found.on
    assert not found.able
    assert "received: nothing" in found.reason
    assert host.drivers["eth0"].config == had
    assert host.drivers["eth0"].asked == [(0, TX_ON, RX_ALL), had]


def test_interfaces_with_one_clock_are_named_together(host: Host) -> None:
    host.drivers = {
        "eth0": Driver(clock=1),
        "eth1": Driver(clock=0),
        "eth2": Driver(clock=1),
        "lo": Driver(flags=SOFT, clock=-1),
        "eth3": Driver(clock=2, refuses=errno.EPERM),
    }
    assert clock_of(2, switch=True) == (frozenset({2, 4}), "")
    assert clock_of(3, switch=True) == (frozenset({3}), "")
    assert clock_of(5, switch=True)[0] == frozenset()
    indices, reason = clock_of(6, switch=True)
    assert indices == frozenset()
    assert "CAP_NET_ADMIN" in reason


def test_nothing_is_switched_unasked(host: Host) -> None:
    host.drivers = {"eth0": Driver(clock=1)}
    indices, reason = clock_of(2, switch=False)
    assert indices == frozenset()
    assert reason.startswith("switched off")
    assert host.drivers["eth0"].asked == []
    assert clock_of(2, switch=True)[0] == frozenset({2})
    assert clock_of(2, switch=False) == (frozenset({2}), "")
