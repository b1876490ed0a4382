"""Every kind of probe socket on the real kernel: its stamps are there, right, and stay right after errors."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator

import pytest

from probe.packets import icmp
from tests.lab.capture import Capture
from tests.lab.netlab import Lab, Namespace
from tests.lab.probing import KINDS, SIZE, TOKEN, Got, Kind, Prober, wire_numbers

Pair = tuple[Namespace, Namespace]
Opener = Callable[..., Prober]

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture
def prober() -> Iterator[Opener]:
    """Opens probers; closes them at the test's end."""
    opened: list[Prober] = []

    def make(near: Namespace, addresses: list[str], kind: Kind, *, receive_buffer: int = 16 << 20) -> Prober:
        opened.append(Prober(near, addresses, kind, receive_buffer=receive_buffer))
        return opened[-1]

    yield make
    for one in opened:
        one.socket.close()


def test_every_probe_is_stamped_both_ways(pair: Pair, kind: Kind, prober: Opener) -> None:
    near, far = pair
    it = prober(near, [kind.address(far)], kind)
    with Capture(near) as capture:
        for size in (1, 7, 64, 128):
            it.send(size)
        got = it.wait(200, 200)
    assert sorted(got.tx) == sorted(got.rx) == list(range(200))
    assert all(len(stamps) == 1 and stamps[0] for stamps in got.tx.values())
    assert all(len(stamps) == 1 and stamps[0] for stamps in got.rx.values())
    assert all(got.tx[number][0] < got.rx[number][0] for number in range(200))
    it.check_stamps(capture)
    assert not got.strange
    assert not got.quoted
    assert it.socket.pressure().drops == 0


def test_what_is_on_the_wire_is_what_was_written(pair: Pair, kind: Kind, prober: Opener) -> None:
    near, far = pair
    it = prober(near, [kind.address(far)], kind)
    with Capture(near) as capture:
        it.send(3)
        it.wait(3, 3)
    echoes = capture.echoes()
    assert (
        [echo.request for echo in echoes].count(True) == [echo.request for echo in echoes].count(False) == 3
    )
    for echo in echoes:
        assert echo.payload[:8] == TOKEN
        assert len(echo.payload) == SIZE - 8
        # A ping socket has an identifier of the kernel's choice.
        assert echo.identifier == 7 or not kind.raw


@pytest.mark.parametrize("every", [2, 7])
def test_no_stamp_goes_astray_when_the_packet_filter_refuses(
    pair: Pair, kind: Kind, prober: Opener, every: int
) -> None:
    near, far = pair
    rule = near.rule(hook="output", every=every)
    it = prober(near, [kind.address(far)], kind)
    with Capture(near) as capture:
        for size in (1, 2, 50, 64, 3):
            it.send(size)
        # A batch ends at what is refused. Tried again, it is the next one, which this rule lets pass.
        got = it.wait(120 - rule.counts().hit, 120 - rule.counts().hit)
    assert rule.counts().hit > 10
    assert len(it.left) + len(it.refused) == 120
    check(it, got, capture, refused=len(it.refused), silent=rule.counts().hit)


@pytest.mark.parametrize("batch", [1, 3])
def test_no_stamp_goes_astray_over_rows_of_refusals(
    pair: Pair, kind: Kind, prober: Opener, batch: int
) -> None:
    near, far = pair
    near.answer_for("10.77.0.0/24" if kind.version == 4 else "fd77::/64")
    blocked = "ip daddr 10.77.0.0/24" if kind.version == 4 else "ip6 daddr fd77::/64"
    near.rule(hook="output", matches=[blocked])
    it = prober(near, [kind.address(far), "10.77.0.1" if kind.version == 4 else "fd77::1"], kind)
    with Capture(near) as capture:
        for good in (5, 1, 3, 0, 9):
            for _ in range(good):
                it.send(1)
            it.send(batch, to=1)  # refused, while the stamps of those before are still unread
        it.send(4)
        got = it.wait(22, 22)
    check(it, got, capture, refused=5 * batch, silent=5 * batch)


