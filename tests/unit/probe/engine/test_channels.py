"""Several sockets of one engine: a raw one is given the replies to all of them."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND, ManualClock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import Engine
from probe.engine.schedule import Schedule
from probe.sockets.memory import Fate, MemorySocket, lossless
from probe.sockets.packet_socket import Replies
from tests.unit.probe.engine.driving import Driver

CHANNELS, PATIENCE = 8, 64


class Watched(MemorySocket):
    """Writes down how many probes had left, from all sockets together, when it was emptied."""

    def receive(self) -> Replies | None:
        emptied.append(sum(len(socket.sent) for socket in sockets))
        return super().receive()


sockets: list[Watched] = []
emptied: list[int] = []


def test_buffers_are_emptied_before_the_replies_to_all_channels_fill_them() -> None:
    clock = ManualClock()
    channels = []
    for n in range(CHANNELS):
        socket = Watched(clock, lossless(MILLISECOND), patience=PATIENCE)
        sockets.append(socket)
        schedule = Schedule([10 * MILLISECOND], [False], np.random.default_rng(n))
        token = bytes([n + 1] * 8)
        channels.append(
            Channel(
                socket,
                [Flow(n, bytes(28), 64)],
                schedule,
                capacity=4096,
                all_flows=CHANNELS,
                token=token,
                base_id=n,
            )
        )
    engine = Engine(
        channels,
        clock,
        window=SECOND,
        timeout=SECOND,
        tick=MILLISECOND,
        flows=CHANNELS,
        on_cut=lambda _cut: None,
    )
    end = clock.mono_ns + 2 * SECOND
    while clock.mono_ns < end:
        clock.advance(max(1, engine.turn() - clock.mono_ns))
    unread = np.diff([0, *emptied])
    assert sum(len(socket.sent) for socket in sockets) > 10 * PATIENCE
    assert PATIENCE / 2 < unread.max() <= PATIENCE + CHANNELS


def test_what_is_full_is_named_by_the_socket_that_is() -> None:
    driver = Driver(lambda _n, _packet: Fate(refused=errno.EAGAIN))
    driver.socket.crowded = "as many {} connections are under way as may be open"
    driver.run(SECOND)
    texts = [notice.text for notice in driver.notices]
    expected = "as many IPv4 connections are under way as may be open: they leave late or are skipped"
    assert expected in texts


class Standing(MemorySocket):
    """Something stands open for 25 ms after each probe."""

    gathered = 0

    def gather(self) -> None:
        self.gathered += 1

    def waits(self) -> bool:
        return bool(self.sent) and self.clock.mono() - self.left_at < 25 * MILLISECOND

    def send(self, start: int, stop: int) -> tuple[int, int]:
        self.left_at = self.clock.mono()
        return super().send(start, stop)


@pytest.mark.parametrize("hurried", [True, False])
def test_what_stands_open_is_looked_at_every_tick_and_only_as_long(hurried: bool) -> None:
    clock = ManualClock()
    socket = Standing(clock, lossless(MILLISECOND), hurried=hurried)
    schedule = Schedule([SECOND], [False], np.random.default_rng(1))
    flows = [Flow(0, bytes(28), 64)]
    channel = Channel(socket, flows, schedule, capacity=4096, all_flows=1, token=bytes(8), base_id=1)
    engine = Engine(
        [channel],
        clock,
        window=SECOND,
        timeout=SECOND,
        tick=5 * MILLISECOND,
        flows=1,
        on_cut=lambda _cut: None,
    )
    turns = 0
    while len(socket.sent) < 10:
        clock.advance(max(1, engine.turn() - clock.mono_ns))
        turns += 1
    # Without, it wakes for the probe and four times a second to drain.
    if hurried:
        assert socket.gathered == turns > 10 * (5 + 3)
    else:
        assert socket.gathered == 0
        assert turns < 10 * (5 + 3)


def test_what_keeps_all_of_them_from_sending_is_told_once() -> None:
    clock = ManualClock()
    channels = [
        Channel(
            MemorySocket(clock, lambda _n, _p: Fate(refused=errno.EPERM)),
            [Flow(n, bytes(28), 64)],
            Schedule([10 * MILLISECOND], [False], np.random.default_rng(n)),
            capacity=4096,
            all_flows=CHANNELS,
            token=bytes([n + 1] * 8),
            base_id=n,
        )
        for n in range(CHANNELS)
    ]
    told: list[str] = []
    engine = Engine(
        channels,
        clock,
        window=SECOND,
        timeout=SECOND,
        tick=MILLISECOND,
        flows=CHANNELS,
        on_cut=lambda _cut: None,
        on_notice=lambda notice: told.append(notice.text),
    )
    for _ in range(2000):
        clock.advance(max(1, engine.turn() - clock.mono_ns))
    assert all(channel.counters.refused for channel in channels)
    assert ["EPERM" in text for text in told] == [True]
