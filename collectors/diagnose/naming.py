"""A target's name and tags in, the gateway that it leads to and the variant of the probe out; pure.

Several targets measure one gateway: over line A and B, by ICMP and by TCP, with small and with large packets.
Nothing says so but their names, so what a name says besides the gateway is taken out of it:

    nyse-pillar-a        line A    -> nyse-pillar
    nyse-pillar-b-tcp    line B    -> nyse-pillar
    nyse-pillar-a-big    line A    -> nyse-pillar, variant big
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

KINDS = frozenset({"icmp", "ping", "echo", "tcp", "syn", "connect", "stamp", "twamp", "udp", "port", "flows"})
SIZES = frozenset({"big", "large", "jumbo", "mtu", "df", "long", "full", "fat", "small", "short", "size"})
_LARGE = frozenset({"big", "large", "jumbo", "mtu", "df", "long", "full", "fat"})
_NUMBER = re.compile(r"[0-9]{3,5}")
_SMALLEST_LARGE = 1_000  # bytes: a number in a name from here on may be a large packet's size
_SEPARATOR = re.compile(r"[-_.:/ ]+")


class Named(NamedTuple):
    """gateway: what is left of the name; variant: which packets, '' where the name says nothing."""

    gateway: str
    variant: str


@cache
def named(target: str, line: str) -> Named:
    """What a target's name says; the whole name where nothing would be left of it."""
    if target.replace(".", "").isdecimal() or target.count(":") > 1:
        return Named(target, "")  # an address
    left, variant = [], []
    for token in _SEPARATOR.split(target):
        small = token.lower()
        if small in SIZES:
            variant.append(small)
        elif small in KINDS or (line and small in (line.lower(), f"line{line.lower()}")):
            continue
        elif _NUMBER.fullmatch(small):
            variant.append(small)  # a port, or a size
        else:
            left.append(token)
    if left in ([], ["line"]):
        return Named(target, "")
    return Named("-".join(left), "-".join(variant))


def is_large(variant: str) -> bool:
    """Whether a variant says that its packets are large."""
    return any(
        token in _LARGE or (token.isdecimal() and _SMALLEST_LARGE <= int(token) <= 9_216)
        for token in variant.split("-")
    )
