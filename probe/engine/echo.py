"""Flows and probe numbers in, ICMP echo requests out; received packets in, the ledger filled: kind `icmp`."""

from __future__ import annotations

import socket

import numpy as np
from numpy.typing import NDArray

from probe.engine.dialect import Desk
from probe.engine.ledger import Indices
from probe.engine.stamps import WallToMono
from probe.packets import icmp
from probe.sockets.packet_socket import QuotedError, Replies

Mask = NDArray[np.bool_]


class Echo:
    """Echo requests (RFC 792, RFC 4443): the identifier is the flow, the payload has secret and number."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._ledger, self._counters = desk, desk.ledger, desk.counters
        probe_socket = desk.socket
        sizes = {flow.size for flow in desk.flows}
        self._size = sizes.pop() if len(sizes) == 1 else None  # of every probe, as nearly always
        self._sizes = np.array([flow.size for flow in desk.flows], np.int64)
        self._ids = (desk.base_id + np.arange(len(desk.flows))) & 0xFFFF
        self._v4 = v4 = probe_socket.family == socket.AF_INET
        self._request = icmp.ECHO_REQUEST if v4 else icmp.ECHO6_REQUEST
        self._reply = icmp.ECHO_REPLY if v4 else icmp.ECHO6_REPLY
        self._header = 20 if v4 and probe_socket.raw else 0
        errors = icmp.ERRORS6 if not v4 else icmp.ERRORS4 if probe_socket.raw else ()
        self._errors = np.array(errors, np.uint8)  # ICMP types that come as packets
        self._token = int(np.frombuffer(desk.token, "u8")[0])
        self._siblings = np.zeros(0, np.uint64)
        checksums, offset = probe_socket.checksums, probe_socket.row_offset
        self._writer = icmp.EchoWriter(probe_socket.rows, desk.token, self._request, checksums, offset)
        self._besides: NDArray[np.int64] | None = None  # by flow: what checksums cover besides the message
        if probe_socket.pseudo_sums is not None and not v4:
            self._besides = probe_socket.pseudo_sums + self._sizes

    def write(self, where: slice, numbers: Indices, flows: Indices, dues: Indices) -> None:  # noqa: ARG002
        """See `Dialect`."""
        sizes = self._sizes[flows] if self._size is None else self._size
        besides = 0 if self._besides is None else self._besides[flows]
        self._writer.write(where, numbers, self._ids[flows], sizes, besides)

    def know(self, siblings: NDArray[np.uint64]) -> None:
        """See `Dialect`."""
        self._siblings = siblings

    def narrow(self) -> None:
        """See `Dialect`."""
        self._desk.socket.admit(self._desk.base_id, len(self._desk.flows))

    def read(self, replies: Replies, now: int, to_mono: WallToMono) -> None:
        """See `Dialect`."""
        stamps = to_mono(replies.stamp)
        echo = icmp.echo_view(replies.data, self._header)
        # Nothing but a reply has the secret there: requests are filtered, errors quote it further back.
        good = echo["token"] == self._token
        good &= replies.length >= self._header + icmp.HEADER
        numbers = echo["number"].astype(np.int64)
        hard = replies.hard
        if not good.all():
            self._read_others(replies, ~good, now, to_mono)
            numbers, stamps = numbers[good], stamps[good]
            hard = None if hard is None else hard[good]
        known = self._ledger.answered(numbers, stamps, now, hard)
        if not known.all():
            self._counters.foreign += int((~known).sum())

    def _read_others(self, replies: Replies, others: Mask, now: int, to_mono: WallToMono) -> None:
        """What has no secret where it usually is: IP options, ICMP errors, other programs' packets."""
        if self._header:
            optioned = others & (replies.data[:, 0] != 0x45)
            if optioned.any():
                rows = np.flatnonzero(optioned)
                data, shift = without_options(replies.data[rows])
                length = np.maximum(replies.length[rows].astype(np.int64) - shift, 0)
                hard = None if replies.hard is None else replies.hard[rows]
                plain = Replies(data, length, replies.stamp[rows], replies.sources[rows], hard=hard)
                self.read(plain, now, to_mono)
                others &= ~optioned
        echo = icmp.echo_view(replies.data, self._header)
        if len(self._siblings):
            others &= (echo["type"] != self._reply) | ~np.isin(echo["token"], self._siblings)
        errors = others & np.isin(echo["type"], self._errors)
        self._counters.foreign += int(others.sum()) - int(errors.sum())
        for i in np.flatnonzero(errors):
            self._unexpected(replies, int(i))

    def _unexpected(self, replies: Replies, i: int) -> None:
        """A packet that looks like an ICMP error: it quotes a probe, or is somebody else's."""
        packet = replies.data[i, : min(int(replies.length[i]), replies.data.shape[1])].tobytes()
        if self._v4 and self._desk.socket.raw:
            at = (packet[0] & 0xF) * 4 if packet else 0
            is_error = len(packet) > at >= 20 and packet[at] in icmp.ERRORS4
            error = icmp.parse_error4(packet) if is_error else None
        else:
            is_error = bool(packet) and packet[0] in icmp.ERRORS6 and not self._v4
            error = icmp.parse_error6(packet, replies.sources[i, 8:24].tobytes()) if is_error else None
        if is_error:
            if error is not None or not icmp.quotes_others(packet, v4=self._v4):
                self._attribute(error)
        else:
            self._counters.foreign += 1

    def failed(self, error: QuotedError) -> None:
        """See `Dialect`."""
        self._attribute(icmp.parse_quoted(error.type, error.code, error.quoted, self._request, error.local))

    def _attribute(self, error: icmp.IcmpError | None) -> None:
        """Give an ICMP error to its probe, by the secret where it is quoted, else by flow, sequence and
        destination."""
        if error is None:
            self._counters.unanswerable += 1
            return
        if error.token == self._desk.token and error.number is not None:
            self._ledger.failed(error.number, error.local)
            return
        if error.token is not None and np.frombuffer(error.token, "u8")[0] in self._siblings:
            return
        # Where a secret is quoted, it is somebody else's by now, however well the rest fits.
        number = self._ledger.find(error.sequence) if error.token is None else -1
        if number >= 0:
            flow = int(self._ledger.flow[self._ledger.row(number)])
            flows = self._desk.flows
            position = (error.id - self._desk.base_id) & 0xFFFF
            ours = position < len(flows) and flows[position].index == flow
            if ours and (not error.destination or error.destination in flows[position].destination):
                self._ledger.failed(number, error.local)
                return
        self._counters.unanswerable += 1


def without_options(data: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Indices]:
    """The same packets without IPv4 options: their message starts at byte 20. And how much was cut."""
    out = np.zeros_like(data)
    headers = np.clip((data[:, 0] & 0xF).astype(np.int64) * 4, 20, data.shape[1] - 24)
    for i, header in enumerate(headers.tolist()):
        out[i, :20] = data[i, :20]
        out[i, 20 : data.shape[1] - header + 20] = data[i, header:]
    out[:, 0] = 0x45
    return out, headers - 20
