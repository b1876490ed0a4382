"""Which write comes next, and what becomes of those that fail: decisions without any I/O."""

from __future__ import annotations

import gzip
import random

import pytest

from collectors import members
from collectors.backlog import (
    FORGIVEN,
    GIVE_UP,
    GROUP_BYTES,
    LIVE_NS,
    MOST_OPEN,
    Backlog,
)
from collectors.jobs import OVERHEAD_BYTES, Held, Job
from probe.telemetry.topics import BatchId


def held(number: int, *lines: bytes, agent: str = "a", live: bool = True) -> Held:
    body = b"".join(line + b"\n" for line in lines or (b"good",))
    return Held(BatchId(agent, "9f2c41d0", number), body, body.count(b"\n"), live=live)


def numbers(batches: list[Held]) -> list[int]:
    return [batch.id.number for batch in batches if batch.id]


def take(backlog: Backlog) -> Job:
    job = backlog.next()
    assert job is not None
    return job


def test_what_waits_is_written_in_groups_of_bounded_size() -> None:
    backlog = Backlog(1 << 30)
    for number in range(5):
        assert not backlog.offer(held(number, b"x" * (GROUP_BYTES * 2 // 5)))
    groups = []
    while job := backlog.next():
        assert len(job.body()) <= GROUP_BYTES
        groups.append(numbers(backlog.written(job)))
    assert groups == [[0, 1], [2, 3], [4]]
    assert backlog.bytes == len(backlog) == 0


def test_a_batch_larger_than_a_group_goes_alone() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(1, b"x" * (2 * GROUP_BYTES)))
    assert numbers(take(backlog).batches) == [1]


def test_it_holds_no_more_than_its_limit_but_always_one() -> None:
    backlog = Backlog(3 * OVERHEAD_BYTES)
    assert not backlog.offer(held(1, b"x" * 100_000))
    assert backlog.offer(other := held(1, agent="b")) == [other]
    backlog.written(take(backlog))
    taken = [not backlog.offer(held(1, agent=agent)) for agent in "abcd"]
    assert taken == [True, True, False, False]
    assert backlog.bytes <= 3 * OVERHEAD_BYTES


def test_no_agent_takes_more_than_half() -> None:
    backlog = Backlog(20 * OVERHEAD_BYTES)
    taken = [not backlog.offer(held(number)) for number in range(20)]
    assert sum(taken) == 9  # 9 * (1024 + 5) <= 10 * 1024
    assert not backlog.offer(held(1, agent="b"))


def test_live_batches_go_first_and_old_ones_still_go() -> None:
    backlog = Backlog(1 << 30)
    for number in range(10):
        backlog.offer(held(number, b"x" * GROUP_BYTES, live=False))  # a group each
    for number in range(10, 20):
        backlog.offer(held(number, b"x" * GROUP_BYTES))
    order = [numbers(backlog.written(take(backlog)))[0] for _ in range(20)]
    assert [number for number in order if number < 10] == list(range(10))
    assert [number for number in order if number >= 10] == list(range(10, 20))
    assert sum(number >= 10 for number in order[:8]) >= 6
    assert 0 in order[:6]


def test_a_live_batch_pushes_out_the_old_one_that_came_last() -> None:
    backlog = Backlog(8 * OVERHEAD_BYTES)
    old = [held(number, agent="abcdefg"[number], live=False) for number in range(7)]
    assert not any(backlog.offer(one) for one in old)
    too_late = held(8, agent="x", live=False)
    assert backlog.offer(too_late) == [too_late]
    assert backlog.offer(held(9, agent="y")) == [old[6]]
    assert backlog.offer(held(10, agent="z")) == [old[5]]
    assert backlog.bytes <= 8 * OVERHEAD_BYTES
    assert backlog.holds(BatchId("y", "9f2c41d0", 9))
    assert not backlog.holds(BatchId("g", "9f2c41d0", 6))


def test_what_was_live_an_hour_ago_makes_room_for_what_is_now() -> None:
    backlog = Backlog(8 * OVERHEAD_BYTES)
    hour = [held(number, agent="abcdefg"[number]) for number in range(7)]
    for number, one in enumerate(hour):
        one.newest_ns = number * LIVE_NS
        assert not backlog.offer(one)
    now = held(9, agent="y")
    now.newest_ns = 4 * LIVE_NS + 5
    assert backlog.offer(now) == [hour[0]]
    later = held(10, agent="z")
    later.newest_ns = 4 * LIVE_NS + 5
    assert backlog.offer(later) == [hour[1]]
    for number in (11, 12):
        one = held(number, agent=f"x{number}")
        one.newest_ns = 4 * LIVE_NS + 5
        backlog.offer(one)
    last = held(13, agent="w")
    last.newest_ns = 4 * LIVE_NS + 5
    assert backlog.offer(last) == [last]


def test_an_agents_share_is_freed_of_its_own_old_batches_only() -> None:
    backlog = Backlog(8 * (OVERHEAD_BYTES + 5))
    assert not backlog.offer(held(1, agent="b", live=False))
    mine = [held(number, live=False) for number in range(4)]
    assert not any(backlog.offer(one) for one in mine)
    assert backlog.offer(held(9)) == [mine[3]]
    assert backlog.holds(BatchId("b", "9f2c41d0", 1))


def test_members_of_a_group_are_one_gzip_body() -> None:
    backlog = Backlog(1 << 30)
    texts = [b"one\n", b"two\ntwo\n", b"three\n"]
    for number, text in enumerate(texts):
        packed = number != 1
        body = gzip.compress(text) if packed else text
        backlog.offer(Held(BatchId("a", "9f2c41d0", number), body, 1, packed=packed, text_bytes=len(text)))
    backlog.offer(Held(BatchId("a", "9f2c41d0", 9), b"", aside=[]))
    whole = take(backlog)
    assert whole.packed
    assert gzip.decompress(whole.body()) == b"".join(texts)
    backlog.split(whole, "no")
    bodies = []
    while job := backlog.next():
        bodies.append((job.packed, job.body()))
        backlog.written(job)
    assert sorted(gzip.decompress(body) if packed else body for packed, body in bodies if body) == [
        b"one\ntwo\ntwo\n",
        b"three\n",
    ]


def test_a_packed_batch_is_split_into_its_lines() -> None:
    backlog = Backlog(1 << 30)
    text = b"good 1\nbad\ngood 2\n"
    backlog.offer(
        Held(BatchId("a", "9f2c41d0", 1), gzip.compress(text), 3, packed=True, text_bytes=len(text))
    )
    finished: list[Held] = []
    written = b""
    while job := backlog.next():
        body = gzip.decompress(job.body()) if job.packed else job.body()
        if b"bad" in body:
            finished += backlog.split(job, "no")
        else:
            written += body
            finished += backlog.written(job)
    assert sorted(written.splitlines()) == [b"good 1", b"good 2"]
    assert [entry.content for entry in finished[0].aside] == ["bad"]


def test_a_member_that_not_everybody_reads_is_packed_anew_and_costs_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = gzip.compress(b"mine\n", 9, mtime=5)
    monkeypatch.setattr(members, "is_strict", lambda body: body != odd)
    backlog = Backlog(1 << 30)
    plain = gzip.compress(b"good\n", mtime=0)
    for agent, body in (("a", plain), ("evil", odd), ("b", plain)):
        backlog.offer(Held(BatchId(agent, "9f2c41d0", 1), body, 1, packed=True, text_bytes=5))
    job = take(backlog)
    assert odd in job.body()
    assert backlog.split(job, "no") == []
    job = take(backlog)
    assert odd not in job.body()
    assert gzip.decompress(job.body()) == b"good\nmine\ngood\n"
    assert len(backlog.written(job)) == 3
    backlog.offer(Held(BatchId("evil", "9f2c41d0", 2), odd, 1, packed=True, text_bytes=5))
    assert odd not in take(backlog).body()


def test_a_member_that_the_server_itself_trips_over_is_packed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = gzip.compress(b"mine\n", 9, mtime=5)
    monkeypatch.setattr(members, "is_strict", lambda body: body != odd)
    backlog = Backlog(1 << 30)
    backlog.offer(Held(BatchId("evil", "9f2c41d0", 1), odd, 1, packed=True, text_bytes=5))
    assert backlog.failed(take(backlog)) == []
    assert odd not in take(backlog).body()


@pytest.mark.parametrize("damage", [slice(0, -1), slice(0, -9), slice(0, 5)])
def test_strict_is_one_whole_member(damage: slice) -> None:
    good = gzip.compress(b"line\n" * 100)
    assert members.is_strict(good)
    assert not members.is_strict(good[damage])
    assert not members.is_strict(good + good)
    assert not members.is_strict(good[:-8] + b"\0" * 8)


def test_it_knows_what_it_holds_until_that_is_finished() -> None:
    backlog = Backlog(1 << 20)
    batch = held(1)
    backlog.offer(batch)
    assert batch.id is not None
    job = take(backlog)
    assert backlog.holds(batch.id)
    backlog.written(job)
    assert not backlog.holds(batch.id)


@pytest.mark.parametrize("seed", range(20))
def test_splitting_ends_with_exactly_the_bad_lines_aside(seed: int) -> None:
    chance = random.Random(seed)
    backlog = Backlog(1 << 30)
    expected: dict[int, list[str]] = {}
    for number in range(1, 12):
        lines = [
            b"%s %d" % (chance.choice([b"good"] * 5 + [b"bad"]), n) for n in range(chance.randrange(1, 30))
        ]
        expected[number] = [line.decode() for line in lines if line.startswith(b"bad")]
        backlog.offer(held(number, *lines))
    written: list[bytes] = []
    finished: list[Held] = []
    while job := backlog.next():
        if b"bad" in job.body():
            finished += backlog.split(job, "says the sink")
        else:
            written += job.body().split(b"\n")[:-1]
            finished += backlog.written(job)
    assert sorted(numbers(finished)) == list(range(1, 12))
    for batch in finished:
        assert batch.id is not None
        assert [entry.content for entry in batch.aside] == expected[batch.id.number]
        assert {entry.reason for entry in batch.aside} <= {"says the sink"}
    assert len(written) == sum(batch.count for batch in finished)
    assert backlog.bytes == len(backlog) == 0


def test_a_batch_of_bad_lines_takes_turns_with_the_others() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(1, *[b"bad %d" % n for n in range(200)], agent="hostile"))
    backlog.split(take(backlog), "no")
    for number in range(20):
        backlog.offer(held(number, b"x" * GROUP_BYTES))  # a group each
    writes = 0
    honest = 0
    while honest < 20:
        job = take(backlog)
        writes += 1
        if job.suspect:
            backlog.split(job, "no")
        else:
            honest += len(backlog.written(job))
    assert writes <= 41


def test_what_cannot_be_written_now_is_put_back_whole() -> None:
    backlog = Backlog(1 << 30)
    for number in (1, 2):
        backlog.offer(held(number, b"bad", b"good"))
    before = backlog.bytes
    for _ in range(50):
        assert backlog.failed(take(backlog)) == []
    assert backlog.bytes == before
    job = take(backlog)
    assert numbers(job.batches) == [1, 2]
    backlog.split(job, "")
    job = take(backlog)
    backlog.split(job, "")  # now lines of one batch
    while (job := take(backlog)).suspect is None:
        backlog.put_back(job)
    backlog.put_back(job)
    finished: list[Held] = []
    while waiting := backlog.next():
        finished += backlog.split(waiting, "no") if b"bad" in waiting.body() else backlog.written(waiting)
    assert sorted(numbers(finished)) == [1, 2]
    assert [len(batch.aside) for batch in finished] == [1, 1]


def test_a_batch_that_fails_while_others_go_through_is_dropped_and_they_are_not() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(1, b"poison"))
    backlog.offer(held(2))
    dropped: list[int] = []
    written: list[int] = []
    for number in range(3, 200):
        job = take(backlog)
        if b"poison" in job.body():
            dropped += numbers(backlog.failed(job))
        else:
            written += numbers(backlog.written(job))
        backlog.offer(held(number))
    assert dropped == [1]
    assert {2, 3, 4, 5} <= set(written)


