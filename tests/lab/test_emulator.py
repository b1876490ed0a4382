"""The link emulator in, its log held against captures at both ends and against what can be worked out by hand
out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from tests.lab.capture import Capture
from tests.lab.definitions import percentile
from tests.lab.emulated import EmulatedLink, Traffic
from tests.lab.link import (
    Chance,
    Constant,
    Duplicate,
    Every,
    GilbertElliott,
    Impairments,
    Rate,
    Reorder,
    Trace,
    Uniform,
)
from tests.lab.netlab import Lab, Namespace
from tests.lab.peers import fping, ping
from tests.lab.truthlog import BACKWARD, FORWARD, IN_FLIGHT, TruthLog
from tests.lab.witnesses import assert_same_story, carried, written
from tests.system.commands import ROOT, wait_for

pytestmark = pytest.mark.emulator

MS = 1_000_000
UDP_PORT = 9


def settled(link: EmulatedLink) -> None:
    """Return once nothing is under way any more."""
    wait_for(lambda: not any(traffic.in_flight for traffic in link.traffic()), "an empty link")


def throw(namespace: Namespace, address: str, count: int, size: int = 100) -> None:
    """Send so many UDP packets (`size`: of the IP packet) at once; each carries its number."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for number in range(1, count + 1):
                udp.sendto(number.to_bytes(4, "big") + bytes(size - 32), (address, UDP_PORT))

    namespace.call(send)


@pytest.mark.parametrize("version", [4, 6])
def test_every_seventh_is_lost_each_way_and_all_agree_on_which(lab: Lab, version: int) -> None:
    link = lab.emulated(Impairments(loss=Every(7)), Impairments(Constant(MS), loss=Every(5)))
    with Capture(link.near) as near, Capture(link.far) as far:
        rows = ping(link.near, link.far.ipv4 if version == 4 else link.far.ipv6, count=30, timeout_s=0.2)
        log = link.stop()
    reached = [n for n in range(1, 31) if n % 7]
    answered = [n for at, n in enumerate(reached, 1) if at % 5]
    assert [row.sequence for row in rows] == answered
    assert log.reasons == {(FORWARD, "every"): 4, (BACKWARD, "every"): 5}
    assert_same_story(log, link, near, far)
    assert [packet.number for packet in log.of(FORWARD) if packet.lost] == [7, 14, 21, 28]
    assert link.traffic() == (
        Traffic(30, 4, 26, 0, 0, 0, *tail(link, 0)),
        Traffic(26, 5, 21, 0, 0, 0, *tail(link, 1)),
    )


def tail(link: EmulatedLink, direction: int) -> tuple[int, int]:
    """How much multicast there was is the kernel's affair; nothing is refused."""
    return link.traffic()[direction].ignored, 0


MIXES = {
    "nothing": Impairments(),
    "uniform": Impairments(Uniform(0, 3 * MS), Chance(0.1)),
    "bursts": Impairments(Constant(MS), GilbertElliott(0.1, 0.3)),
    "twice": Impairments(Constant(MS), duplicate=Duplicate(Every(3), 2 * MS)),
    "held": Impairments(Trace((0, MS, 2 * MS)), reorder=Reorder(Every(4), 15 * MS)),
    "jitter": Impairments(Uniform(0, 20 * MS), keep_order=False),
    "narrow": Impairments(rate=Rate(1_000_000, queue=3)),
    "all": Impairments(
        Uniform(0, MS), Chance(0.1), Duplicate(Chance(0.3), 0), Reorder(Every(7), 5 * MS), Rate(5_000_000, 10)
    ),
}


@pytest.mark.parametrize(("mix", "ethernet"), [*((mix, False) for mix in MIXES), ("all", True)])
def test_log_counters_and_both_ends_tell_one_story_in_order_of_time(
    lab: Lab, mix: str, ethernet: bool
) -> None:
    link = lab.emulated(MIXES[mix], MIXES[mix], seed=mix, ethernet=ethernet)
    with Capture(link.near, quiet=True) as near, Capture(link.far, quiet=True) as far:
        fping(link.near, link.far.ipv4, link.far.ipv6, count=50, period_ms=10, timeout_ms=50)
        settled(link)
        log = link.stop()
    assert_same_story(log, link, near, far)
    assert len(log.of(FORWARD)) == 100
    off = []
    for direction, source, sink in ((FORWARD, near, far), (BACKWARD, far, near)):
        packets = log.of(direction)
        # Seen at the tap, then read; let out, then seen at the other tap; never before it is due.
        for packet, tapped in zip(packets, carried(source, outgoing=True), strict=True):
            assert tapped.time_ns <= packet.arrived_ns
            lengths = packet.queued + packet.delay + packet.behind + packet.held
            assert not packet.copies or packet.copies[0].due_ns == packet.arrived_ns + lengths
        for (let_out, _), tapped in zip(written(packets), carried(sink, outgoing=False), strict=True):
            assert let_out <= tapped.time_ns
        for packet in packets:
            off += [copy.written_ns - copy.due_ns for copy in packet.copies if copy.written_ns is not None]
    # Two clocks are read one after the other, so "due" on the one may be a little early on the other.
    assert min(off) > -MS
    off.sort()
    shown = f"median {median(off) / 1e3:.0f}, p99 {percentile(off, 99, 100) / 1e3:.0f} us"
    print(f"{len(off)} copies late by {shown}")
    assert median(off) < MS


