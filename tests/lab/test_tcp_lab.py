"""Listening, closed, firewalled and rejected ports in, what half-open handshakes say of them out; and that
nobody else's connections, on either side, have ever heard of it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from probe.clock import MILLISECOND
from probe.packets import tcp
from probe.packets.tcp import ACK, RST, SYN
from tests.lab.capture import Capture
from tests.lab.driving import FAMILIES, address_of
from tests.lab.handshaking import Prober, Segment, listen, nobody_connected, segments, tcp_counters
from tests.lab.link import Chance, Constant, Duplicate, Every, Impairments
from tests.lab.netlab import Lab, Namespace
from tests.lab.running import AS_NOBODY
from tests.system.commands import coloprobe, wait_for

Pair = tuple[Namespace, Namespace]
Opener = Callable[..., Prober]

OPEN, SHUT, DROPPED, REJECTED, PROHIBITED, RESET = 7000, 7001, 7002, 7003, 7004, 7005
PORTS = (OPEN, SHUT, DROPPED, REJECTED, PROHIBITED, RESET)


@pytest.fixture
def prober() -> Iterator[Opener]:
    opened: list[Prober] = []

    def make(*arguments: object, **options: object) -> Prober:
        opened.append(Prober(*arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def syns(found: list[Segment]) -> list[Segment]:
    return [segment for segment in found if segment.outgoing and segment.flags == SYN]


def know(far: Namespace, address: str) -> None:
    """Tell `far` that `near` has this address, too."""
    words = f"ip neigh replace {address} lladdr 02:00:00:00:00:01 dev {far.interface} nud permanent"
    far.run(words.split())


@pytest.mark.parametrize("choose_id", [None, False], ids=["chosen", "counted"])
@pytest.mark.parametrize("version", [4, 6])
def test_every_kind_of_port_is_what_it_is_and_nobody_is_connected(
    pair: Pair, prober: Opener, version: int, choose_id: bool | None
) -> None:
    near, far = pair
    rules = {
        DROPPED: far.rule("drop", matches=[f"tcp dport {DROPPED}"]),
        REJECTED: far.rule("reject with icmpx port-unreachable", matches=[f"tcp dport {REJECTED}"]),
        PROHIBITED: far.rule("reject with icmpx admin-prohibited", matches=[f"tcp dport {PROHIBITED}"]),
        RESET: far.rule("reject with tcp reset", matches=[f"tcp dport {RESET}"]),
    }
    target = address_of(far, version)
    with listen(far, version, OPEN, backlog=1) as server:
        it = prober(near, version, [(target, port) for port in PORTS], choose_id=choose_id)
        it.run(150)
        it.finish()
        # In nobody's queue: neither of those that are accepted, nor of the half-open ones.
        assert nobody_connected(server)
        states = far.call(lambda: [line.split()[3] for line in open_sockets()])
        assert states == ["0A"]  # it listens
    counts = {port: it.counts(flow) for flow, port in enumerate(PORTS)}
    sent = {port: counted["sent"] for port, counted in counts.items()}
    assert min(sent.values()) >= 20
    assert sum(sent.values()) == it.channel.ledger.head
    for port, counted in counts.items():
        answered = port in (OPEN, SHUT, RESET)
        assert counted == {
            "sent": sent[port],
            "received": sent[port] if answered else 0,
            "closed": sent[port] if port in (SHUT, RESET) else 0,
            "lost": 0 if answered else sent[port],
            "errors": sent[port] if port in (REJECTED, PROHIBITED) else 0,
            "duplicates": 0,
            "unstamped": 0,
        }, port
    assert {port: rule.counts().hit for port, rule in rules.items()} == {port: sent[port] for port in rules}
    assert it.foreign == 0
    # The kernels' own counts. Every SYN/ACK was answered by RST, and no handshake came to its end.
    here, there = tcp_counters(near), tcp_counters(far)
    assert here["OutRsts"] == sent[OPEN]
    assert there["AttemptFails"] == sent[OPEN]
    assert there["PassiveOpens"] == here["ActiveOpens"] == 0
    assert there["InCsumErrors"] == here["InCsumErrors"] == 0


def open_sockets() -> list[str]:
    """The lines of the kernel's table of TCP sockets, of both IP versions."""
    lines: list[str] = []
    for name in ("tcp", "tcp6"):
        with open(f"/proc/thread-self/net/{name}", encoding="ascii") as table:  # noqa: PTH123
            lines += table.read().splitlines()[1:]
    return lines


