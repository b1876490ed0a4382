"""'HOST:PORT' of an option in, a bound TCP socket out; what is wrong is told in that option's name."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from probe.errors import UsageError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")
_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - what an operator writes to open a port to other hosts


@dataclass(frozen=True)
class Listener:
    """A socket that listens. `host` and `port` are what it got; `note` is something to tell the operator."""

    socket: socket.socket
    host: str
    port: int
    note: str = ""

    @property
    def open_to_all(self) -> bool:
        """Whether other hosts can reach it at every address of this one."""
        return self.host in _WILDCARDS

    @property
    def open_to_others(self) -> bool:
        """Whether other hosts can reach it at all."""
        return not ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

    def url(self, scheme: str, *, from_here: bool = False) -> str:
        """Where to reach it: as others do, or, `from_here`, as this host does."""
        host = self.host
        if self.open_to_all:
            here = "::1" if host == "::" else "127.0.0.1"
            host = here if from_here else own_address(self.socket.family) or here
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


def parse(text: str, option: str) -> tuple[str, int]:
    """Host and port of '127.0.0.1:8080', '[::1]:8080' or ':8080' (every address). Raises: UsageError."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or int(match["port"]) > 65_535:
        raise UsageError(
            f"{option}: {text!r} is not an address (allowed: HOST:PORT, for example 127.0.0.1:8080)"
        )
    return match["v6"] or match["host"], int(match["port"])


def listen(text: str, option: str, *, fall_back: bool = False) -> Listener:
    """Bind and listen; port 0 takes a free one. With `fall_back`, a port in use is replaced by a free one.

    Raises: UsageError that names `option`.
    """
    host, port = parse(text, option)
    try:
        return _bind(host, port, "")
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE and fall_back:
            note = f"port {port} is in use"
        else:
            raise UsageError(f"{option} {text}: {_reason(problem, host, port, option)}") from None
    try:
        return _bind(host, 0, note)
    except OSError as problem:
        raise UsageError(f"{option} {text}: {_reason(problem, host, port, option)}") from None


def own_address(family: int = socket.AF_INET) -> str | None:
    """The address that this host uses towards others; None where it has no route. Sends nothing."""
    beyond = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((beyond, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None


def _bind(host: str, port: int, note: str) -> Listener:
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "it is no host name") from None
    family, kind, protocol, _, address = found[0]
    # With the protocol named, asyncio switches Nagle's delay off on every connection (40 ms an answer).
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    got = bound.getsockname()
    return Listener(bound, got[0], got[1], f"{note}; using {got[1]}" if note else "")


def _reason(problem: OSError, host: str, port: int, option: str) -> str:
    if isinstance(problem, socket.gaierror):
        return f"{host!r} is no address of any host: {problem.strerror}"
    if problem.errno == errno.EADDRINUSE:
        return f"the port is in use; choose another with {option} HOST:PORT (port 0: any free one)"
    if problem.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this host"
    if problem.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not open port {port}; choose one above 1023"
    return f"cannot listen: {problem.strerror}"