def test_a_suspect_that_keeps_failing_is_dropped_too() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(1, b"a", b"b"))
    backlog.split(take(backlog), "no")
    dropped: list[int] = []
    for number in range(2, 2 + 9 * GIVE_UP):
        backlog.offer(held(number, agent="b"))
        job = take(backlog)
        dropped += numbers(backlog.failed(job)) if job.suspect else []
        if not job.suspect:
            backlog.written(job)
    assert dropped == [1]


def test_a_carriage_return_inside_a_line_does_not_split_it() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(1, b'bad "a\rb"', b"good"))
    finished = backlog.split(take(backlog), "no")
    while job := backlog.next():
        finished += backlog.split(job, "no") if b"bad" in job.body() else backlog.written(job)
    assert [entry.content for entry in finished[0].aside] == ['bad "a\rb"']


def test_one_bad_line_in_each_batch_of_one_agent_does_not_hold_up_the_others() -> None:
    backlog = Backlog(1 << 30)
    waiting: dict[BatchId, int] = {}
    waited: list[int] = []
    for step in range(600):  # 20 writes a second, 100 good batches and 10 of the hostile agent
        for number in range(5):
            one = held(step, agent=f"good-{number}")
            assert one.id
            waiting[one.id] = step
            backlog.offer(one)
        if step % 2 == 0:
            backlog.offer(held(step, *[b"good"] * 49, b"bad", agent="hostile"))
        job = take(backlog)
        done = backlog.split(job, "no") if b"bad" in job.body() else backlog.written(job)
        waited += [step - waiting.pop(batch.id) for batch in done if batch.id in waiting]
    assert len(waiting) < 50
    assert sum(steps > 20 for steps in waited) < len(waited) / 10  # until it was known whose fault it was


