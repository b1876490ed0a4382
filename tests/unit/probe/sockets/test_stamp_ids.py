"""The kernel's stamp ids in, ours out: across restarts, wraps and stamps that come too late."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from probe.clock import MILLISECOND, SECOND
from probe.sockets.stamp_ids import KernelCounter
from tests.unit.probe.repeatable import repeatable

NOW = 1_700_000_000 * SECOND


def translated(it: KernelCounter, *pairs: tuple[int, int]) -> list[tuple[int, int]]:
    """(kernel's id, stamp) to (our id, stamp)."""
    ids = np.array([number & 0xFFFF_FFFF for number, _ in pairs], np.uint32)
    ours, stamps = it.translate(ids, np.array([stamp for _, stamp in pairs], np.int64))
    return list(zip(ours.tolist(), stamps.tolist(), strict=True))


def send(it: KernelCounter, ids: Sequence[int]) -> None:
    it.sent(np.array(ids, np.uint32))


def test_the_kernel_counts_from_zero() -> None:
    it = KernelCounter()
    send(it, [70, 71])
    send(it, [90])
    assert translated(it, (0, NOW), (2, NOW + 1)) == [(70, NOW), (90, NOW + 1)]
    assert translated(it, (1, NOW + 2)) == [(71, NOW + 2)]
    assert translated(it) == []


def test_ids_that_were_not_given_out_are_nobodys() -> None:
    it = KernelCounter()
    send(it, [70])
    assert translated(it, (1, NOW), (5, NOW), (-1, NOW), (0, NOW)) == [(70, NOW)]


def test_a_restart_begins_at_zero_again() -> None:
    it = KernelCounter()
    send(it, [70, 71])
    assert len(translated(it, (0, NOW), (1, NOW))) == 2
    it.restart(NOW + 1)
    assert translated(it, (0, NOW + 2)) == []
    send(it, [80, 81])
    assert translated(it, (0, NOW + 3), (1, NOW + 4)) == [(80, NOW + 3), (81, NOW + 4)]


def test_a_stamp_that_a_queue_held_back_is_given_to_no_other_probe() -> None:
    it = KernelCounter()
    send(it, [70, 71, 72])
    translated(it, (0, NOW), (2, NOW))  # 71 waits for its neighbour
    it.restart(NOW)
    send(it, [80, 81, 82])
    late, own = (1, NOW + MILLISECOND), (1, NOW + 2 * MILLISECOND)
    assert translated(it, (0, NOW + 1), late, own, (2, NOW + 3)) == [(80, NOW + 1), (82, NOW + 3)]
    # Nothing waits for so long: the id is good again.
    it.restart(NOW + MILLISECOND)
    send(it, [90, 91])
    assert translated(it, (1, NOW + 20 * SECOND)) == [(91, NOW + 20 * SECOND)]


def test_the_counter_wraps() -> None:
    it = KernelCounter()
    for begin in range(0, 200_000, 50_000):
        send(it, range(begin, begin + 50_000))
    ours = [(number, NOW) for number in (140_000, 199_999)]
    assert translated(it, *ours, (200_000 - (1 << 16) - 1, NOW), (3, NOW)) == ours


@repeatable
@given(st.integers(0, 1 << 32))
def test_a_probe_gets_its_own_stamp_or_none(seed: int) -> None:
    random = Random(seed)
    it = KernelCounter()
    kernel, now, ours, given = 0, NOW, 0, 0
    queued: list[tuple[int, int]] = []  # (kernel's id, our id) without a stamp yet
    for _ in range(200):
        now += random.randrange(1, 20) * MILLISECOND
        action = random.random()
        if action < 0.5:
            count = random.randrange(1, 5)
            send(it, range(ours, ours + count))
            queued += [(kernel + n, ours + n) for n in range(count)]
            kernel, ours = kernel + count, ours + count
        elif action < 0.6:
            it.restart(now)
            kernel = 0
        else:
            ready = random.sample(queued, k=min(len(queued), random.randrange(6)))
            queued = [pair for pair in queued if pair not in ready]
            # Each stamp tells whose it is: whole milliseconds and the owner's id.
            got = translated(it, *((number, now + own) for number, own in ready))
            assert all(stamp - now == own for own, stamp in got)
            given += len(got)
    assert given > 0


def hard_translated(it: KernelCounter, *pairs: tuple[int, int]) -> list[tuple[int, int]]:
    """(kernel's id, time by the interface's clock) to (our id, that time)."""
    ids = np.array([number for number, _ in pairs], np.uint32)
    ours, hard = it.translate_hard(ids, np.array([time for _, time in pairs], np.int64))
    return list(zip(ours.tolist(), hard.tolist(), strict=True))


def test_an_id_comes_back_a_second_time_with_the_interfaces_stamp() -> None:
    it = KernelCounter(hardware=True)
    send(it, [70, 71, 72])
    assert translated(it, (0, NOW), (1, NOW + 1)) == [(70, NOW), (71, NOW + 1)]
    assert hard_translated(it, (0, 5), (1, 6), (2, 7)) == [(70, 5), (71, 6), (72, 7)]
    assert hard_translated(it, (3, 8), (1 << 31, 9)) == []
    assert hard_translated(it) == []


def test_an_interfaces_stamp_from_before_a_restart_is_given_to_no_other_probe() -> None:
    it = KernelCounter(hardware=True)
    send(it, [70, 71, 72])
    translated(it, (0, NOW), (1, NOW), (2, NOW))
    hard_translated(it, (0, 5))  # those of 71 and 72 are still to come
    it.restart(NOW + 1)
    send(it, [80, 81, 82])
    soft = [(n, NOW + MILLISECOND) for n in range(3)]
    assert len(translated(it, *soft)) == 3  # the kernel's own are beyond doubt
    assert hard_translated(it, (0, 6), (1, 5), (2, 5), (1, 7)) == [(80, 6)]
    # By now they have come, or never will.
    it.restart(NOW + 2 * MILLISECOND)
    send(it, [90, 91, 92])
    late = NOW + 20 * SECOND
    assert hard_translated(it, (1, 8)) == []  # whose it is the kernel's stamp has not said
    translated(it, (0, late), (1, late), (2, late))
    assert hard_translated(it, (1, 9), (2, 9)) == [(91, 9), (92, 9)]


def test_what_waits_for_a_neighbour_is_stamped_by_the_interface_even_later() -> None:
    it = KernelCounter(hardware=True)
    send(it, [70])
    it.restart(NOW)  # neither clock has seen it
    send(it, [80])
    after = NOW + 5 * SECOND + MILLISECOND
    assert translated(it, (0, after)) == [(80, after)]
    assert hard_translated(it, (0, 5)) == []
    it.restart(after)
    send(it, [90])
    late = after + 2 * SECOND
    assert translated(it, (0, late)) == [(90, late)]
    assert hard_translated(it, (0, 6)) == [(90, 6)]


@repeatable
@given(st.integers(0, 1 << 32))
def test_a_probe_gets_the_interfaces_stamp_of_its_own_or_none(seed: int) -> None:
    random = Random(seed)
    it = KernelCounter(hardware=True)
    kernel, now, ours, given = 0, NOW, 0, 0
    waiting: list[tuple[int, int]] = []  # (kernel's id, our id) that no clock has seen yet
    passing: list[tuple[int, int, int]] = []  # ... that the kernel's has, and when
    for _ in range(300):
        now += random.randrange(1, 40) * MILLISECOND
        action = random.random()
        if action < 0.5:
            count = random.randrange(1, 5)
            send(it, range(ours, ours + count))
            waiting += [(kernel + n, ours + n) for n in range(count)]
            kernel, ours = kernel + count, ours + count
        elif action < 0.55:
            it.restart(now)
            kernel = 0
        else:
            ready = random.sample(waiting, k=min(len(waiting), random.randrange(8)))
            waiting = [pair for pair in waiting if pair not in ready]
            translated(it, *((number, now + own) for number, own in ready))
            passing += [(number, own, now) for number, own in ready]
            # Within a second the interface has stamped it too, or never will.
            done = [each for each in passing if random.random() < 0.5]
            passing = [
                each for each in passing if each not in done and now - each[2] < SECOND - 40 * MILLISECOND
            ]
            due = [(number, own) for number, own, when in done if now - when < SECOND]
            got = hard_translated(it, *((number, own + 1) for number, own in due))
            assert all(hard == own + 1 for own, hard in got)
            given += len(got)
    assert given > 0