@pytest.mark.parametrize("version", [4, 6])
def test_stamps_are_those_of_the_wire(pair: Pair, prober: Opener, version: int) -> None:
    near, far = pair
    with listen(far, version, OPEN), Capture(near, quiet=True) as capture:
        it = prober(near, version, [(address_of(far, version), OPEN)], lanes=3)
        it.run(90)
        it.finish()
    wire = segments(capture.packets)
    probes = syns(wire)
    replies = {
        segment.acknowledgment: segment.time_ns
        for segment in wire
        if not segment.outgoing and segment.flags == SYN | ACK
    }
    # Our kernel's answer follows at once, by what it acknowledged.
    resets = {
        segment.sequence: segment.time_ns for segment in wire if segment.outgoing and segment.flags == RST
    }
    # One flow, one source port; and every SYN has a sequence number of its own.
    assert {probe.source for probe in probes} == set(it.socket.ports)
    assert len({probe.sequence for probe in probes}) == len(probes) == len(replies)
    tx, rx, flow = [], [], []
    for cut in it.cuts:
        samples = cut.samples[0]
        tx += [it.engine.to_mono.wall(int(stamp)) for stamp in samples.tx[: samples.inside]]
        rx += [it.engine.to_mono.wall(int(stamp)) for stamp in samples.rx[: samples.inside]]
        flow += samples.flow[: samples.inside].tolist()
    assert [probe.source for probe in probes] == [it.socket.ports[n] for n in flow]
    # A packet passes the tap just before the driver stamps it. A reply has its stamp from then or, because
    # from a veth pair's other end it comes with a time that TCP gave it there, from behind the IP layer.
    for probe, sent, received in zip(probes, tx, rx, strict=True):
        answer = (probe.sequence + 1) % (1 << 32)
        assert probe.time_ns <= sent <= received
        assert replies[answer] <= received <= resets[answer]
    # Of each flow they grow, by more than anybody's window (mod 2^32).
    for port in it.socket.ports:
        own = [probe.sequence for probe in probes if probe.source == port]
        steps = [(b - a) % (1 << 32) for a, b in itertools.pairwise(own)]
        assert all(1 << 16 < step < 1 << 31 for step in steps)


@pytest.mark.parametrize("version", [4, 6])
def test_this_hosts_connections_are_left_alone(pair: Pair, prober: Opener, version: int) -> None:
    near, far = pair
    target, family = address_of(far, version), FAMILIES[version]
    sent, came = hashlib.sha256(), hashlib.sha256()
    with listen(far, version, OPEN) as server:
        it = prober(near, version, [(target, OPEN), (target, SHUT)], lanes=4, interval=2 * MILLISECOND)
        begun = tcp_counters(near)["OutSegs"]
        client = near.call(lambda: socket.create_connection((target, OPEN), timeout=10))
        assert client.getsockname()[1] not in it.socket.ports
        wait_for(lambda: tcp_counters(far)["PassiveOpens"] == 1, "the connection")
        accepted = server.accept()[0]
        accepted.settimeout(10)

        def pour() -> None:
            with client:
                for n in range(400):
                    data = n.to_bytes(4, "big") * 16_384
                    sent.update(data)
                    client.sendall(data)

        def drink() -> None:
            with accepted:
                while data := accepted.recv(1 << 20):
                    came.update(data)

        threads = [threading.Thread(target=pour), threading.Thread(target=drink)]
        for thread in threads:
            thread.start()
        it.run(3000)
        for thread in threads:
            thread.join(20)
        it.finish()
        assert nobody_connected(server)  # besides that one
    assert sent.digest() == came.digest()
    here, there = tcp_counters(near), tcp_counters(far)
    assert here["EstabResets"] == there["EstabResets"] == here["RetransSegs"] == 0
    assert here["OutSegs"] - begun > 400
    assert there["PassiveOpens"] == 1
    # What its stream brought to this host was none of ours, and our socket never saw it.
    assert it.foreign == it.channel.counters.damaged == it.channel.counters.drops == 0
    assert it.total("received") == it.total("sent")
    assert it.total("closed") == sum(it.total("sent", flow) for flow in range(4, 8))
    assert family == it.socket.family


