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
