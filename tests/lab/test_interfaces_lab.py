"""Interfaces of real kinds in, whether the kernel is sure to stamp what leaves by them out."""

from __future__ import annotations

import socket

import pytest
from pyroute2 import NetNS

from probe.host.interfaces import TX_SOFTWARE, stamped, stamping
from probe.sockets.abi import sockaddr
from tests.lab.netlab import IFA_F_NODAD, Lab, Namespace

Pair = tuple[Namespace, Namespace]

NOWHERE = ["192.0.2.1", "2001:db8::1"]


def sure(namespace: Namespace, *addresses: str) -> list[bool]:
    """What an agent in there is told of these destinations."""
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    wanted = [(int(f), sockaddr(f, address)) for f, address in zip(families, addresses, strict=True)]
    return namespace.call(lambda: stamped(wanted))


def add(
    namespace: Namespace, name: str, kind: str, addresses: tuple[str, ...] = (), routes: tuple[str, ...] = ()
) -> None:
    """An interface that is up, with addresses ("address/length") and routes to networks straight through
    it."""
    with NetNS(namespace.name) as ip:
        ip.link("add", ifname=name, kind=kind)
        index = ip.link_lookup(ifname=name)[0]
        ip.link("set", index=index, state="up")
        for address in addresses:
            give(ip, index, address)
        for network in routes:
            ip.route("add", dst=network, oif=index)


def give(ip: NetNS, index: int, address: str) -> None:
    text, length = address.split("/")
    ip.addr("add", index=index, address=text, prefixlen=int(length), flags=IFA_F_NODAD if ":" in text else 0)


def test_a_veth_pair_stamps_and_what_leads_nowhere_does_not(pair: Pair) -> None:
    near, far = pair
    flags = near.call(lambda: stamping(near.interface))
    assert flags is not None
    assert flags & TX_SOFTWARE
    assert sure(near, far.ipv4, *NOWHERE, far.ipv6, "127.0.0.1", "::1") == [
        True,
        False,
        False,
        True,
        True,
        True,
    ]


def test_addresses_of_the_host_itself_are_reached_by_loopback(pair: Pair) -> None:
    near, _ = pair
    # The kernel takes the address itself as the source, whose owner is the veth: it stamps as well.
    assert sure(near, near.ipv4, near.ipv6) == [True, True]


@pytest.mark.emulator
def test_a_tunnel_device_stamps(lab: Lab) -> None:
    link = lab.emulated()
    assert sure(link.near, link.far.ipv4, link.far.ipv6) == [True, True]


def test_an_interface_whose_driver_takes_no_stamps_is_not_sure(pair: Pair) -> None:
    near, far = pair
    add(near, "br0", "bridge", ("10.98.0.1/24", "fd98::1/64"))
    flags = near.call(lambda: stamping("br0"))
    assert flags is not None
    assert not flags & TX_SOFTWARE
    assert sure(near, "10.98.0.2", far.ipv4, "fd98::2", far.ipv6) == [False, True, False, True]


def test_a_way_through_an_interface_that_does_not_stamp_is_not_sure(lab: Lab) -> None:
    near = lab.namespace("near")
    add(near, "br0", "bridge", routes=("10.98.0.0/24",))
    assert sure(near, "10.98.0.2") == [False]


@pytest.mark.parametrize(
    ("network", "target", "source"),
    [
        ("10.98.0.0/24", "10.98.0.2", None),
        ("fd98::/64", "fd98::2", None),
        ("fd98::/64", "fd98::2", "fd55::5/128"),
    ],
)
def test_an_address_borrowed_from_another_interface_is_not_sure(
    pair: Pair, network: str, target: str, source: str | None
) -> None:
    """A host with one address on loopback, or on another line, and none on the line itself."""
    near, _ = pair
    add(near, "br0", "bridge")
    with NetNS(near.name) as ip:
        if source:
            give(ip, ip.link_lookup(ifname="lo")[0], source)
        borrowed = source.split("/")[0] if source else near.ipv6 if ":" in network else near.ipv4
        ip.route("add", dst=network, oif=ip.link_lookup(ifname="br0")[0], prefsrc=borrowed)
    assert sure(near, target) == [False]
