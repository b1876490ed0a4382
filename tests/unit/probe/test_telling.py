"""What an agent's parts say: every event has a time of its own, and what nobody takes is bounded."""

from probe.clock import ManualClock
from probe.telemetry.lines import parse
from probe.telling import MOST, Teller

NOW = 1_700_000_000_000_000_000


def teller(soon: list[int]) -> Teller:
    return Teller({"agent": "ny4-01", "site": "NY4"}, ManualClock(wall_ns=NOW), lambda: soon.append(1))


def test_events_of_one_instant_are_points_of_their_own() -> None:
    soon: list[int] = []
    it = teller(soon)
    it.event("loss", "a", tags={"target": "x"})
    it.event("loss", "b", tags={"target": "y"})  # another series
    it.event("loss", "c", tags={"target": "x"}, detail={"lost": 3})
    it.take()
    it.event("loss", "d", tags={"target": "x"}, wall_ns=NOW)
    [line] = it.take()
    point = parse(line)
    assert point.time_ns == NOW + 2
    assert point.tags == {"agent": "ny4-01", "site": "NY4", "kind": "loss", "target": "x"}
    assert len(soon) == 4


def test_lines_wait_for_a_window_and_are_bounded() -> None:
    soon: list[int] = []
    it = teller(soon)
    it.lines([f"x,agent=a n={n}i {n}" for n in range(MOST + 5)])
    it.lines(["y,agent=a n=1i 1"])
    assert (soon, it.dropped) == ([], 6)
    assert len(it.take()) == MOST
    assert it.take() == []
