"""A wall clock that jumps at any instant, by any amount in: every probe's own time, window and fate out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.engine.engine import DRAIN_EVERY
from probe.engine.stamps import STEP
from probe.sockets.memory import Fate, lossless
from tests.unit.probe.engine.driving import Driver
from tests.unit.probe.repeatable import repeatable

HOUR = 3600 * SECOND
TIMEOUT = 200 * MILLISECOND  # of `Driver`
# Smaller ones are not told from noise: see test_stamps.py.
SIZES = st.one_of(
    st.integers(STEP + MICROSECOND, 12 * MILLISECOND),
    st.integers(12 * MILLISECOND, 2 * SECOND),
    st.integers(2 * SECOND, 9 * HOUR),
    st.sampled_from([DRAIN_EVERY, SECOND, HOUR]),
)
STEPS = st.builds(lambda size, back: -size if back else size, SIZES, st.booleans())
# So far apart that each is noticed before the next: an idle engine looks every 250 ms.
PAUSES = st.integers(DRAIN_EVERY + 20 * MILLISECOND, 1500 * MILLISECOND)
DELAYS = st.one_of(
    st.none(),
    st.integers(MICROSECOND, 30 * MILLISECOND),
    st.integers(MICROSECOND, 30 * MILLISECOND),
    st.integers(MICROSECOND, TIMEOUT - MILLISECOND),
    st.integers(TIMEOUT + MILLISECOND, 2 * TIMEOUT),
)
stepped = given(
    st.lists(st.tuples(PAUSES, STEPS), min_size=1, max_size=5),
    st.lists(DELAYS, min_size=1, max_size=60),
    st.sampled_from([10 * MILLISECOND, 120 * MILLISECOND]),
)


@dataclass(frozen=True)
class Jump:
    """The wall clock was set by `by` at `at`; the engine had looked at the clocks at `looked`, and did so
    again at `seen` (all monotonic ns)."""

    at: int
    by: int
    looked: int
    seen: int


@dataclass
class Truth:
    """What really happened: delays are dealt by the number of the probe, round and round; None: lost."""

    delays: list[int | None]
    sent: list[int] = field(default_factory=list)  # by number, monotonic ns of the TX stamp
    jumps: list[Jump] = field(default_factory=list)
    offset: int = 0  # wall - monotonic before the first step
    ended: int = 0  # nothing was sent after it

    def delay(self, number: int) -> int | None:
        return self.delays[number % len(self.delays)]

    @cached_property
    def arrivals(self) -> list[int]:
        """When replies came, monotonic ns."""
        delays = map(self.delay, range(len(self.sent)))
        return [sent + delay for sent, delay in zip(self.sent, delays, strict=True) if delay is not None]

    def doubt(self, instant: int, queue: list[int]) -> int:
        """By how much a stamp of this instant may be misplaced, lying in a queue with stamps of others.

        It may be taken for one from after a step if read so it would lie since the last look at the clocks,
        and nothing behind it in the queue is surely from before the step. By no more than the step.
        """
        worst = 0
        for jump in self.jumps:

            def recent(stamp: int, jump: Jump = jump) -> bool:
                return jump.looked - STEP <= stamp - jump.by <= jump.seen + STEP

            behind = (other for other in queue if instant <= other <= jump.at)
            if jump.looked - DRAIN_EVERY <= instant <= jump.at and all(map(recent, (instant, *behind))):
                worst = max(worst, abs(jump.by))
        return worst

    def walls(self, instant: int) -> Iterator[int]:
        """What the wall clock may have said at an instant: a step is noticed a tick later."""
        passed = sum(jump.by for jump in self.jumps if jump.seen < instant)
        yield instant + self.offset + passed
        for jump in self.jumps:
            if jump.looked <= instant <= jump.seen:
                yield instant + self.offset + passed + jump.by


def run(steps: list[tuple[int, int]], delays: list[int | None], interval: int) -> tuple[Driver, Truth]:
    """`steps`: (how long after the last one, by how much)."""
    truth = Truth(delays)

    def rule(number: int, packet: bytes) -> Fate:
        assert number == len(truth.sent)
        truth.sent.append(driver.clock.mono_ns + MICROSECOND)
        delay = truth.delay(number)
        return Fate() if delay is None else Fate((delay,))

    driver = Driver(rule, interval=interval)
    driver.clock.advance(100 * MILLISECOND)  # a run begins anywhere in a window
    truth.offset = driver.clock.wall_ns - driver.clock.mono_ns
    looked: list[int] = []
    turn = driver.engine.turn

    def watched() -> int:
        looked.append(driver.clock.mono_ns)
        return turn()

    driver.engine.turn = watched  # type: ignore[method-assign]
    jumps = []
    for pause, by in steps:
        driver.run(pause)
        driver.socket.about_to_step()
        driver.clock.step(by)
        jumps.append((driver.clock.mono_ns, by))
    driver.run(DRAIN_EVERY + 900 * MILLISECOND)
    truth.ended = driver.clock.mono_ns
    driver.finish()
    for at, by in jumps:
        next_look = bisect_left(looked, at)
        truth.jumps.append(Jump(at, by, looked[next_look - 1], looked[next_look]))
    return driver, truth


@repeatable
@stepped
def test_every_probe_keeps_its_round_trip_time_and_its_fate(
    steps: list[tuple[int, int]], delays: list[int | None], interval: int
) -> None:
    driver, truth = run(steps, delays, interval)
    number = unsure = 0
    for cut in driver.cuts:
        (samples,) = cut.samples
        for row in range(samples.inside):
            left, delay = truth.sent[number], truth.delay(number)
            tx, rx = int(samples.tx[row]), int(samples.rx[row])
            astray = truth.doubt(left, truth.sent)
            assert abs(tx - left) <= astray
            assert not samples.unstamped[row]
            assert not samples.duplicates[row]
            if delay is None:
                assert rx == 0
            elif rx or left + delay <= truth.ended:
                astray = max(astray, truth.doubt(left + delay, truth.arrivals))
                assert abs((rx - tx) - delay) <= astray
            unsure += astray > 0
            number += 1
    # Each is in one window, and in no other.
    assert number == len(truth.sent) == len(driver.socket.sent)

    totals = driver.totals()
    known = [truth.delay(n) for n in range(number)]
    assert totals["sent"] == totals["received"] + totals["lost"] == number
    assert abs(totals["lost"] - sum(delay is None or delay > TIMEOUT for delay in known)) <= unsure
    assert totals["late"] <= sum(delay is not None and delay > TIMEOUT for delay in known) + unsure
    assert totals["duplicates"] == totals["errors"] == driver.channel.counters.foreign == 0
    assert totals["unstamped"] <= unsure


@repeatable
@example(  # a window had begun on the old time when nobody had looked yet, and its start had been used before
    [(270_000_000, 792_055_176), (1_499_999_680, -952_055_497), (290_291_638, 250_000_000)],
    [None],
    10 * MILLISECOND,
)
@stepped
def test_no_two_windows_share_a_time_and_each_step_is_told_of(
    steps: list[tuple[int, int]], delays: list[int | None], interval: int
) -> None:
    driver, _ = run(steps, delays, interval)
    assert [notice.kind for notice in driver.notices] == ["clock"] * len(steps)
    for notice, (_, by) in zip(driver.notices, steps, strict=True):
        assert f"stepped by {by / 1e6:+.3f} ms" in notice.text
    assert driver.engine.counters.clock_steps == len(steps)

    starts = [cut.start_ns for cut in driver.cuts]
    assert len(set(starts)) == len(starts)
    # Off the grid begin only the run, and what a step began; or by the number of steps, where used before.
    began = {starts[0], *(notice.wall_ns for notice in driver.notices)}
    for start in starts:
        assert any(s % SECOND == 0 or s in began for s in range(start, start - len(steps) - 1, -1)), start
    assert all(cut.end_ns % SECOND == 0 and cut.start_ns < cut.end_ns for cut in driver.cuts[:-1])


def check_windows(driver: Driver, truth: Truth) -> None:
    """Every probe is in the window in which it was due."""
    for cut in driver.cuts:
        (samples,) = cut.samples
        for due in samples.due[: samples.inside].tolist():
            assert any(cut.start_ns <= wall < cut.end_ns for wall in truth.walls(due)), (cut.start_ns, due)


@settings(repeatable, phases=(Phase.generate,))
@stepped
def test_a_probe_is_in_the_window_in_which_it_was_due(
    steps: list[tuple[int, int]], delays: list[int | None], interval: int
) -> None:
    check_windows(*run(steps, delays, interval))


def test_a_step_soon_after_a_window_began_leaves_that_window_its_probes() -> None:
    check_windows(*run([(980 * MILLISECOND, -20 * MILLISECOND)], [MILLISECOND], 10 * MILLISECOND))


def test_a_clock_set_there_and_back_between_two_looks_makes_no_probe_late() -> None:
    driver = Driver(lossless(3 * MILLISECOND))
    driver.run(511 * MILLISECOND)
    for step in (3600 * SECOND, -3600 * SECOND):
        driver.socket.about_to_step()
        driver.clock.step(step)
        driver.clock.advance(600 * MICROSECOND)
    driver.run(1500 * MILLISECOND)
    driver.finish()
    totals = driver.totals()
    assert (totals["lost"], totals["late"]) == (0, 0)
    assert totals["received"] == len(driver.socket.sent)
    assert totals["unstamped"] >= 1
