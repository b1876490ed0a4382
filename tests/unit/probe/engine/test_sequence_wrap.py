"""More probes than a sequence number counts and than the ring holds in, each ICMP error at its own probe out.

Routers may quote 8 bytes and no more: identifier and sequence, which both wrap.
"""

from __future__ import annotations

import numpy as np
import pytest

from probe.clock import MICROSECOND, MILLISECOND
from probe.engine.channel import Channel, Flow
from probe.engine.samples import ERROR, SENT
from probe.engine.schedule import Schedule
from probe.sockets.memory import Fate, MemorySocket
from tests.unit.probe.engine.driving import TOKEN, Driver
from tests.unit.probe.engine.test_strangers import unreachable

WRAP = 1 << 16
RING = 60_000
FLOWS, INTERVAL = 10, 500 * MICROSECOND  # 20,000 probes a second
RTT = 300 * MICROSECOND
QUOTED = 8  # all that RFC 792 asks of a router
BASE = 65_530  # identifiers wrap as well
REJECTED = {0, 7, 30_000, 59_999, 60_000, *range(WRAP - 8, WRAP + 9), 70_001}


class LongRun(Driver):
    """Rejects some probes, an error coming `delay` after each; all others are answered."""

    def __init__(self, delay: int) -> None:
        def rule(n: int, packet: bytes) -> Fate:
            assert int.from_bytes(packet[6:8], "big") == n % WRAP
            assert int.from_bytes(packet[16:24], "big") == n
            if n in REJECTED:
                return Fate(raw=((delay, unreachable(packet[:QUOTED])),))
            return Fate(raw=((RTT, b"\x45" + bytes(19) + b"\x00" + packet[1:]),))

        super().__init__(rule, flows=FLOWS)
        self.socket = MemorySocket(self.clock, rule, raw=True)
        self.channel = Channel(
            self.socket,
            [Flow(n, bytes(28), 64) for n in range(FLOWS)],
            Schedule([INTERVAL] * FLOWS, [False] * FLOWS, np.random.default_rng(7)),
            capacity=RING,
            all_flows=FLOWS,
            token=TOKEN,
            base_id=BASE,
        )
        self.engine.channels[:] = [self.channel]


# The second one comes when 3,000 more probes have left: also over the wrap.
@pytest.mark.parametrize("delay", [MILLISECOND, 150 * MILLISECOND])
def test_errors_that_quote_eight_bytes_find_their_probes_across_the_wrap(delay: int) -> None:
    driver = LongRun(delay)
    driver.run(3700 * MILLISECOND)
    driver.finish()
    ledger = driver.channel.ledger
    assert ledger.head > max(REJECTED) > WRAP > ledger.size == RING
    assert ledger.overrun == ledger.forgotten == 0
    states = np.concatenate([cut.samples[0].state[: cut.samples[0].inside] for cut in driver.cuts])
    arrived = np.concatenate([cut.samples[0].rx[: cut.samples[0].inside] for cut in driver.cuts]) != 0
    assert len(states) == ledger.head
    assert set(np.flatnonzero(states == SENT | ERROR).tolist()) == REJECTED
    assert set(np.flatnonzero(states == SENT).tolist()) == set(range(ledger.head)) - REJECTED
    assert set(np.flatnonzero(~arrived).tolist()) == REJECTED
    assert driver.channel.counters.unanswerable == driver.channel.counters.foreign == 0
    totals = [driver.totals(flow) for flow in range(FLOWS)]
    assert sum(flow["errors"] for flow in totals) == sum(flow["lost"] for flow in totals) == len(REJECTED)
    assert sum(flow["sent"] for flow in totals) == ledger.head
    assert not any(flow["late"] or flow["duplicates"] or flow["unstamped"] for flow in totals)


def test_an_error_for_a_probe_whose_window_is_closed_is_counted_with_its_flow() -> None:
    driver = LongRun(1600 * MILLISECOND)  # 32,000 probes later: still in the ring
    driver.run(3700 * MILLISECOND)
    driver.finish()
    # What came for numbers up to 40,000 or so; later ones were not waited for.
    in_time = {number for number in REJECTED if number < 35_000}
    flows = np.concatenate([cut.samples[0].flow[: cut.samples[0].inside] for cut in driver.cuts])
    wanted = np.bincount(flows[sorted(in_time)], minlength=FLOWS)
    assert [driver.totals(flow)["errors"] for flow in range(FLOWS)] == wanted.tolist()
