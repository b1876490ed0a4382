"""TCP_INFO of connections in, when they were answered out."""

from __future__ import annotations

import struct

import numpy as np

from probe.clock import MILLISECOND, SECOND
from probe.sockets.tcp_info import INFO, answer_times


def info(rtt_us: int, repeated: int = 0, acknowledged_ms: int = 0) -> bytes:
    """As the kernel lays it out: eight bytes, then 24 u32s."""
    words = [0] * 24
    words[(56 - 8) // 4] = acknowledged_ms
    words[(68 - 8) // 4] = rtt_us
    words[(100 - 8) // 4] = repeated
    return struct.pack("=8B24I", 1, *[0] * 7, *words)


def times(*infos: bytes, looked_after: int) -> tuple[list[int], list[bool], list[bool]]:
    sent = np.arange(1, len(infos) + 1) * SECOND
    came, unsure, ours = answer_times(infos, sent, sent + looked_after)
    return (came - sent).tolist(), unsure.tolist(), ours.tolist()


def test_the_rtt_is_the_kernels_however_late_it_is_looked_at() -> None:
    assert INFO.itemsize == len(info(1)) == 104
    assert times(info(0), info(7), info(1_999_999), looked_after=SECOND) == (
        [0, 7_000, 1_999_999_000],
        [False] * 3,
        [True] * 3,
    )


def test_a_syn_that_was_repeated_at_once_answers_the_probe_by_our_clock() -> None:
    # The far end had an older connection: 20 ms later the new SYN was answered, 230 ms before we looked.
    assert times(info(1_000, 1, 230), looked_after=250 * MILLISECOND) == ([20 * MILLISECOND], [True], [True])


def test_an_answer_to_the_repetition_after_a_second_is_not_ours() -> None:
    late = info(30_000, 1, 220)  # came 1,030 ms after the probe, 30 ms after the repetition
    assert times(late, looked_after=1250 * MILLISECOND) == ([1030 * MILLISECOND], [True], [False])


def test_a_slow_answer_to_the_first_syn_is_ours_although_it_was_repeated() -> None:
    slow = info(1_400_000, 1, 100)  # by the time stamp that the answer echoes
    assert times(slow, looked_after=1500 * MILLISECOND) == ([1400 * MILLISECOND], [True], [True])
