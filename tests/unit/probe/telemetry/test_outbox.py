"""The outbox: order, window, losses, outages; any interleaving of them ends with everything delivered."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.clock import SECOND
from probe.telemetry.outbox import FIRST_ROOM, LAST_PAUSE_NS, PAGE, Outbox

TIMEOUT = 30 * SECOND


class World:
    """A spool, a clock and an outbox, driven as the uplink drives it."""

    def __init__(self, waiting: int = 0, window: int = 8) -> None:
        self.window = window
        self.now = 1000 * SECOND
        self.last = waiting
        self.spool = set(range(1, waiting + 1))
        self.pages = 0
        self.taken: Counter[int] = Counter()
        self.boot()

    def boot(self) -> None:
        self.outbox = Outbox(self.window, TIMEOUT, self.last)
        self.outbox.restart(self.now)
        self.outbox._room.begin(self.window)  # as acknowledgements would have opened it by and by

    def append(self, count: int = 1) -> None:
        for _ in range(count):
            self.last += 1
            self.spool.add(self.last)
        self.outbox.appended(self.last)

    def take(self) -> int | None:
        for _ in range(10_000):
            number = self.outbox.take(self.now)
            assert self.outbox.in_flight <= (1 if self.outbox.narrow else self.window)
            if number is None:
                after = self.outbox.wanted()
                if after is None:
                    return None
                page = sorted(n for n in self.spool if n > after)[:PAGE]
                self.outbox.supply(after, page)
                self.pages += 1
            elif number in self.spool:
                self.taken[number] += 1
                self.outbox.delivered(number, self.now)
                return number
            else:
                self.outbox.missing(number)
        raise AssertionError("the outbox keeps its driver spinning")

    def take_all(self) -> list[int]:
        numbers = []
        while (number := self.take()) is not None:
            numbers.append(number)
            assert len(numbers) <= self.window, "more than the window without an acknowledgement"
        return numbers

    def ack(self, *numbers: int) -> None:
        ranges = [(number, number) for number in sorted(numbers)]
        forgotten = len(self.spool & set(numbers))
        self.spool -= set(numbers)
        self.outbox.acknowledged(ranges, forgotten, self.now)

    def later(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    def until_due(self) -> bool:
        due = self.outbox.due()
        if due is None:
            return False
        assert due > self.now, "due now, although take() just said no"
        self.now = due
        return True


def test_in_steady_state_each_batch_goes_out_once_in_order() -> None:
    world = World()
    for number in range(1, 50):
        world.append()
        assert world.take_all() == [number]
        world.ack(number)
        world.later(10)
    assert world.outbox.due() is None or not world.take_all()
    assert set(world.taken.values()) == {1}


def test_steady_state_reads_no_pages_of_the_spool() -> None:
    world = World()
    for _ in range(10):
        world.append()
        world.ack(*world.take_all())
    assert world.pages == 0


def test_window_is_never_exceeded() -> None:
    world = World(waiting=100)
    assert world.take_all() == [100, 1, 2, 3, 4, 5, 6]  # a quarter of the window is for new batches alone
    world.append(5)
    assert world.take_all() == [101]
    assert world.outbox.in_flight == 8


def test_newest_first_then_the_backlog_oldest_first() -> None:
    world = World(waiting=100)
    assert world.take_all() == [100, 1, 2, 3, 4, 5, 6]
    world.append()
    world.ack(2)
    assert world.take() == 101
    assert world.take() == 7


def test_neither_new_batches_nor_the_backlog_starve() -> None:
    world = World(waiting=200)
    world.take_all()
    order: list[int] = []
    for _ in range(300):  # new batches come as fast as acknowledgements
        world.append()
        flying = [n for n in world.taken if n in world.spool]
        world.ack(random.Random(len(order)).choice(flying))
        if (number := world.take()) is not None:
            order.append(number)
    fresh = [number for number in order if number > 200]
    assert len(fresh) >= 100
    assert len(order) - len(fresh) >= 100
    assert max(fresh) >= world.last - 8


def test_lost_batch_comes_again_after_the_timeout_while_others_are_acknowledged() -> None:
    world = World()
    world.append(2)
    assert sorted(world.take_all()) == [1, 2]
    seen = []
    for _ in range(30):
        world.later(10)
        world.append()
        for number in world.take_all():
            if number == 1:
                seen.append((world.now - 1000 * SECOND) // SECOND)
            else:
                world.ack(number)
    assert seen[:3] == [30, 90, 210]  # 30 s, then twice, then four times as long; then on its next turn
    assert not world.outbox.narrow
    world.ack(1)


def test_batches_that_nobody_ever_acknowledges_do_not_stand_in_the_way() -> None:
    world = World(waiting=60, window=8)
    poison = set(range(1, 21))
    for _ in range(5000):
        number = world.take()
        if number is None:
            if not world.until_due():
                break
        elif number not in poison:
            world.ack(number)
        if world.spool == poison:
            break
    assert world.spool == poison
    assert all(world.taken[number] >= 1 for number in poison)
    world.append()
    for _ in range(100):
        if world.taken[61]:
            break
        if world.take() is None:
            world.until_due()
    assert world.taken[61] == 1


def test_silence_narrows_to_one_batch_with_doubling_pauses_and_a_sign_opens_the_window() -> None:
    world = World(waiting=100)
    world.take_all()
    world.later(30)
    sent, pauses = [], []
    for _ in range(12):
        before = world.now
        number = world.take()
        assert number is not None
        assert world.take() is None
        assert world.outbox.narrow
        assert world.outbox.in_flight == 1
        world.append()
        sent.append(number)
        assert world.until_due()
        pauses.append((world.now - before) // SECOND)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
    assert LAST_PAUSE_NS == 60 * SECOND
    assert sent[:6] == [100, 1, 102, 2, 104, 3]  # a new one and an old one in turn
    world.ack(1)  # late, and of a batch that was given up: still a sign
    assert not world.outbox.narrow
    assert world.outbox.room == 1
    seen: list[list[int]] = []
    while len(seen) < 4:
        seen.append(world.take_all())
        world.ack(*seen[-1])
    # What came after the last try, and the newest one then, are new. From 1 the room grows by what arrives.
    assert seen == [[111], [2, 112], [3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_late_word_of_what_is_long_gone_is_no_sign() -> None:
    world = World(waiting=20)
    world.take_all()
    world.ack(20)
    world.later(30)
    world.take()
    assert world.outbox.narrow
    world.ack(20)
    assert world.outbox.narrow


def test_reconnect_makes_everything_due_again_but_not_more_than_the_window() -> None:
    world = World(waiting=100)
    first = world.take_all()
    world.ack(100)
    world.outbox.restart(world.now)
    again = world.take_all()
    assert len(again) == FIRST_ROOM - 1  # one of four slots is for new ones
    assert set(again) < set(first) - {100}
    assert again == sorted(again)


def test_reconnect_in_an_outage_tries_one_batch_at_once() -> None:
    world = World(waiting=100)
    world.take_all()
    world.later(30)
    for _ in range(7):
        world.take()
        world.until_due()
    world.take()
    assert world.take() is None
    world.outbox.restart(world.now)
    assert world.take() == 100
    assert world.take() is None


def test_batches_that_the_spool_dropped_cost_no_pause() -> None:
    world = World(waiting=PAGE * 2)
    world.take_all()
    world.later(30)
    world.take()
    world.until_due()
    assert world.outbox.narrow
    world.take()
    world.spool -= set(range(1, PAGE * 2 - 3))
    world.until_due()
    assert world.take() is not None


def flying_for_long(count: int) -> Outbox:
    """`count` batches in flight whose time is over at 30 s; another one was acknowledged just before."""
    outbox = Outbox(16, TIMEOUT, 0)
    outbox.restart(0)
    outbox._room.begin(16)
    outbox.appended(count + 1)
    for number in range(1, count + 2):
        assert outbox.take(0) == number
        outbox.delivered(number, 0)
    outbox.acknowledged([(count + 1, count + 1)], 1, TIMEOUT - 1)
    return outbox


def test_reconnect_while_some_wait_to_be_repeated_takes_each_once() -> None:
    outbox = flying_for_long(3)
    assert outbox.take(TIMEOUT) == 1
    outbox.restart(TIMEOUT)
    assert outbox.take(TIMEOUT) == 4
    outbox.missing(4)
    assert outbox.wanted() == 0
    outbox.supply(0, [1, 2, 3])
    assert [outbox.take(TIMEOUT) for _ in range(4)] == [1, 2, 3, None]


def test_batch_on_its_way_to_the_broker_is_not_repeated() -> None:
    outbox = flying_for_long(2)
    assert [outbox.take(TIMEOUT) for _ in range(3)] == [1, 2, None]
    outbox.delivered(1, TIMEOUT)
    outbox.acknowledged([(9, 9)], 1, 3 * TIMEOUT - 1)
    assert outbox.take(3 * TIMEOUT) == 1  # its second time is over; 2 still has not reached the broker
    assert outbox.take(3 * TIMEOUT) is None


def test_page_that_comes_too_late_is_ignored() -> None:
    outbox = Outbox(8, TIMEOUT, 100)
    outbox.restart(0)
    outbox.supply(50, [51, 52])
    assert outbox.wanted() == 0
    outbox.supply(0, [1, 2])
    outbox.supply(2, [3, 4])
    outbox.take(0)
    assert [outbox.take(0) for _ in range(3)] == [1, 2, None]


def test_a_million_waiting_batches_cost_a_page_of_memory() -> None:
    outbox = Outbox(64, TIMEOUT, 10**6)
    outbox.restart(0)
    acked = 0
    for _ in range(5000):
        number = outbox.take(0)
        if number is None:
            after = outbox.wanted()
            assert after is not None
            outbox.supply(after, list(range(after + 1, after + 1 + PAGE)))
        else:
            outbox.delivered(number, 0)
            outbox.acknowledged([(number, number)], 1, 0)
            acked += 1
        assert len(outbox._ahead) <= PAGE
    assert acked > 4900


def test_batches_that_connections_end_with_go_alone_after_all_others() -> None:
    """A broker that hangs up on what is too large for it would never get anything behind that."""
    world = World(waiting=40)
    poison = {2, 30}

    def connection() -> list[int]:
        """One, until it ends; what came through."""
        suspects.extend(world.outbox.restart(world.now))
        came: list[int] = []
        while True:
            burst: list[int] = []  # is on its way before the broker reads the first of it
            while (number := world.outbox.take(world.now)) is not None:
                burst.append(number)
            if not burst:
                if (after := world.outbox.wanted()) is not None:
                    world.outbox.supply(after, sorted(n for n in world.spool if n > after)[:PAGE])
                elif not world.until_due() or world.now - begin > 3600 * SECOND:
                    return came
            for number in burst:
                if number in poison:
                    tries.append((world.now - begin) // SECOND)
                    return came
                world.outbox.delivered(number, world.now)
                world.ack(number)
                came.append(number)

    begin, suspects, tries = world.now, list[int](), list[int]()
    came = [connection() for _ in range(30)]
    assert world.spool == poison
    assert set(suspects) > poison
    assert len(suspects) <= 2 * FIRST_ROOM
    assert 1 in came[0]
    # Once nothing else is left they are tried once a minute, in turn.
    assert len(tries) > 20
    assert all(later - earlier >= 60 for earlier, later in pairwise(tries[10:]))
    assert world.outbox.take(world.now) is None
    world.append()
    world.outbox.restart(world.now)
    assert world.take() == 41


def test_a_new_batch_that_was_lost_does_not_hold_up_the_next() -> None:
    world = World(waiting=300)
    world.outbox._room.begin(1)
    assert world.take() == 300
    world.append(3)
    assert world.take() is None
    for number in (301, 302, 303):
        before = world.now
        assert world.until_due()
        assert world.now - before == SECOND
        assert world.take() == number
        assert world.take() is None
    assert world.outbox.in_flight == 4


STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 40)),
    st.tuples(st.just("take"), st.integers(1, 20)),
    st.tuples(st.just("ack"), st.integers(0, 1 << 30)),
    st.tuples(st.just("ack many"), st.integers(0, 1 << 30)),
    st.tuples(st.just("old ack"), st.integers(0, 1 << 30)),
    st.tuples(st.just("wait"), st.integers(1, 100)),
    st.tuples(st.just("reconnect"), st.just(0)),
    st.tuples(st.just("torn"), st.integers(1, 5)),
    st.tuples(st.just("agent restarts"), st.just(0)),
    st.tuples(st.just("limit drops"), st.integers(1, 30)),
)


@settings(max_examples=300, deadline=None)
@given(window=st.integers(1, 20), waiting=st.integers(0, 600), steps=st.lists(STEP, max_size=60))
def test_any_interleaving_ends_with_everything_delivered(
    window: int, waiting: int, steps: list[tuple[str, int]]
) -> None:
    world = World(waiting, window)
    acknowledged: set[int] = set()
    dropped: set[int] = set()

    def ack(numbers: set[int]) -> None:
        assert numbers <= set(world.taken), "acknowledged without having been published: the test is wrong"
        acknowledged.update(numbers)
        world.ack(*numbers)

    for kind, amount in steps:
        published = sorted(world.spool & set(world.taken))
        if kind == "append":
            world.append(amount)
        elif kind == "take":
            for _ in range(amount):
                world.take()
        elif kind == "ack" and published:
            ack({published[amount % len(published)]})
        elif kind == "ack many" and published:
            ack(set(random.Random(amount).sample(published, 1 + amount % len(published))))
        elif kind == "old ack" and acknowledged:
            ack({sorted(acknowledged)[amount % len(acknowledged)]})
        elif kind == "wait":
            world.later(amount)
        elif kind == "reconnect":
            world.outbox.restart(world.now)
        elif kind == "torn":  # the connection ends with some on their way to the broker
            for _ in range(amount):
                world.outbox.take(world.now)
            world.outbox.restart(world.now)
        elif kind == "agent restarts":
            world.boot()
        elif kind == "limit drops":
            oldest = sorted(world.spool)[:amount]
            dropped.update(oldest)
            world.spool -= set(oldest)
    # From here on every batch is acknowledged as soon as it is published: how long until all are?
    budget = 20 * len(world.spool) + 200
    while world.spool:
        budget -= 1
        assert budget > 0, f"{len(world.spool)} batches are never published: {sorted(world.spool)[:5]}"
        number = world.take()
        if number is not None:
            ack({number})
        else:
            assert world.until_due(), "asleep for ever with batches waiting"
    assert acknowledged | dropped == set(range(1, world.last + 1))
    assert acknowledged <= set(world.taken)


@pytest.mark.parametrize("loss", [0.1, 0.5])
def test_lossy_both_ways_everything_arrives_without_a_flood(loss: float) -> None:
    chance = random.Random(7)
    world = World(waiting=300, window=16)
    for _ in range(200_000):
        number = world.take()
        if number is not None:
            if chance.random() > loss:
                world.ack(number)
        elif not world.until_due():
            break
    assert not world.spool
    assert sum(world.taken.values()) < 300 / (1 - loss) * 1.5


def narrowed(waiting: int = 100) -> World:
    """Nobody has acknowledged for so long that the pauses have reached a minute."""
    world = World(waiting)
    world.take_all()
    world.later(30)
    for _ in range(8):
        assert world.take() is not None
        assert world.until_due()
    assert world.take() is not None
    return world


def test_hint_ends_the_pause_and_the_newest_goes_first() -> None:
    world = narrowed()
    world.append(3)
    world.later(7)
    assert world.take() is None
    world.outbox.hinted(world.now)
    assert world.take() == 103
    assert world.take() is None  # one, as nothing is acknowledged yet
    before = world.now
    assert world.until_due()
    assert world.now - before == SECOND  # and the pauses begin anew
    world.take()
    world.until_due()
    assert world.now - before == 3 * SECOND


def test_newest_batch_that_found_no_room_comes_again_before_the_backlog_is_through() -> None:
    world = narrowed()
    world.append()
    world.later(7)
    world.outbox.hinted(world.now)
    assert world.take() == 101
    world.ack(5)  # the collector was full: what it had held is written now, and makes room
    assert world.take() == 101


def test_flood_of_hints_makes_an_attempt_a_second() -> None:
    world = narrowed()
    published = sum(world.taken.values())
    for _ in range(10_000):
        world.later(0.01)
        world.outbox.hinted(world.now)
        world.take()
    assert sum(world.taken.values()) - published <= 101


def test_hint_means_nothing_while_acknowledgements_come() -> None:
    world = World(waiting=100)
    world.take_all()
    world.outbox.hinted(world.now)
    assert world.take_all() == []
    assert not world.outbox.narrow


def test_new_batches_of_a_lost_connection_are_still_new_and_more_than_their_share_are_not() -> None:
    world = World(waiting=100, window=16)
    world.ack(*world.take_all())
    world.append(2)
    assert {101, 102} < set(world.take_all())
    world.outbox.restart(world.now)
    assert world.take() == 101
    world.append(100)
    world.outbox.restart(world.now)
    assert world.take() == 199  # a quarter of the window


def test_losses_halve_the_room_and_a_new_batch_always_finds_a_slot() -> None:
    world = World(waiting=300, window=8)
    rooms = []
    for _ in range(24):  # nothing arrives but the new ones
        world.take_all()
        world.append()
        number = world.take()
        assert number == world.last
        world.ack(number)
        rooms.append(world.outbox.room)
        world.later(15)
    assert not world.outbox.narrow
    assert rooms[:2] == [8, 8]
    assert max(rooms[6:]) <= 4
    assert sum(world.taken.values()) < 24 * 2
    for _ in range(60):
        world.ack(*[n for n in world.taken if n in world.spool])
        world.take_all()
    assert world.outbox.room == 8
