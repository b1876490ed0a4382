"""Flows of one socket and the time in, packets out and a filled ledger back: plan ahead, send what is due,
drain lazily.

The schedule is open loop, so what leaves next is known in advance: packets, addresses and stamp ids are
written for a
whole plan (up to 1,024 probes or a second) by array arithmetic, and a tick has to do no more than compare one
number and call
sendmmsg. The kernel stamps both directions, so replies may wait in its queue until it pays to read them.
"""

from __future__ import annotations

import errno
import socket
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.clock import MILLISECOND, SECOND, Clock
from probe.engine.ledger import Indices, Ledger
from probe.engine.samples import LOCAL, REFUSED, SENT, SKIPPED, Samples
from probe.engine.schedule import Saturated, Schedule
from probe.engine.stamps import WallToMono
from probe.packets import icmp
from probe.sockets.abi import error_name
from probe.sockets.packet_socket import BLOCK, ProbeSocket, Replies

HORIZON = SECOND  # how far ahead a plan reaches
# Later than this a probe is skipped: a stalled host must not burst when it wakes.
CATCH_UP = 250 * MILLISECOND
FAR = 1 << 62  # a time that never comes
STALL = 100 * MILLISECOND  # a host that does not run us for longer is in trouble
COMPLAIN_EVERY = 60 * SECOND  # the same trouble is told of no oftener

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Flow:
    """One stream of probes: `index` is its place in the agent's list of flows, `destination` a sockaddr."""

    index: int
    destination: bytes
    size: int  # bytes of IP payload
    stamped: bool = False  # the way there is known to take TX stamps, before any was seen


@dataclass
class ChannelCounters:
    """What happened to this socket since it was opened."""

    refused: int = 0
    skipped: int = 0
    foreign: int = 0
    unanswerable: int = 0  # ICMP errors that quote no probe of ours
    last_errno: int = 0
    drops: int = 0  # packets that came while the receive buffer was full
    damaged: int = 0  # packets that the kernel dropped at this socket for another reason
    blocked: int = 0  # times that the send buffer was full
    stayed: int = 0  # probes that the kernel took and that never left


