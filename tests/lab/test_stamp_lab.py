"""STAMP probes on the real kernel, our reflector and another: counts, directions and delays."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from probe.clock import MICROSECOND, MILLISECOND
from probe.engine.samples import BACKWARD, ERROR, FORWARD, LOCAL, UNTOLD
from tests.lab.capture import Capture, Packet
from tests.lab.driving import address_of
from tests.lab.link import Constant, Every, Impairments
from tests.lab.netlab import Lab, Namespace
from tests.lab.running import AS_NOBODY, coloprobe_ping
from tests.lab.stamping import OWN_ERROR, PORT, Fate, Reflecting, Sender, one_way

Pair = tuple[Namespace, Namespace]
Opener = Callable[..., Sender]
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
REQUESTS, REPLIES = (f"udp dport {PORT}",), (f"udp sport {PORT}",)


@pytest.fixture
def opener() -> Iterator[Opener]:
    """Opens senders; closes them at the test's end."""
    opened: list[Sender] = []

    def make(near: Namespace, version: int, targets: list[str], **options: object) -> Sender:
        opened.append(Sender(near, version, targets, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def counted(fates: list[Fate]) -> dict[str, int]:
    lost = [fate.lost for fate in fates if fate.left and not fate.received]
    return {
        "sent": sum(fate.left for fate in fates),
        "received": sum(fate.received for fate in fates),
        **{name: lost.count(way) for name, way in (("forward", FORWARD), ("backward", BACKWARD))},
        "untold": lost.count(UNTOLD),
    }


@VERSIONS
@pytest.mark.parametrize("choose_id", [True, False], ids=["chosen", "counted"])
def test_our_reflector_answers_every_probe_and_says_all(
    pair: Pair, version: int, choose_id: bool, opener: Opener
) -> None:
    near, far = pair
    reflector = Reflecting(far)
    sender = opener(near, version, [address_of(far, version)] * 3, choose_id=choose_id, sizes=(84, 200, 1200))
    sender.run(300)
    fates = sender.finish()
    sent = len(fates)
    assert counted(fates) == {"sent": sent, "received": sent, "forward": 0, "backward": 0, "untold": 0}
    assert sender.foreign == 0
    # The last reply of each flow has nobody who could tell when it left, nor have some of a reflector's that
    # was away when they came.
    assert sum(fate.followed for fate in fates) > sent * 0.8
    for fate in fates:
        assert fate.tx
        assert one_way(fate)
        assert 0 < fate.dwell < fate.rx - fate.tx
        # Both ends have the same clock here, so what is left of the round trip is the two ways.
        assert fate.forward > 0
        assert fate.backward > 0
        assert fate.forward + fate.backward == fate.rtt == fate.rx - fate.tx - fate.dwell
        assert OWN_ERROR + 10 * MICROSECOND <= fate.clock_error <= OWN_ERROR + 11 * MICROSECOND
    assert f"{sent} replies to {sent} packets, 3 sessions" in reflector.end()


@VERSIONS
@pytest.mark.parametrize("stateful", [False, True], ids=["stateless", "stateful"])
def test_a_reflector_made_of_scapys_layers_is_measured(
    pair: Pair, version: int, stateful: bool, opener: Opener
) -> None:
    near, far = pair
    reflector = Reflecting.of_scapy(far, version, stateful=stateful)
    sender = opener(near, version, [address_of(far, version)])
    sender.run(50)
    dropped = far.rule(every=5, matches=REQUESTS, hook="input")
    sender.run(50)
    time.sleep(0.05)
    lost = dropped.counts().hit
    dropped.remove()
    sender.run(20)
    fates = sender.finish()
    assert sender.foreign == 0
    assert lost >= 10
    expected = {"sent": len(fates), "received": len(fates) - lost, "backward": 0}
    assert counted(fates) == {**expected, "forward": lost * stateful, "untold": lost * (not stateful)}
    for fate in fates:
        if fate.received:
            assert one_way(fate)
            assert not fate.followed
            assert 0 < fate.dwell < fate.rx - fate.tx
            assert fate.forward + fate.backward == fate.rtt == fate.rx - fate.tx - fate.dwell
    assert reflector.end() == f"{len(fates) - lost}\n"


@VERSIONS
def test_losses_there_and_back_are_told_apart_as_the_packet_filter_counts_them(
    pair: Pair, version: int, opener: Opener
) -> None:
    near, far = pair
    Reflecting(far)
    sender = opener(near, version, [address_of(far, version)] * 2, burst=2)
    sender.run(40)
    there = far.rule(every=7, matches=REQUESTS, hook="input")
    back = near.rule(every=5, matches=REPLIES, hook="input")
    sender.run(350)
    refused = near.rule(matches=REQUESTS, hook="output")  # these never leave: they were lost nowhere
    sender.run(40)
    never = refused.counts().hit
    refused.remove()
    sender.run(350)
    time.sleep(0.1)  # until the last of them is through
    forward, backward = there.counts().hit, back.counts().hit
    there.remove()
    back.remove()
    sender.run(40)
    fates = sender.finish()
    told = counted(fates)
    assert (told["forward"], told["backward"], told["untold"]) == (forward, backward, 0)
    assert min(forward, backward) > 80
    assert sum(not fate.left for fate in fates) == never >= 40
    assert told["received"] == told["sent"] - forward - backward
    assert sender.foreign == 0


@VERSIONS
def test_authenticated_mode(pair: Pair, version: int, opener: Opener, tmp_path: Path) -> None:
    near, far = pair
    file = tmp_path / "stamp.key"
    file.write_bytes(b"only these two know it")
    file.chmod(0o600)
    reflector = Reflecting(far, key=file)
    target = [address_of(far, version)]
    good = opener(near, version, target, sizes=(172,), key=b"only these two know it")
    good.run(60)
    fates = good.finish()
    assert counted(fates)["received"] == len(fates)
    assert sum(fate.followed for fate in fates) > 48
    assert all(one_way(fate) for fate in fates)
    wrong = opener(near, version, target, sizes=(172,), key=b"another key")
    wrong.run(20)
    refused = wrong.finish()
    assert counted(refused)["received"] == 0
    assert f"{len(refused)} not authentic" in reflector.end()
    assert good.foreign == wrong.foreign == 0


@VERSIONS
def test_no_privilege_is_needed(pair: Pair, version: int) -> None:
    near, far = pair
    Reflecting(far)
    target = f"stamp://{far.ipv4 if version == 4 else f'[{far.ipv6}]'}"
    pinged = coloprobe_ping(near, target, "-c", "30", wrapper=AS_NOBODY)
    assert pinged.status == 0, pinged.stderr
    assert pinged.outcomes() == ["received"] * 30
    assert {probe["stamp"] for probe in pinged.probes} == {"kernel"}
    assert pinged.summary["rtt_max_ns"] < 10 * MILLISECOND


@VERSIONS
def test_where_nobody_reflects_the_kernels_errors_find_their_probes(
    pair: Pair, version: int, opener: Opener
) -> None:
    near, far = pair
    sender = opener(near, version, [address_of(far, version)] * 2)
    sender.run(40)
    fates = sender.finish()
    assert all(fate.state & ERROR and not fate.state & LOCAL for fate in fates)
    assert len(fates) >= 40
    assert sender.foreign == 0


@VERSIONS
def test_a_routers_errors_find_their_probes(lab: Lab, version: int, opener: Opener) -> None:
    near, router, far = lab.namespace("near"), lab.namespace("router"), lab.namespace("far")
    lab.link(near, router)
    lab.link(router, far)
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        router.sysctl(key, "1")
    near.route("10.99.1.0/24", "10.99.0.2")
    near.route("fd99:0:0:1::/64", "fd99::2")
    far.route("10.99.0.0/24", "10.99.1.1")
    far.route("fd99:0:0:0::/64", "fd99:0:0:1::1")
    Reflecting(far)
    target = [address_of(far, version)]
    expiring = opener(near, version, target, ttl=1)
    expiring.run(30)
    fates = expiring.finish()
    assert [fate.state & (ERROR | LOCAL) for fate in fates] == [ERROR] * len(fates)
    assert all(fate.lost == FORWARD for fate in fates)
    through = opener(near, version, target, ttl=2)
    through.run(30)
    assert all(fate.received for fate in through.finish())
    assert expiring.foreign == through.foreign == 0


def numbers(packets: list[Packet], outgoing: bool) -> dict[tuple[bytes, int], int]:
    """When UDP packets from or to the reflector passed the tap, by session and the sender's number."""
    found = {}
    for packet in packets:
        data = packet.data
        at = 28 if data[0] >> 4 == 4 else 48
        ports = struct.unpack_from("!HH", data, at - 8)
        if packet.outgoing is outgoing and PORT in ports:
            where = at if ports[1] == PORT else at + 24
            found[data[at + 14 : at + 16], int.from_bytes(data[where : where + 4], "big")] = packet.time_ns
    return found


@VERSIONS
def test_dwell_time_and_rtt_are_those_of_captures_at_both_ends(
    pair: Pair, version: int, opener: Opener
) -> None:
    near, far = pair
    Reflecting(far)
    sender = opener(near, version, [address_of(far, version)], interval=5 * MILLISECOND)
    with Capture(near, quiet=True) as here, Capture(far, quiet=True) as there:
        sender.run(200)
        fates = sender.finish()
    sent, came = numbers(here.packets, True), numbers(here.packets, False)
    arrived, left = numbers(there.packets, False), numbers(there.packets, True)
    assert len(sent) == len(came) == len(arrived) == len(left) == len(fates)
    (session,) = {session for session, _ in sent}
    off = []
    for fate in fates:
        key = session, fate.seq
        if fate.followed:
            off.append(abs(fate.dwell - (left[key] - arrived[key])))
            off.append(abs(fate.rtt - (came[key] - sent[key] - left[key] + arrived[key])))
    assert len(off) > 380
    assert median(off) < 10 * MICROSECOND


@pytest.mark.emulator
@VERSIONS
def test_one_way_delays_are_those_of_the_link(lab: Lab, version: int, opener: Opener) -> None:
    """3 ms there and 5 ms back, by captures at both ends; with losses on both ways, by the emulator's log.

    The log says when a packet was read, which is later than when it came, by what the machine does meanwhile.
    """
    link = lab.emulated(
        Impairments(delay=Constant(3 * MILLISECOND), loss=Every(9)),
        Impairments(delay=Constant(5 * MILLISECOND), loss=Every(7)),
    )
    near, far = link.near, link.far
    Reflecting(far)
    sender = opener(near, version, [address_of(far, version)], interval=3 * MILLISECOND)
    with Capture(near, quiet=True) as here, Capture(far, quiet=True) as there:
        sender.run(600)
        fates = sender.finish()
    log = link.stop()
    sent, came = numbers(here.packets, True), numbers(here.packets, False)
    arrived, left = numbers(there.packets, False), numbers(there.packets, True)
    (session,) = {session for session, _ in sent}
    lost: dict[str, set[int]] = {"forward": set(), "backward": set()}
    at = 28 if version == 4 else 48
    for packet in log.packets:
        where = at + 24 if int.from_bytes(packet.head[at - 8 : at - 6], "big") == PORT else at
        seq = int.from_bytes(packet.head[where : where + 4], "big")
        if packet.lost:
            lost[packet.direction].add(seq)
    received = [fate for fate in fates if fate.received]
    assert len(received) > 400
    assert all(one_way(fate) for fate in received)
    off: dict[str, list[int]] = {"forward": [], "backward": []}
    for fate in received:
        key = session, fate.seq
        off["forward"].append(abs(fate.forward - (arrived[key] - sent[key])))
        if fate.followed:
            off["backward"].append(abs(fate.backward - (came[key] - left[key])))
    forward, backward = off["forward"], off["backward"]
    assert len(backward) > 300
    assert median(forward) < 50 * MICROSECOND
    assert median(backward) < 50 * MICROSECOND
    assert 3 * MILLISECOND <= median(fate.forward for fate in received) < 3 * MILLISECOND + 300 * MICROSECOND
    assert 5 * MILLISECOND <= median(fate.backward for fate in received) < 5 * MILLISECOND + 300 * MICROSECOND
    # Between the first reply and the last, each gap has as many of each sort as the log.
    told = counted(fates)
    answered = {fate.seq for fate in received}
    span = range(min(answered), max(answered))
    assert told["forward"] == len([seq for seq in lost["forward"] if seq in span])
    assert told["backward"] == len([seq for seq in lost["backward"] if seq in span])
    assert told["forward"] > 50 < told["backward"]
