"""Receive buffers that are too small in, windows that do not blame the network out."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.sockets.memory import Fate, Rule, lossless
from tests.unit.probe.engine.driving import Driver


def every(n: int, delay: int) -> Rule:
    """Every n-th probe is lost; the others are answered after `delay` ns."""
    return lambda number, _packet: Fate(() if number % n == n - 1 else (delay,))


def driven(rule: Rule, room: int, *, flows: int = 1, seconds: int = 3) -> Driver:
    """An engine that reads every 250 ms at 500 probes/s of each flow, and can hold `room` messages."""
    driver = Driver(rule, flows=flows, interval=2 * MILLISECOND)
    driver.socket.room = room
    driver.socket.patience = 1 << 20
    driver.engine._drain_after = 1 << 20
    driver.run(seconds * SECOND)
    driver.finish()
    return driver


@pytest.mark.parametrize("room", [8, 50, 100, 200])
def test_what_this_host_dropped_is_no_loss(room: int) -> None:
    driver = driven(lossless(300 * MICROSECOND), room)
    totals = driver.totals()
    sent = len(driver.socket.sent)
    assert driver.socket.dropped > 0
    assert totals["lost"] == 0
    assert totals["errors"] == driver.socket.dropped
    assert totals["sent"] == totals["received"] == sent - driver.socket.dropped
    assert driver.channel.counters.drops == driver.socket.dropped


@pytest.mark.parametrize("n", [2, 3, 7, 50])
@pytest.mark.parametrize("into", [100, 500, 930, 990])
def test_what_came_while_a_stopped_agent_read_nothing_is_told_from_loss(n: int, into: int) -> None:
    driver = Driver(every(n, 150 * MILLISECOND), interval=2 * MILLISECOND)
    driver.engine._drain_after = 8
    driver.run(2 * SECOND)
    for _ in range(2):
        driver.run(SECOND - driver.clock.wall_ns % SECOND + into * MILLISECOND)
        driver.socket.room = 25  # of the 75 that are on their way
        driver.clock.advance(180 * MILLISECOND)
        driver.engine.turn()
        driver.socket.room = 1 << 30
    driver.run(SECOND)
    driver.finish()
    totals = driver.totals()
    sent = len(driver.socket.sent)
    assert driver.socket.dropped > 5
    assert totals["lost"] == sent // n
    assert totals["errors"] == driver.socket.dropped
    assert totals["sent"] + totals["errors"] == sent
    assert totals["late"] == totals["unstamped"] == 0


def test_every_flow_of_a_full_socket_is_spared() -> None:
    driver = driven(lossless(300 * MICROSECOND), 150, flows=5)
    assert driver.socket.dropped > 0
    for flow in range(5):
        totals = driver.totals(flow)
        assert totals["lost"] == 0
        assert totals["errors"] > 0


def test_without_drops_nothing_is_spared() -> None:
    driver = driven(every(7, MILLISECOND), 1 << 20)
    totals = driver.totals()
    assert (totals["lost"], totals["errors"]) == (len(driver.socket.sent) // 7, 0)
    assert driver.socket.admitted is None
    assert not driver.notices


def test_without_its_stamp_nobody_knows_whether_a_probe_left() -> None:
    # Nothing comes back, so the buffer is full of TX stamps alone, and the kernel counts no drop.
    driver = driven(lambda n, _: Fate((MILLISECOND,) if n < 3 else ()), 20)
    totals = driver.totals()
    assert driver.socket.dropped == 0
    # 250 ms apart, the first 20 were stamped; the first probes were answered, so stamps are to be expected.
    assert 0 < totals["lost"] < len(driver.socket.sent) - 3
    assert totals["lost"] + totals["errors"] == len(driver.socket.sent) - 3


def test_a_flood_of_others_is_kept_away_and_told_of() -> None:
    reply = bytes([0, 0, 0, 0, 1, 2, 3, 4]) + bytes(56)

    def rule(_: int, _packet: bytes) -> Fate:
        return Fate((MILLISECOND,), raw=tuple((k * 20 * MICROSECOND, reply) for k in range(50)))

    driver = driven(rule, 100)
    totals = driver.totals()
    assert totals["lost"] == 0
    assert totals["received"] < len(driver.socket.sent)
    assert driver.socket.admitted == (100, 1)
    told = [notice.text for notice in driver.notices if "receive buffer" in notice.text]
    # Once at first, then no oftener than every ten seconds, and the rest at the end.
    assert len(told) <= 2
    assert all(notice.kind == "host" for notice in driver.notices)


def test_a_window_of_hidden_probes_only_has_no_loss() -> None:
    driver = driven(lossless(MILLISECOND), 0)
    totals = driver.totals()
    assert (totals["sent"], totals["lost"]) == (0, 0)
    assert totals["errors"] == len(driver.socket.sent)


@settings(max_examples=100, deadline=None)
@example(seed=1, room=0, longest=1, losses=[0.0])
@example(seed=2, room=0, longest=150, losses=[1.0, 0.0])
@example(seed=3, room=1, longest=60, losses=[0.3, 0.0, 1.0, 0.02])
@example(seed=4, room=25, longest=10, losses=[0.02])
@example(seed=5, room=60, longest=150, losses=[0.3, 0.02])
@example(seed=6, room=100, longest=60, losses=[0.0, 0.0, 0.0, 1.0])
@example(seed=7, room=149, longest=150, losses=[0.3, 0.3, 0.3, 0.3])
@example(seed=8, room=150, longest=1, losses=[1.0])
@given(
    seed=st.integers(0, 1 << 30),
    room=st.integers(0, 150),
    longest=st.sampled_from([1, 10, 60, 150]),
    losses=st.lists(st.sampled_from([0.0, 0.02, 0.3, 1.0]), min_size=1, max_size=4),
)
def test_no_flow_ever_loses_more_than_the_network_lost(
    seed: int, room: int, longest: int, losses: list[float]
) -> None:
    random, flows = Random(seed), len(losses)
    gone: dict[int, set[int]] = {flow: set() for flow in range(flows)}  # numbers of lost probes

    def rule(number: int, packet: bytes) -> Fate:
        flow = int.from_bytes(packet[4:6], "big") - 100
        if random.random() < losses[flow]:
            gone[flow].add(number)
            return Fate(())
        return Fate((random.randrange(100 * MICROSECOND, longest * MILLISECOND),))

    driver = driven(rule, room, flows=flows)
    number = 0
    for cut, summary in zip(driver.cuts, driver.summaries(), strict=True):
        (samples,) = cut.samples
        numbers = range(number, number + samples.inside)
        number += samples.inside
        for flow in range(flows):
            truth = len(gone[flow].intersection(numbers))
            assert int(summary.values["lost"][flow]) <= truth
            assert int(summary.values["late"][flow]) == 0


def test_a_dead_target_does_not_make_its_neighbour_lossy() -> None:
    def rule(_: int, packet: bytes) -> Fate:
        dead = int.from_bytes(packet[4:6], "big") == 100
        return Fate(() if dead else (30 * MILLISECOND,))

    driver = driven(rule, 60, flows=2, seconds=5)
    assert driver.socket.dropped > 0
    for summary in driver.summaries():
        assert int(summary.values["lost"][1]) == 0
    dead = driver.totals(0)
    assert dead["received"] == 0
    assert (
        dead["lost"] + dead["errors"]
        == len(driver.socket.sent) - driver.totals(1)["sent"] - (driver.totals(1)["errors"])
    )


def test_loss_away_from_an_overflow_stays_loss() -> None:
    """One overflow in ten seconds, of a lossy flow and a clean one: only what is near it is in doubt."""

    def rule(number: int, packet: bytes) -> Fate:
        lossy = int.from_bytes(packet[4:6], "big") == 100
        return Fate(() if lossy and number % 14 == 0 else (20 * MILLISECOND,))

    driver = Driver(rule, flows=2, interval=2 * MILLISECOND)
    driver.socket.patience = 1 << 20
    driver.engine._drain_after = 1 << 20
    driver.run(5 * SECOND)
    driver.socket.room = 40
    driver.run(300 * MILLISECOND)
    driver.engine._drain()
    driver.socket.room = 1 << 30
    driver.run(5 * SECOND)
    driver.finish()
    assert driver.socket.dropped > 0
    lost = [int(summary.values["lost"][0]) for summary in driver.summaries()]
    clean = [int(summary.values["lost"][1]) for summary in driver.summaries()]
    assert sum(clean) == 0
    truth = len([n for n in range(len(driver.socket.sent)) if n % 14 == 0])
    assert truth - 60 <= sum(lost) <= truth


def test_old_overflows_are_forgotten_even_where_probes_are_rare() -> None:
    driver = Driver(lossless(MILLISECOND), interval=3 * SECOND)
    driver.socket.room = 0
    driver.run(20 * SECOND)
    assert len(driver.channel.ledger.overflows._all) < 20


def test_packets_dropped_as_damaged_are_no_overflow() -> None:
    driver = Driver(every(10, MILLISECOND))
    for _ in range(20):
        driver.run(100 * MILLISECOND)
        driver.socket.dropped += 1  # the kernel counts it, with plenty of room
    driver.finish()
    totals = driver.totals()
    assert totals["lost"] == len(driver.socket.sent) // 10
    assert totals["errors"] == 0
    assert driver.channel.counters.damaged == 20
    assert driver.channel.counters.drops == 0
    assert not driver.notices
