"""A lab and two delays in, a network with two paths behind a flow hash out (ECMP, as between two sites).

    with Lab() as lab:
        paths = TwoPaths(lab, fast=1_000_000, slow=3_000_000)
        # from paths.near to paths.ipv4 or paths.ipv6

`near` knows one way, to the router `fork`; that one hashes each flow's addresses and ports (RFC 2992) onto
one of two emulated links to `far`, which answers for the targets. Replies all come back over the fast one,
whose way back takes no time: so what a flow's RTT shows is its way there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyroute2 import NetNS

from tests.lab.emulated import EmulatedLink
from tests.lab.link import Chance, Constant, Every, Impairments
from tests.lab.netlab import Lab, Namespace

_TARGETS = "10.98.0.0/24", "fd98::/64"
# RFC 8200's flow label is hashed where ports are not: net.ipv6.fib_multipath_hash_policy.
BY_LABEL, BY_PORTS = "0", "1"


@dataclass
class TwoPaths:
    """The network. `fast`, `slow`: ns one way; `loss`: what the slow path loses; `hashing`: of IPv6."""

    lab: Lab
    fast: int
    slow: int
    loss: Chance | Every | None = None
    hashing: str = BY_PORTS
    ipv4: str = "10.98.0.1"
    ipv6: str = "fd98::1"
    near: Namespace = field(init=False)
    fork: Namespace = field(init=False)
    far: Namespace = field(init=False)
    links: tuple[EmulatedLink, EmulatedLink] = field(init=False)  # the fast one, the slow one

    def __post_init__(self) -> None:
        lab = self.lab
        self.near, self.fork = lab.pair()
        self.far = far = lab.namespace("far")
        between = self.fork, far
        self.links = (
            lab.emulated(Impairments(delay=Constant(self.fast)), logging=False, between=between),
            lab.emulated(
                Impairments(delay=Constant(self.slow), loss=self.loss), logging=False, between=between
            ),
        )
        for key, value in (
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.fib_multipath_hash_policy", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv6.fib_multipath_hash_policy", self.hashing),
        ):
            self.fork.sysctl(key, value)
        for network, gateway in zip(_TARGETS, (self.fork.ipv4, self.fork.ipv6), strict=True):
            self.near.route(network, gateway)
            far.answer_for(network)
        # `Lab` numbers links from 0, so these are the networks of the fast and of the slow one.
        ends = ("10.99.1.2", "10.99.2.2"), ("fd99:0:0:1::2", "fd99:0:0:2::2")
        with NetNS(self.fork.name) as ip:
            for network, gateways in zip(_TARGETS, ends, strict=True):
                ip.route("add", dst=network, multipath=[{"gateway": one} for one in gateways])
        far.route("10.99.0.0/24", "10.99.1.1")
        far.route("fd99::/64", "fd99:0:0:1::1")

    @property
    def devices(self) -> tuple[str, str]:
        """The names of the fast and of the slow path's interfaces, at both ends."""
        fast, slow = (link.device for link in self.links)
        return fast, slow

    def carried(self) -> tuple[int, int]:
        """Packets that came to the fast and to the slow path on their way there."""
        fast, slow = (link.traffic()[0].arrived for link in self.links)
        return fast, slow
