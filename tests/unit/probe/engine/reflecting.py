"""What happens to each probe in, an engine of STAMP probes over a memory socket and a plain reflector out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probe.clock import MICROSECOND, MILLISECOND, SECOND, ManualClock
from probe.engine.channel import Channel
from probe.engine.dialect import Desk, Flow
from probe.engine.engine import Engine
from probe.engine.reflection import KEPT, Reflection
from probe.engine.samples import Cut, Reflections
from probe.engine.schedule import Schedule
from probe.packets.stamp import mac
from probe.sockets.datagram import HEADER
from probe.sockets.memory import Fate, MemorySocket
from probe.sockets.packet_socket import ROWS

TOKEN = b"\x01\x23\x45\x67\x89\xab\xcd\xef"
TIMEOUT = 200 * MILLISECOND
OWN_ERROR = 20 * MICROSECOND
_FROM_1900 = 2_208_988_800


def ntp(wall: int) -> int:
    """The plainest definition of an NTP timestamp."""
    return ((wall // SECOND + _FROM_1900) % (1 << 32) << 32) + round(wall % SECOND * 2**32 / SECOND)


def ptp(wall: int) -> int:
    """A truncated PTPv2 timestamp."""
    return wall // SECOND << 32 | wall % SECOND


@dataclass(frozen=True)
class Course:
    """What becomes of one probe. Times in ns.

    way: "" answered, "F" lost on the way there, "B" lost on the way back, "X" refused by this host.
    there, dwell, kernel, back: to the reflector, until its clock reading T3, until its kernel's TX stamp, and
        from there to us.
    copies: replies to this one probe, when the network duplicates it on the way there.
    again: copies of its last reply, when the network duplicates that.
    hold: it comes to the reflector just behind the flow's next probe.
    """

    way: str = ""
    there: int = 3 * MILLISECOND
    dwell: int = 40 * MICROSECOND
    kernel: int = 7 * MICROSECOND
    back: int = 5 * MILLISECOND
    copies: int = 1
    again: int = 1
    hold: bool = False


@dataclass
class Session:
    """What a reflector keeps of one flow."""

    number: int = 0
    left: list[tuple[int, int]] = field(default_factory=list)  # number and kernel's time (wall) of each reply
    held: list[tuple[bytes, Course]] = field(default_factory=list)


@dataclass
class PlainReflector:
    """RFC 8762 section 4.3 and RFC 8972 section 4.7, packet by packet.

    courses: of the n-th probe of a flow (its place); asked once a probe.
    """

    clock: ManualClock
    courses: Callable[[int, int], Course]
    stateful: bool = True
    tlvs: bool = True
    follow_up: bool = True
    ssid: bool = True
    behind: int = 0  # it learns when a reply left only after so many more
    offset: int = 0  # of its clock, ns
    estimate: int = 0x8000 | 22 << 8 | 0x2B  # synchronised: 43 * 2^(22 - 32) s
    key: bytes = b""
    first_number: int = 0
    time: Callable[[int], int] = ntp
    sessions: dict[int, Session] = field(default_factory=dict)
    spoil: Callable[[bytearray], bytes] = bytes  # what the network does to a reply's bytes
    arrivals: dict[tuple[int, int], int] = field(default_factory=dict)  # mono: of first replies, by flow, n
    planned: dict[tuple[int, int], Course] = field(default_factory=dict)

    def __call__(self, _n: int, packet: bytes) -> Fate:
        at = 24 if self.key else 12
        (ssid,) = struct.unpack_from("!H", packet, at + 2)
        (seq,) = struct.unpack_from("!I", packet)
        flow = self.place(ssid)
        course = self.courses(flow, seq)
        self.planned[flow, seq] = course
        if course.way == "X":
            return Fate(refused=1)
        if course.way == "F":
            return Fate()
        session = self.sessions.setdefault(ssid, Session(self.first_number))
        if course.hold:
            session.held.append((packet, course))
            return Fate()
        out = self._reflect(session, packet, course, 0)
        for n, (held, its) in enumerate(session.held):
            out += self._reflect(session, held, its, (n + 1) * MICROSECOND)
        session.held.clear()
        return Fate(raw=tuple(out))

    base_id: int = 100

    def place(self, ssid: int) -> int:
        return (ssid - 1 - self.base_id) % 0xFFFF

    def _reflect(
        self, session: Session, packet: bytes, course: Course, behind: int
    ) -> list[tuple[int, bytes]]:
        out: list[tuple[int, bytes]] = []
        (seq,) = struct.unpack_from("!I", packet)
        for copy in range(course.copies):
            delay = course.there + behind + copy * 100
            wall = self.clock.wall() + MICROSECOND + delay + self.offset
            reply = self.reply(session, packet, wall, wall + course.dwell)
            left = delay + course.dwell + course.kernel
            session.left.append((session.number, wall + course.dwell + course.kernel))
            session.number = (session.number + 1) & 0xFFFFFFFF
            if course.way != "B":
                (ssid,) = struct.unpack_from("!H", packet, (24 if self.key else 12) + 2)
                arrival = self.clock.mono() + MICROSECOND + left + course.back
                self.arrivals.setdefault((self.place(ssid), seq), arrival)
                times = course.again if copy == course.copies - 1 else 1
                out += [(left + course.back + i, self.spoil(bytearray(reply))) for i in range(times)]
        return out

    def reply(self, session: Session, packet: bytes, t2: int, t3: int) -> bytes:
        sealed = bool(self.key)
        size = 112 if sealed else 44
        (seq,) = struct.unpack_from("!I", packet)
        at = 16 if sealed else 4
        sender = packet[at : at + 10]  # T1 and its error estimate
        ssid = packet[at + 10 : at + 12] if self.ssid else bytes(2)
        out = bytearray(len(packet) if self.tlvs else size)
        struct.pack_into("!I", out, 0, session.number if self.stateful else seq)
        struct.pack_into("!QH2s", out, at, self.time(t3), self.estimate, ssid)
        struct.pack_into("!Q", out, 32 if sealed else 16, self.time(t2))
        struct.pack_into("!I", out, 48 if sealed else 24, seq)
        struct.pack_into("!10s", out, 64 if sealed else 28, sender)
        out[80 if sealed else 40] = 60
        if sealed:
            out[96:112] = mac(self.key, bytes(out[:96]))
        if self.tlvs:
            self._tlvs(session, packet, out, size)
        return bytes(out)

    def _tlvs(self, session: Session, packet: bytes, out: bytearray, at: int) -> None:
        begin = at
        out[at:] = packet[at:]
        while at + 4 <= len(out):
            kind, length = out[at + 1], int.from_bytes(out[at + 2 : at + 4], "big")
            if kind == 1 or (kind == 7 and self.follow_up) or (kind == 8 and self.key):
                out[at] = 0
            if kind == 7 and self.follow_up:
                known = len(session.left) > self.behind
                number, time = session.left[-1 - self.behind] if known else (0, 0)
                moment = self.time(time) if known else 0
                out[at + 4 : at + 20] = struct.pack("!IQB3x", number, moment, 2 if moment else 0)
            if kind == 8 and self.key:
                out[at + 4 : at + 20] = mac(self.key, bytes(out[:4] + out[begin:at]))
            at += 4 + length


class DatagramTwin(MemorySocket):
    """Rows are UDP payload, sizes those of IP payload."""

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        super().prepare(where, destinations, sizes - HEADER, ids)


class StampDriver:
    """One channel of STAMP flows, 10 ms apart, in windows of 1 s with a timeout of 200 ms."""

    def __init__(
        self,
        courses: Callable[[int, int], Course] = lambda _flow, _n: Course(),
        *,
        sizes: Sequence[int] = (84,),
        own_error: int | None = OWN_ERROR,
        key: bytes = b"",
        burst: int = 1,
        destinations: Sequence[bytes] = (),
    ) -> None:
        self.clock = ManualClock()
        self.reflector = PlainReflector(self.clock, courses, key=key)
        rows = np.zeros((ROWS, 512), np.uint8)
        self.socket = DatagramTwin(self.clock, self.reflector, rows=rows, kept=KEPT, patience=4096)
        self.flows = len(sizes)
        self.dialect: Reflection | None = None
        self.own_error = own_error

        def speak(desk: Desk) -> Reflection:
            self.dialect = Reflection(desk, self.clock, lambda: self.own_error, key)
            return self.dialect

        interval = 10 * MILLISECOND
        rng = np.random.default_rng(7)
        schedule = Schedule([interval] * self.flows, [False] * self.flows, rng, [burst] * self.flows)
        there = destinations or [bytes([2, 0, 3, 94, 10, 0, 0, n]) + bytes(20) for n in range(self.flows)]
        self.channel = Channel(
            self.socket,
            [Flow(n, there[n], size) for n, size in enumerate(sizes)],
            schedule,
            capacity=4096,
            all_flows=self.flows,
            token=TOKEN,
            base_id=100,
            speak=speak,
            reflecting=True,
        )
        self.cuts: list[Cut] = []
        self.cut_at: list[int] = []
        self.engine = Engine(
            [self.channel],
            self.clock,
            window=SECOND,
            timeout=TIMEOUT,
            tick=2 * MILLISECOND,
            flows=self.flows,
            on_cut=self._on_cut,
        )

    def _on_cut(self, cut: Cut) -> None:
        self.cuts.append(cut)
        self.cut_at.append(self.clock.mono())

    def run(self, length: int) -> None:
        """Let time pass, waking the engine when it asks to be woken."""
        end = self.clock.mono_ns + length
        while self.clock.mono_ns < end:
            wake = self.engine.turn()
            self.clock.advance(max(1, min(wake, end) - self.clock.mono_ns))

    def finish(self) -> None:
        """End as the agent does; sleeping is advancing."""
        self.engine.finish(lambda seconds: self.clock.advance(int(seconds * 1e9)))

    def said(self, cut: int) -> Reflections:
        found = self.cuts[cut].samples[0].reflections
        assert found is not None
        return found
