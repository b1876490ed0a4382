"""Options in, a STAMP session-reflector out: sockets, rules and clock joined, until a signal ends it.

One thread and no timer: it wakes when packets or TX stamps wait, and answers all that wait. T2 is the
kernel's RX stamp. T3 has to be in the reply before it leaves, so it is the program's clock; the kernel's TX
stamp of the same reply comes with the session's next one (follow-up telemetry, RFC 8972, section 4.7).

The reply has the request's DSCP, so that a probe measures the class it asks for in both directions. RFC 8762
leaves that open.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from probe.clock import SECOND, Clock, SystemClock
from probe.errors import PrivilegeError, SocketError, UsageError
from probe.host.clock import clock_state
from probe.keys import exposed, read_key_option
from probe.limits import RateLimit
from probe.packets import stamp
from probe.packets.arrival import Arrival
from probe.packets.timestamps import error_estimate
from probe.reflection import Reflection, Session
from probe.sockets.reflecting import ROWS, ReflectingSocket, open_reflecting
from probe.units import Duration

RATE = 10_000
_TOGETHER = 4  # all senders together may have this times as many replies as one
_STATUS = 60 * SECOND
_IN_FLIGHT = 8192  # replies of a socket whose TX stamps are awaited
_BATCHES = 16  # of one socket, before the others and signals have their turn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReflectOptions:
    """What `coloprobe reflect` is asked to do.

    host: address or name to listen on; empty: all addresses, IPv4 and IPv6.
    key_file: of authenticated mode; None: unauthenticated.
    clock_error_ns: how far this host's clock may be off, where the kernel is not told; None: ask the kernel.
    rate: replies a second to one address.
    """

    host: str = ""
    port: int = stamp.PORT
    key_file: Path | None = None
    clock_error_ns: int | None = None
    rate: int = RATE


def parse_bind(text: str) -> tuple[str, int]:
    """Host and port of 'HOST:PORT', 'HOST', ':PORT' or '[IPV6]:PORT'; no host is ''.

    Raises: UsageError, with what is allowed.
    """
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(stamp.PORT)
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not port.isdecimal() or not 1 <= int(port) <= 65535 or "[" in host or "]" in host:
        raise UsageError(
            f"--bind {text!r} is no address to listen on (allowed: HOST:PORT, HOST or :PORT, IPv6 in "
            "brackets, ports 1 to 65535; for example 192.0.2.10:862, [2001:db8::10]:862 or :8620)"
        )
    return host, int(port)


def reflect(options: ReflectOptions) -> int:
    """Answer until SIGTERM, SIGINT or SIGHUP. Returns 0.

    Raises: UsageError where the key or the address is wrong; PrivilegeError and SocketError where the port
        cannot be had.
    """
    from probe.sockets.privileges import drop_privileges

    key = read_key_option(options.key_file) if options.key_file else b""
    if options.key_file and (problem := exposed(options.key_file)):
        logger.warning("--key-file: %s; %s", *problem)
    sockets = _open(options)
    drop_privileges()
    limit = RateLimit(options.rate, _TOGETHER * options.rate)
    rules = Reflection(key, options.port, limit)
    reflector = Reflector(sockets, rules, SystemClock(), _estimator(options.clock_error_ns))
    try:
        _announce(options, sockets)
        _run(reflector)
        logger.info("ended: %s", reflector.status())
    finally:
        for opened in sockets:
            opened.close()
    return 0


def _open(options: ReflectOptions) -> list[ReflectingSocket]:
    if options.host:
        try:
            found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else str(problem)
            raise UsageError(f"--bind: {options.host!r} has no address: {reason}") from None
        family, _, _, _, where = found[0]
        scope = int(where[3]) if family == socket.AF_INET6 and len(where) == 4 else 0
        return [open_reflecting(family, str(where[0]).partition("%")[0], options.port, scope)]
    four = open_reflecting(socket.AF_INET, "", options.port)
    try:
        return [four, open_reflecting(socket.AF_INET6, "", options.port)]
    except SocketError as problem:
        if isinstance(problem, PrivilegeError) or socket.has_dualstack_ipv6():
            four.close()
            raise
        logger.info("IPv4 only: %s", problem)
        return [four]


def _estimator(clock_error_ns: int | None) -> Callable[[], int]:
    """What gives our error estimate (raw, as in `timestamps`)."""
    if clock_error_ns is not None:
        fixed = error_estimate(clock_error_ns, True)
        return lambda: fixed

    def ask() -> int:
        state = clock_state()
        return error_estimate(state.error_ns, state.synchronised)

    return ask


def _announce(options: ReflectOptions, sockets: list[ReflectingSocket]) -> None:
    where = ", ".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in (s.address for s in sockets))
    mode = "authenticated" if options.key_file else "unauthenticated"
    logger.info("reflecting STAMP (%s) on %s, at most %d replies/s to an address", mode, where, options.rate)
    if options.clock_error_ns is not None:
        logger.info("the clock is trusted to %s, as --clock-error says", Duration(options.clock_error_ns))
        return
    state = clock_state()
    if state.synchronised:
        logger.info("the clock is synchronised to %s by the kernel's account", Duration(state.error_ns))
    else:
        logger.warning(
            "the clock is not synchronised by the kernel's account, and replies say so: senders cannot tell "
            "one-way delays. Start chrony, or ptp4l with phc2sys; where the clock is kept right without the "
            "kernel being told, give --clock-error"
        )


class _Port:
    """One socket, and whose replies its TX stamps are."""

    def __init__(self, opened: ReflectingSocket) -> None:
        self.socket = opened
        self.sent: list[tuple[int, Session, int] | None] = [None] * _IN_FLIGHT


class Reflector:
    """Sockets, rules and clock together. `estimate`: gives our error estimate, raw."""

    def __init__(
        self, sockets: list[ReflectingSocket], rules: Reflection, clock: Clock, estimate: Callable[[], int]
    ) -> None:
        self.sockets = sockets
        self._ports = [_Port(opened) for opened in sockets]
        self._rules, self._clock, self._estimate = rules, clock, estimate
        self._estimated = 0
        self.received = self.replied = 0
        self._due, self._said = clock.mono() + _STATUS, self.status()

    def turn(self) -> None:
        """Answer what waits."""
        for port in self._ports:
            self._learn(port)
            for _ in range(_BATCHES):
                arrived = port.socket.receive()
                if arrived:
                    self._answer(port, arrived)
                    self._learn(port)
                if len(arrived) < ROWS:
                    break

    def _learn(self, port: _Port) -> None:
        """Tell sessions when their replies left."""
        for number, wall in port.socket.stamps():
            entry = port.sent[number % _IN_FLIGHT]
            if entry is not None and entry[0] == number:
                entry[1].replied(entry[2], wall, stamp.SOFTWARE)
                port.sent[number % _IN_FLIGHT] = None

    def _answer(self, port: _Port, arrived: list[tuple[memoryview, Arrival]]) -> None:
        rules, now = self._rules, self._clock.mono()
        if now >= self._estimated:
            rules.estimate = self._estimate()
            self._estimated = now + SECOND
        self.received += len(arrived)
        rows, numbers = [], []
        for row, (packet, arrival) in enumerate(arrived):
            prepared = rules.prepare(packet, arrival, now)
            if prepared is not None:
                rows.append(row)
                numbers.append(prepared)
        if not rows:
            return
        wall = self._clock.wall()
        for row in rows:
            rules.finish(arrived[row][0], wall)
        for sent, (session, number) in zip(port.socket.reply(rows), numbers, strict=True):
            if sent >= 0:
                self.replied += 1
                port.sent[sent % _IN_FLIGHT] = sent, session, number

    def report(self) -> int:
        """Log the counters once a minute, where they have moved. Returns ns until the next time."""
        now = self._clock.mono()
        if now >= self._due:
            self._due = now + _STATUS
            if (status := self.status()) != self._said:
                self._said = status
                logger.info("%s", status)
        return self._due - now

    def status(self) -> str:
        """All counters since the start, as a line for people."""
        unsent: Counter[str] = Counter()
        for port in self._ports:
            unsent += port.socket.unsent
        parts = [f"{self.replied} replies to {self.received} packets, {len(self._rules.sessions)} sessions"]
        parts += [f"{count} {reason}" for reason, count in sorted(self._rules.refused.items())]
        parts += [
            f"{count} replies refused by the kernel ({reason})" for reason, count in sorted(unsent.items())
        ]
        for count, what in (
            (sum(port.socket.overflowed for port in self._ports), "lost in a full receive buffer"),
            (sum(port.socket.unstamped for port in self._ports), "without the kernel's stamp"),
            (self._rules.sessions.evicted, "sessions forgotten to make room"),
        ):
            parts += [f"{count} {what}"] if count else []
        return "; ".join(parts)


def _run(reflector: Reflector) -> None:
    """Turn whenever something waits, until a signal; the second one ends the process at once."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            os._exit(130)
        asked.append(number)

    before = signal.set_wakeup_fd(theirs.fileno())
    handlers = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    for opened in reflector.sockets:
        poll.register(opened.fd, select.POLLIN)
    try:
        while not asked:
            poll.poll(reflector.report() // 1_000_000 + 1)
            reflector.turn()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        ours.close()
        theirs.close()