class Channel:
    """One socket with its flows, schedule and ledger.

    Args:
        probe_socket: where packets go and come from.
        flows: in the order of the schedule's flows; at most 65,536 (the identifier has 16 bits).
        schedule: when they are due.
        capacity: probes that the ledger has to remember.
        all_flows: number of flows of the whole agent.
        token: 8 secret bytes of this run.
        base_id: the first flow's ICMP identifier; the others follow.
    """

    def __init__(
        self,
        probe_socket: ProbeSocket,
        flows: list[Flow],
        schedule: Schedule | Saturated,
        *,
        capacity: int,
        all_flows: int,
        token: bytes,
        base_id: int,
    ) -> None:
        self.socket = probe_socket
        self.flows = flows
        self.schedule = schedule
        self.ledger = Ledger(capacity, all_flows)
        self.ledger.expect_stamps([flow.index for flow in flows if flow.stamped])
        self.counters = ChannelCounters()
        self._index = np.array([flow.index for flow in flows], np.int64)
        sizes = {flow.size for flow in flows}
        self._size = sizes.pop() if len(sizes) == 1 else None  # of every probe, as nearly always
        self._sizes = np.array([flow.size for flow in flows], np.int64)
        self._ids = (base_id + np.arange(len(flows))) & 0xFFFF
        self._base_id = base_id
        probe_socket.set_destinations([flow.destination for flow in flows])
        v4 = probe_socket.family == socket.AF_INET
        self._request = icmp.ECHO_REQUEST if v4 else icmp.ECHO6_REQUEST
        self._reply = icmp.ECHO_REPLY if v4 else icmp.ECHO6_REPLY
        self._header = 20 if v4 and probe_socket.raw else 0
        errors = icmp.ERRORS6 if not v4 else icmp.ERRORS4 if probe_socket.raw else ()
        self._errors = np.array(errors, np.uint8)  # ICMP types that come as packets
        # Blocks that the receive buffer can hold (see `patience`): no packet takes less than 512 bytes of it.
        size = max((flow.size for flow in flows), default=0)
        self._most_blocks = probe_socket.patience * (8192 + 4 * size) // 512 // BLOCK + 2
        self._token = int(np.frombuffer(token, "u8")[0])
        self._token_bytes = token
        self._siblings = np.zeros(0, np.uint64)
        checksums, offset = probe_socket.checksums, probe_socket.row_offset
        self._writer = icmp.EchoWriter(probe_socket.rows, token, self._request, checksums, offset)
        self._besides: NDArray[np.int64] | None = None  # by flow: what checksums cover besides the message
        if probe_socket.pseudo_sums is not None and not v4:
            self._besides = probe_socket.pseudo_sums + self._sizes
        self._dues: list[int] = []
        self._at = 0  # how much of the plan has left
        self.due = FAR  # when the next probe has to leave (monotonic ns)
        self._refusals: set[int] = set()  # reasons that nobody was told of
        self._told: dict[str, int] = {}  # what was complained of, and when
        self._dropped = 0  # packets, by the kernel's count
        self._read_at = 0  # when the queues were emptied last (monotonic ns)
        self._was_full = False  # since then the receive buffer was seen full
        self.left_at = 0  # until when probes may have left that were sent in a call that took long

    @property
    def token(self) -> int:
        """The secret in this channel's probes, as an integer in host order."""
        return self._token

    def know(self, siblings: list[Channel]) -> None:
        """Tell whose replies a raw socket also sees: a packet of another channel of this agent is not
        foreign."""
        self._siblings = np.array([channel.token for channel in siblings if channel is not self], np.uint64)

    def plan(self, now: int) -> None:
        """Write the packets of the next plan, if the last one is used up."""
        if self._at < len(self._dues):
            return
        if isinstance(self.schedule, Schedule):
            # After a long stall: what will never leave must not take the place of what did.
            self.counters.skipped += self.schedule.skip(now - CATCH_UP)
        until = max(now + HORIZON, min(self.schedule.earliest() + 1, now + 10 * HORIZON))
        flows, dues = self.schedule.take(until, len(self.socket.rows))
        self._at = 0
        self._dues = dues.tolist()
        if not self._dues:
            self.due = FAR
            return
        self.due = self._dues[0]
        numbers = self.ledger.plan(self._index[flows], dues)
        where = slice(0, len(flows))
        sizes = self._sizes[flows] if self._size is None else self._size
        besides = 0 if self._besides is None else self._besides[flows]
        self._writer.write(where, numbers, self._ids[flows], sizes, besides)
        self.socket.prepare(where, flows, sizes, numbers.astype(np.uint32))

    def send(self, clock: Clock, now: int, limit: int = FAR) -> int:
        """Send what is due at `now` (monotonic ns), at most `limit` probes, and plan on. Returns how many.

        This and what it calls is what a tick costs: few calls, no arrays. It gives up early, and leaves the
        time in `left_at`, where a send call took so long that `now` is no longer.
        """
        dues, begin = self._dues, self._at
        if self.due < now - CATCH_UP and isinstance(self.schedule, Schedule):
            self._skip(now)
        stop, burst = bisect_right(dues, now, self._at), self.socket.burst
        if stop - begin > limit:
            stop = begin + limit
        while self._at < stop:
            at, until = self._at, min(stop, self._at + burst)
            count, refused = self.socket.send(at, until)
            then = clock.mono()
            if at + count < until or count == burst or then - now > STALL:
                if self._unusual(count, refused, now, then):
                    break
            else:  # as nearly always
                self.ledger.leave(count, now, SENT)
                self._at = until
        taken = self._at - begin
        if self._at < len(dues):
            self.due = dues[self._at]
        else:
            self.plan(now)
        return taken

    def _unusual(self, count: int, refused: int, now: int, then: int) -> bool:
        """Write down a send call that was refused, long, or large. Returns whether it was the last one for
        now."""
        if count == self.socket.burst:
            self._was_full |= self.socket.pressure().full
            self.socket.gather()
        if count:
            # Nobody knows whether the host stopped us before they left, or after.
            self.ledger.leave(count, now if then - now <= STALL else then, SENT)
            self._at += count
        if refused == errno.EAGAIN:
            self.counters.blocked += 1
            return True  # the send buffer is full: what is due stays due, and its lag shows
        if refused:
            self.counters.refused += 1
            self.counters.last_errno = refused
            self._refusals.add(refused)
            self.ledger.leave(1, now, REFUSED)
            self._at += 1
        if then - now > STALL:
            self.left_at = then
            return True
        return False

    def complaints(self, now: int) -> list[str]:
        """What of this host keeps probes from leaving, in words; each at most once in a while."""
        counters, found = self.counters, []
        version = "IPv4" if self.socket.family == socket.AF_INET else "IPv6"
        while self._refusals:
            name = error_name(self._refusals.pop())
            found.append(
                f"this host refuses to send {version} probes: {name} (counted in errors, not in lost)"
            )
        if counters.blocked:
            counters.blocked = 0
            found.append(f"the send buffer for {version} probes is full: they leave late or are skipped")
        if counters.stayed:
            counters.stayed = 0
            found.append(
                f"{version} probes did not leave this host: no neighbour answers, or a queue dropped them "
                "(counted in errors, not in lost)"
            )
        news = [text for text in found if now >= self._told.get(text, -COMPLAIN_EVERY) + COMPLAIN_EVERY]
        self._told.update(dict.fromkeys(news, now))
        return news

    def _skip(self, now: int) -> None:
        """This host was stalled past the time of some probes."""
        late = bisect_right(self._dues, now - CATCH_UP, self._at) - self._at
        self.counters.skipped += late
        self.ledger.leave(late, now, SKIPPED)
        self._at += late

    def drain(self, clock: Clock, to_mono: WallToMono) -> int:
        """Empty both queues of the socket into the ledger.

        Returns how many packets have found the receive buffer full since that was done last.
        """
        self.ledger.settle()
        before = clock.mono()
        pressure = self.socket.pressure()
        dropped = (pressure.drops - self._dropped) & 0xFFFFFFFF
        self._dropped = pressure.drops
        full = pressure.full or self._was_full
        if not full:
            # Dropped for another reason, as ICMPv6 with a wrong checksum is: no reply that anybody could use.
            self.counters.damaged += dropped
            dropped = 0
        newest = 0
        # Replies first: a probe is stamped before it is answered, so its stamp is there when its reply is.
        # No more than was there: whoever floods us must not keep us from sending.
        for _ in range(self._most_blocks):
            replies = self.socket.receive()
            if replies is None:
                break
            if full:
                came = to_mono(replies.stamp)
                newest = max(newest, int(came.max(initial=0, where=came <= before)))
            self._match(replies, clock.mono(), to_mono)
            if not replies.full:
                break
        while (stamps := self.socket.stamps()) is not None:
            if len(stamps.ids):
                self.ledger.stamped(stamps.ids, to_mono(stamps.stamp))
            for error in stamps.errors:
                quoted = icmp.parse_quoted(error.type, error.code, error.quoted, self._request, error.local)
                self._error(quoted)
            if not stamps.full:
                break
        if full:
            # What is still there came before it was full, unless it was emptied in between.
            since = self._read_at if self._was_full else max(self._read_at, newest)
            self.ledger.overflows.add(since, before, dropped)
            self.counters.drops += dropped
            # If others filled it, they shall not do so again.
            self.socket.admit(self._base_id, len(self.flows))
        self._read_at = self.ledger.overflows.read_at = before
        # What was dropped while the queues were emptied: the next look will not find them full any more.
        self._was_full = self.socket.pressure().drops != self._dropped
        return dropped

    def _match(self, replies: Replies, now: int, to_mono: WallToMono) -> None:
        stamps = to_mono(replies.stamp)
        echo = icmp.echo_view(replies.data, self._header)
        # Nothing but a reply has the secret there: requests are filtered, errors quote it further back.
        good = echo["token"] == self._token
        good &= replies.length >= self._header + icmp.HEADER
        numbers = echo["number"].astype(np.int64)
        if not good.all():
            self._match_others(replies, ~good, now, to_mono)
            numbers, stamps = numbers[good], stamps[good]
        known = self.ledger.answered(numbers, stamps, now)
        if not known.all():
            self.counters.foreign += int((~known).sum())

    def _match_others(self, replies: Replies, others: Mask, now: int, to_mono: WallToMono) -> None:
        """What has no secret where it usually is: IP options, ICMP errors, other programs' packets."""
        if self._header:
            optioned = others & (replies.data[:, 0] != 0x45)
            if optioned.any():
                rows = np.flatnonzero(optioned)
                data, shift = _without_options(replies.data[rows])
                length = np.maximum(replies.length[rows].astype(np.int64) - shift, 0)
                self._match(Replies(data, length, replies.stamp[rows], replies.sources[rows]), now, to_mono)
                others &= ~optioned
        echo = icmp.echo_view(replies.data, self._header)
        if len(self._siblings):
            others &= (echo["type"] != self._reply) | ~np.isin(echo["token"], self._siblings)
        errors = others & np.isin(echo["type"], self._errors)
        self.counters.foreign += int(others.sum()) - int(errors.sum())
        for i in np.flatnonzero(errors):
            self._unexpected(replies, int(i))

    def _unexpected(self, replies: Replies, i: int) -> None:
        """A packet that looks like an ICMP error: it quotes a probe, or is somebody else's."""
        packet = replies.data[i, : min(int(replies.length[i]), replies.data.shape[1])].tobytes()
        if self.socket.family == socket.AF_INET and self.socket.raw:
            at = (packet[0] & 0xF) * 4 if packet else 0
            is_error = len(packet) > at >= 20 and packet[at] in icmp.ERRORS4
            error = icmp.parse_error4(packet) if is_error else None
        else:
            is_error = bool(packet) and packet[0] in icmp.ERRORS6 and self.socket.family == socket.AF_INET6
            error = icmp.parse_error6(packet, replies.sources[i, 8:24].tobytes()) if is_error else None
        if is_error:
            self._error(error)
        else:
            self.counters.foreign += 1

    def _error(self, error: icmp.IcmpError | None) -> None:
        """Attribute an ICMP error to its probe, by the secret where it is quoted, else by flow, sequence and
        destination."""
        if error is None:
            self.counters.unanswerable += 1
            return
        if error.token == self._token_bytes and error.number is not None:
            self.ledger.failed(error.number, error.local)
            return
        if error.token is not None and np.frombuffer(error.token, "u8")[0] in self._siblings:
            return
        # Where a secret is quoted, it is somebody else's by now, however well the rest fits.
        number = self.ledger.find(error.sequence) if error.token is None else -1
        if number >= 0:
            flow = int(self.ledger.flow[self.ledger.row(number)])
            position = (error.id - self._base_id) & 0xFFFF
            ours = position < len(self.flows) and self.flows[position].index == flow
            if ours and (not error.destination or error.destination in self.flows[position].destination):
                self.ledger.failed(number, error.local)
                return
        self.counters.unanswerable += 1

    def cut(self, until: int, timeout: int) -> Samples:
        """The probes due before `until` (monotonic ns), taken off the ledger; drain first."""
        samples = self.ledger.cut(until, timeout)
        silent = (samples.tx == 0) & (samples.rx == 0)
        stuck = (samples.state == SENT) & samples.stamping[samples.flow] | ((samples.state & LOCAL) != 0)
        self.counters.stayed += int((silent & stuck)[: samples.inside].sum())
        return samples


def _without_options(data: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Indices]:
    """The same packets without IPv4 options, so that ICMP starts at byte 20, and how much was cut."""
    out = np.zeros_like(data)
    headers = np.clip((data[:, 0] & 0xF).astype(np.int64) * 4, 20, data.shape[1] - 24)
    for i, header in enumerate(headers.tolist()):
        out[i, :20] = data[i, :20]
        out[i, 20 : data.shape[1] - header + 20] = data[i, header:]
    out[:, 0] = 0x45
    return out, headers - 20
