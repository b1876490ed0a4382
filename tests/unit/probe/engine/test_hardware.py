"""Stamps of both clocks in, the RTTs by the interface's clock that are believed out; also by an engine."""

from __future__ import annotations

import numpy as np
import pytest

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.engine.hardware import hard_rtt
from probe.sockets.memory import lossless
from tests.unit.probe.engine.driving import Driver

TX, HARD = 5_000 * SECOND, 1_800_000_000 * SECOND  # each clock has a scale of its own


def believed(took: int, hard: int) -> int:
    """Of a probe whose kernel RTT is `took` and whose RTT by the interface is `hard`."""
    return column(TX, TX + took, HARD, HARD + hard)


def column(*stamps: int) -> int:
    tx, rx, hard_tx, hard_rx = (np.array([stamp], np.int64) for stamp in stamps)
    return int(hard_rtt(tx, rx, hard_tx, hard_rx)[0])


@pytest.mark.parametrize("hard", [1, 90 * MICROSECOND, 100 * MICROSECOND, 150 * MICROSECOND])
def test_an_rtt_that_is_no_longer_than_the_kernels_is_believed(hard: int) -> None:
    assert believed(100 * MICROSECOND, hard) == hard


@pytest.mark.parametrize("hard", [-37 * SECOND, -1, 0, 151 * MICROSECOND, 37 * SECOND])
def test_one_that_cannot_be_is_not(hard: int) -> None:
    assert believed(100 * MICROSECOND, hard) == 0


def test_a_long_one_may_be_off_by_what_the_clocks_rates_differ() -> None:
    long = 400 * MILLISECOND
    assert believed(long, long + 100 * MICROSECOND) == long + 100 * MICROSECOND
    assert believed(long, long + 200 * MICROSECOND) == 0


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_without_a_reply_or_a_stamp_both_ways_there_is_none(gone: int) -> None:
    stamps = [TX, TX + MILLISECOND, HARD, HARD + MILLISECOND - 1]
    assert column(*stamps) == MILLISECOND - 1
    stamps[gone] = 0
    assert column(*stamps) == 0


def test_the_kernel_need_not_have_stamped_what_the_interface_did() -> None:
    assert column(0, TX, HARD, HARD + 3 * SECOND) == 3 * SECOND
    assert column(0, TX, HARD, HARD - 1) == 0


def test_each_probe_is_judged_by_itself() -> None:
    tx = np.full(4, TX)
    rx = tx + np.array([10, 10, 10, 10]) * MILLISECOND
    hard_tx = HARD + np.arange(4)
    hard_rx = hard_tx + np.array([9, 11, -9, 10]) * MILLISECOND
    hard_tx[3] = 0
    assert hard_rtt(tx, rx, hard_tx, hard_rx).tolist() == [9 * MILLISECOND, 0, 0, 0]
    empty = np.zeros(0, np.int64)
    assert hard_rtt(empty, empty, empty, empty).dtype == np.int64


def test_an_engine_takes_rtts_by_the_interfaces_clock() -> None:
    driver = Driver(lossless(MILLISECOND), hard_ahead=37 * SECOND)
    driver.run(2 * SECOND)
    driver.finish()
    rtts = np.concatenate(
        [cut.samples[0].hard_rtt for cut in driver.cuts if cut.samples[0].hard_rtt is not None]
    )
    assert len(rtts) >= 200
    assert set(rtts.tolist()) == {MILLISECOND - 2 * driver.socket.nearer}
    assert driver.totals()["unstamped"] == driver.totals()["lost"] == 0
    full = [s.values for s in driver.summaries() if s.values["received"][0]]
    assert len(full) >= 2
    for values in full:
        assert values["hardware"].tolist() == values["received"].tolist()
        assert values["rtt_min_ns"].tolist() == values["rtt_max_ns"].tolist() == [999_400]


def test_when_that_clock_is_set_in_between_the_kernels_stamps_are_there() -> None:
    driver = Driver(lossless(5 * MILLISECOND), hard_ahead=37 * SECOND)
    driver.run(SECOND)
    driver.socket.hard_ahead = 0
    driver.run(SECOND)
    driver.finish()
    samples = [cut.samples[0] for cut in driver.cuts]
    rtts = np.concatenate([each.hard_rtt[: each.inside] for each in samples if each.hard_rtt is not None])
    by_interface = rtts == 5 * MILLISECOND - 2 * driver.socket.nearer
    assert (by_interface | (rtts == 0)).all()
    # Their probe left before, and their reply was stamped after: the memory socket does it as it is read.
    astride = int((~by_interface).sum())
    assert 0 < astride <= 30
    totals = driver.totals()
    assert totals["received"] == len(rtts)
    assert totals["unstamped"] == totals["lost"] == totals["late"] == 0
    assert sum(int(s.values["hardware"][0]) for s in driver.summaries()) == len(rtts) - astride