def test_an_agent_that_is_apart_is_grouped_with_others_again() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(0, b"bad", b"good"))
    finished: list[Held] = []
    while job := backlog.next():
        finished += backlog.split(job, "no") if b"bad" in job.body() else backlog.written(job)
    for number in range(1, FORGIVEN + 3):
        backlog.offer(held(number))
    grouped = [numbers(backlog.written(take(backlog))) for _ in range(FORGIVEN + 1)]
    assert grouped == [*([number] for number in range(1, FORGIVEN + 1)), [FORGIVEN + 1, FORGIVEN + 2]]
    assert backlog.bytes == len(backlog) == 0


def test_few_batches_are_in_pieces_at_a_time() -> None:
    backlog = Backlog(1 << 30)
    for number in range(200):
        backlog.offer(held(number, *[b"bad"] * 8, agent=f"a{number % 40}"))
    finished: list[Held] = []
    begun: set[Held] = set()
    most = 0
    while job := backlog.next():
        if job.suspect:
            begun.add(job.suspect.held)
        done = backlog.split(job, "no")
        finished += done
        begun -= set(done)
        most = max(most, len(begun))
    assert most <= MOST_OPEN
    assert sorted(numbers(finished)) == list(range(200))
    assert all(len(batch.aside) == 8 for batch in finished)
    assert backlog.bytes == len(backlog) == 0


