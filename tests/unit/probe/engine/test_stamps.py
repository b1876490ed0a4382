"""Kernel stamps in, monotonic times out: exact without a step, and right on both sides of one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.clock import MICROSECOND, MILLISECOND, SECOND, ManualClock
from probe.engine.stamps import STEP, WallToMono
from tests.unit.probe.repeatable import repeatable


def array(*stamps: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(stamps, np.int64)


class NoisyClock(ManualClock):
    """Reading it takes time; now and then the reader is interrupted."""

    def __init__(self, delays: list[int]) -> None:
        super().__init__()
        self._delays = iter(delays)

    def wall(self) -> int:
        self.advance(next(self._delays, 50))
        return super().wall()


def test_a_stamp_is_moved_by_the_difference_of_the_clocks() -> None:
    clock = ManualClock()
    to_mono = WallToMono(clock)
    assert to_mono(array(clock.wall_ns - 7, clock.wall_ns + 9)).tolist() == [
        clock.mono_ns - 7,
        clock.mono_ns + 9,
    ]
    assert to_mono.wall(clock.mono_ns + 5) == clock.wall_ns + 5


def test_no_stamp_stays_none() -> None:
    clock = ManualClock()
    to_mono = WallToMono(clock)
    assert to_mono(array(0, clock.wall_ns, 0)).tolist() == [0, clock.mono_ns, 0]
    clock.step(SECOND)
    to_mono.refresh()
    assert to_mono(array(0, clock.wall_ns, 0)).tolist() == [0, clock.mono_ns, 0]
    assert to_mono(array()).tolist() == []


@repeatable
@given(st.lists(st.integers(0, 30 * MICROSECOND), max_size=40))
def test_reading_the_clocks_slowly_changes_no_difference_of_stamps(delays: list[int]) -> None:
    clock = NoisyClock(delays)
    to_mono = WallToMono(clock)
    offset = to_mono.offset
    for _ in range(5):
        clock.advance(MILLISECOND)
        to_mono.refresh()
        assert to_mono.stepped_by == 0
        assert to_mono.offset == offset


def test_an_interrupted_reading_is_taken_again() -> None:
    clock = NoisyClock([5 * MILLISECOND, 7 * MILLISECOND, 100])
    assert abs(WallToMono(clock).offset - (clock.wall_ns - clock.mono_ns)) <= 100


@pytest.mark.parametrize("step", [-3600 * SECOND, -20 * MILLISECOND, 20 * MILLISECOND, 3600 * SECOND])
def test_a_step_is_seen_once_and_stamps_keep_their_instant(step: int) -> None:
    clock = ManualClock()
    to_mono = WallToMono(clock)
    clock.advance(100 * MILLISECOND)
    assert not to_mono.moved(clock.mono())
    clock.advance(5 * MILLISECOND)
    before, before_mono = clock.wall_ns, clock.mono_ns
    clock.advance(MILLISECOND)
    clock.step(step)
    clock.advance(3 * MILLISECOND)
    after, after_mono = clock.wall_ns, clock.mono_ns
    clock.advance(2 * MILLISECOND)
    assert to_mono.moved(clock.mono())
    to_mono.refresh()
    assert to_mono.stepped_by == step
    # One queue holds stamps from either side of the step, in the order in which they were taken.
    assert to_mono(array(before, 0, after)).tolist() == [before_mono, 0, after_mono]
    assert to_mono.wall(clock.mono_ns) == clock.wall_ns
    to_mono.refresh()
    assert to_mono.stepped_by == 0
    assert not to_mono.moved(clock.mono())
    assert to_mono(array(after)).tolist() == [after_mono]


@pytest.mark.parametrize("step", [-5 * MILLISECOND, -MILLISECOND, MILLISECOND, 5 * MILLISECOND])
def test_a_step_smaller_than_a_tick_misplaces_nothing_by_more_than_itself(step: int) -> None:
    clock = ManualClock()
    to_mono = WallToMono(clock)
    clock.advance(100 * MILLISECOND)
    long_before, long_before_mono = clock.wall_ns, clock.mono_ns
    clock.advance(6 * MILLISECOND)
    to_mono.moved(clock.mono())
    clock.advance(5 * MILLISECOND)
    just_before, just_before_mono = clock.wall_ns, clock.mono_ns
    clock.step(step)
    clock.advance(5 * MILLISECOND)
    to_mono.refresh()
    first, second, third = to_mono(array(long_before, just_before, clock.wall_ns)).tolist()
    assert (first, third) == (long_before_mono, clock.mono_ns)
    # Between the last look at the clocks and the step nobody can tell on which side of it a stamp lies.
    assert abs(second - just_before_mono) <= abs(step)


def test_what_slewing_and_noise_do_is_no_step() -> None:
    clock = ManualClock()
    to_mono = WallToMono(clock)
    clock.step(STEP)
    assert not to_mono.moved(clock.mono())
    to_mono.refresh()
    assert to_mono.stepped_by == 0
    clock.step(1)
    assert to_mono.moved(clock.mono())
    to_mono.refresh()
    assert to_mono.stepped_by == STEP + 1


def test_steps_may_follow_one_another() -> None:
    clock = ManualClock()
    to_mono = WallToMono(clock)
    for step in (SECOND, -3 * SECOND, 10 * MILLISECOND):
        clock.advance(SECOND)
        to_mono.moved(clock.mono())
        clock.advance(MILLISECOND)
        stamp, instant = clock.wall_ns, clock.mono_ns
        clock.step(step)
        clock.advance(MILLISECOND)
        to_mono.refresh()
        assert to_mono.stepped_by == step
        assert to_mono(array(stamp, clock.wall_ns)).tolist() == [instant, clock.mono_ns]
