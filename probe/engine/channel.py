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

import numpy as np

from probe.clock import MILLISECOND, SECOND, Clock
from probe.engine.dialect import ChannelCounters as ChannelCounters
from probe.engine.dialect import Desk, Dialect, Speak
from probe.engine.dialect import Flow as Flow
from probe.engine.echo import Echo
from probe.engine.ledger import Ledger
from probe.engine.samples import LOCAL, REFUSED, SENT, SKIPPED, Samples
from probe.engine.schedule import Saturated, Schedule
from probe.engine.stamps import WallToMono
from probe.sockets.abi import error_name
from probe.sockets.packet_socket import BLOCK, ProbeSocket

HORIZON = SECOND  # how far ahead a plan reaches
# Later than this a probe is skipped: a stalled host must not burst when it wakes.
CATCH_UP = 250 * MILLISECOND
FAR = 1 << 62  # a time that never comes
STALL = 100 * MILLISECOND  # a host that does not run us for longer is in trouble
COMPLAIN_EVERY = 60 * SECOND  # the same trouble is told of no oftener


class Channel:
    """One socket with its flows, schedule and ledger.

    Args:
        probe_socket: where packets go and come from.
        flows: in the order of the schedule's flows; at most 65,536 (the identifier has 16 bits).
        schedule: when they are due.
        capacity: probes that the ledger has to remember.
        all_flows: number of flows of the whole agent.
        token: 8 secret bytes of this run.
        base_id: the first flow's 16-bit identifier; the others follow.
        speak: makes the dialect: how probes of this kind are written, and their answers read.
        reflecting: the ledger keeps what STAMP reflectors say.
        hardware: the ledger keeps stamps by interfaces' own clocks.
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
        speak: Speak = Echo,
        reflecting: bool = False,
        hardware: bool = False,
    ) -> None:
        self.socket = probe_socket
        self.flows = flows
        self.schedule = schedule
        self.ledger = Ledger(capacity, all_flows, reflecting=reflecting, hardware=hardware)
        self.ledger.expect_stamps([flow.index for flow in flows if flow.stamped])
        self.counters = ChannelCounters()
        self._index = np.array([flow.index for flow in flows], np.int64)
        sizes = {flow.size for flow in flows}
        self._size = sizes.pop() if len(sizes) == 1 else None  # of every probe, as nearly always
        self._sizes = np.array([flow.size for flow in flows], np.int64)
        probe_socket.set_destinations([flow.destination for flow in flows])
        # Blocks that the receive buffer can hold (see `patience`): no packet takes less than 512 bytes of it.
        size = max((flow.size for flow in flows), default=0)
        self._most_blocks = probe_socket.patience * (8192 + 4 * size) // 512 // BLOCK + 2
        self._token = int(np.frombuffer(token, "u8")[0])
        self.base_id = base_id
        self._dialect = speak(Desk(probe_socket, flows, self.ledger, self.counters, token, base_id))
        self._dues: list[int] = []
        self._at = 0  # how much of the plan has left
        self.due = FAR  # when the next probe has to leave (monotonic ns)
        self._refusals: set[int] = set()  # reasons that nobody was told of
        self.told: dict[str, int] = {}  # what was complained of, and when; an engine's channels share it
        self._dropped = 0  # packets, by the kernel's count
        self._read_at = 0  # when the queues were emptied last (monotonic ns)
        self._was_full = False  # since then the receive buffer was seen full
        self.left_at = 0  # until when probes may have left that were sent in a call that took long

    @property
    def dialect(self) -> Dialect:
        """What this channel's packets are written and read by."""
        return self._dialect

    @property
    def token(self) -> int:
        """The secret in this channel's probes, as an integer in host order."""
        return self._token

    def know(self, siblings: list[Channel]) -> None:
        """Tell whose replies a raw socket also sees: a packet of another channel of this agent is not
        foreign."""
        tokens = [channel.token for channel in siblings if channel is not self]
        self._dialect.know(np.array(tokens, np.uint64))

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
        self._dialect.write(where, numbers, flows, dues)
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
            found.append(f"{self.socket.crowded.format(version)}: they leave late or are skipped")
        if counters.stayed:
            counters.stayed = 0
            found.append(
                f"{version} probes did not leave this host: no neighbour answers, or a queue dropped them "
                "(counted in errors, not in lost)"
            )
        news = [text for text in found if now >= self.told.get(text, -COMPLAIN_EVERY) + COMPLAIN_EVERY]
        self.told.update(dict.fromkeys(news, now))
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
            self._dialect.read(replies, clock.mono(), to_mono)
            if not replies.full:
                break
        while (stamps := self.socket.stamps()) is not None:
            if len(stamps.ids):
                self.ledger.stamped(stamps.ids, to_mono(stamps.stamp))
            if stamps.hard_ids is not None and stamps.hard_stamp is not None:
                self.ledger.stamped_hard(stamps.hard_ids, stamps.hard_stamp)
            for error in stamps.errors:
                self._dialect.failed(error)
            if not stamps.full:
                break
        if full:
            # What is still there came before it was full, unless it was emptied in between.
            since = self._read_at if self._was_full else max(self._read_at, newest)
            self.ledger.overflows.add(since, before, dropped)
            self.counters.drops += dropped
            # If others filled it, they shall not do so again.
            self._dialect.narrow()
        self._read_at = self.ledger.overflows.read_at = before
        # What was dropped while the queues were emptied: the next look will not find them full any more.
        self._was_full = self.socket.pressure().drops != self._dropped
        return dropped

    def cut(self, until: int, timeout: int) -> Samples:
        """The probes due before `until` (monotonic ns), taken off the ledger; drain first."""
        samples = self.ledger.cut(until, timeout)
        silent = (samples.tx == 0) & (samples.rx == 0)
        stuck = (samples.state == SENT) & samples.stamping[samples.flow] | ((samples.state & LOCAL) != 0)
        self.counters.stayed += int((silent & stuck)[: samples.inside].sum())
        return samples