def test_the_collectors_own_lines_do_not_make_room() -> None:
    backlog = Backlog(8 * OVERHEAD_BYTES)
    assert not backlog.offer(Held(None, b"event\n", 1, about="a"))
    old = [held(number, agent="bcdefg"[number], live=False) for number in range(6)]
    assert not any(backlog.offer(one) for one in old)
    dropped = []
    for number in range(7, 17):
        one = held(number, agent=f"x{number}")
        one.newest_ns = 2 * LIVE_NS
        dropped += backlog.offer(one)
    assert None not in [batch.id for batch in dropped]
    assert len(dropped) == 10


def test_who_comes_and_goes_all_the_time_uses_up_a_share_of_its_own() -> None:
    backlog = Backlog(20 * OVERHEAD_BYTES)
    taken = [not backlog.offer(Held(None, b"online\n", 1, about="hostile")) for _ in range(20)]
    assert sum(taken) == 9
    assert not backlog.offer(Held(None, b"the collector's own\n", 1))
    assert backlog.offer(held(1, agent="hostile"))
    assert not backlog.offer(held(1, agent="b"))


@pytest.mark.parametrize("seed", range(60))
def test_two_writes_under_way_whatever_becomes_of_them_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)
    backlog = Backlog(rng.choice([6_000, 40_000, 1 << 20]))
    sent: dict[int, list[bytes]] = {}
    sink: set[bytes] = set()
    left: list[int] = []  # finished or dropped
    under_way: list[Job] = []

    def finish(batches: list[Held]) -> None:
        for batch in batches:
            assert batch.id
            left.append(batch.id.number)
            aside = {str(entry.content).encode() for entry in batch.aside}
            assert set(sent[batch.id.number]) <= sink | aside
            assert batch.count == len(sent[batch.id.number]) - len(aside)

    def answer(job: Job) -> None:
        body = job.body()
        if b"bad" in body:
            finish(backlog.split(job, "no"))
        else:
            sink.update(body.splitlines())
            finish(backlog.written(job))

    for number in range(200):
        choice = rng.random()
        if choice < 0.4:
            made = [b"%s %d %d" % (rng.choices([b"bad", b"ok"], [1, 6])[0], number, n) for n in range(4)]
            sent[number] = made
            one = held(number, *made, agent=rng.choice("abcd"), live=rng.random() < 0.6)
            left += numbers(backlog.offer(one))
        elif choice < 0.7 and len(under_way) < 2:
            under_way += filter(None, [backlog.next()])
        elif under_way:
            job = under_way.pop(rng.randrange(len(under_way)))
            outcome = rng.random()
            if outcome < 0.15:
                backlog.put_back(job)
            elif outcome < 0.35:
                left += numbers(backlog.failed(job))
            else:
                answer(job)
    for job in under_way:
        backlog.put_back(job)
    while waiting := backlog.next():
        answer(waiting)
    assert sorted(left) == sorted(sent)
    assert backlog.bytes == len(backlog) == 0


def test_a_second_batch_of_an_agent_apart_is_rejected_while_the_first_is_written() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(1, b"bad"))
    first = take(backlog)
    backlog.offer(held(2, b"bad"))
    second = take(backlog)
    backlog.split(first, "no")
    pieces = take(backlog)
    assert pieces.suspect
    assert backlog.split(second, "no") == []
    finished = backlog.split(pieces, "no")
    while job := backlog.next():
        finished += backlog.split(job, "no")
    assert numbers(finished) == [1, 2]
    assert backlog.bytes == len(backlog) == 0
    assert backlog.offer(held(3)) == []


def test_pieces_that_are_put_back_meanwhile_are_not_forgotten() -> None:
    backlog = Backlog(1 << 30)
    backlog.offer(held(1, b"bad", b"good"))
    first = take(backlog)
    backlog.offer(held(2, b"bad"))
    second = take(backlog)
    backlog.split(first, "no")
    pieces = take(backlog)
    backlog.split(second, "no")
    backlog.put_back(pieces)
    finished: list[Held] = []
    while job := backlog.next():
        finished += backlog.split(job, "no") if b"bad" in job.body() else backlog.written(job)
    assert sorted(numbers(finished)) == [1, 2]
