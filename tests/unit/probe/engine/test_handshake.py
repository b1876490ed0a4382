"""SYNs and what may answer them in, what the ledger says of each probe out."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND, ManualClock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import Engine
from probe.engine.handshake import handshake
from probe.engine.samples import CLOSED, ERROR, LOCAL, SENT, Cut
from probe.engine.schedule import Schedule
from probe.packets import tcp
from probe.packets.tcp import ACK, RST, SYN
from probe.sockets.abi import sockaddr
from probe.sockets.memory import Fate, MemorySocket
from probe.sockets.packet_socket import QuotedError, Replies
from probe.windows.summary import summarise
from tests.unit.probe.packets.plain import internet_checksum

HERE, THERE, ELSEWHERE = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([10, 0, 0, 3])
LANES = (41_000, 42_000)
PORTS = (9000, 9001)
FLAGS = tuple[int, ...]


@dataclass
class PortedMemory(MemorySocket):
    """Its twin has reserved ports, and asks for its source address where routes have changed."""

    ports: tuple[int, ...] = LANES
    refreshed: int = 0
    sources: list[bytes] = field(default_factory=lambda: [HERE])
    there: list[bytes] = field(default_factory=list)

    def set_destinations(self, addresses: list[bytes]) -> None:
        self.there = [address[4:8] for address in addresses]
        self.refresh()

    def refresh(self) -> None:
        self.refreshed += 1
        sums = [tcp.pseudo_sum(self.sources[-1], address) for address in self.there]
        self.pseudo_sums = np.array(sums, np.int64)

    def receive(self) -> Replies | None:
        taken = super().receive()
        if taken is not None and self.family == socket.AF_INET6:
            for row, source in zip(taken.data, taken.sources, strict=True):
                source[8:24] = row[100:116]  # where these tests put it
        return taken


def ports_of(syn: bytes) -> tuple[int, int]:
    return int.from_bytes(syn[:2], "big"), int.from_bytes(syn[2:4], "big")


def sequence_of(syn: bytes) -> int:
    return int.from_bytes(syn[4:8], "big")


def segment(ports: tuple[int, int], acknowledgment: int, flags: int) -> bytes:
    head = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + bytes(4)
    return head + (acknowledgment % (1 << 32)).to_bytes(4, "big") + bytes([0x50, flags]) + bytes(6)


def packet(body: bytes, source: bytes = THERE, options: bytes = b"") -> bytes:
    """On IPv4 behind its header."""
    head = bytes([0x45 + len(options) // 4]) + bytes(8) + b"\x06" + bytes(2) + source + HERE
    return head + options + body


def answer(syn: bytes, flags: int, source: bytes = THERE, options: bytes = b"", off: int = 1) -> bytes:
    """What a target would say to it."""
    here, there = ports_of(syn)
    return packet(segment((there, here), sequence_of(syn) + off, flags), source, options)


Answerer = Callable[[int, bytes], list[tuple[int, bytes]]]


class Driver:
    """A channel of one flow or more to one target, in windows of 1 s with a timeout of 200 ms."""

    def __init__(
        self,
        answers: Answerer,
        *,
        interval: int = 10 * MILLISECOND,
        flows: int = 1,
        family: int = socket.AF_INET,
        capacity: int = 2048,
        there: str = "10.0.0.2",
    ) -> None:
        self.clock = ManualClock()
        v4 = family == socket.AF_INET
        self.socket = PortedMemory(
            self.clock, lambda n, syn: Fate(raw=tuple(answers(n, syn))), family=family, raw=v4, header=v4
        )
        streams = [
            Flow(n, sockaddr(family, there), tcp.SIZE, False, n % 2, PORTS[n // 2]) for n in range(flows)
        ]
        self.flows = flows
        self.channel = Channel(
            self.socket,
            streams,
            Schedule([interval] * flows, [False] * flows, np.random.default_rng(7)),
            capacity=capacity,
            all_flows=flows,
            token=b"\xf0\xe1\xd2\xc3\xb4\xa5\x96\x87",
            base_id=1,
            speak=handshake(self.socket),
        )
        self.cuts: list[Cut] = []
        self.engine = Engine(
            [self.channel],
            self.clock,
            window=SECOND,
            timeout=200 * MILLISECOND,
            tick=2 * MILLISECOND,
            flows=flows,
            on_cut=self.cuts.append,
        )

    def run(self, length: int) -> None:
        end = self.clock.mono_ns + length
        while self.clock.mono_ns < end:
            wake = self.engine.turn()
            self.clock.advance(max(1, min(wake, end) - self.clock.mono_ns))

    def finish(self) -> None:
        self.engine.finish(lambda seconds: self.clock.advance(int(seconds * 1e9)))

    def totals(self, flow: int = 0) -> dict[str, int]:
        names = ("sent", "received", "lost", "late", "duplicates", "errors", "unstamped")
        windows = [summarise(cut, self.flows, 200 * MILLISECOND) for cut in self.cuts]
        found = {name: sum(int(window.values[name][flow]) for window in windows) for name in names}
        return found | {"closed": sum(state & CLOSED != 0 for state in self.states(flow))}

    def states(self, flow: int = 0) -> list[int]:
        return [
            int(state)
            for cut in self.cuts
            for samples in cut.samples
            for state, whose in zip(
                samples.state[: samples.inside], samples.flow[: samples.inside], strict=True
            )
            if whose == flow
        ]

    @property
    def foreign(self) -> int:
        return self.channel.counters.foreign


def always(*flags: int) -> Answerer:
    """Every probe is answered so, after 1 ms, all in a row."""
    return lambda _, syn: [(MILLISECOND + n, answer(syn, each)) for n, each in enumerate(flags)]


@pytest.mark.parametrize(
    ("flags", "received", "closed", "duplicates", "foreign"),
    [
        ((SYN | ACK,), 1, 0, 0, 0),
        ((RST | ACK,), 1, 1, 0, 0),
        ((SYN | ACK | tcp.PSH | 0xC0,), 1, 0, 0, 0),  # with flags that say nothing about it
        # The first answer says what it found, however close the second one follows.
        ((SYN | ACK, RST | ACK), 1, 0, 1, 0),
        ((RST | ACK, SYN | ACK), 1, 1, 1, 0),
        ((SYN | ACK, SYN | ACK, SYN | ACK), 1, 0, 2, 0),
        # No answers to a SYN.
        ((RST,), 0, 0, 0, 1),
        ((SYN,), 0, 0, 0, 1),
        ((tcp.FIN,), 0, 0, 0, 1),
        ((SYN | RST | ACK,), 0, 0, 0, 1),
        ((0,), 0, 0, 0, 1),
    ],
)
def test_what_an_answer_says(flags: FLAGS, received: int, closed: int, duplicates: int, foreign: int) -> None:
    driver = Driver(always(*flags))
    driver.run(3 * SECOND)
    driver.finish()
    totals = driver.totals()
    sent = totals["sent"]
    assert sent > 290
    assert totals == {
        "sent": sent,
        "received": received * sent,
        "lost": sent - received * sent,
        "late": 0,
        "duplicates": duplicates * sent,
        "errors": 0,
        "unstamped": 0,
        "closed": closed * sent,
    }
    assert driver.foreign == foreign * sent


def test_flows_have_a_port_each_and_checksums_that_are_right() -> None:
    driver = Driver(always(SYN | ACK), flows=4)
    driver.run(2 * SECOND)
    driver.finish()
    assert [ports_of(syn) for syn in driver.socket.sent[:4]] == [
        (here, there) for there in PORTS for here in LANES
    ]
    assert len({ports_of(syn) for syn in driver.socket.sent}) == 4
    assert len({sequence_of(syn) for syn in driver.socket.sent}) == len(driver.socket.sent)
    pseudo = HERE + THERE + b"\0\x06\0\x18"
    assert {internet_checksum(pseudo + syn) for syn in driver.socket.sent} == {0}
    assert [driver.totals(flow)["received"] for flow in range(4)] == [
        driver.totals(flow)["sent"] for flow in range(4)
    ]


def test_the_source_address_is_asked_for_before_every_plan() -> None:
    driver = Driver(always(SYN | ACK))
    driver.run(SECOND + 500 * MILLISECOND)
    driver.socket.sources.append(ELSEWHERE)
    driver.run(2 * SECOND)
    sums = [
        [internet_checksum(source + THERE + b"\0\x06\0\x18" + syn) == 0 for syn in driver.socket.sent]
        for source in (HERE, ELSEWHERE)
    ]
    changed = sums[0].index(False)
    assert 150 < changed < 250
    assert all(sums[0][:changed])
    assert all(sums[1][changed:])


def other_target(_: int, syn: bytes) -> list[tuple[int, bytes]]:
    return [(MILLISECOND, answer(syn, SYN | ACK, ELSEWHERE))]


def other_port(_: int, syn: bytes) -> list[tuple[int, bytes]]:
    here, there = ports_of(syn)
    return [(MILLISECOND, packet(segment((there + 1, here), sequence_of(syn) + 1, SYN | ACK)))]


def other_lane(_: int, syn: bytes) -> list[tuple[int, bytes]]:
    _, there = ports_of(syn)
    return [(MILLISECOND, packet(segment((there, LANES[1]), sequence_of(syn) + 1, SYN | ACK)))]


def wrong_number(n: int, syn: bytes) -> list[tuple[int, bytes]]:
    return [(MILLISECOND, answer(syn, SYN | ACK, off=(0, 2, 1 << 20, 1 << 31, -4096)[n % 5]))]


def cut_short(_: int, syn: bytes) -> list[tuple[int, bytes]]:
    return [(MILLISECOND, answer(syn, SYN | ACK)[:39])]


@pytest.mark.parametrize("forged", [other_target, other_port, other_lane, wrong_number, cut_short])
def test_what_does_not_fit_in_one_thing_is_foreign(forged: Answerer) -> None:
    driver = Driver(forged)
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["received"] == totals["duplicates"] == totals["closed"] == 0
    assert driver.foreign == totals["lost"] == totals["sent"] > 190


@pytest.mark.parametrize("words", [1, 5, 10])
def test_ip_options_of_an_answer_are_no_hindrance(words: int) -> None:
    options = b"\x01" * (4 * words)

    def mixed(n: int, syn: bytes) -> list[tuple[int, bytes]]:
        flags = SYN | ACK if n % 3 else RST | ACK
        return [(MILLISECOND, answer(syn, flags, options=options if n % 2 else b""))]

    driver = Driver(mixed)
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["received"] == totals["sent"] > 190
    assert totals["closed"] == len(range(0, totals["sent"], 3))
    assert driver.foreign == 0


def test_ipv6_takes_the_source_from_the_sockaddr() -> None:
    there = socket.inet_pton(socket.AF_INET6, "2001:db8::2")

    def answers(n: int, syn: bytes) -> list[tuple[int, bytes]]:
        here, port = ports_of(syn)
        body = segment((port, here), sequence_of(syn) + 1, SYN | ACK)
        source = there if n % 2 else there[:15] + b"\x09"
        return [(MILLISECOND, body.ljust(100, b"\0") + source)]

    driver = Driver(answers, family=socket.AF_INET6, there="2001:db8::2")
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["received"] + driver.foreign == totals["sent"]
    assert driver.foreign == len(range(0, totals["sent"], 2))


class Unforgetting:
    """A target that loses our RSTs to these SYNs (and to all while it remembers one): Linux's, without its
    limit of two such answers a second."""

    def __init__(self, *unforgotten: int, delay: int = MILLISECOND, silent: bool = False, copies: int = 1):
        self._unforgotten, self._delay, self._silent, self._copies = unforgotten, delay, silent, copies
        self._last: bytes | None = None

    def __call__(self, n: int, syn: bytes) -> list[tuple[int, bytes]]:
        if self._last is not None:
            last, self._last = self._last, None  # our kernel ends that one for good
            return [(self._delay, answer(last, ACK))] * self._copies
        if n in self._unforgotten:
            self._last = syn
            if self._silent:
                return []
        return [(self._delay, answer(syn, SYN | ACK))]


def test_the_acknowledgement_of_an_earlier_probe_answers_the_next_one() -> None:
    driver = Driver(Unforgetting(3, 50, 51, 120))
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["received"] == totals["sent"] > 190
    assert driver.foreign == totals["closed"] == totals["duplicates"] == 0
    rtts = {int(rtt) for cut in driver.cuts for rtt in (cut.samples[0].rx - cut.samples[0].tx)}
    assert max(rtts) <= MILLISECOND


def test_a_lost_answer_is_one_loss_and_its_copies_are_duplicates() -> None:
    driver = Driver(Unforgetting(3, 50, silent=True, copies=3))
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["lost"] == 2
    assert totals["received"] == totals["sent"] - 2
    assert totals["duplicates"] == 4
    assert driver.foreign == 0


def test_it_is_given_to_no_probe_where_it_may_be_anothers() -> None:
    driver = Driver(Unforgetting(50, delay=35 * MILLISECOND))  # four probes are under way
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["lost"] == driver.foreign == 1
    assert totals["received"] == totals["sent"] - 1


def test_an_answer_after_its_window_is_late_and_one_after_its_row_foreign() -> None:
    def answers(n: int, syn: bytes) -> list[tuple[int, bytes]]:
        return [({0: 1500 * MILLISECOND, 1: 8 * SECOND}.get(n, MILLISECOND), answer(syn, RST | ACK))]

    driver = Driver(answers, interval=2 * MILLISECOND)  # 2,048 rows are 4 s
    driver.run(10 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["late"] == driver.foreign == 1
    assert totals["lost"] == 2
    assert totals["received"] == totals["sent"] - 2


def test_a_flood_of_them_is_counted_and_hides_no_answer() -> None:
    driver = Driver(always(SYN | ACK), capacity=100_000, interval=MILLISECOND)
    driver.run(3 * SECOND)
    flood = [answer(driver.socket.sent[0], ACK)] * 5000
    driver.socket.deliver(*[(driver.clock.mono_ns, each) for each in flood])
    driver.run(SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["received"] == totals["sent"] > 3900
    # Nothing is open at that moment but what just left: they are the last probe's copies, or foreign.
    assert totals["duplicates"] + driver.foreign >= 255


def unreachable(syn: bytes, local: bool = False) -> QuotedError:
    return QuotedError(3, 3, local, syn)


def test_an_icmp_error_is_that_of_the_probe_it_quotes() -> None:
    driver = Driver(lambda _, syn: [])
    driver.run(300 * MILLISECOND)
    sent = driver.socket.sent
    other = (50_000).to_bytes(2, "big") + sent[0][2:]
    driver.socket.errors += [
        unreachable(sent[5]),
        unreachable(sent[6][:8]),  # all that some routers quote
        unreachable(sent[6]),  # a second one about the same
        unreachable(sent[7], local=True),
        unreachable(sent[8][:4] + bytes([sent[8][4] ^ 1]) + sent[8][5:]),  # never sent
        unreachable(sent[9][:3] + bytes([sent[9][3] ^ 1]) + sent[9][4:]),  # to another port
        unreachable(sent[10][:7]),
        unreachable(other),  # another program's connection: a raw socket hears of them all
    ]
    driver.run(2 * SECOND)
    driver.finish()
    states = driver.states()
    assert [n for n, state in enumerate(states) if state & ERROR] == [5, 6, 7]
    assert [n for n, state in enumerate(states) if state & LOCAL] == [7]
    assert {state for n, state in enumerate(states) if n not in (5, 6, 7)} == {SENT}
    assert driver.channel.counters.unanswerable == 3
    assert driver.totals()["errors"] == 3
    assert driver.foreign == 0


def test_a_flood_to_our_port_changes_no_filter() -> None:
    """The socket's own filter lets nothing else through: there is nobody to keep out."""
    driver = Driver(always(SYN | ACK))
    driver.socket.room = 16
    driver.run(300 * MILLISECOND)
    driver.socket.deliver(*[(driver.clock.mono_ns, packet(bytes(20)))] * 100)
    driver.run(SECOND)
    driver.finish()
    assert driver.channel.counters.drops > 0
    assert driver.socket.admitted is driver.socket.dismissed is None
