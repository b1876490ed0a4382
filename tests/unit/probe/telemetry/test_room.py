"""The room for batches in flight: it doubles, halves, creeps up again, and what is unused does not grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from probe.clock import SECOND
from probe.telemetry.room import Room

TIMEOUT = 30 * SECOND


def round_trip(room: Room) -> int:
    """All that may be in flight is, and is acknowledged one by one; the room then."""
    for _ in range(room.size):
        room.acknowledged(1, room.size)
    return room.size


def test_room_doubles_in_each_round_trip_up_to_the_window() -> None:
    room = Room(64, TIMEOUT)
    room.begin(1)
    assert [round_trip(room) for _ in range(7)] == [2, 4, 8, 16, 32, 64, 64]


def test_loss_halves_it_once_in_a_timeout_and_then_it_grows_by_one_a_round_trip() -> None:
    room = Room(64, TIMEOUT)
    room.begin(64)
    for now in range(0, 31 * SECOND, SECOND // 4):
        room.lost(now)
    assert room.size == 16  # at 0 s and at 30 s
    assert [round_trip(room) for _ in range(4)] == [17, 18, 19, 20]
    room.begin(4)  # another connection, another way: nothing is known of it
    assert [round_trip(room) for _ in range(4)] == [8, 16, 32, 64]


def test_room_that_is_not_used_does_not_grow() -> None:
    room = Room(64, TIMEOUT)
    room.begin(8)
    for _ in range(100):
        room.acknowledged(1, 1)
    assert room.size == 8
    room.acknowledged(4, 4)
    assert room.size == 12


def test_many_at_once_count_as_one_by_one() -> None:
    one, many = Room(64, TIMEOUT), Room(64, TIMEOUT)
    for room in (one, many):
        room.begin(20)
        room.lost(0)
    many.acknowledged(33, 10)
    for _ in range(33):
        one.acknowledged(1, 10)
    assert one.size == many.size == 13  # 10 of them for the 11th, 11 for the 12th, 12 for the 13th


@given(
    st.integers(1, 100),
    st.lists(
        st.one_of(
            st.tuples(st.just("begin"), st.integers(1, 200)),
            st.tuples(st.just("ack"), st.integers(0, 500)),
            st.tuples(st.just("lost"), st.integers(0, 10**12)),
        )
    ),
)
def test_it_is_never_less_than_one_nor_more_than_the_window(
    window: int, steps: list[tuple[str, int]]
) -> None:
    room = Room(window, TIMEOUT)
    for kind, amount in steps:
        if kind == "begin":
            room.begin(amount)
        elif kind == "ack":
            room.acknowledged(amount, room.size)
        else:
            room.lost(amount)
        assert 1 <= room.size <= window
