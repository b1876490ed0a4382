"""Nothing in, what this host's kernel knows of ways out (netlink): default gateways, the route and the
neighbour
towards a destination, and whether any of it changed. The only module that touches pyroute2."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_UNICAST, _LOCAL = 1, 2  # rtm_type
_ETHERNET = 1  # ARPHRD_ETHER
_UP, _LOOPBACK, _NOARP = 1 << 0, 1 << 3, 1 << 7  # IFF_...
_INCOMPLETE, _STALE, _FAILED = 0x01, 0x04, 0x20  # NUD_...
_USE = 1  # NTF_USE: let the kernel ask for the neighbour as if there were a packet for it
_POLL_S = 0.02

# rtnetlink's multicast groups, as bits (linux/rtnetlink.h).
_LINKS, _NEIGHBOURS = 1 << 0, 1 << 2
_ADDRESSES, _ROUTES, _RULES = 1 << 4 | 1 << 8, 1 << 6 | 1 << 10, 1 << 7 | 1 << 18
_NEIGHBOUR_MESSAGES = (28, 29, 30)  # RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH


@dataclass(frozen=True)
class Hop:
    """The way to a destination over Ethernet; addresses are bytes, 4 or 16 for IP and 6 for MAC.

    `mac` is of the next hop and empty where the kernel does not know it; `sure`: the kernel has heard of it
    lately, or was told by hand.
    """

    interface: str
    index: int
    own_mac: bytes
    mtu: int
    source: bytes
    gateway: bytes
    mac: bytes = b""
    sure: bool = False

    @property
    def neighbour(self) -> str:
        """The next hop's address as text."""
        family = socket.AF_INET if len(self.gateway) == 4 else socket.AF_INET6
        return socket.inet_ntop(family, self.gateway)


@dataclass(frozen=True)
class Wanted:
    """A destination: its family, its sockaddr (28 bytes), and the DSCP its packets carry."""

    family: int
    sockaddr: bytes
    dscp: int = 0


def default_gateways() -> list[str]:
    """Addresses of the default routes' next hops, IPv4 first; empty where there are none or netlink is
    refused."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    found: list[str] = []
    try:
        with IPRoute() as ip:
            for family in (socket.AF_INET, socket.AF_INET6):
                for route in ip.get_default_routes(family=family):
                    gateway = route.get("gateway")
                    # A link-local next hop would need its interface named with it.
                    if gateway and not str(gateway).lower().startswith("fe80:"):
                        found.append(str(gateway))
    except (NetlinkError, OSError):
        return found
    return list(dict.fromkeys(found))


def find_hops(wanted: Sequence[Wanted], wait_s: float = 0) -> list[Hop | str]:
    """The way to each destination, or why there is none over Ethernet. About 0.6 ms each.

    Neighbours that the kernel does not know are asked for, where this process may (CAP_NET_ADMIN), and waited
    for as long as `wait_s` in all.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            query = _Query(ip)
            distinct = {each: query.hop(each) for each in dict.fromkeys(wanted)}
            hops = query.resolve(list(distinct.values()), wait_s)
            by_wanted = dict(zip(distinct, hops, strict=True))
            return [by_wanted[each] for each in wanted]
    except (NetlinkError, OSError) as problem:
        return [f"netlink is refused: {problem}"] * len(wanted)


