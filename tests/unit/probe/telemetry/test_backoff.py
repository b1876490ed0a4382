"""Delays between attempts to reach a broker: doubling, bounded, jittered, and starting over after success."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from probe.telemetry.backoff import Backoff


def test_doubles_up_to_the_ceiling_and_starts_over() -> None:
    backoff = Backoff(0.5, 10.0, chance=lambda: 0.0)
    assert [backoff.delay_s() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    backoff.reset()
    assert backoff.delay_s() == 0.5


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 200))
def test_chance_takes_up_to_half(chance: float, attempts: int) -> None:
    plain, jittered = Backoff(0.5, 60.0, chance=lambda: 0.0), Backoff(0.5, 60.0, chance=lambda: chance)
    for _ in range(attempts):
        full, delay = plain.delay_s(), jittered.delay_s()
        assert full / 2 <= delay <= full <= 60.0
