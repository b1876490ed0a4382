"""Flows and probe numbers in, TCP SYN segments out; what answers them in, the ledger filled: kind `tcp`.

A handshake is begun and never ended. The port that a probe leaves from is reserved, so this host's kernel
knows of no connection there: it answers SYN/ACK with RST by itself, and the target forgets before anybody
accepts.

    we                target            the probe is
     | ---- SYN ----> |
     | <- SYN, ACK -- |  somebody      received, open
     | ---- RST ----> |  listens
     | <- RST, ACK -- |  nobody does   received, closed
     | <---- ACK ---- |  it remembers  received, open: our RST to an earlier SYN was lost, and it is that one
                         an earlier    which this acknowledges (RFC 9293 section 3.10.7.4)
                         SYN

How the kernel is brought to do so is in `probe.sockets.syn_socket`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probe.clock import SECOND
from probe.engine.dialect import Desk, Speak
from probe.engine.echo import without_options
from probe.engine.ledger import Indices
from probe.engine.samples import SENT
from probe.engine.source_ports import SourcePorts, Span
from probe.engine.stamps import WallToMono
from probe.packets import tcp
from probe.sockets.packet_socket import ProbeSocket, QuotedError, Replies

Mask = NDArray[np.bool_]

_KIND = tcp.SYN | tcp.RST | tcp.ACK  # the flags that say what an answer is; the others are passed over
_OPEN, _CLOSED, _UNFORGOTTEN = tcp.SYN | tcp.ACK, tcp.RST | tcp.ACK, tcp.ACK
_ANSWER = SECOND  # ns: a probe this old is not what a target answers now
_RECENT = 1 << 15  # ... and of those that are not, as many are looked at


class PortedSocket(ProbeSocket, Protocol):
    """A probe socket with source ports of its own."""

    @property
    def ports(self) -> Sequence[int]:
        """All of them."""

    def refresh(self) -> None:
        """Bring `pseudo_sums` up to date, where routes or addresses have changed."""


def handshake(probe_socket: PortedSocket, spans: Sequence[Span] | None = None) -> Speak:
    """What `Channel` wants as `speak` for a socket of `probe.sockets.syn_socket.open_syn`.

    `spans`: which of the socket's ports each flow uses, from `probe.engine.source_ports.share`; without them,
    the port of its lane alone.
    """
    return lambda desk: Handshake(desk, probe_socket, spans)


class Handshake:
    """SYN segments: the source port is one of the flow's, the sequence number leads to the probe.

    `noise`: makes as many random bytes as it is asked for.
    """

    def __init__(
        self,
        desk: Desk,
        probe_socket: PortedSocket,
        spans: Sequence[Span] | None = None,
        noise: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._socket, self._ledger, self._counters = probe_socket, desk.ledger, desk.counters
        self._noise = noise
        v4 = probe_socket.family == socket.AF_INET
        self._header = 20 if v4 else 0  # bytes in front of a received segment, without options
        flows = desk.flows
        self._own = np.array(probe_socket.ports, np.uint16)
        self._turns = SourcePorts([(flow.lane, 1) for flow in flows] if spans is None else spans)
        self._port = np.array([flow.port for flow in flows], np.uint16)
        address = slice(4, 8) if v4 else slice(8, 24)  # of a sockaddr
        there = b"".join(flow.destination[address] for flow in flows)
        self._there = _words(np.frombuffer(there, np.uint8).reshape(len(flows), 4 if v4 else 16))
        # By row of the ledger: what was sent, from which port, and by which flow of the desk.
        self._sequence = np.zeros(desk.ledger.size, np.uint32)
        self._from = np.zeros(desk.ledger.size, np.uint16)
        self._flow = np.zeros(desk.ledger.size, np.int32)
        self._numbering = tcp.Numbering(desk.ledger.size, int.from_bytes(desk.token[:4], "big"))
        mss = tcp.MSS4 if v4 else tcp.MSS6
        rows, offset = probe_socket.rows, probe_socket.row_offset
        self._writer = tcp.SynWriter(rows, mss, probe_socket.checksums, offset)

    def write(self, where: slice, numbers: Indices, flows: Indices, dues: Indices) -> None:
        """See `Dialect`."""
        noise = np.frombuffer(self._noise(4 * len(numbers)), np.uint32)
        sequences = self._numbering.sequences(numbers, noise)
        rows = self._ledger.row(numbers)
        sources = self._own[self._turns.choose(flows, dues)]
        self._sequence[rows] = sequences
        self._from[rows] = sources
        self._flow[rows] = flows
        besides: Indices | int = 0
        if self._socket.checksums:
            self._socket.refresh()
            sums = self._socket.pseudo_sums
            besides = 0 if sums is None else sums[flows]
        self._writer.write(where, sequences, sources, self._port[flows], besides)

    def ports_of(self, place: int) -> tuple[int, ...]:
        """The source ports of the desk's flow at this place."""
        return tuple(int(self._own[port]) for port in self._turns.of(place))

    def know(self, siblings: NDArray[np.uint64]) -> None:
        """See `Dialect`. Every channel has ports of its own: nobody sees another one's answers."""

    def narrow(self) -> None:
        """See `Dialect`. The kernel gives us nothing but what comes to our ports."""

    def read(self, replies: Replies, now: int, to_mono: WallToMono) -> None:
        """See `Dialect`."""
        data, length = replies.data, replies.length.astype(np.int64)
        if self._header:
            seen = data[:, 12:16]
            if (data[:, 0] != 0x45).any():
                data, shift = without_options(data)
                length = length - shift
        else:
            seen = replies.sources[:, 8:24]
        segment = tcp.segment_view(data, self._header)
        acknowledged = segment["acknowledgment"].astype(np.uint32) - np.uint32(1)
        kind = segment["flags"] & _KIND
        numbers, rows, good = self._find(acknowledged)
        good &= length >= self._header + tcp.HEADER
        flow = self._flow[rows]
        good &= segment["source"] == self._port[flow]
        good &= segment["destination"] == self._from[rows]
        for here, there in zip(_words(seen), self._there, strict=True):
            good &= here == there[flow]
        stamps = to_mono(replies.stamp)
        answers = good & ((kind == _OPEN) | (kind == _CLOSED))
        if not answers.all():
            late = np.flatnonzero(good & (kind == _UNFORGOTTEN))
            if len(late):
                numbers[late] = self._later(numbers[late], np.where(stamps[late], stamps[late], now))
                answers[late] = numbers[late] >= 0
            self._counters.foreign += int((~answers).sum())
            numbers, stamps, kind = numbers[answers], stamps[answers], kind[answers]
        refused = kind == _CLOSED
        if refused.any():
            # Of several answers to a probe the first one says what it found.
            first = np.unique(numbers, return_index=True)[1]
            self._ledger.refused(numbers[first][refused[first]])
        hard = None if replies.hard is None else replies.hard[answers]
        self._ledger.answered(numbers, stamps, now, hard)

    def _find(self, sequences: NDArray[np.uint32]) -> tuple[Indices, Indices, Mask]:
        """Numbers and rows of the probes with these sequence numbers, and whether there is such a probe."""
        ledger = self._ledger
        numbers = self._numbering.numbers(sequences, ledger.head - 1)
        held = numbers >= max(0, ledger.planned - ledger.size)
        rows = ledger.row(np.where(held, numbers, max(0, ledger.head - 1)))
        return numbers, rows, held & (self._sequence[rows] == sequences)

    def _later(self, numbers: Indices, arrived: Indices) -> Indices:
        """The probes that targets answer which have not forgotten these earlier ones, of the same ports each.

        They answer SYNs as they come, so each is one sent shortly before (`arrived`: monotonic ns). -1 where
        there is none, or several have no answer yet: then it cannot be told.
        """
        ledger = self._ledger
        recent = np.arange(max(0, ledger.planned - ledger.size, ledger.head - _RECENT), ledger.head)
        rows = ledger.row(recent)
        young = ((ledger.state[rows] & SENT) != 0) & (ledger.sent[rows] > arrived.min() - _ANSWER)
        recent, rows = recent[young], rows[young]
        sent, unanswered = ledger.sent[rows], ledger.rx[rows] == 0
        ports = self._flow[rows].astype(np.int64) << 16 | self._from[rows]
        before = ledger.row(numbers)
        same = self._flow[before].astype(np.int64) << 16 | self._from[before]
        found = np.full(len(numbers), -1)
        for n, (number, port, then) in enumerate(zip(numbers, same, arrived, strict=True)):
            asked = (ports == port) & (recent > number) & (sent <= then) & (sent > then - _ANSWER)
            open_ends = recent[asked & unanswered]
            if len(open_ends) == 1:
                found[n] = open_ends[0]
            elif not len(open_ends) and asked.any():
                found[n] = recent[asked][-1]  # the answer to the last one, once more
        return found

    def failed(self, error: QuotedError) -> None:
        """See `Dialect`."""
        syn = tcp.parse_quoted(error.quoted)
        if syn is None:
            self._counters.unanswerable += 1
            return
        if syn.source not in self._own:
            return  # a raw socket hears of the errors of every connection of this host
        numbers, rows, good = self._find(np.array([syn.sequence], np.uint32))
        ports = self._from[rows[0]], self._port[self._flow[rows[0]]]
        if good[0] and (syn.source, syn.destination) == ports:
            self._ledger.failed(int(numbers[0]), error.local)
        else:
            self._counters.unanswerable += 1


def _words(addresses: NDArray[np.uint8]) -> list[NDArray[np.uint32]]:
    """Addresses, a row each, as columns of 32 bits."""
    columns = np.ascontiguousarray(addresses).view(np.uint32)
    return [np.ascontiguousarray(columns[:, n]) for n in range(columns.shape[1])]