def check(it: Prober, got: Got, capture: Capture, *, refused: int, silent: int) -> None:
    """`refused` probes got EPERM; an IPv6 ping socket is told of no refusal: `silent` of its probes stay."""
    if not it.kind.raw and it.kind.version == 6:
        assert it.refused == {}
        gone = set(it.left) - set(wire_numbers(capture))
        assert len(gone) == silent
        it.left = [number for number in it.left if number not in gone]
    else:
        assert len(it.refused) == refused
        assert set(it.refused.values()) <= {errno.EPERM}
    it.check_stamps(capture)
    assert sorted(got.rx) == sorted(got.tx) == it.left
    assert {len(stamps) for stamps in got.tx.values()} == {1}


def test_a_rejected_probe_comes_back_as_an_icmp_error(pair: Pair, kind: Kind, prober: Opener) -> None:
    near, far = pair
    far.rule("reject with icmpx host-unreachable", every=3)
    it = prober(near, [kind.address(far)], kind)
    with Capture(near) as capture:
        # One by one: an error that a ping socket has not read yet must not be taken for the next probe's.
        for _ in range(12):
            it.send(1)
        for _ in range(3):
            it.send(1)
            it.read()
        got = it.wait(10, 15)
    assert it.refused == {}
    rejected = [2, 5, 8, 11, 14]
    assert sorted(got.rx) == [number for number in range(15) if number not in rejected]
    assert sorted(got.tx) == list(range(15))
    it.check_stamps(capture)
    if not kind.raw:
        request = icmp.ECHO_REQUEST if kind.version == 4 else icmp.ECHO6_REQUEST
        errors = [icmp.parse_quoted(e.type, e.code, e.quoted, request, e.local) for e in got.quoted]
    elif kind.version == 4:
        errors = [icmp.parse_error4(packet) for packet in got.strange]
    else:
        pairs = zip(got.strange, got.sources, strict=True)
        errors = [icmp.parse_error6(packet, source[8:24]) for packet, source in pairs]
    assert [error.number for error in errors if error is not None] == rejected
    unreachable = (3, 1) if kind.version == 4 else (1, 3)
    for error in errors:
        assert error is not None
        assert (error.type, error.code) == unreachable
        assert error.token == TOKEN
        assert not error.local


def test_a_full_receive_buffer_is_counted(pair: Pair, kind: Kind, prober: Opener) -> None:
    near, far = pair
    it = prober(near, [kind.address(far)], kind, receive_buffer=64 << 10)
    assert it.socket.pressure().drops == 0
    for _ in range(5):
        it.send(200)
    it.read()
    got = it.got
    assert 0 < len(got.rx) < 1000
    assert it.socket.pressure().drops >= 1000 - len(got.rx)
    # Emptied, it works again.
    dropped, answered = it.socket.pressure().drops, len(got.rx)
    it.send(it.socket.patience)
    it.wait(answered + it.socket.patience, 0)
    assert len(got.rx) == answered + it.socket.patience
    assert it.socket.pressure().drops == dropped


def test_a_probe_without_neighbour_is_no_other_probes_stamp(lab: Lab, kind: Kind, prober: Opener) -> None:
    near, far = lab.pair()
    family = "ipv4" if kind.version == 4 else "ipv6"
    near.sysctl(f"net.{family}.neigh.{near.interface}.retrans_time_ms", "50")
    absent = "10.99.0.77" if kind.version == 4 else "fd99::77"
    it = prober(near, [kind.address(far), absent], kind)
    with Capture(near) as capture:
        it.send(2)
        unheard = [it.send(1, to=1)[0] for _ in range(2)]
        it.send(2)
        # Three tries, 50 ms apart, then the kernel gives it up.
        deadline = time.monotonic() + 5
        with near.inside():
            while time.monotonic() < deadline and len(it.got.strange) + len(it.got.quoted) < 2:
                it.read()
                time.sleep(0.01)
        it.send(3)
        got = it.wait(7, 7)
    it.left = [number for number in it.left if number not in unheard]
    it.check_stamps(capture)
    assert sorted(got.tx) == sorted(got.rx) == it.left
    # This host says so itself, of each of them.
    if not kind.raw:
        assert [error.local for error in got.quoted] == [True, True]
    elif kind.version == 4:
        errors4 = [icmp.parse_error4(packet) for packet in got.strange]
        assert [(e.number, e.local) for e in errors4 if e] == [(number, True) for number in unheard]
    else:
        pairs = zip(got.strange, got.sources, strict=True)
        errors6 = [icmp.parse_error6(packet, source[8:24]) for packet, source in pairs]
        assert [(e.number, e.local) for e in errors6 if e] == [(number, True) for number in unheard]
