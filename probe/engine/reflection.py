"""Flows and probe numbers in, STAMP test packets out; replies in, the ledger filled: kind `stamp`.

A reply leads back to its probe by the sender's timestamp, which the reflector copies: T1 is the wall time at
which the probe was due, but for its last 22 bits (less than 1 ms), where the probe's number stands, masked.
It is believed if T1, sequence number and session are what was sent. Each flow is one session (RFC 8972,
section 3): its sequence numbers begin at 0 and count what was planned, whether it left or not.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from probe.clock import MILLISECOND, Clock
from probe.engine.dialect import Desk, Speak
from probe.engine.ledger import Indices
from probe.engine.reflected import Told
from probe.engine.samples import ABSENT
from probe.engine.stamps import WallToMono
from probe.packets import stamp, timestamps
from probe.sockets.datagram import HEADER
from probe.sockets.packet_socket import QuotedError, Replies

KEPT = 192  # bytes of a reply that are looked at: an authenticated one with all its TLVs but the padding
_BITS = 22
_MASK = (1 << _BITS) - 1
_QUOTE = {False: 12, True: 24}  # bytes of a probe that lead back to it: up to the end of T1
_T1_ERROR = 10 * MILLISECOND  # T1 is the schedule's time, not the time of sending

Mask = NDArray[np.bool_]


def reflection(clock: Clock, own_error: Callable[[], int | None], key: bytes = b"") -> Speak:
    """The dialect for channels made with `reflecting`.

    Args:
        clock: tells at which wall time a probe is due.
        own_error: how far this host's clock may be off, ns; None: it is not synchronised. Asked at every plan
            and with every block of replies: what it says of a later time says nothing of them.
        key: of authenticated mode (RFC 8762, section 4.4); empty: unauthenticated.
    """
    return lambda desk: Reflection(desk, clock, own_error, key)


class Reflection:
    """STAMP's session-sender (RFC 8762, RFC 8972). Rows and replies are UDP payload."""

    def __init__(self, desk: Desk, clock: Clock, own_error: Callable[[], int | None], key: bytes) -> None:
        assert desk.ledger.reflected is not None, "a channel of STAMP probes is made with `reflecting`"
        self._desk, self._ledger, self._clock, self._key = desk, desk.ledger, clock, key
        self._reflected = desk.ledger.reflected
        self._reflected.own_error = self._own_error = own_error
        self._sealed = bool(key)
        flows, rows = desk.flows, desk.socket.rows
        sizes, which = np.unique([flow.size - HEADER for flow in flows], return_inverse=True)
        self._layouts = [stamp.Layout.of(size, self._sealed) for size in sizes.tolist()]
        self._templates = np.zeros((len(sizes), rows.shape[1]), np.uint8)
        for template, layout in zip(self._templates, self._layouts, strict=True):
            template[: layout.size] = np.frombuffer(layout.template(desk.token), np.uint8)
        if len(sizes) == 1:  # as nearly always
            rows[:] = self._templates[0]
        self._layout_of = which.reshape(len(flows)).astype(np.int64)
        # The layout by the flow's place and, as the session, by its index.
        highest = max((flow.index for flow in flows), default=0) + 1
        self._layout_by_index = np.zeros(highest, np.int64)
        self._session = np.zeros(highest, np.uint16)
        self._indices = np.array([flow.index for flow in flows], np.int64)
        # Never 0, which is what a reflector without sessions answers.
        self._sessions = ((desk.base_id + np.arange(len(flows))) % 0xFFFF + 1).astype(np.uint16)
        self._session[self._indices] = self._sessions
        self._layout_by_index[self._indices] = self._layout_of
        self._next = np.zeros(len(flows), np.int64)  # sequence numbers
        self._token = np.frombuffer(desk.token, "u8")[0]
        self._secret = int.from_bytes(desk.token[:4], "big") & _MASK
        self._by_destination: dict[bytes, int] = {}
        for flow in flows:
            where = _endpoint(flow.destination)
            self._by_destination[where] = -1 if where in self._by_destination else flow.index
        self._shared = np.zeros(highest, np.bool_)  # several flows of this socket go to the same place
        for flow in flows:
            self._shared[flow.index] = self._by_destination[_endpoint(flow.destination)] < 0

    def know(self, siblings: NDArray[np.uint64]) -> None:
        """See `Dialect`: the kernel gives a UDP socket what is sent to its port alone."""

    def narrow(self) -> None:
        """See `Dialect`: nobody else's packets are told from ours."""

    # -- out -------------------------------------------------------------------------------------------------

    def write(self, where: slice, numbers: Indices, flows: Indices, dues: Indices) -> None:
        """See `Dialect`."""
        rows = self._desk.socket.rows[where]
        if len(self._layouts) > 1:
            rows[:] = self._templates[self._layout_of[flows]]
        due = timestamps.to_ntp_each(dues + (self._clock.wall() - self._clock.mono()))
        masked = ((numbers & _MASK) ^ self._secret).astype(np.uint64)
        t1 = (due & ~np.uint64(_MASK)) | masked
        seq = self._count(flows).astype(np.uint32)
        own = self._own_error()
        view = stamp.request_view(rows, self._sealed)
        view["seq"] = seq
        view["timestamp"] = t1
        view["error"] = timestamps.error_estimate((own or 0) + _T1_ERROR, own is not None)
        view["ssid"] = self._sessions[flows]
        at = self._ledger.row(numbers)
        self._reflected.t1[at] = t1
        self._reflected.seq[at] = seq
        if self._sealed:
            self._seal(rows, flows)

    def _seal(self, rows: NDArray[np.uint8], flows: Indices) -> None:
        if len(self._layouts) == 1:
            self._layouts[0].seal(rows, self._key)
            return
        for i, which in enumerate(self._layout_of[flows].tolist()):
            self._layouts[which].seal(rows[i : i + 1], self._key)

    def _count(self, flows: Indices) -> Indices:
        """The sequence numbers of the next probes of these flows."""
        if len(self._next) == 1:
            seq = int(self._next[0]) + np.arange(len(flows))
            self._next[0] += len(flows)
            return seq
        counts = np.bincount(flows, minlength=len(self._next))
        seq = self._next[flows]
        if counts.max(initial=0) > 1:
            order = np.argsort(flows, kind="stable")
            begins = np.cumsum(counts) - counts
            seq[order] += np.arange(len(flows)) - begins[flows[order]]
        self._next += counts
        return seq

    # -- back ------------------------------------------------------------------------------------------------

    def read(self, replies: Replies, now: int, to_mono: WallToMono) -> None:
        """See `Dialect`."""
        data, length = replies.data, replies.length
        view = stamp.reply_view(data, self._sealed)
        t1 = view["sender_timestamp"].astype(np.uint64)
        numbers = self._numbers(t1)
        oldest = max(0, self._ledger.planned - self._ledger.size)
        good = numbers >= oldest
        good &= length >= (stamp.SEALED if self._sealed else stamp.LEAST)
        rows = self._ledger.row(np.maximum(numbers, oldest))
        good &= self._reflected.t1[rows] == t1
        good &= self._reflected.seq[rows] == view["sender_seq"]
        flows = self._ledger.flow[rows]
        # Whatever leads to no probe of ours may lead to no flow of ours.
        session = view["ssid"]
        good &= (session == 0) | (session == self._session[np.minimum(flows, len(self._session) - 1)])
        follow_number = np.zeros(len(data), np.uint32)
        follows = np.zeros(len(data), np.bool_)
        raw = np.zeros(len(data), np.uint64)
        for kind, which in self._divided(flows, good):
            layout = self._layouts[kind]
            ours, intact = self._genuine(kind, data[which], length[which])
            good[which] &= ours
            if layout.follow_up and data.shape[1] >= layout.end:
                said = stamp.follow_up_view(data[which], layout.follow_up)
                some = (said["header"] == stamp.FOLLOWED) & (said["mode"] != 0) & (said["timestamp"] != 0)
                some &= intact & (length[which] >= layout.end)
                # What a control plane says is no stamp of the packet.
                follows[which], follow_number[which] = some, said["seq"]
                raw[which] = np.where(some & (said["mode"] != stamp.CONTROL), said["timestamp"], 0)
        hard = replies.hard
        stamps = to_mono(replies.stamp)
        if not good.all():
            self._desk.counters.foreign += int((~good).sum())
            if not good.any():
                return
            view, numbers, rows, flows, stamps = (
                view[good],
                numbers[good],
                rows[good],
                flows[good],
                stamps[good],
            )
            follow_number, follows, raw = follow_number[good], follows[good], raw[good]
            hard = None if hard is None else hard[good]
        errors = view["error"].astype(np.uint16)
        number = view["seq"].astype(np.uint32)
        if self._shared.any():
            # A reflector without sessions counts such flows' replies together, which tells of no single one.
            together = (view["ssid"] == 0) & self._shared[flows]
            number = np.where(together, view["sender_seq"].astype(np.uint32), number)
        times = timestamps.times_of(
            np.concatenate([view["received"], view["timestamp"], raw]), np.tile(errors, 3)
        )
        t2, t3, later = (times - to_mono.offset).reshape(3, -1)
        # Who keeps no time writes zeros, whatever else is said of its clock.
        timed = (view["received"] != 0) & (view["timestamp"] != 0)
        told = Told(
            number=number,
            t2=t2,
            t3=t3,
            error=np.where(timed, _errors(errors, self._own_error()), ABSENT),
            follow_number=follow_number,
            follow=np.where(raw != 0, later, ABSENT),
            follows=follows,
        )
        self._reflected.answered(rows, numbers, flows, self._first(rows, numbers), self._ledger.floor, told)
        self._ledger.answered(numbers, stamps, now, hard)

    def _numbers(self, t1: NDArray[np.uint64]) -> Indices:
        """The probes' numbers, if these are our timestamps: unwrapped from the last one sent."""
        low = (t1 & np.uint64(_MASK)).astype(np.int64) ^ self._secret
        last = self._ledger.head - 1
        return last - ((last - low) & _MASK)

    def _divided(self, flows: NDArray[np.int32], good: Mask) -> list[tuple[int, slice | Indices]]:
        """The replies by the layout (its place) of the probes that they answer."""
        if len(self._layouts) == 1:
            # HMACs cost something: of what is foreign anyway, none is computed.
            return [(0, np.flatnonzero(good) if self._sealed else slice(None))]
        kinds = self._layout_by_index[np.minimum(flows, len(self._layout_by_index) - 1)]
        return [(kind, np.flatnonzero(good & (kinds == kind))) for kind in np.unique(kinds[good]).tolist()]

    def _genuine(self, kind: int, data: NDArray[np.uint8], length: NDArray[np.integer]) -> tuple[Mask, Mask]:
        """Where the secret, if the padding that it stood in came back, and the HMAC are right; and where what
        the TLVs say may be believed then."""
        layout, template = self._layouts[kind], self._templates[kind]
        good = intact = np.ones(len(data), np.bool_)
        if layout.token:
            # A reflector that knows no TLVs may fill up its packets with anything, or not at all.
            at = layout.token
            padded = (data[:, at - 3 : at] == template[at - 3 : at]).all(1)
            padded &= length >= at + stamp.TOKEN
            good = ~padded | (stamp.token_view(data, at) == self._token)
        if self._sealed:
            right, intact = layout.genuine(data, self._key)
            good = good & right
        return good, intact

    def _first(self, rows: Indices, numbers: Indices) -> Mask:
        """Which replies are the first ones to their probes."""
        fresh: Mask = self._ledger.rx[rows] == 0
        if not (numbers[1:] > numbers[:-1]).all():
            first = np.zeros(len(numbers), np.bool_)
            first[np.unique(numbers, return_index=True)[1]] = True
            fresh &= first
        return fresh

    def failed(self, error: QuotedError) -> None:
        """See `Dialect`: by T1 and sequence number where they are quoted, else by where the probe went."""
        if len(error.quoted) >= _QUOTE[self._sealed]:
            number = self._quoted(error.quoted)
            if number >= 0:
                self._ledger.failed(number, error.local)
                return
        elif error.local:
            return  # the kernel refused it in the send call, where it is counted
        elif (flow := self._by_destination.get(_endpoint(error.destination), -1)) >= 0:
            self._ledger.late_errors[flow] += 1
            return
        self._desk.counters.unanswerable += 1

    def _quoted(self, packet: bytes) -> int:
        """The number of the probe that is quoted; -1: it is none of ours."""
        row = np.frombuffer(packet.ljust(stamp.SEALED, b"\0"), np.uint8).reshape(1, -1)
        view = stamp.request_view(row, self._sealed)
        t1 = view["timestamp"].astype(np.uint64)
        number = int(self._numbers(t1)[0])
        if number < max(0, self._ledger.planned - self._ledger.size):
            return -1
        at = self._ledger.row(number)
        ours = self._reflected.t1[at] == t1[0] and self._reflected.seq[at] == view["seq"][0]
        return number if ours else -1


def _endpoint(address: bytes) -> bytes:
    """What of a sockaddr (28 bytes) says host and port."""
    if int.from_bytes(address[:2], "little") == socket.AF_INET6:
        return address[:4] + address[8:24]
    return address[:8]


def _errors(estimates: NDArray[np.uint16], own: int | None) -> Indices:
    """How far the reflectors' clocks and our own (`own`) may be off together, ns; ABSENT: one of them is not
    synchronised."""
    shape, one = estimates.shape, estimates[:1]
    if own is None:
        return np.broadcast_to(np.int64(ABSENT), shape)
    if (estimates == one).all():  # as long as one reflector answers
        estimates = one
    errors = timestamps.errors_of(estimates) + own
    errors[~timestamps.synchronised_of(estimates)] = ABSENT
    return np.broadcast_to(errors, shape)
