"""A request on stdin in, a trace's records out, one JSON object a line: `python -m probe.paths.child`.

A process of its own, because it is the one that imports scapy (44 MB, 0.2 s), which makes the packets. It
gives up every privilege as soon as its sockets are open, before anything of the network is read.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing

from probe.clock import SECOND
from probe.errors import ColoprobeError, MissingPartError, SocketError
from probe.paths import identity, mtu
from probe.paths.hops import Hops
from probe.paths.identity import Secrets
from probe.paths.records import (
    Answer,
    Done,
    Failed,
    Hop,
    Path,
    Record,
    Request,
    Start,
    decode_request,
    encode,
)
from probe.paths.replies import TOO_BIG, Matcher, Reply
from probe.paths.wire import Arrival, Wire, strerror
from probe.sockets.privileges import drop_everything

_MEMORY = 512 << 20  # bytes of address space
_STDIN = 1 << 16
_MOST_REFUSALS = 8  # in a row, and none let through: there is no point in going on
_MOST_SEARCHES = 4  # for an MTU: that many different paths
_LEAST_PATIENCE = 250_000_000  # ns
_HEADER = {4: 20, 6: 40}


class Packets:
    """Makes the packets of one trace with scapy. Raises: MissingPartError."""

    def __init__(self, request: Request, wire: Wire, secrets: Secrets) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of theirs: what it imports is not ours to mend
                from scapy.config import conf

                # The kernel routes; a host with a full table would be read for minutes.
                conf.route_autoload = conf.route6_autoload = False
                # By its parts: `scapy.all` takes twice the time and the memory.
                from scapy.layers.inet import ICMP, IP, TCP, UDP
                from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
                from scapy.packet import Raw
        except ImportError as missing:
            raise MissingPartError(f"scapy (Python module {missing.name})", "trace") from None
        self._request, self._wire, self._secrets = request, wire, secrets
        self._six = request.family == socket.AF_INET6
        self._ip, self._ip6, self._icmp, self._icmp6 = IP, IPv6, ICMP, ICMPv6EchoRequest
        self._udp, self._tcp, self._raw = UDP, TCP, Raw
        text = [socket.inet_ntop(request.family, end) for end in (wire.source, wire.destination)]
        self._source, self._destination = text

    def make(self, number: int, flow: int, ttl: int, size: int = 0, *, echo: bool = False) -> bytes:
        """A whole packet. size: bytes of it (0: as small as it can be); echo: whatever the trace's
        protocol."""
        protocol = "icmp" if echo else self._request.protocol
        rest = max(size - _HEADER[6 if self._six else 4], 0)
        inner = getattr(self, f"_{protocol}_packet")(number, self._wire.flows[flow], rest)
        traffic = self._request.dscp << 2
        source, destination = self._source, self._destination
        if self._six:
            label = self._wire.flows[flow].label
            header6 = self._ip6(src=source, dst=destination, hlim=ttl, tc=traffic, fl=label)
            return bytes(header6 / inner)
        header = self._ip(src=source, dst=destination, ttl=ttl, tos=traffic, flags="DF", id=number + 1)
        return bytes(header / inner)

    def _icmp_packet(self, number: int, flow: identity.Flow, rest: int) -> object:
        sequence = self._secrets.echo_sequence(number)
        if not self._six:
            payload = identity.echo_payload(flow, self._secrets, number, rest, 8, 0)
            made = self._icmp(type=8, id=flow.ident, seq=sequence, chksum=flow.checksum)
            return made / self._raw(payload)
        length = max(rest, identity.ECHO_HEAD + identity.TOKEN + 2)
        besides = identity.pseudo(self._wire.source, self._wire.destination, 58, length)
        payload = identity.echo_payload(flow, self._secrets, number, length, 128, besides)
        return self._icmp6(id=flow.ident, seq=sequence, data=payload, cksum=flow.checksum)

    def _udp_packet(self, number: int, flow: identity.Flow, rest: int) -> object:
        ports, ends = (flow.port, self._request.port), (self._wire.source, self._wire.destination)
        payload = identity.udp_payload(self._secrets, number, rest, ports, ends)
        checksum = self._secrets.udp_checksum(number)
        return self._udp(sport=ports[0], dport=ports[1], chksum=checksum) / self._raw(payload)

    def _tcp_packet(self, number: int, flow: identity.Flow, rest: int) -> object:  # noqa: ARG002
        return self._tcp(
            sport=flow.port,
            dport=self._request.port,
            seq=self._secrets.tcp_sequence(number),
            flags="S",
            window=64_240,
            options=[("MSS", 1440 if self._six else 1460)],
        )


class Tracer:
    """One trace: hops first, then the MTU."""

    def __init__(self, request: Request, wire: Wire) -> None:
        self._request, self._wire = request, wire
        self._secrets = Secrets.of(os.urandom(16), time.time_ns())
        self._packets = Packets(request, wire, self._secrets)
        self._matcher = Matcher(wire.destination, request.port, wire.flows, self._secrets)
        polite = request.protocol == "tcp"
        self._hops = Hops(request.flows, request.max_hops, request.probes, request.timeout, polite=polite)
        self._parent = os.getppid()
        self._next_number = 0
        self._next_at = 0  # when the next packet may leave, monotonic ns
        self._sent_at: dict[int, int] = {}  # by probe, our own clock: wall
        self._sent_mono: dict[int, int] = {}  # and monotonic
        self._gap = round(1e9 / request.rate)
        self._let_out = self._refused = self._answered = self._unstamped = 0
        self._refusal = ""
        self._tried: dict[int, mtu.Ask] = {}  # by probe
        self._outcomes: dict[mtu.Ask, mtu.Outcome] = {}

    def run(self) -> None:
        """Write every record. Raises: SocketError (nothing leaves)."""
        wire, request = self._wire, self._request
        by_port = request.protocol != "icmp"
        source = socket.inet_ntop(request.family, wire.source)
        identities = tuple(flow.port if by_port else flow.ident for flow in wire.flows)
        labels = tuple(flow.label for flow in wire.flows) if request.family == socket.AF_INET6 else ()
        _write(Start(source, identities, labels))
        self._find_hops()
        for path in self._paths(identities):
            _write(path)
        done = Done(self._let_out, self._answered, self._unstamped, self._refused, self._refusal)
        _write(done)

    # -- hops ------------------------------------------------------------------------------------------------

    def _find_hops(self) -> None:
        hops = self._hops
        while True:
            now = time.monotonic_ns()
            self._listen(0)  # what came before `now` counts, however late this process has its turn
            if now < self._next_at:
                self._listen(self._next_at - now)
            elif (probe := hops.next(now)) is not None:
                flow, ttl = probe
                number = self._new_number()
                hops.sent(number, flow, ttl, now)
                self._sent_mono[number] = now
                if not self._send(self._packets.make(number, flow, ttl), number, flow):
                    hops.refused(number)
            elif (wake := hops.wake(now)) is not None:
                self._listen(wake - now)
            else:
                return

    def _new_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        if number >= identity.MOST_NUMBERS:
            raise SocketError("too many packets for one trace: fewer flows, hops or probes")
        return number

    def _send(self, packet: bytes, number: int, flow: int) -> bool:
        """Whether it was let out. Raises: SocketError (nothing is)."""
        self._next_at = max(time.monotonic_ns(), self._next_at) + self._gap
        self._sent_at[number] = time.time_ns()
        try:
            self._wire.send(packet, number, self._wire.flows[flow].label)
        except OSError as problem:
            self._refused += 1
            self._refusal = strerror(problem)
            if not self._let_out and self._refused >= _MOST_REFUSALS:
                raise SocketError(
                    f"this host lets nothing out to {self._request.address}: {self._refusal}"
                ) from None
            return False
        self._let_out += 1
        return True

    def _listen(self, timeout_ns: int) -> None:
        if os.getppid() != self._parent:
            raise BrokenPipeError  # killed: there is nobody to trace for
        for arrival in self._wire.receive(min(timeout_ns, SECOND)):
            reply = self._reply(arrival)
            if reply is None or reply.number not in self._sent_at:
                continue
            left = self._wire.left_at(reply.number)
            rtt = arrival.rx_ns - (left or self._sent_at[reply.number])
            if rtt < 0:  # the clock was set meanwhile
                continue
            if reply.number in self._tried:
                self._heard_of_size(reply)
            elif reply.what != TOO_BIG and reply.number in self._sent_mono:  # no late answer to a size
                self._heard_of_hop(reply, rtt, left is not None and arrival.by_kernel)

    def _reply(self, arrival: Arrival) -> Reply | None:
        if arrival.how == "tcp":
            return self._matcher.segment(arrival.source, arrival.data)
        if arrival.how == "udp":
            return self._matcher.datagram(arrival.flow, arrival.source, arrival.port, arrival.data)
        if self._request.family == socket.AF_INET6:
            return self._matcher.icmp6(arrival.data, arrival.source)
        return self._matcher.icmp4(arrival.data)

    def _heard_of_hop(self, reply: Reply, rtt: int, stamped: bool) -> None:
        came = self._sent_mono[reply.number] + rtt
        place = self._hops.answered(reply.number, came, reply.address, reply.what, reply.reached, rtt)
        if place is None:
            return
        self._answered += 1
        self._unstamped += not stamped
        flow, ttl = place
        _write(Answer(flow, ttl, reply.address, rtt, "kernel" if stamped else "user", reply.what))

    # -- MTU -------------------------------------------------------------------------------------------------

    def _paths(self, identities: Sequence[int]) -> list[Path]:
        request, hops = self._request, self._hops
        top = self._wire.interface_mtu(self._packets.make(self._new_number(), 0, 64)) if request.mtu else 0
        found: dict[object, mtu.Found | None] = {}
        made = []
        for flow in range(request.flows):
            seen = hops.hops(flow)
            # By echo, TCP's flows are on other paths than by SYN: one has to do.
            route = "tcp" if request.protocol == "tcp" else tuple(hop.address for hop in seen)
            if route not in found:
                hint = next((one.mtu for one in found.values() if one is not None), 0)
                wanted = top and len(found) < _MOST_SEARCHES
                found[route] = self._search(flow, top, len(seen), hint) if wanted else None
            result = found[route]
            if result is not None:
                seen = tuple(_with_mtu(hop, result.at(hop.ttl, top)) for hop in seen)
            made.append(
                Path(
                    flow,
                    seen,
                    hops.reached[flow],
                    hops.answer[flow],
                    result.mtu if result is not None else None,
                    result.last if result is not None else None,
                    result.silent if result is not None else False,
                    identities[flow],
                )
            )
        return made

    def _search(self, flow: int, top: int, end: int, hint: int) -> mtu.Found | None:
        if end == 0:
            return None
        least = mtu.LEAST[6 if self._request.family == socket.AF_INET6 else 4]
        search = mtu.search(top, end, least, hint)
        try:
            asked = next(search)
            while True:
                asked = search.send(self._try(flow, asked))
        except StopIteration as stop:
            found: mtu.Found | None = stop.value
            return found

    def _try(self, flow: int, asked: Sequence[mtu.Ask]) -> Mapping[mtu.Ask, mtu.Outcome]:
        """Every packet, and again those that were not answered; then what became of them."""
        self._outcomes, self._tried = {}, {}
        waiting = [*asked, *asked]
        until, patience = 0, self._patience()
        while waiting or time.monotonic_ns() < until:
            now = time.monotonic_ns()
            if waiting and now >= self._next_at:
                ask = waiting.pop(0)
                if ask not in self._outcomes:
                    size, ttl = ask
                    number = self._new_number()
                    echo = self._request.protocol == "tcp"
                    self._tried[number] = ask
                    self._send(self._packets.make(number, flow, ttl, size, echo=echo), number, flow)
                    until = time.monotonic_ns() + patience
                continue
            if all(ask in self._outcomes for ask in asked):
                break
            self._listen((self._next_at if waiting else until) - now)
        self._listen(0)
        return {ask: self._outcomes.get(ask, mtu.Outcome()) for ask in asked}

    def _patience(self) -> int:
        """How long to wait for packets that may well vanish, ns: what has answered so far was faster."""
        rtts = (seen.rtt_ns for flow in self._hops.seen for seen in flow.values() if seen.rtt_ns is not None)
        return min(self._request.timeout, max(_LEAST_PATIENCE, 4 * max(rtts, default=0)))

    def _heard_of_size(self, reply: Reply) -> None:
        ask = self._tried.pop(reply.number)
        self._answered += 1
        if reply.what != TOO_BIG:
            self._outcomes[ask] = mtu.Outcome(passed=True)
        elif ask not in self._outcomes:
            self._outcomes[ask] = mtu.Outcome(limit=reply.mtu)


def _with_mtu(hop: Hop, size: int) -> Hop:
    return Hop(hop.ttl, hop.addresses, hop.sent, hop.received, hop.rtt_ns, hop.what, size)


def _write(record: Record) -> None:
    sys.stdout.buffer.write(encode(record) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """One trace. Returns the exit status: what went wrong is a record."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends this process
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        request = decode_request(sys.stdin.buffer.read(_STDIN))
        with closing(Wire(request, identity.flows(request.seed, request.flows))) as wire:
            drop_everything()
            Tracer(request, wire).run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ColoprobeError as problem:
        text = str(problem)
        if isinstance(problem, MissingPartError):
            text = "scapy"
        _write(Failed(type(problem).__name__, text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