@pytest.mark.parametrize("version", [4, 6])
def test_nobody_else_gets_our_ports_until_they_are_given_back(
    pair: Pair, prober: Opener, version: int
) -> None:
    near, far = pair
    target, family = address_of(far, version), FAMILIES[version]
    near.sysctl("net.ipv4.ip_local_port_range", "40000 40009")
    it = prober(near, version, [(target, OPEN)], lanes=4)
    assert len(set(it.socket.ports)) == 4
    assert set(it.socket.ports) < set(range(40000, 40010))

    def take(port: int) -> int:
        """The errno of binding to it, however boldly."""
        with socket.socket(family, socket.SOCK_STREAM) as bold:
            bold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                bold.bind((address_of(near, version), port))
            except OSError as refusal:
                return int(refusal.errno or 0)
        return 0

    with listen(far, version, OPEN) as server:

        def connect_all() -> list[int]:
            """Ports of connections, one for every port that the kernel still has."""
            opened: list[socket.socket] = []
            with contextlib.suppress(OSError):
                while len(opened) < 20:
                    opened.append(socket.create_connection((target, OPEN), timeout=10))
            taken = [each.getsockname()[1] for each in opened]
            for each in opened:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                each.close()
            return taken

        taken = near.call(connect_all)
        assert sorted(taken) == sorted(set(range(40000, 40010)) - set(it.socket.ports))
        assert near.call(lambda: {take(port) for port in it.socket.ports}) == {errno.EADDRINUSE}
        while not nobody_connected(server):
            pass
    # Another channel of this agent has ports of its own.
    with pytest.raises(Exception, match="cannot reserve 7 TCP ports to probe from: Address already in use"):
        prober(near, version, [(target, OPEN)], lanes=7)
    beside = prober(near, version, [(target, OPEN)], lanes=6)
    assert not set(beside.socket.ports) & set(it.socket.ports)
    it.close()
    assert near.call(lambda: {take(port) for port in it.socket.ports}) == {0}


