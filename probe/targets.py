"""Names and TARGET arguments in, socket addresses out."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

from msgspec import UNSET

from probe.errors import ResolveError, UsageError
from probe.sockets.abi import sockaddr
from probe.target_settings import KINDS, KindName, Knobs, Target, Written, target_from

ALLOWED = (
    "a host, icmp://host, stamp://host[:862], tcp://host:port or connect://host:port; an IPv6 address with a "
    "port in brackets"
)
_HOST = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>(?!-)[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,9}))?")
_SCOPED = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?")
_AT_ONCE = 16  # names that are asked for side by side


Asked = tuple[str, int]  # a host, and the address family that is wanted (0: any)


@dataclass(frozen=True)
class Address:
    """Where probes of one target go: `family` is socket.AF_INET or AF_INET6, `sockaddr` 28 bytes for the
    kernel."""

    family: int
    text: str
    sockaddr: bytes


@dataclass(frozen=True)
class TargetArgument:
    """A TARGET of the command line; `port` is 0 where its kind has none."""

    kind: KindName
    host: str
    port: int = 0

    @property
    def name(self) -> str:
        """How points and pages call it: the host where it is pinged, a URL otherwise."""
        if self.kind == "icmp":
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}" + (f":{self.port}" if self.port != KINDS[self.kind].port else "")


def parse_target(text: str) -> TargetArgument:
    """A TARGET argument. Raises: UsageError, naming what is allowed."""
    scheme, separator, rest = text.partition("://")
    kind: Any = scheme if separator else "icmp"
    rest = rest if separator else text
    if kind not in KINDS:
        raise UsageError(f"{text!r}: {scheme}:// is not a kind of probe (allowed: {ALLOWED})")
    host, port = (rest, "") if _is_ipv6(rest) else _host_and_port(rest)
    if not host:
        raise UsageError(f"{text!r} is not a target (allowed: {ALLOWED})")
    default = KINDS[kind].port
    if port and default is None:
        raise UsageError(f"{text!r}: ICMP has no ports; to probe one: tcp://{rest} (allowed: {ALLOWED})")
    if port and not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r}: {port} is not a port, 1 to 65535 (allowed: {ALLOWED})")
    if not port and default == 0:
        raise UsageError(f"{text!r} has no port (allowed: {ALLOWED})")
    return TargetArgument(kind, host, int(port or default or 0))


# How the command line calls what a settings file has keys for.
_OPTIONS = {"address": "TARGET", "port": "TARGET", "size": "-s/--size", "interval": "-i/--interval"}


def target_for(argument: TargetArgument, options: Mapping[str, Any], defaults: Knobs) -> Target:
    """What a TARGET and its options mean together, as a [[target]] of a settings file would.

    `options`: those that were given, by the names of `Knobs`. Raises: SettingsError where they contradict
    each other, in the command line's words.
    """
    own = Written(
        name=argument.name,
        address=argument.host,
        kind=argument.kind,
        port=argument.port or UNSET,
        **options,
    )
    return target_from(
        own, defaults, "command line", lambda name: _OPTIONS.get(name, "--" + name.replace("_", "-"))
    )


def _host_and_port(text: str) -> tuple[str, str]:
    """Both as text, the port perhaps empty; an empty host where it is neither."""
    match = _HOST.fullmatch(text)
    if match is None or (match["v6"] is not None and not _is_ipv6(match["v6"])):
        return "", ""
    return match["v6"] or match["host"], match["port"] or ""


def _is_ipv6(host: str) -> bool:
    if not _SCOPED.fullmatch(host):
        return False
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def resolve(host: str, family: int = socket.AF_UNSPEC, known: Address | None = None) -> Address:
    """The first address of a name, or `known` where that is one of several that it has.

    Raises: ResolveError, with the resolver's reason.
    """
    try:
        found = socket.getaddrinfo(host, None, family, socket.SOCK_RAW)
    except (OSError, UnicodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        version = "IPv4 " if family == socket.AF_INET else "IPv6 " if family == socket.AF_INET6 else ""
        raise ResolveError(f"{host!r} has no {version}address: {reason}") from None
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
