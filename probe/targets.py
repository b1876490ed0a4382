"""Names and TARGET arguments in, socket addresses out."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from probe.errors import ResolveError, UsageError
from probe.sockets.abi import sockaddr

ALLOWED = "a host, or icmp://host"
_AT_ONCE = 16  # names that are asked for side by side


Asked = tuple[str, int]  # a host, and the address family that is wanted (0: any)


@dataclass(frozen=True)
class Address:
    """Where probes of one target go: `family` is socket.AF_INET or AF_INET6, `sockaddr` 28 bytes for the
    kernel."""

    family: int
    text: str
    sockaddr: bytes


def parse_target(text: str) -> str:
    """The host of a TARGET argument. Raises: UsageError, naming what is allowed."""
    scheme, separator, rest = text.partition("://")
    host = rest if separator else text
    if separator and scheme != "icmp":
        raise UsageError(f"{text!r}: {scheme}:// is not a kind of probe of this version (allowed: {ALLOWED})")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", host) or host.startswith("-"):
        raise UsageError(f"{text!r} is not a target (allowed: {ALLOWED})")
    return host


def resolve(host: str, family: int = socket.AF_UNSPEC, known: Address | None = None) -> Address:
    """The first address of a name, or `known` where that is one of several that it has.

    Raises: ResolveError, with the resolver's reason.
    """
    try:
        found = socket.getaddrinfo(host, None, family, socket.SOCK_RAW)
    except (OSError, UnicodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ResolveError(f"{host!r} has no address: {reason}") from None
    addresses = [_address(got, where) for got, _, _, _, where in found]
    return known if known is not None and known in addresses else addresses[0]


def _address(family: int, where: tuple[Any, ...]) -> Address:
    scope = int(where[3]) if family == socket.AF_INET6 and len(where) == 4 else 0
    text = str(where[0])
    return Address(family, text, sockaddr(family, text.partition("%")[0], scope))


def resolve_all(
    asked: Iterable[Asked], known: Mapping[Asked, Address] | None = None
) -> dict[Asked, Address | ResolveError]:
    """The address of each host (in a family, or 0 for any), or why it has none.

    One that is `known` is kept where the host still has it among others.

    Names are asked for side by side: a name server that is away takes ten seconds for each. No thread is left
    behind, because privileges belong to threads.
    """
    found: dict[Asked, Address | ResolveError] = {}
    names = []
    for one in dict.fromkeys(asked):
        if is_numeric(one[0]):
            found[one] = _outcome(one, None)
        else:
            names.append(one)
    if names:
        from concurrent.futures import ThreadPoolExecutor

        kept = [known.get(one) if known else None for one in names]
        with ThreadPoolExecutor(min(len(names), _AT_ONCE)) as pool:
            found |= zip(names, pool.map(_outcome, names, kept), strict=True)
    return found


def _outcome(asked: Asked, known: Address | None) -> Address | ResolveError:
    try:
        return resolve(*asked, known)
    except ResolveError as problem:
        return problem


def is_numeric(host: str) -> bool:
    """Whether it is an address, which no name server need be asked for."""
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True
