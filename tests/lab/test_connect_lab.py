"""Listening, closed, firewalled and rejected ports in, what connections say of them out; against the packet
filter's counts and a capture's times.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.channel import Flow
from probe.engine.connection import Connection
from probe.packets.tcp import ACK, RST, SYN
from probe.sockets.abi import sockaddr
from probe.sockets.connecting import ConnectSocket
from probe.sockets.opening import SocketOptions
from probe.windows.outcomes import judge
from tests.lab.capture import Capture
from tests.lab.driving import FAMILIES, TIMEOUT, address_of
from tests.lab.handshaking import Counting, Segment, listen, segments
from tests.lab.link import Chance, Constant, Impairments, Uniform
from tests.lab.netlab import Lab, Namespace
from tests.lab.running import AS_NOBODY
from tests.system.commands import ROOT

Pair = tuple[Namespace, Namespace]
OPEN, SHUT, DROPPED, REJECTED, PROHIBITED, RESET = 7000, 7001, 7002, 7003, 7004, 7005
PORTS = (OPEN, SHUT, DROPPED, REJECTED, PROHIBITED, RESET)
REFUSED = ("received", "closed", "unstamped")  # what counts a refusal
_RST_AT_CLOSE = struct.pack("=ii", 1, 0)


class Connector(Counting):
    """An engine in `near` that connects to `targets` (address, port), `lanes` flows each.

    labels: the first lane's IPv6 flow label; the others' are multiples of it.
    """

    def __init__(
        self,
        near: Namespace,
        version: int,
        targets: Sequence[tuple[str, int]],
        *,
        lanes: int = 1,
        interval: int = 20 * MILLISECOND,
        burst: int = 1,
        timeout: int = TIMEOUT,
        labels: int = 0,
        options: SocketOptions | None = None,
    ) -> None:
        family = FAMILIES[version]
        flows = [
            Flow(
                n * lanes + lane, _sockaddr(family, address, port, labels * (lane + 1)), 60, True, lane, port
            )
            for n, (address, port) in enumerate(targets)
            for lane in range(lanes)
        ]
        chosen = options or SocketOptions(family)
        self.connects = near.call(lambda: ConnectSocket(chosen, [flow.lane for flow in flows], timeout))
        super().__init__(
            near, self.connects, flows, Connection, interval=interval, burst=burst, timeout=timeout
        )

    def rtts(self, flow: int, *, stamped: bool = True) -> list[int]:
        """RTTs of a flow's received probes, in the order of the probes; those by kernel or by our clock."""
        found: list[int] = []
        for cut in self.cuts:
            for samples in cut.samples:
                outcomes = judge(samples, self.timeout)
                ours = outcomes.received & (outcomes.unstamped != stamped) & (samples.flow == flow)
                found += outcomes.rtt[: samples.inside][ours[: samples.inside]].tolist()
        return found


def _sockaddr(family: int, address: str, port: int, label: int = 0) -> bytes:
    """A sockaddr with a port, and on IPv6 a flow label."""
    raw = sockaddr(family, address)
    flow = label.to_bytes(4, "big") if family == socket.AF_INET6 else raw[4:8]
    return raw[:2] + port.to_bytes(2, "big") + flow + raw[8:]


Opener = Callable[..., Connector]


