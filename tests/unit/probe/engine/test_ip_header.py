"""A raw IPv4 socket hands over the IP header too: with options or without, a reply is a reply."""

from __future__ import annotations

import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.channel import Channel, Flow
from probe.sockets.memory import Fate, MemorySocket
from tests.unit.probe.engine.driving import TOKEN, Driver


def _reply(packet: bytes, options: int) -> bytes:
    header = bytes([0x40 | (20 + options) // 4]) + bytes(19) + b"\x01" * options
    return header + b"\x00" + packet[1:]


class RawDriver(Driver):
    """As `Driver`, over a socket that delivers the IP header."""

    def __init__(self, options: list[int]) -> None:
        def rule(n: int, packet: bytes) -> Fate:
            return Fate(raw=((MILLISECOND, _reply(packet, options[n % len(options)])),))

        super().__init__(rule)
        self.socket = MemorySocket(self.clock, rule, raw=True)
        self.channel = Channel(
            self.socket,
            [Flow(0, bytes(28), 64)],
            self.channel.schedule,
            capacity=4096,
            all_flows=1,
            token=TOKEN,
            base_id=100,
        )
        self.engine.channels[:] = [self.channel]


@pytest.mark.parametrize("options", [[0], [4], [40], [0, 40, 8]])
def test_replies_are_found_behind_ip_options(options: list[int]) -> None:
    driver = RawDriver(options)
    driver.run(SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["sent"] > 90
    assert totals["received"] == totals["sent"]
    assert totals["lost"] == totals["duplicates"] == driver.channel.counters.foreign == 0


def test_a_reply_cut_short_behind_its_options_is_not_believed() -> None:
    driver = RawDriver([0])
    driver.run(100 * MILLISECOND)
    packet = _reply(bytes(8) + TOKEN + bytes(8), 40)
    driver.socket.deliver(
        (driver.clock.mono_ns, packet[: 60 + 20]), (driver.clock.mono_ns, b"\x4f" + bytes(10))
    )
    driver.run(SECOND)
    driver.finish()
    assert driver.channel.counters.foreign == 2
    assert driver.totals()["duplicates"] == 0


def test_random_headers_change_no_number() -> None:
    rng = np.random.default_rng(3)
    driver = RawDriver([0])
    for _ in range(60):
        driver.run(10 * MILLISECOND)
        driver.socket.deliver((driver.clock.mono_ns, rng.bytes(int(rng.integers(0, 128)))))
    driver.run(SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["lost"] == totals["duplicates"] == totals["errors"] == 0
    assert driver.channel.counters.foreign + driver.channel.counters.unanswerable == 60
