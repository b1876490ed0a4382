"""Stamps of both clocks in, the RTTs by the interface's clock that are believed out."""

from __future__ import annotations

import numpy as np
import pytest

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.engine.hardware import hard_rtt

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
