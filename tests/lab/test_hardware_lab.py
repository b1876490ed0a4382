"""Hardware stamps asked for where no interface has a clock: everything is as it was without, and is said."""

from __future__ import annotations

import socket

import pytest

from probe.host.hardware import clock_of, describe, switch_on
from probe.host.interfaces import outlets, sharing_clock
from probe.sockets import abi
from probe.sockets.abi import sockaddr
from tests.lab.capture import Capture
from tests.lab.netlab import Lab, Namespace
from tests.lab.probing import KINDS, Kind, Prober

Pair = tuple[Namespace, Namespace]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_asking_for_hardware_stamps_changes_no_other(pair: Pair, kind: Kind) -> None:
    near, far = pair
    far.rule("reject with icmpx host-unreachable", every=5)
    index = near.call(lambda: socket.if_nametoindex(near.interface))
    it = Prober(near, [kind.address(far)], kind, hardware=frozenset({index}))
    try:
        with Capture(near) as capture:
            for _ in range(20):  # one by one: see test_sockets
                it.send(1)
                it.read()
            got = it.wait(16, 20)
    finally:
        it.socket.close()
    assert it.refused == {}
    assert sorted(got.rx) == [number for number in range(20) if number % 5 != 4]
    assert sorted(got.tx) == list(range(20))
    assert all(len(stamps) == 1 and stamps[0] for stamps in got.tx.values())
    assert all(len(stamps) == 1 and stamps[0] for stamps in got.rx.values())
    it.check_stamps(capture)
    assert len(got.quoted if not kind.raw else got.strange) == 4
    assert got.hard == 0
    for error in got.quoted:
        address = sockaddr(kind.family, kind.address(far))
        assert error.destination[:2] == address[:2]
        assert (
            error.destination[4:8] == address[4:8]
            if kind.version == 4
            else (error.destination[8:24] == address[8:24])
        )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.choose_id], ids=str)
def test_the_kernels_counter_is_restarted_with_the_same_stamps(pair: Pair, kind: Kind) -> None:
    near, far = pair
    near.rule(hook="output", every=3)
    index = near.call(lambda: socket.if_nametoindex(near.interface))
    it = Prober(near, [kind.address(far)], kind, hardware=frozenset({index}))
    try:
        for _ in range(60):
            it.send(1)
        handle = it.socket._socket
        assert handle.getsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING) == abi.HARDWARE_STAMPING
        # One of three is refused; an IPv6 ping socket is not told, but its probe does not leave either.
        got = it.wait(40, 40)
    finally:
        it.socket.close()
    assert len(got.rx) == 40
    assert sorted(got.tx) == sorted(got.rx)


def test_a_veth_pair_and_loopback_have_no_clock_and_say_so(lab: Lab) -> None:
    near, far = lab.pair()

    def look() -> None:
        for name in (near.interface, "lo"):
            found = describe(name)
            assert found.software_tx
            assert found.software_rx
            assert not found.hardware_tx
            assert not found.hardware_rx
            assert found.clock == -1
            assert found.config is None
            assert found.reason == "it has no clock of its own"
            assert switch_on(name) == found
            index = socket.if_nametoindex(name)
            assert clock_of(index, switch=True) == (frozenset(), found.reason)
            assert sharing_clock(index) == frozenset()
        assert sharing_clock(99) == frozenset()
        assert clock_of(99, switch=True) == (frozenset(), "there is no such interface")

    near.call(look)
    assert far.name


def test_a_way_is_asked_for_as_a_bound_socket_takes_it(lab: Lab) -> None:
    near, far = lab.pair()
    there = [
        (int(socket.AF_INET), sockaddr(socket.AF_INET, far.ipv4)),
        (int(socket.AF_INET6), sockaddr(socket.AF_INET6, far.ipv6)),
    ]

    def look() -> None:
        index, loopback = (socket.if_nametoindex(name) for name in (near.interface, "lo"))
        assert outlets(there) == [index, index]
        assert outlets(there, near.interface) == [index, index]
        assert outlets(there[:1], source=near.ipv4) == [index]
        assert outlets(there[1:], source=near.ipv6) == [index]
        assert outlets(there[:1], source="192.0.2.77") == [0]  # no address of this host
        assert outlets(there[:1], "lo") == [loopback]

    near.call(look)
