"""Receive buffers that are too small in, windows that do not blame the network out."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
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
@pytest.mark.parametrize("room", [30, 120])
@pytest.mark.parametrize("delay", [200 * MICROSECOND, 30 * MILLISECOND])
def test_loss_is_exact_beside_drops(n: int, room: int, delay: int) -> None:
    driver = driven(every(n, delay), room)
    totals = driver.totals()
    sent = len(driver.socket.sent)
    assert driver.socket.dropped > 0
    assert totals["lost"] == sent // n
    assert totals["errors"] == driver.socket.dropped
    assert totals["sent"] + totals["errors"] == sent


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


def test_stamps_that_were_dropped_do_not_turn_loss_into_errors() -> None:
    # Nothing comes back, so the buffer is full of TX stamps alone, and the kernel counts no drop.
    driver = driven(lambda n, _: Fate((MILLISECOND,) if n < 3 else ()), 20)
    totals = driver.totals()
    assert driver.socket.dropped == 0
    # The first probes were answered, so that the kernel is known to stamp this flow.
    assert totals["lost"] == len(driver.socket.sent) - 3
    assert totals["errors"] == 0


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


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    room=st.integers(0, 150),
    longest=st.sampled_from([1, 10, 60, 150]),
    loss=st.sampled_from([0.0, 0.02, 0.3]),
    flows=st.integers(1, 4),
)
def test_whatever_the_delays_are_no_more_is_lost_than_was(
    seed: int, room: int, longest: int, loss: float, flows: int
) -> None:
    random = Random(seed)
    lost = 0

    def rule(_: int, _packet: bytes) -> Fate:
        nonlocal lost
        if random.random() < loss:
            lost += 1
            return Fate(())
        return Fate((random.randrange(100 * MICROSECOND, longest * MILLISECOND),))

    driver = driven(rule, room, flows=flows)
    totals = [driver.totals(flow) for flow in range(flows)]
    assert sum(total["lost"] for total in totals) == lost
    assert sum(total["errors"] for total in totals) == driver.socket.dropped
    assert sum(total["late"] for total in totals) == 0
