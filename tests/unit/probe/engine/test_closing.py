"""Stalls, full buffers and slow queues in, windows that still tell the truth out: when may one be closed?"""

from __future__ import annotations

import errno

import pytest

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.engine.engine import Engine
from probe.engine.samples import SENT
from probe.sockets.memory import Fate, MemorySocket, lossless
from probe.sockets.packet_socket import Replies, Stamps
from tests.unit.probe.engine.driving import Driver


def at_end_of_a_window(driver: Driver, before: int) -> None:
    """Run until `before` ns of the second whole window are left."""
    driver.run(2 * SECOND)
    driver.run(SECOND - driver.clock.wall_ns % SECOND - before)


@pytest.mark.parametrize("stall", [50, 120, 190, 215, 235, 240])
def test_a_probe_that_left_late_has_its_whole_timeout(stall: int) -> None:
    driver = Driver(lossless(150 * MILLISECOND))
    at_end_of_a_window(driver, 15 * MILLISECOND)
    # What was due in the last 15 ms leaves after the stall, perhaps when the window might have been closed.
    driver.clock.advance(stall * MILLISECOND)
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert (totals["lost"], totals["late"]) == (0, 0)
    assert totals["received"] == totals["sent"] == len(driver.socket.sent)
    assert driver.channel.counters.skipped == 0


@pytest.mark.parametrize("stall", [5, 120, 200, 240])
def test_a_short_stall_leaves_every_window_its_probes(stall: int) -> None:
    driver = Driver(lossless(MILLISECOND))
    at_end_of_a_window(driver, 3 * MILLISECOND)
    driver.clock.advance(stall * MILLISECOND)
    driver.run(3 * SECOND)
    driver.finish()
    sent = [int(summary.values["sent"][0]) for summary in driver.summaries()]
    assert sent[1:-1] == [100] * (len(sent) - 2)
    lags = [int(summary.values["send_lag_max_ns"][0]) for summary in driver.summaries()]
    assert max(lags) >= (stall - 4) * MILLISECOND


@pytest.mark.parametrize("stall", [700, 1_200, 2_900, 5_003, 61_234])
@pytest.mark.parametrize("into", [30, 200, 600])
def test_after_a_long_stall_no_window_has_more_than_its_own_probes(stall: int, into: int) -> None:
    driver = Driver(lossless(MILLISECOND))
    at_end_of_a_window(driver, into * MILLISECOND)
    driver.clock.advance(stall * MILLISECOND)
    driver.run(2 * SECOND)
    driver.finish()
    offset = driver.clock.wall_ns - driver.clock.mono_ns
    for cut in driver.cuts:
        (samples,) = cut.samples
        due = samples.due[: samples.inside][samples.state[: samples.inside] == SENT] + offset
        assert ((cut.start_ns <= due) & (due < cut.end_ns)).all()
    summaries = driver.summaries()
    assert max(int(s.values["sent"][0]) for s in summaries) <= 100
    assert sum(int(s.values["sent"][0]) for s in summaries) == len(driver.socket.sent)
    assert driver.totals()["lost"] == 0
    starts = [cut.start_ns for cut in driver.cuts]
    assert starts == sorted(set(starts))


def test_a_probe_stays_in_its_window_while_the_send_buffer_is_full() -> None:
    full = {"until": 0}

    def rule(n: int, _packet: bytes) -> Fate:
        return Fate(refused=errno.EAGAIN) if driver.clock.mono_ns < full["until"] else Fate((MILLISECOND,))

    driver = Driver(rule)
    at_end_of_a_window(driver, 15 * MILLISECOND)
    full["until"] = driver.clock.mono_ns + 240 * MILLISECOND
    driver.run(3 * SECOND)
    driver.finish()
    sent = [int(summary.values["sent"][0]) for summary in driver.summaries()]
    assert sent[1:-1] == [100] * (len(sent) - 2)
    assert driver.totals()["lost"] == driver.totals()["errors"] == 0


class SlowErrorQueue(MemorySocket):
    """The TX stamp of a probe comes into its queue just when the reply comes into the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._visible: list[Stamps] = []

    def receive(self) -> Replies | None:
        replies = super().receive()
        if replies is not None and (stamps := super().stamps()) is not None:
            self._visible.append(stamps)
        return replies

    def stamps(self) -> Stamps | None:
        return self._visible.pop(0) if self._visible else None


def test_a_stamp_is_not_missed_by_reading_its_queue_too_early() -> None:
    driver = Driver(lossless(300 * MICROSECOND))
    slow = SlowErrorQueue(driver.clock, lossless(300 * MICROSECOND))
    driver.channel.socket = slow
    slow.rows = driver.socket.rows
    driver.run(500 * MILLISECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["received"] > 40
    assert totals["unstamped"] == 0


@pytest.mark.parametrize("linger", [0, 3 * SECOND])
def test_a_window_may_be_left_open_longer(linger: int) -> None:
    """So that what this host held back for seconds is counted where it belongs, and not as late."""
    driver = Driver(lossless(MILLISECOND))
    cut_at: list[int] = []
    engine = Engine(
        [driver.channel],
        driver.clock,
        window=SECOND,
        timeout=200 * MILLISECOND,
        tick=2 * MILLISECOND,
        flows=1,
        on_cut=lambda cut: cut_at.append(driver.clock.wall() - cut.end_ns),
        linger=linger,
    )
    while not cut_at:
        driver.clock.advance(max(1, engine.turn() - driver.clock.mono()))
    assert cut_at[0] - linger in range(450 * MILLISECOND, 460 * MILLISECOND)