def refresh_neighbours(hops: Sequence[Hop]) -> list[Hop]:
    """The same ways with what the kernel knows of the next hops now; unchanged where netlink is refused."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            return _Query(ip).neighbours(hops)
    except (NetlinkError, OSError):
        return list(hops)


@dataclass
class _Query:
    """One look at the kernel's tables."""

    ip: Any
    links: dict[int, Any] = field(default_factory=dict)

    def hop(self, wanted: Wanted) -> Hop | str:
        """Without the neighbour."""
        from pyroute2.netlink.exceptions import NetlinkError

        v4 = wanted.family == socket.AF_INET
        packed = wanted.sockaddr[4:8] if v4 else wanted.sockaddr[8:24]
        criteria: dict[str, Any] = {"dst": socket.inet_ntop(wanted.family, packed)}
        if scope := 0 if v4 else int.from_bytes(wanted.sockaddr[24:28], "little"):
            criteria["oif"] = scope
        if wanted.dscp:
            criteria["tos"] = wanted.dscp << 2
        try:
            route = self.ip.route("get", **criteria)[0]
        except NetlinkError as problem:
            return f"no route ({os.strerror(problem.code)})"
        attributes = dict(route["attrs"])
        if route["type"] == _LOCAL:
            return "it is this host itself"
        if route["type"] != _UNICAST:
            return f"its route is of type {route['type']}"
        if "RTA_ENCAP_TYPE" in attributes:
            return "its route leads through a tunnel"
        source = attributes.get("RTA_PREFSRC")
        if not source:
            return "its route names no source address"
        via = attributes.get("RTA_GATEWAY")
        if via is None and "RTA_VIA" in attributes:
            return "its next hop is of another address family"
        link = self.link(int(attributes["RTA_OIF"]))
        if isinstance(link, str):
            return link
        gateway = socket.inet_pton(wanted.family, via) if via else packed
        return replace(link, source=socket.inet_pton(wanted.family, source), gateway=gateway)

    def link(self, index: int) -> Hop | str:
        """A way through this interface, to nobody yet."""
        if index not in self.links:
            self.links[index] = self._link(index)
        found: Hop | str = self.links[index]
        return found

    def _link(self, index: int) -> Hop | str:
        link = self.ip.get_links(index)[0]
        name = str(link.get("ifname"))
        kind = dict((link.get("linkinfo") or {}).get("attrs", ())).get("IFLA_INFO_KIND")
        address = link.get("address")
        if link["flags"] & _LOOPBACK:
            return f"{name} is the loopback interface"
        if link["ifi_type"] != _ETHERNET or link["flags"] & _NOARP or not address:
            return f"{name} is no Ethernet interface"
        if kind == "vrf":
            return f"{name} is a VRF"
        if not link["flags"] & _UP:
            return f"{name} is down"
        return Hop(name, index, bytes.fromhex(address.replace(":", "")), int(link.get("mtu")), b"", b"")

    def neighbours(self, hops: Sequence[Hop]) -> list[Hop]:
        """With the next hops' MAC addresses, as far as the kernel knows them."""
        tables: dict[tuple[int, int], dict[str, Any]] = {}
        found = []
        for hop in hops:
            family = socket.AF_INET if len(hop.gateway) == 4 else socket.AF_INET6
            key = family, hop.index
            if key not in tables:
                entries = self.ip.get_neighbours(family=family, ifindex=hop.index)
                tables[key] = {entry.get("dst"): entry for entry in entries if entry["ifindex"] == hop.index}
            entry = tables[key].get(hop.neighbour)
            state = entry["state"] if entry is not None else _INCOMPLETE
            address = str(entry.get("lladdr") or "") if entry is not None else ""
            known = bool(address) and not state & (_INCOMPLETE | _FAILED)
            mac = bytes.fromhex(address.replace(":", "")) if known else b""
            found.append(replace(hop, mac=mac, sure=known and not state & _STALE))
        return found

    def resolve(self, hops: list[Hop | str], wait_s: float) -> list[Hop | str]:
        """With the next hops' MAC addresses; where one is missing it is asked for, once, and waited for."""
        from pyroute2.netlink.exceptions import NetlinkError

        places = [n for n, hop in enumerate(hops) if isinstance(hop, Hop)]
        deadline = time.monotonic() + wait_s
        asked = False
        while places:
            known = self.neighbours([hop for n in places if isinstance(hop := hops[n], Hop)])
            for n, hop in zip(places, known, strict=True):
                hops[n] = hop
            missing = {(hop.index, hop.gateway): hop for hop in known if not hop.mac}
            if not missing or time.monotonic() >= deadline:
                break
            if not asked:
                asked = True
                try:
                    for hop in missing.values():
                        # An entry may be there already, of an asking that failed.
                        self.ip.neigh(
                            "replace", dst=hop.neighbour, ifindex=hop.index, flags=_USE, state=_INCOMPLETE
                        )
                except NetlinkError:  # without CAP_NET_ADMIN; then the raw socket's probes ask
                    break
            places = [n for n in places if isinstance(hop := hops[n], Hop) and not hop.mac]
            time.sleep(_POLL_S)
        return hops


class Changes:
    """Whether routes or neighbours have changed, without a look at what: the kernel's own announcements."""

    def __init__(self) -> None:
        """Raises: OSError."""
        groups = _LINKS | _NEIGHBOURS | _ADDRESSES | _ROUTES | _RULES
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        with contextlib.ExitStack() as opened:
            opened.callback(self._socket.close)
            self._socket.bind((0, groups))
            opened.pop_all()

    def seen(self) -> tuple[bool, bool]:
        """(Routes, links or addresses; neighbours) have changed since the last call."""
        routes = neighbours = False
        for _ in range(10_000):
            try:
                message = self._socket.recv(65536)
            except OSError as problem:
                if problem.errno == errno.ENOBUFS:  # some announcements were dropped
                    return True, True
                break
            if int.from_bytes(message[4:6], "little") in _NEIGHBOUR_MESSAGES:
                neighbours = True
            else:
                routes = True
        return routes, neighbours

    def close(self) -> None:
        self._socket.close()
