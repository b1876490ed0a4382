"""Many outboxes share a collector that holds little: nothing starves, new batches first, and no storm."""

from __future__ import annotations

from collections import Counter

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from probe.clock import MILLISECOND, SECOND
from tests.unit.probe.telemetry.network import NOTICE, Network

HOUR = 3600 * SECOND
START = 100 * SECOND


def busiest_second(network: Network, since: int) -> int:
    return max(Counter(time // SECOND for time in network.log if time >= since).values(), default=0)


def drain(network: Network, limit: int) -> int:
    """Run until nothing waits that was made before now; how long that took, ns."""
    begin = network.now
    while network.oldest <= begin:
        assert network.now - begin < limit, f"{network.waiting} batches still wait"
        network.run(network.now + SECOND)
    return network.now - begin


def test_an_hour_without_the_sink_is_no_storm_and_all_of_it_follows_behind_what_is_new() -> None:
    agents, rate = 50, 50.0  # ten times what is made
    network = Network(agents, rate=rate, capacity=100)
    network.run(START)
    assert network.published == network.waiting + sum(len(agent.arrived) for agent in network.agents)
    network.outage(START, START + HOUR)
    network.run(START + HOUR)
    # In flight when it began, the minute of doubling pauses, then one a minute.
    assert sum(time >= START for time in network.log) <= agents * (4 + 6 + 60)
    waiting, before, dropped = network.waiting, network.published, network.dropped
    back = network.now
    took = drain(network, HOUR)
    ideal = waiting / (rate - agents / 10)
    assert took / SECOND < 1.5 * ideal + 60
    assert busiest_second(network, back) < 4 * rate
    made = took / SECOND * agents / 10
    assert network.published - before < 1.3 * (waiting + made)
    assert network.dropped - dropped < 0.3 * (waiting + made)
    lags = sorted(network.lags(back, network.now - SECOND))
    assert (
        lags[-1] < NOTICE + 100 / rate * SECOND + 2 * SECOND
    )  # what the collector still held, and then new ones
    assert lags[int(len(lags) * 0.95)] < SECOND


def test_a_fleet_that_connects_at_once_does_not_flood_the_collector() -> None:
    network = Network(100, rate=100, capacity=200)
    for agent in network.agents:  # each has ten minutes in its spool
        agent.last = 60
        agent.waiting = set(range(1, 61))
        agent.made = dict.fromkeys(agent.waiting, 0)
        agent.outbox.appended(60)
        agent.outbox.restart(0)
    network.connect_all()
    took = drain(network, HOUR)
    assert busiest_second(network, 0) < 700  # of 6,000, with 300 that it can take
    assert network.published < 1.5 * (6000 + took / SECOND * 10)
    assert took / SECOND < 2 * 6000 / 90


# What shrinking an example gains is not worth the minutes that hundreds of networks take.
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    agents=st.integers(1, 12),
    load=st.floats(0.05, 0.6),
    capacity=st.integers(4, 100),
    window=st.sampled_from((1, 2, 3, 8, 64)),
    delay=st.sampled_from((1, 100, 500)),
    evicts=st.booleans(),
    hints=st.booleans(),
    away=st.integers(1, 1200),
    reconnects=st.lists(st.integers(0, 1500), max_size=4),
)
def test_everything_arrives_and_nobody_starves(
    agents: int,
    load: float,
    capacity: int,
    window: int,
    delay: int,
    evicts: bool,
    hints: bool,
    away: int,
    reconnects: list[int],
) -> None:
    network = Network(
        agents,
        rate=agents / 10 / load,
        capacity=capacity,
        window=window,
        delay=delay * MILLISECOND,
        evicts=evicts,
        hints=hints,
    )
    network.outage(START, START + away * SECOND)
    for time in reconnects:
        network.at(time * SECOND, network.connect_all)
    network.run(START + (away + 60) * SECOND)
    drain(network, 4 * HOUR)
    until = network.now
    network.run(until + 120 * SECOND)
    drain(network, 4 * HOUR)
    for agent in network.agents:
        made = [number for number, time in agent.made.items() if time < until]
        assert set(made) <= set(agent.arrived)
    recent = sorted(network.lags(until, until + 100 * SECOND))
    assert recent[len(recent) // 2] < 60 * SECOND
