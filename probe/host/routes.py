"""Nothing in, this host's default gateways out (netlink); the only module that touches pyroute2."""

from __future__ import annotations

import socket


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
