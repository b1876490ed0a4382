"""A STAMP packet with its time of arrival in, the reply in its place or the reason for none out. No I/O.

A stateful session-reflector (RFC 8762, section 4.3): it numbers the replies of each session itself, so that
the sender tells loss on the way there from loss on the way back. A session is a sender's address and port,
the address that it probes and its SSID (RFC 8972, section 3).

A reply is never longer than its request. Nobody gets one who cannot have sent the request: packets from
multicast, broadcast and unspecified addresses; packets to multicast and broadcast addresses, which one sender
could have many answer; and packets from a reflector's port, or two reflectors would answer each other for
ever. Where they listen on other ports, or an echo service answers, a reply of ours comes back as a request,
with a time of ours in the place of the sender's timestamp: that gets none either.
"""

from __future__ import annotations

import hmac
import struct
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from probe.limits import RateLimit
from probe.packets import stamp
from probe.packets.arrival import Arrival
from probe.packets.timestamps import to_ntp
from probe.packets.tlvs import answer_tlvs, seal_tlvs

AGE = 900_000_000_000  # ns without a packet after which a session has ended (TWAMP's REFWAIT, RFC 5357)
_AROUND = 60  # s; a time of ours in a packet that came is no older
_OLD_STAMPS = 64  # stamps of replies that a session keeps for its next replies

# Why a packet got no reply; the names of the counters.
SHORT = "too short"
LONG = "too long"
FORGED = "not authentic"
SOURCE = "from an address that nobody has"
DESTINATION = "to broadcast or multicast"
LOOP = "from a reflector's port"
RETURNED = "a reply come back"
LIMITED = "over the rate limit"

_OPEN = struct.Struct(">IQHHQ12s2s2xB3x")
_SEALED = struct.Struct(">I12xQHH4xQ8x4s12x8s2s6xB15x")
_FOLLOW_UP = struct.Struct(">IQB3x")
_NOTHING_YET = bytes(stamp.FOLLOW_UP_SIZE)


class Session:
    """What a reflector remembers of a sender: the number of its next reply, and when earlier ones left."""

    __slots__ = ("asks", "left", "number", "seen")

    def __init__(self) -> None:
        self.number = 0
        self.seen = 0  # monotonic ns
        self.asks = False  # for follow-up telemetry
        self.left: list[bytes] = []  # values of that which have not been told yet

    def replied(self, number: int, wall: int, mode: int) -> None:
        """Reply `number` left at `wall` (ns), as was learnt now. `mode`: how that was taken (`stamp`)."""
        if self.asks:
            self.left.append(_FOLLOW_UP.pack(number, to_ntp(wall), mode))
            if len(self.left) > _OLD_STAMPS:
                del self.left[0]

    def follow_up(self) -> bytes:
        """The newest that has not been told; older ones have their turn in the other replies of a burst."""
        self.asks = True
        return self.left.pop() if self.left else _NOTHING_YET


class Sessions:
    """At most `most` sessions: who has been silent for longest makes room for who is new.

    Whoever forges senders makes a session with each packet. So those with a single packet make room first, as
    long as they have a quarter of it: a slow sender keeps its numbers while a flood goes by.
    """

    def __init__(self, most: int = 8192) -> None:
        self._most = most
        self._known: OrderedDict[tuple[bytes, bytes, int], Session] = OrderedDict()
        self._fresh: OrderedDict[tuple[bytes, bytes, int], Session] = OrderedDict()  # one packet so far
        self.evicted = 0  # to make room: their numbers begin again

    def of(self, peer: bytes, local: bytes, ssid: int, now: int) -> Session:
        """The session of a packet; `now` in monotonic ns."""
        key = peer, local, ssid
        session = self._known.get(key)
        if session is not None:
            self._known.move_to_end(key)
        else:
            session = self._fresh.pop(key, None)
            if session is not None:
                self._known[key] = session
            else:
                self._make_room(now)
                session = self._fresh[key] = Session()
                session.seen = now
        if now - session.seen > AGE:
            session.number, session.left = 0, []
        session.seen = now
        return session

    def _make_room(self, now: int) -> None:
        self.expire(now)
        if len(self) >= self._most:
            crowd = self._fresh if len(self._fresh) > self._most // 4 or not self._known else self._known
            crowd.popitem(last=False)
            self.evicted += 1

    def expire(self, now: int) -> None:
        """Forget sessions that have ended."""
        for some in (self._fresh, self._known):
            while some:
                key = next(iter(some))
                if now - some[key].seen <= AGE:
                    break
                del some[key]

    def __len__(self) -> int:
        return len(self._fresh) + len(self._known)