@pytest.fixture
def connector() -> Iterator[Opener]:
    opened: list[Connector] = []

    def make(*arguments: object, **options: object) -> Connector:
        opened.append(Connector(*arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@contextlib.contextmanager
def accepting(
    far: Namespace, version: int, port: int, serve: Callable[[socket.socket], None]
) -> Iterator[list[int]]:
    """A server that does `serve` with each connection; the ports they came from, complete at the end."""
    server, came = listen(far, version, port, 1024), list[int]()
    stop, stopped = socket.socketpair()

    def run() -> None:
        while server in select.select([server, stop], [], [])[0]:
            with contextlib.suppress(OSError):  # reset before we came to accept it
                connection, address = server.accept()
                came.append(address[1])
                with connection:
                    serve(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield came
    finally:
        stopped.close()
        thread.join()
        stop.close()
        server.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def syns(found: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in found if segment.outgoing and segment.flags & (SYN | ACK) == SYN]


def probes_of(found: Sequence[Segment]) -> list[Segment]:
    """SYNs without repetitions."""
    return list({(s.source, s.destination, s.sequence): s for s in reversed(syns(found))}.values())[::-1]


@pytest.mark.parametrize("version", [4, 6])
def test_every_kind_of_port_is_what_it_is(pair: Pair, connector: Opener, version: int) -> None:
    near, far = pair
    dropping = far.rule("drop", matches=[f"tcp dport {DROPPED}"])
    far.rule("reject with icmpx port-unreachable", matches=[f"tcp dport {REJECTED}"])
    far.rule("reject with icmpx admin-prohibited", matches=[f"tcp dport {PROHIBITED}"])
    far.rule("reject with tcp reset", matches=[f"tcp dport {RESET}"])
    target = address_of(far, version)
    before = descriptors()
    with accepting(far, version, OPEN, lambda _: None) as accepted, Capture(near) as capture:
        it = connector(near, version, [(target, port) for port in PORTS])
        it.run(240)
        it.finish()
        it.close()
    sent = dict.fromkeys(PORTS, 0)
    for segment in probes_of(segments(capture.packets)):
        sent[segment.destination] += 1
    assert sum(sent.values()) == it.total("sent") >= 240
    nothing = {"received": 0, "closed": 0, "lost": 0, "errors": 0, "duplicates": 0, "unstamped": 0}
    for flow, (port, expected) in enumerate(
        {
            OPEN: {"received": sent[OPEN]},
            SHUT: dict.fromkeys(REFUSED, sent[SHUT]),
            DROPPED: {"lost": sent[DROPPED]},
            REJECTED: {"lost": sent[REJECTED], "errors": sent[REJECTED]},
            PROHIBITED: {"lost": sent[PROHIBITED], "errors": sent[PROHIBITED]},
            RESET: dict.fromkeys(REFUSED, sent[RESET]),
        }.items()
    ):
        assert it.counts(flow) == nothing | {"sent": sent[port]} | expected, port
    assert dropping.counts().hit >= sent[DROPPED]
    assert it.foreign == 0
    assert len(accepted) == sent[OPEN]
    # Each flow from its lane's port, unless the last probe was unanswered when the next one left.
    sources = defaultdict[int, set[int]](set)
    for segment in syns(segments(capture.packets)):
        sources[segment.destination].add(segment.source)
    assert {port: len(sources[port]) for port in PORTS if port != DROPPED} == dict.fromkeys(
        {OPEN, SHUT, REJECTED, PROHIBITED, RESET}, 1
    )
    assert len(sources[DROPPED]) > 1
    assert descriptors() == before


@pytest.mark.parametrize("version", [4, 6])
def test_rtts_are_those_of_a_capture(pair: Pair, connector: Opener, version: int) -> None:
    near, far = pair
    target = address_of(far, version)
    with accepting(far, version, OPEN, lambda _: None), Capture(near, quiet=True) as capture:
        it = connector(near, version, [(target, OPEN), (target, SHUT)], interval=10 * MILLISECOND)
        it.run(200)
        it.finish()
    for flow, port in enumerate((OPEN, SHUT)):
        found = segments(capture.packets)
        answers = {
            (s.destination, s.acknowledgment): s.time_ns
            for s in found
            if s.source == port and s.flags & (SYN | RST)
        }
        truth = [
            answers[syn.source, (syn.sequence + 1) & 0xFFFFFFFF] - syn.time_ns
            for syn in syns(found)
            if syn.destination == port
        ]
        rtts = it.rtts(flow, stamped=port == OPEN)
        assert len(rtts) == len(truth) > 75
        off = [rtt - true for rtt, true in zip(rtts, truth, strict=True)]
        if port == OPEN:
            assert abs(median(off)) < 20_000
        else:  # by our clock, when we were woken
            assert 0 < median(off) < 2 * MILLISECOND


def test_what_a_server_does_with_a_connection_changes_nothing(pair: Pair, connector: Opener) -> None:
    near, far = pair

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 welcome\r\n")
        # Until the prober resets it.
        with contextlib.suppress(OSError):
            connection.recv(1)

    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_AT_CLOSE)

    with (
        accepting(far, 4, OPEN, greet) as greeted,
        accepting(far, 4, SHUT, reset) as was_reset,
        accepting(far, 4, DROPPED, lambda c: c.shutdown(socket.SHUT_RDWR)) as shut,
        listen(far, 4, RESET),
    ):
        it = connector(
            near, 4, [(far.ipv4, port) for port in (OPEN, SHUT, DROPPED, RESET)], interval=100 * MILLISECOND
        )
        it.run(40)
        it.finish()
    for flow, came in enumerate((greeted, was_reset, shut)):
        counts = it.counts(flow)
        assert counts["sent"] == counts["received"] == len(came), flow
        assert counts["closed"] == counts["lost"] == counts["errors"] == counts["unstamped"] == 0
    # Nobody accepts on the last one: its kernel answers nevertheless.
    assert it.counts(3)["sent"] == it.counts(3)["received"]
    assert it.counts(3)["unstamped"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_loss_is_told_probe_by_probe_also_where_a_reset_was_lost(
    pair: Pair, connector: Opener, version: int
) -> None:
    """Of one port its SYNs are lost, of another the answers to them, of a third what resets connections."""
    near, far = pair
    syn, answer, reset = ports = 7100, 7101, 7102
    flags = "tcp flags & (syn|ack|rst)"
    matching = {
        syn: ("input", f"tcp dport {syn} {flags} == syn"),
        answer: ("output", f"tcp sport {answer} {flags} == (syn|ack)"),
        reset: ("input", f"tcp dport {reset} tcp flags & rst == rst"),
    }
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(listen(far, version, port, backlog=4096))
        capture = stack.enter_context(Capture(near))
        rules = {
            port: far.rule("drop", every=5, hook=hook, matches=[matches])
            for port, (hook, matches) in matching.items()
        }
        # Longer than the time-out apart: each has its lane's port to itself.
        it = connector(
            near,
            version,
            [(address_of(far, version), port) for port in ports],
            interval=100 * MILLISECOND,
            timeout=40 * MILLISECOND,
        )
        it.run(3 * 45)
        it.finish()
    for flow, port in enumerate(ports):
        found = [s for s in segments(capture.packets) if port in (s.source, s.destination)]
        counts = it.counts(flow)
        assert counts["sent"] == len(probes_of(found)) >= 44
        assert len({segment.source for segment in syns(found)}) == 1
        assert rules[port].counts().hit >= 8
        if port == reset:
            # The far end has an old connection then, and says so; the kernel then begins anew.
            assert counts["lost"] == 0
            assert 0 < counts["unstamped"] <= rules[port].counts().hit
        else:
            answered = {
                segment.acknowledgment
                for segment in found
                if not segment.outgoing and segment.flags & (SYN | ACK) == SYN | ACK
            }
            lost = [probe for probe in probes_of(found) if (probe.sequence + 1) & 0xFFFFFFFF not in answered]
            assert counts["lost"] == len(lost) > 5
        assert counts["errors"] == counts["closed"] == 0


def test_an_answer_to_a_repeated_syn_is_no_answer_to_the_probe(pair: Pair, connector: Opener) -> None:
    near, far = pair
    with listen(far, 4, OPEN), Capture(near) as capture:
        far.rule("drop", every=2, matches=[f"tcp dport {OPEN} tcp flags & (syn|ack|rst) == syn"])
        it = connector(near, 4, [(far.ipv4, OPEN)], interval=SECOND // 10, timeout=3 * SECOND // 2)
        it.run(20)
        it.finish()
    found = segments(capture.packets)
    first = {(s.source, s.sequence): s for s in reversed(syns(found))}
    assert len(syns(found)) > len(first) >= 20
    at_once = 0
    for (source, sequence), syn in first.items():
        answers = [
            s.time_ns - syn.time_ns
            for s in found
            if not s.outgoing and (s.destination, s.acknowledgment) == (source, (sequence + 1) & 0xFFFFFFFF)
        ]
        at_once += bool(answers) and min(answers) < SECOND // 2
    assert it.counts(0)["sent"] == len(first)
    assert it.counts(0)["received"] == at_once
    assert 0 < at_once < len(first)
    assert it.total("late") == 0


# Shorter, and longer, than the 900 ms after which this host gives up asking for a neighbour here.
@pytest.mark.parametrize("timeout", [300 * MILLISECOND, 1200 * MILLISECOND])
@pytest.mark.parametrize("version", [4, 6])
def test_what_this_host_refuses_or_cannot_deliver_is_no_loss(
    lab: Lab, connector: Opener, version: int, timeout: int
) -> None:
    near, far = lab.pair(static_neighbours=False)
    absent = "10.99.0.77" if version == 4 else "fd99::77"
    barred = "10.98.0.1" if version == 4 else "fd98::1"
    near.run(["ip", f"-{version}", "route", "add", "prohibit", barred])
    near.sysctl(f"net.ipv{version}.neigh.{near.interface}.retrans_time_ms", "300")
    with listen(far, version, OPEN, backlog=4096):
        it = connector(
            near,
            version,
            [(address_of(far, version), OPEN), (absent, OPEN), (barred, OPEN)],
            interval=50 * MILLISECOND,
            timeout=timeout,
        )
        it.run(120)
        it.finish()
    good, gone, prohibited = (it.counts(flow) for flow in range(3))
    assert good["received"] == good["sent"] >= 38
    assert gone["lost"] == gone["sent"] == 0
    assert prohibited["lost"] == prohibited["sent"] == 0
    assert gone["errors"] >= 30
    assert prohibited["errors"] >= 38
    assert it.channel.counters.last_errno in (errno.EACCES, errno.EPERM)


def test_options_and_ports_are_on_the_wire(pair: Pair, connector: Opener) -> None:
    near, far = pair
    near.run(["ip", "address", "add", "10.99.0.9/24", "dev", near.interface])
    near.run(["ip", "-6", "address", "add", "fd99::9/64", "dev", near.interface, "nodad"])
    for version, source in ((4, "10.99.0.9"), (6, "fd99::9")):
        options = SocketOptions(FAMILIES[version], dscp=46, ttl=17, source=source, interface=near.interface)
        target = address_of(far, version)
        with accepting(far, version, OPEN, lambda _: None), Capture(near) as capture:
            it = connector(
                near, version, [(target, OPEN), (target, SHUT)], lanes=3, labels=0x111, options=options
            )
            it.run(120)
            it.finish()
        labels = defaultdict[int, set[int]](set)
        seen = defaultdict[tuple[int, int], int](int)
        for packet in capture.packets:
            data = packet.data
            if data[0] >> 4 != version or not packet.outgoing or not syns(segments([packet])):
                continue
            (segment,) = segments([packet])
            if version == 4:
                assert (data[1] >> 2, data[8], socket.inet_ntop(socket.AF_INET, data[12:16])) == (
                    46,
                    17,
                    source,
                )
            else:
                assert (int.from_bytes(data[:2], "big") >> 6 & 63, data[7]) == (46, 17)
                assert socket.inet_ntop(socket.AF_INET6, data[8:24]) == source
                labels[segment.source].add(int.from_bytes(data[1:4], "big") & 0xFFFFF)
            seen[segment.source, segment.destination] += 1
        # Three ports, the same ones to both destinations.
        assert len(seen) == 6
        assert len({port for port, _ in seen}) == 3
        if version == 6:
            assert {it.connects.port(lane): {0x111 * (lane + 1)} for lane in range(3)} == labels
        received = [it.counts(flow)["received"] for flow in range(6)]
        assert sorted(received) == sorted(seen.values())
        assert min(received) >= 19


def test_bursts_and_quick_flows_leave_from_other_ports_and_lose_nothing(
    pair: Pair, connector: Opener
) -> None:
    near, far = pair
    with accepting(far, 4, OPEN, lambda _: None) as accepted:
        it = connector(near, 4, [(far.ipv4, OPEN)], lanes=2, burst=4, interval=50 * MILLISECOND)
        it.run(200)
        it.finish()
        it.close()
    for flow in range(2):
        counts = it.counts(flow)
        assert counts["sent"] == counts["received"] == 100
        assert counts["unstamped"] == 0
    assert len(accepted) == 200


@pytest.mark.emulator
def test_an_answer_behind_the_timeout_is_late(lab: Lab, connector: Opener) -> None:
    link = lab.emulated(Impairments(Constant(35 * MILLISECOND)), Impairments(Constant(35 * MILLISECOND)))
    with listen(link.far, 4, OPEN):
        it = connector(
            link.near, 4, [(link.far.ipv4, OPEN)], interval=120 * MILLISECOND, timeout=50 * MILLISECOND
        )
        it.run(20)
        it.finish()
    # The last one's answer is not waited for.
    assert it.total("sent") == it.total("lost") >= 20
    assert it.total("late") >= it.total("sent") - 1
    assert it.total("errors") == it.total("received") == 0


@pytest.mark.emulator
def test_over_a_lossy_slow_link_counts_are_those_of_the_wire(lab: Lab, connector: Opener) -> None:
    delay = Uniform(2 * MILLISECOND, 6 * MILLISECOND)
    link = lab.emulated(Impairments(delay, Chance(0.1)), Impairments(delay, Chance(0.1)), seed=4)
    with listen(link.far, 4, OPEN, backlog=4096), Capture(link.near) as capture:
        it = connector(
            link.near,
            4,
            [(link.far.ipv4, OPEN)],
            lanes=8,
            interval=150 * MILLISECOND,
            timeout=100 * MILLISECOND,
        )
        it.run(200)
        it.finish()
    found = segments(capture.packets)
    answers = {
        (s.destination, s.acknowledgment): s.time_ns
        for s in reversed(found)
        if not s.outgoing and s.flags & SYN
    }
    probes = probes_of(found)
    answered = [answers.get((s.source, (s.sequence + 1) & 0xFFFFFFFF), 1 << 62) for s in probes]
    # Where the far end still had the last connection, the kernel sends the SYN again: it keeps no time of the
    # answer to that, and by our own clock none is late.
    syns = Counter((s.source, s.sequence) for s in found if s.outgoing and s.flags == SYN)
    lost = doubtful = 0
    for came, s in zip(answered, probes, strict=True):
        late = came - s.time_ns > it.timeout
        lost += late
        doubtful += late and came < 1 << 62 and syns[s.source, s.sequence] > 1
    assert it.total("sent") == len(probes) >= 200
    assert lost - doubtful <= it.total("lost") <= lost
    assert lost - doubtful > 15
    assert it.total("closed") == 0


def test_hundreds_of_targets_and_no_descriptor_left_behind(pair: Pair, connector: Opener) -> None:
    near, far = pair
    far.answer_for("10.61.0.0/16")
    near.route("10.61.0.0/16", far.ipv4)
    server = far.call(lambda: socket.create_server(("0.0.0.0", OPEN), backlog=4096))
    before = descriptors()
    with server, accepting(far, 4, SHUT, lambda _: None):
        targets = [(f"10.61.{n // 200}.{n % 200 + 1}", OPEN) for n in range(500)]
        # Nobody accepts: the queue of connections has to be emptied by their resets.
        it = connector(near, 4, targets, interval=SECOND // 2)
        it.run(1500)
        it.finish()
        most = descriptors()
        it.close()
    assert it.total("sent") == it.total("received") >= 1500
    assert it.total("unstamped") == 0
    assert most < before + 1100  # of the probes of half a second or a block
    assert descriptors() < before  # the server's own is gone, too


_UNPRIVILEGED = """
import json, socket, sys, time
import numpy as np
from probe.sockets.abi import sockaddr
from probe.sockets.connecting import ANSWER, ConnectSocket
from probe.sockets.opening import SocketOptions
address, interface, *ports = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
it = ConnectSocket(SocketOptions(family, dscp=8, ttl=9, interface=interface), [0, 1], 10**9)
raw = sockaddr(family, address)
it.set_destinations([raw[:2] + int(port).to_bytes(2, "big") + raw[4:] for port in ports])
it.rows.view(">u8")[:2, 0] = 7, 8
it.prepare(slice(0, 2), np.arange(2), 60, np.arange(2, dtype=np.uint32))
sent, answers = it.send(0, 2), {}
for _ in range(200):
    if (replies := it.receive()) is not None:
        for answer in replies.data.view(ANSWER)[:, 0]:
            answers[int(answer["number"])] = int(answer["closed"])
    time.sleep(0.01)
    if len(answers) == 2:
        break
it.close()
print(json.dumps([sent, answers]))
"""


@pytest.mark.parametrize("version", [4, 6])
def test_nobody_needs_a_privilege_for_it(pair: Pair, version: int) -> None:
    near, far = pair
    with listen(far, version, OPEN):
        done = near.run(
            [
                *AS_NOBODY,
                *("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", _UNPRIVILEGED),
                *(address_of(far, version), near.interface, str(OPEN), str(SHUT)),
            ]
        )
    assert json.loads(done.stdout) == [[2, 0], {"7": 0, "8": 1}]
