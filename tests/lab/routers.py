"""A lab in, a network of routers out, with two equal ways in its midst: what a trace has to find.

                             .-- upper --.
    near -- first -- fork ---|           |--- join -- far
                             '-- lower --'

`fork` hashes each flow's addresses and ports onto one of the two ways; replies come back by the upper one.
`far` answers for any number of targets behind it (10.98.0.0/24, fd98::/64).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from pyroute2 import NetNS

from tests.lab.netlab import Lab, Namespace

TARGETS = "10.98.0.0/24", "fd98::/64"
# In the order in which `Lab` numbers links: their networks are 10.99.N.0/24 and fd99:0:0:N::/64.
_LINKS = ("near first", "first fork", "fork upper", "fork lower", "upper join", "lower join", "join far")


@dataclass
class Routers:
    """The network. `by_name`: its namespaces."""

    lab: Lab
    ipv4: str = "10.98.0.1"
    ipv6: str = "fd98::1"
    by_name: dict[str, Namespace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("near", "first", "fork", "upper", "lower", "join", "far"):
            self.by_name[name] = self.lab.namespace(name)
        for link in _LINKS:
            self.lab.link(*(self.by_name[name] for name in link.split()))
        for name, namespace in self.by_name.items():
            namespace.sysctl("net.ipv4.conf.all.rp_filter", "0")
            if name not in ("near", "far"):
                namespace.sysctl("net.ipv4.ip_forward", "1")
                namespace.sysctl("net.ipv6.conf.all.forwarding", "1")
        for family in ("4", "6"):
            self._route(family)
        self.by_name["fork"].sysctl("net.ipv4.fib_multipath_hash_policy", "1")
        self.by_name["fork"].sysctl("net.ipv6.fib_multipath_hash_policy", "1")
        self.by_name["far"].answer_for(TARGETS[0])
        self.by_name["far"].answer_for(TARGETS[1])

    def __getitem__(self, name: str) -> Namespace:
        return self.by_name[name]

    def address(self, family: str, name: str) -> str:
        """By which a router answers probes from `near`: that of the interface towards it."""
        links = {"first": 0, "fork": 1, "upper": 2, "lower": 3, "join": 4, "far": 6}
        return _end(family, links[name], 2)

    def ways(self, family: str) -> list[list[str]]:
        """The addresses on both ways, the target's behind them."""
        target = self.ipv4 if family == "4" else self.ipv6
        common = [self.address(family, name) for name in ("first", "fork")]
        # By the lower way `join` is reached by another interface. On IPv6 it answers by that one's address,
        # on IPv4 by the one of the way back.
        again = _end(family, 4 if family == "4" else 5, 2)
        return [
            [*common, self.address(family, "upper"), _end(family, 4, 2), target],
            [*common, self.address(family, "lower"), again, target],
        ]

    def _route(self, family: str) -> None:
        target = TARGETS[0] if family == "4" else TARGETS[1]
        everywhere = "10.99.0.0/24" if family == "4" else "fd99::/64"
        for name, link in (("near", 0), ("first", 1), ("upper", 4), ("lower", 5), ("join", 6)):
            self.by_name[name].route(target, _end(family, link, 2))
        self.fork(family, upper=True, lower=True)
        for name, link in (("far", 6), ("join", 4), ("upper", 2), ("lower", 3), ("fork", 1)):
            self.by_name[name].route(everywhere, _end(family, link, 1))

    def fork(self, family: str, *, upper: bool, lower: bool) -> None:
        """Send what is for the targets by these ways."""
        target = TARGETS[0] if family == "4" else TARGETS[1]
        gateways = [_end(family, link, 2) for link, use in ((2, upper), (3, lower)) if use]
        with NetNS(self.by_name["fork"].name) as ip:
            if len(gateways) == 1:
                ip.route("replace", dst=target, gateway=gateways[0])
            else:
                ip.route("replace", dst=target, multipath=[{"gateway": one} for one in gateways])

    def limit(self, mtu: int) -> None:
        """Between `join` and `far`."""
        for name in ("join", "far"):
            with NetNS(self.by_name[name].name) as ip:
                ip.link("set", index=ip.link_lookup(ifname="veth6")[0], mtu=mtu)


def _end(family: str, link: int, host: int) -> str:
    return str(ip_address(f"10.99.{link}.{host}" if family == "4" else f"fd99:0:0:{link:x}::{host}"))
