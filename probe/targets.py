"""Names and TARGET arguments in, socket addresses out."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from probe.errors import ResolveError, UsageError
from probe.sockets.abi import sockaddr

ALLOWED = "a host, or icmp://host"
_AT_ONCE = 16  # names that are asked for side by side


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


def resolve(host: str, family: int = socket.AF_UNSPEC) -> Address:
    """The first address of a name. Raises: ResolveError, with the resolver's reason."""
    try:
        found = socket.getaddrinfo(host, None, family, socket.SOCK_RAW)
    except (OSError, UnicodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ResolveError(f"{host!r} has no address: {reason}") from None
    got, _, _, _, where = found[0]
    scope = int(where[3]) if got == socket.AF_INET6 and len(where) == 4 else 0
    text = str(where[0])
    return Address(got, text, sockaddr(got, text.partition("%")[0], scope))


def resolve_all(hosts: Iterable[str]) -> dict[str, Address | ResolveError]:
    """The address of each host, or why it has none.

    Names are asked for side by side: a name server that is away takes ten seconds for each. No thread is left
    behind, because privileges belong to threads.
    """
    found: dict[str, Address | ResolveError] = {}
    names = []
    for host in dict.fromkeys(hosts):
        if _is_numeric(host):
            found[host] = _outcome(host)
        else:
            names.append(host)
    if names:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(names), _AT_ONCE)) as pool:
            found |= zip(names, pool.map(_outcome, names), strict=True)
    return found


def _outcome(host: str) -> Address | ResolveError:
    try:
        return resolve(host)
    except ResolveError as problem:
        return problem


def _is_numeric(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True