@pytest.mark.parametrize("version", [4, 6])
def test_two_channels_hear_each_their_own(pair: Pair, prober: Opener, version: int) -> None:
    near, far = pair
    target = address_of(far, version)
    far.rule("reject with icmpx port-unreachable", matches=[f"tcp dport {REJECTED}"])
    with listen(far, version, OPEN):
        both = [prober(near, version, [(target, port) for port in (OPEN, SHUT, REJECTED)]) for _ in range(2)]
        for _ in range(10):
            for it in both:
                it.run(9)
        for it in both:
            it.finish()
    for it in both:
        opened, shut, rejected = (it.counts(flow) for flow in range(3))
        assert opened["received"] == opened["sent"] >= 25
        assert shut["closed"] == shut["sent"] >= 25
        assert rejected["errors"] == rejected["lost"] == rejected["sent"] >= 25
        assert (opened["errors"], shut["errors"], it.foreign) == (0, 0, 0)
        assert opened["duplicates"] == shut["duplicates"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_errors_of_other_programs_connections_are_not_ours(pair: Pair, prober: Opener, version: int) -> None:
    near, far = pair
    target = address_of(far, version)
    rule = far.rule("reject with icmpx port-unreachable", matches=[f"tcp dport {REJECTED}"])

    def knock() -> None:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((target, REJECTED), timeout=10)

    with listen(far, version, OPEN):
        it = prober(near, version, [(target, OPEN)])
        for _ in range(3):  # IPv6's TCP believes such an error only the second time, after a second
            near.call(knock)
            it.run(20)
        it.finish()
    assert rule.counts().hit >= 3
    counted = it.counts(0)
    assert counted["received"] == counted["sent"] >= 20
    assert counted["errors"] == it.foreign == it.channel.counters.refused == 0


@pytest.mark.emulator
@pytest.mark.parametrize("version", [4, 6])
def test_duplicates_and_losses_are_those_of_the_link(lab: Lab, prober: Opener, version: int) -> None:
    backward = Impairments(
        delay=Constant(2 * MILLISECOND), loss=Every(7), duplicate=Duplicate(Chance(0.3), MILLISECOND)
    )
    link = lab.emulated(Impairments(), backward)
    target = address_of(link.far, version)
    with Capture(link.near) as capture, listen(link.far, version, OPEN) as server:
        # So long that an emulator on a busy machine makes no answer late, nor as late as the next probe.
        patience = {"interval": 120 * MILLISECOND, "timeout": 900 * MILLISECOND}
        it = prober(link.near, version, [(target, OPEN), (target, SHUT)], lanes=5, **patience)
        it.run(140)
        it.finish()
        assert nobody_connected(server)
        wait_for(lambda: link.traffic()[1].in_flight == 0, "an empty link")
    answers: dict[int, list[int]] = {}  # flags, by the probe
    last: dict[tuple[int, int], int] = {}  # probe of each flow: its source port, and where it went
    left: dict[int, int] = {}  # when each did
    for segment in segments(capture.packets):
        if segment.outgoing and segment.flags == SYN:
            last[segment.source, segment.destination] = segment.sequence
            answers[segment.sequence], left[segment.sequence] = [], segment.time_ns
        elif not segment.outgoing and segment.flags == ACK:
            # Where SYN/ACK was lost, the target answers the next SYN so, and acknowledges that one.
            latest = last[segment.destination, segment.source]
            assert segment.acknowledgment != (latest + 1) % (1 << 32)
            answers[latest].append(segment.flags)
        elif not segment.outgoing:
            probe = (segment.acknowledgment - 1) % (1 << 32)
            # Where no SYN follows the lost answer, the target gives it again, after a second.
            if segment.time_ns - left[probe] < it.timeout:
                answers[probe].append(segment.flags)
    answered = [flags for flags in answers.values() if flags]
    assert it.total("sent") == len(answers)
    assert it.total("received") == len(answered)
    assert it.total("lost") == len(answers) - len(answered) > 10
    assert it.total("duplicates") == sum(len(flags) - 1 for flags in answered) > 10
    assert it.total("closed") == sum(flags[0] == RST | ACK for flags in answered) > 30
    assert [ACK] in answered
    assert it.foreign == it.total("errors") == 0


@pytest.mark.parametrize("version", [4, 6])
def test_forged_answers_are_foreign(pair: Pair, prober: Opener, version: int) -> None:
    near, far = pair
    family, target = FAMILIES[version], address_of(far, version)
    far.rule("drop", matches=[f"tcp dport {DROPPED}"])  # no answer is real
    other = "10.99.0.9" if version == 4 else "fd99::9"
    far.run(["ip", "addr", "add", f"{other}/128" if version == 6 else f"{other}/32", "dev", far.interface])
    it = prober(near, version, [(target, DROPPED)])
    with Capture(near) as capture:
        it.run(20)
    last = syns(segments(capture.packets))[-1]
    right = (last.sequence + 1) % (1 << 32)

    def forge(source: str, port: int, acknowledgment: int, flags: int) -> None:
        head = port.to_bytes(2, "big") + it.socket.ports[0].to_bytes(2, "big") + bytes(4)
        head += acknowledgment.to_bytes(4, "big") + bytes([0x50, flags, 0, 0])
        pseudo = tcp.pseudo_sum(
            socket.inet_pton(family, source), socket.inet_pton(family, address_of(near, version))
        )
        words = [int.from_bytes(head[at : at + 2], "big") for at in range(0, 16, 2)]
        total = sum(words) + pseudo - tcp.SIZE + 20
        while total > 0xFFFF:
            total = (total & 0xFFFF) + (total >> 16)
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.bind((source, 0))
            raw.sendto(head + (total ^ 0xFFFF).to_bytes(2, "big") + bytes(2), (address_of(near, version), 0))

    forgeries = [
        (target, DROPPED, (right + 1) % (1 << 32), SYN | ACK),
        (target, DROPPED, (right + (1 << 24)) % (1 << 32), RST | ACK),
        (target, OPEN, right, SYN | ACK),  # another port of the target
        (other, DROPPED, right, SYN | ACK),  # another host
        (target, DROPPED, right, SYN),  # no answer to anything
        (target, DROPPED, right, ACK | tcp.FIN | SYN | RST),
    ]
    for forgery in forgeries:
        far.call(functools.partial(forge, *forgery))

    def all_seen() -> bool:
        it.run(1)
        return it.foreign == len(forgeries)

    wait_for(all_seen, "forged answers")
    assert it.channel.ledger.rx.max() == 0
    far.call(lambda: forge(target, DROPPED, right, SYN | ACK))  # that one is believed

    def believed() -> bool:
        it.run(1)
        return bool(it.channel.ledger.rx.max())

    wait_for(believed, "an answer")
    it.finish()
    assert (it.foreign, it.total("errors")) == (len(forgeries), 0)


@pytest.mark.parametrize("version", [4, 6])
def test_an_open_port_is_open_even_where_this_hosts_resets_never_arrive(
    pair: Pair, prober: Opener, version: int
) -> None:
    """As where a firewall drops them: the target remembers the first SYN, and answers the next ones by
    ACK."""
    near, far = pair
    rule = near.rule("drop", hook="output", matches=["tcp flags & rst == rst"])
    with Capture(near) as capture, listen(far, version, OPEN) as server:
        # A target answers so at most twice a second (Linux: tcp_invalid_ratelimit).
        it = prober(near, version, [(address_of(far, version), OPEN)], interval=600 * MILLISECOND)
        it.run(5)
        it.finish()
        assert nobody_connected(server)
    answers = [segment.flags for segment in segments(capture.packets) if not segment.outgoing]
    assert answers.count(ACK) >= 3
    again = answers.count(SYN | ACK) - 1  # the first one's, repeated until somebody answers
    counted = it.counts(0)
    assert rule.counts().hit == len(answers)
    assert counted["received"] == counted["sent"] == 5
    assert counted["lost"] == counted["closed"] == it.foreign == 0
    assert again >= 1
    assert counted["duplicates"] == again


@pytest.mark.emulator
@pytest.mark.parametrize("version", [4, 6])
def test_bursts_lose_nothing(lab: Lab, prober: Opener, version: int) -> None:
    link = lab.emulated(Impairments(), Impairments(delay=Constant(2 * MILLISECOND)))
    targets = [(address_of(link.far, version), port) for port in (OPEN, SHUT)]
    with Capture(link.near) as capture, listen(link.far, version, OPEN) as server:
        it = prober(
            link.near,
            version,
            targets,
            lanes=2,
            interval=400 * MILLISECOND,
            timeout=10**9,
            burst=8,
            spread=True,
        )
        it.run(96)
        it.finish()
        assert nobody_connected(server)
    opened = it.total("sent", 0) + it.total("sent", 1)
    assert it.total("received") == it.total("sent") == it.channel.ledger.head
    assert it.total("closed") == it.total("sent") - opened > 40
    assert it.foreign == it.total("errors") == it.total("duplicates") == 0
    # A port a probe of a burst, and another eight for the other flow to the same destination.
    sent = syns(segments(capture.packets))
    assert len(it.socket.ports) == 16
    for port in (OPEN, SHUT):
        assert {probe.source for probe in sent if probe.destination == port} == set(it.socket.ports)


@pytest.mark.emulator
@pytest.mark.parametrize("version", [4, 6])
def test_probes_that_overtake_the_last_ones_reset_lose_nothing(
    lab: Lab, prober: Opener, version: int
) -> None:
    """RTTs of 60 ms, and a probe every 10 ms: the target has six handshakes of this flow at once."""
    delay = Impairments(delay=Constant(30 * MILLISECOND))
    link = lab.emulated(delay, delay)
    with listen(link.far, version, OPEN) as server:
        target = address_of(link.far, version), OPEN
        it = prober(link.near, version, [target], interval=10 * MILLISECOND, spread=True, timeout=10**9)
        it.run(120)
        it.finish()
        assert nobody_connected(server)
    counted = it.counts(0)
    assert counted["received"] == counted["sent"] >= 110
    assert counted["closed"] == it.foreign == counted["duplicates"] == counted["errors"] == 0
    assert len(it.socket.ports) == 35


@pytest.mark.parametrize("version", [4, 6])
def test_flows_of_a_ping_have_a_port_each_and_keep_it(pair: Pair, version: int) -> None:
    near, far = pair
    address = address_of(far, version)
    target = f"tcp://[{address}]:{OPEN}" if version == 6 else f"tcp://{address}:{OPEN}"
    with Capture(near) as capture, listen(far, version, OPEN) as server:
        near.run(coloprobe("ping", target, "-c", "3", "-i", "400ms", "--flows", "4"))
        assert nobody_connected(server)
    probes = syns(segments(capture.packets))
    ports = [probe.source for probe in probes]
    assert len(ports) == 12
    assert {ports.count(port) for port in ports} == {3}
    assert len(set(ports)) == 4
    if version == 6:  # and a flow label
        labels = {
            (packet.data[40:42], packet.data[1] & 0xF, packet.data[2:4])
            for packet in capture.packets
            if packet.outgoing and packet.data[6] == tcp.PROTOCOL and packet.data[53] == SYN
        }
        assert len(labels) == len({label[1:] for label in labels}) == 4


def test_without_privilege_the_way_out_is_named(pair: Pair) -> None:
    near, far = pair
    ping = coloprobe("ping", f"tcp://{far.ipv4}:{SHUT}", "-c", "1")
    done = near.run([*AS_NOBODY, *ping], check=False)
    assert done.returncode == 1
    assert "CAP_NET_RAW" in done.stderr
    assert "kind connect, which needs no privilege" in done.stderr
    assert "Traceback" not in done.stderr


STATEFUL = """
table inet stateful {
  counter invalid { }
  chain incoming {
    type filter hook input priority 0; policy drop;
    meta l4proto { icmp, ipv6-icmp } accept
    ct state invalid counter name invalid drop
    ct state established,related accept
  }
  chain outgoing {
    type filter hook output priority 0; policy accept;
    ct state invalid counter name invalid drop
  }
}
"""


@pytest.mark.parametrize("version", [4, 6])
def test_a_stateful_firewall_of_this_host_takes_probes_for_connections(
    pair: Pair, prober: Opener, version: int
) -> None:
    near, far = pair
    near.nft(STATEFUL)
    dropped = far.rule("drop", matches=[f"tcp dport {DROPPED}"])
    target = address_of(far, version)
    with listen(far, version, OPEN):
        it = prober(near, version, [(target, port) for port in (OPEN, SHUT, DROPPED)])
        it.run(150)
        it.finish()
    opened, shut, silent = (it.counts(flow) for flow in range(3))
    assert opened["received"] == opened["sent"] >= 45
    assert shut["closed"] == shut["sent"] >= 45
    # A SYN that nobody answered is followed by others of the same ports: all of them leave.
    assert silent["lost"] == silent["sent"] == dropped.counts().hit >= 45
    assert it.total("errors") == it.foreign == 0


def test_probes_keep_right_checksums_when_their_source_address_changes(pair: Pair, prober: Opener) -> None:
    near, far = pair
    for address in ("10.99.0.3", "10.99.0.4"):
        near.run(["ip", "addr", "add", f"{address}/24", "dev", near.interface])
        know(far, address)
    far.answer_for("10.60.0.0/16")
    near.run(["ip", "route", "add", "10.60.0.0/16", "via", far.ipv4, "src", near.ipv4])
    before = tcp_counters(far)["InCsumErrors"]
    with Capture(near) as capture:
        it = prober(near, 4, [("10.60.0.1", SHUT), ("10.60.0.2", SHUT)], interval=10 * MILLISECOND)
        it.run(50)
        near.run(["ip", "route", "replace", "10.60.0.0/16", "via", far.ipv4, "src", "10.99.0.3"])
        it.run(300)
        # Another one, and the last one is gone at once: what was written for it is refused, not lost.
        near.run(["ip", "route", "replace", "10.60.0.0/16", "via", far.ipv4, "src", "10.99.0.4"])
        near.run(["ip", "addr", "del", "10.99.0.3/24", "dev", near.interface])
        it.run(300)
        near.run(["ip", "route", "del", "10.60.0.0/16"])
        it.run(300)  # there is no way at all
        near.run(["ip", "route", "add", "10.60.0.0/16", "via", far.ipv4])
        it.run(300)
        it.finish()
    sources = [
        packet.data[12:16]
        for packet in capture.packets
        if packet.outgoing and packet.data[9] == tcp.PROTOCOL and packet.data[33] == SYN
    ]
    assert [source for source, _ in itertools.groupby(sources)] == [
        bytes([10, 99, 0, last]) for last in (1, 3, 4, 1)
    ]
    assert tcp_counters(far)["InCsumErrors"] == before
    assert it.total("lost") == it.foreign == 0
    assert it.total("received") == it.total("closed") == it.total("sent") == len(sources)
    assert it.total("errors") == it.channel.counters.refused > 100


@pytest.mark.parametrize("version", [4, 6])
def test_a_neighbour_that_does_not_answer_is_no_loss(lab: Lab, prober: Opener, version: int) -> None:
    near, far = lab.pair()
    near.sysctl(f"net.ipv{version}.neigh.{near.interface}.retrans_time_ms", "50")
    absent = "10.99.0.77" if version == 4 else "fd99::77"
    with listen(far, version, OPEN):
        it = prober(near, version, [(absent, OPEN), (address_of(far, version), OPEN)], timeout=10**9)
        it.run(40)
        it.finish()
    gone, there = it.counts(0), it.counts(1)
    assert gone["sent"] == gone["lost"] == 0
    assert gone["errors"] >= 19
    assert there["received"] == there["sent"] >= 19
    assert there["errors"] == it.foreign == 0


def test_the_source_and_the_interface_that_were_asked_for(pair: Pair, prober: Opener) -> None:
    from probe.errors import SocketError
    from probe.sockets.opening import SocketOptions

    near, far = pair
    near.run(["ip", "addr", "add", "10.99.0.3/24", "dev", near.interface])
    know(far, "10.99.0.3")
    options = SocketOptions(
        socket.AF_INET, dscp=46, ttl=9, source="10.99.0.3", interface=near.interface, dont_fragment=True
    )
    with Capture(near) as capture:
        it = prober(near, 4, [(far.ipv4, SHUT)], options=options)
        it.run(10)
        it.finish()
    assert it.total("closed") == it.total("sent") == it.channel.ledger.head >= 10
    heads = {packet.data[:20] for packet in capture.packets if packet.outgoing and packet.data[9] == 6}
    assert {(head[1] >> 2, head[8], head[12:16], head[6] & 0x40) for head in heads} == {
        (46, 9, bytes([10, 99, 0, 3]), 0x40)
    }
    for wrong, text in (
        (SocketOptions(socket.AF_INET, source="10.99.0.5"), "cannot send from 10.99.0.5"),
        (SocketOptions(socket.AF_INET, interface="nosuch0"), "cannot send by interface 'nosuch0'"),
    ):
        with pytest.raises(SocketError, match=text):
            prober(near, 4, [(far.ipv4, SHUT)], options=wrong)