@dataclass
class Reflection:
    """The rules of one reflector.

    key: of authenticated mode; empty: unauthenticated. port: on which it listens. estimate: its own error
    estimate, set by whoever knows the clock.
    """

    key: bytes
    port: int
    limit: RateLimit
    sessions: Sessions = field(default_factory=Sessions)
    estimate: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._base = stamp.SEALED if self.key else stamp.OPEN
        self._t3 = 16 if self.key else 4
        self._echoed = slice(64, 68) if self.key else slice(28, 32)  # of a reply: seconds of the sender's T1

    def prepare(self, packet: memoryview, arrival: Arrival, now: int) -> tuple[Session, int] | None:
        """Turn a request into its reply, in place, all but the time at which it leaves: `finish` writes that.

        Returns its session and its number there. None: it gets no reply, and is counted in `refused`. `now`
        in monotonic ns.
        """
        reason = self._reason(packet, arrival, now)
        if reason:
            self.refused[reason] += 1
            return None
        key, base = self.key, self._base
        error_at = 24 if key else 12
        ssid = packet[error_at + 2] << 8 | packet[error_at + 3]
        session = self.sessions.of(arrival.peer, arrival.destination, ssid, now)
        number = session.number
        session.number = (number + 1) & 0xFFFFFFFF
        if len(packet) > base:
            answer_tlvs(packet, base, session.follow_up, key)
        sequence, t1 = bytes(packet[:4]), bytes(packet[self._t3 : self._t3 + 8])
        error = bytes(packet[error_at : error_at + 2])
        t2 = to_ntp(arrival.received)
        if key:
            _SEALED.pack_into(packet, 0, number, 0, self.estimate, ssid, t2, sequence, t1, error, arrival.ttl)
            if len(packet) > base:
                seal_tlvs(packet, base, key)
        else:
            _OPEN.pack_into(packet, 0, number, 0, self.estimate, ssid, t2, sequence + t1, error, arrival.ttl)
        return session, number

    def finish(self, packet: memoryview, wall: int) -> None:
        """Write the time at which it leaves (wall ns), and what vouches for the whole."""
        packet[self._t3 : self._t3 + 8] = to_ntp(wall).to_bytes(8, "big")
        if self.key:
            packet[stamp.SIGNED : stamp.SEALED] = stamp.mac(self.key, packet[: stamp.SIGNED])

    def _reason(self, packet: memoryview, arrival: Arrival, now: int) -> str:
        """Why it gets no reply; empty: it gets one."""
        if len(packet) < self._base:
            return SHORT
        if not arrival.whole:
            return LONG
        if not arrival.unicast:
            return DESTINATION
        if _nobodys(arrival.source) or not arrival.port:
            return SOURCE
        if arrival.port in (self.port, stamp.PORT):
            return LOOP
        if self._returned(packet, arrival.received):
            return RETURNED
        # Before the limit: who forges packets must not use up what the owner of the address may send.
        if self.key and not hmac.compare_digest(
            packet[stamp.SIGNED : stamp.SEALED], stamp.mac(self.key, packet[: stamp.SIGNED])
        ):
            return FORGED
        if not self.limit.allows(arrival.source, now):
            return LIMITED
        return ""

    def _returned(self, packet: memoryview, received: int) -> bool:
        """Whether it answers a reply of ours: where that has our T3, a request has zeros, or a TWAMP sender's
        padding (RFC 8762, section 4.6), whose bytes look like our clock once in 2^25 packets."""
        seconds = int.from_bytes(packet[self._echoed], "big")
        return seconds != 0 and abs(seconds - (to_ntp(received) >> 32)) <= _AROUND


def _nobodys(address: bytes) -> bool:
    """Multicast, broadcast, reserved and unspecified addresses.

    A network's own broadcast address looks like any other; the kernel refuses to send there.
    """
    if len(address) == 4:
        return address[0] == 0 or address[0] >= 224
    return address[0] == 0xFF or not any(address)