def test_order_is_kept_and_held_back_packets_are_passed(lab: Lab) -> None:
    link = lab.emulated(Impairments(Trace((30 * MS, 0, 0)), reorder=Reorder(Every(5), 60 * MS)))
    with Capture(link.far) as far:
        throw(link.near, link.far.ipv4, 6)
        settled(link)
        log = link.stop()
    numbers = [int.from_bytes(p.data[28:32], "big") for p in carried(far, outgoing=False) if p.data[9] == 17]
    assert numbers == [1, 2, 3, 4, 6, 5]
    assert [packet.behind > 0 for packet in log.of(FORWARD)] == [False, True, True, False, True, True]


def test_a_full_queue_loses_what_comes_last_and_says_so(lab: Lab) -> None:
    # 100 bytes at 100 kbit/s take 8 ms; all come at once.
    link = lab.emulated(Impairments(rate=Rate(100_000, queue=4)), Impairments(loss=Every(1)))
    with Capture(link.near) as near, Capture(link.far) as far:
        throw(link.near, link.far.ipv4, 10)
        settled(link)
        log = link.stop()
    assert_same_story(log, link, near, far)
    assert log.reasons[FORWARD, "queue"] == 6
    times = [packet.time_ns for packet in carried(far, outgoing=False)]
    assert len(times) == 4
    assert times[-1] - times[0] > 23 * MS


def test_what_is_still_under_way_at_the_end_is_logged_as_such(lab: Lab) -> None:
    link = lab.emulated(Impairments(Constant(60_000 * MS), duplicate=Duplicate(Every(2))))
    with Capture(link.near) as near:
        throw(link.near, link.far.ipv4, 3)
        wait_for(lambda: link.traffic()[0].in_flight == 4)
        log = link.stop()
    assert_same_story(log, link, near)
    assert [packet.outcome for packet in log.packets] == [IN_FLIGHT] * 3
    assert [[copy.written_ns for copy in packet.copies] for packet in log.packets] == [
        [None],
        [None] * 2,
        [None],
    ]


def test_the_same_seed_takes_the_same_packets_and_another_others(lab: Lab) -> None:
    def lost(seed: int) -> list[int]:
        link = lab.emulated(Impairments(loss=Chance(0.3)), seed=seed)
        throw(link.near, link.far.ipv4, 100)
        wait_for(lambda: link.traffic()[0].arrived == 100)
        return [packet.number for packet in link.stop().of(FORWARD) if packet.lost]

    first = lost(1)
    assert 10 < len(first) < 50
    assert lost(1) == first != lost(2)


def test_multicast_is_not_carried(lab: Lab) -> None:
    link = lab.emulated()
    before = link.traffic()[0]

    def shout() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(link.near.ipv4))
            udp.sendto(b"all", ("224.0.0.251", UDP_PORT))

    link.near.call(shout)
    wait_for(lambda: link.traffic()[0].ignored > before.ignored)
    assert link.stop().packets == []


def test_packets_that_never_reached_the_emulator_are_no_truth(lab: Lab) -> None:
    link = lab.emulated(Impairments(loss=Every(1)))
    os.kill(link.pid, signal.SIGSTOP)
    try:
        throw(link.near, link.far.ipv4, 17_000)
    finally:
        os.kill(link.pid, signal.SIGCONT)
    with pytest.raises(AssertionError, match="faster than the emulator took them"):
        link.stop()


def test_an_emulator_that_died_is_told_of(lab: Lab) -> None:
    link = lab.emulated()
    os.kill(link.pid, signal.SIGKILL)
    with pytest.raises(AssertionError, match="the emulator ended with -9"):
        link.stop()


def test_a_log_can_be_kept_and_read_or_left_out(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "link.jsonl"
    kept = lab.emulated(Impairments(Constant(MS), Every(2)), log=path, seed="x")
    silent = lab.emulated(logging=False)
    for link in (kept, silent):
        throw(link.near, link.far.ipv4, 4)
    wait_for(lambda: [link.traffic()[0].arrived for link in (kept, silent)] == [4, 4])
    settled(kept)
    log = kept.stop()
    assert silent.stop() == TruthLog({}, [])
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["seed"] == "x"
    assert json.loads(first)["forward"]["delay"] == {"ns": MS}
    assert len(lines) == len(log.packets)
    assert log.reasons == {(FORWARD, "every"): 2}


def test_two_links_of_one_lab_have_addresses_of_their_own(lab: Lab) -> None:
    one, two = lab.emulated(Impairments(loss=Every(1))), lab.emulated()
    assert {one.far.ipv4, two.far.ipv4} == {"10.99.0.2", "10.99.1.2"}
    assert len(ping(two.near, two.far.ipv6, count=2)) == 2
    assert ping(one.near, one.far.ipv4, count=2, timeout_s=0.1) == []


def test_it_ends_with_a_parent_that_was_killed() -> None:
    program = (
        "import os\nfrom tests.lab.netlab import Lab\n"
        "link = Lab().__enter__().emulated(); print(link.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    pid = int(done.stdout)
    wait_for(
        lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    with Lab():
        pass  # removes the namespaces that it left behind


def test_time_passes_by_the_log_as_by_the_clock(lab: Lab) -> None:
    link = lab.emulated()
    before = time.time_ns()
    throw(link.near, link.far.ipv4, 1)
    wait_for(lambda: link.traffic()[0].delivered)
    after = time.time_ns()
    (packet,) = link.stop().of(FORWARD)
    (copy,) = packet.copies
    assert copy.written_ns is not None
    assert before < packet.arrived_ns <= copy.written_ns < after
