"""Probes, stamps and replies in, samples out: the ring of arrays says what a dictionary says."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.engine.ledger import Ledger
from probe.engine.samples import ERROR, LOCAL, REFUSED, SENT, SKIPPED, Samples
from tests.unit.probe.repeatable import repeatable

SIZE = 2_048  # the smallest ring


def array(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def ids(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array([value & 0xFFFF_FFFF for value in values], np.uint32)


def filled(count: int, flows: int = 1, first: int = 0) -> Ledger:
    """A ledger with `count` probes, due and sent at 1000, 1010, ... ns; their numbers begin with `first`."""
    ledger = Ledger(10, flows)
    ledger.floor = ledger.head = ledger.planned = first
    send(ledger, count, flows)
    ledger.settle()
    return ledger


def send(ledger: Ledger, count: int, flows: int = 1) -> None:
    numbers = ledger.planned + np.arange(count)
    given_numbers = ledger.plan(numbers % flows, 1_000 + numbers * 10)
    assert given_numbers.tolist() == numbers.tolist()
    for number in numbers.tolist():
        ledger.leave(1, 1_000 + number * 10, SENT)


def test_a_probe_from_plan_to_cut() -> None:
    ledger = filled(3)
    ledger.stamped(ids(0, 2), array(1_003, 1_023))
    assert ledger.answered(array(2, 0), array(1_040, 1_050), 2_000).tolist() == [True, True]
    samples = ledger.cut(1_020, 1_000)
    assert samples.inside == 2
    assert samples.due.tolist() == samples.sent.tolist() == [1_000, 1_010, 1_020]
    assert samples.tx.tolist() == [1_003, 0, 1_023]
    assert samples.rx.tolist() == [1_050, 0, 1_040]
    assert samples.state.tolist() == [SENT] * 3
    # What is not inside comes again with the next window.
    assert ledger.cut(1_030, 1_000).due.tolist() == [1_020]
    assert len(ledger.cut(9_999, 1_000).due) == 0


def test_what_is_due_at_the_very_end_belongs_to_the_next_window() -> None:
    ledger = filled(3)
    assert ledger.cut(1_010, 1_000).inside == 1


def test_planned_probes_are_no_samples_until_they_leave() -> None:
    ledger = filled(2)
    ledger.plan(array(0, 0), array(1_020, 1_030))
    assert len(ledger.cut(9_999, 1_000).due) == 2
    ledger.leave(1, 1_025, REFUSED)
    ledger.leave(1, 1_400, SKIPPED)
    samples = ledger.cut(9_999, 1_000)
    assert samples.state.tolist() == [REFUSED, SKIPPED]
    assert samples.sent.tolist() == [1_025, 1_400]


def test_duplicates_within_a_batch_and_after_it() -> None:
    ledger = filled(3)
    ledger.answered(array(1, 1, 2, 1), array(1_050, 1_060, 1_070, 1_080), 0)
    ledger.answered(array(2, 0), array(1_090, 1_095), 0)
    samples = ledger.cut(9_999, 1_000)
    assert samples.rx.tolist() == [1_095, 1_050, 1_070]  # the first reply counts
    assert samples.duplicates.tolist() == [0, 2, 1]


def test_a_storm_of_duplicates_is_counted_up_to_255() -> None:
    for batches in ([256], [200, 256], [250, 255, 1], [256] * 5, [1, 254], [2] * 127 + [200]):
        ledger = filled(2)
        for batch in batches:
            ledger.answered(np.zeros(batch, np.int64), np.full(batch, 1_050), 0)
        assert ledger.cut(9_999, 1_000).duplicates.tolist() == [min(sum(batches) - 1, 255), 0], batches


def test_without_a_stamp_our_clock_stands_in() -> None:
    ledger = filled(2)
    ledger.answered(array(0, 1), array(0, 1_060), 5_000)
    samples = ledger.cut(9_999, 1_000)
    assert samples.rx.tolist() == [5_000, 1_060]
    assert samples.unstamped.tolist() == [True, False]


def test_replies_after_the_window_closed_are_strays_of_their_flow() -> None:
    ledger = filled(6, flows=3)
    ledger.answered(array(0), array(1_050), 0)
    ledger.cut(1_030, 1_000)
    ledger.answered(array(1, 0, 1, 2, 3), array(2_001, 2_002, 2_003, 2_004, 2_005), 0)
    ledger.failed(2, local=False)
    ledger.failed(2, local=False)
    ledger.failed(5, local=False)
    assert ledger.late.tolist() == [0, 1, 1]
    assert ledger.late_duplicates.tolist() == [1, 1, 0]
    assert ledger.late_errors.tolist() == [0, 0, 1]
    samples = ledger.cut(9_999, 1_000)
    assert samples.rx.tolist() == [2_005, 0, 0]
    assert samples.state.tolist() == [SENT, SENT, SENT | ERROR]


def test_icmp_errors_say_whose_they_are() -> None:
    ledger = filled(3)
    ledger.failed(0, local=False)
    ledger.failed(1, local=True)
    ledger.failed(7, local=True)
    ledger.failed(-1, local=True)
    assert ledger.cut(9_999, 1_000).state.tolist() == [SENT | ERROR, SENT | ERROR | LOCAL, SENT]


def test_numbers_that_were_never_sent_are_not_known() -> None:
    ledger = filled(3)
    ledger.plan(array(0), array(1_030))
    numbers = array(3, 4, 1 << 40, -1, 2)
    assert ledger.answered(numbers, np.full(5, 1_050), 0).tolist() == [False, False, False, False, True]
    assert ledger.forgotten == 0


def test_the_ring_wraps_and_forgets_the_oldest() -> None:
    ledger = Ledger(10, 1)
    assert ledger.size == SIZE
    for _ in range(10):
        send(ledger, 500)
        newest = ledger.head - 1
        ledger.stamped(ids(newest), array(3))
        ledger.answered(array(newest), array(4), 0)
        samples = ledger.cut(1 << 40, 1_000)
        assert samples.inside == 500
        assert (samples.tx != 0).tolist() == (samples.rx != 0).tolist() == [False] * 499 + [True]
    kept = 5_000 - SIZE
    assert ledger.answered(array(kept, kept - 1), array(7, 7), 0).tolist() == [True, False]
    assert ledger.forgotten == 1
    assert ledger.overrun == 0


def test_what_is_overwritten_before_its_window_closed_is_counted() -> None:
    ledger = Ledger(10, 1)
    send(ledger, SIZE + 5)
    send(ledger, 7)
    assert ledger.overrun == 12
    samples = ledger.cut(1 << 40, 1_000)
    assert samples.inside == SIZE
    assert samples.due[0] == 1_000 + 12 * 10


@pytest.mark.parametrize("first", [(1 << 32) - 5, (1 << 33) - 5, (1 << 40) - 1])
def test_stamp_ids_are_unwrapped_across_32_bits(first: int) -> None:
    ledger = filled(10, first=first)
    numbers = [first + n for n in range(10)]
    ledger.stamped(ids(*numbers), array(*range(1, 11)))
    assert ledger.cut(1 << 60, 1_000).tx.tolist() == list(range(1, 11))


def test_ids_of_no_probe_stamp_nothing() -> None:
    ledger = filled(3)
    ledger.stamped(ids(3, 100, -1, 1 << 31), array(9, 9, 9, 9))
    send(ledger, 2)
    assert ledger.cut(1 << 60, 1_000).tx.tolist() == [0] * 5


def test_a_stamp_of_an_overwritten_probe_goes_to_no_other() -> None:
    ledger = filled(SIZE)
    ledger.cut(1 << 60, 1_000)
    ledger.plan(array(0, 0), array(50_000, 50_010))
    # Number 0 and 1 lost their rows to the probes just planned, which have not left.
    ledger.stamped(ids(0, 1), array(7, 7))
    ledger.leave(2, 50_010, REFUSED)
    assert ledger.cut(1 << 60, 1_000).tx.tolist() == [0, 0]


def test_a_short_quote_is_found_among_the_last_65536() -> None:
    ledger = filled(10, first=65_530)
    assert [ledger.find(number & 0xFFFF) for number in range(65_530, 65_540)] == list(range(65_530, 65_540))
    assert ledger.find(65_540 & 0xFFFF) == 65_540 - 65_536
    assert filled(3).find(9) < 0


def test_a_flow_counts_as_stamped_once_one_of_its_probes_was() -> None:
    ledger = filled(4, flows=2)
    assert ledger.cut(1_010, 1_000).stamping.tolist() == [False, False]
    ledger.stamped(ids(3), array(5))
    assert ledger.cut(1_020, 1_000).stamping.tolist() == [False, True]
    assert ledger.cut(1_030, 1_000).stamping.tolist() == [False, True]


def test_a_local_error_says_that_without_a_stamp_nothing_left() -> None:
    ledger = filled(4, flows=2)
    ledger.cut(1_020, 1_000)
    ledger.failed(1, local=True)
    # The probe was judged when its window closed, so the error is no stray; the next ones are known by it.
    assert ledger.late_errors.tolist() == [0, 0]
    assert ledger.cut(1_040, 1_000).stamping.tolist() == [False, True]


@dataclass
class Row:
    """What the dictionary remembers of one probe."""

    flow: int
    due: int
    sent: int = 0
    tx: int = 0
    rx: int = 0
    state: int = 0
    unstamped: bool = False
    duplicates: int = 0


@dataclass
class Model:
    """The ledger as a dictionary that forgets nothing by itself."""

    size: int
    rows: dict[int, Row] = field(default_factory=dict)
    floor: int = 0
    head: int = 0
    planned: int = 0
    late: dict[int, int] = field(default_factory=dict)
    late_duplicates: dict[int, int] = field(default_factory=dict)
    late_errors: dict[int, int] = field(default_factory=dict)
    stamping: set[int] = field(default_factory=set)
    forgotten: int = 0

    def knows(self, number: int) -> bool:
        return max(0, self.planned - self.size) <= number < self.head

    def plan(self, flows: list[int], dues: list[int]) -> None:
        for flow, due in zip(flows, dues, strict=True):
            self.rows[self.planned] = Row(flow, due)
            self.planned += 1
        self.floor = max(self.floor, self.planned - self.size)

    def leave(self, count: int, now: int, state: int) -> None:
        for number in range(self.head, self.head + count):
            self.rows[number].sent, self.rows[number].state = now, state
        self.head += count

    def stamped(self, number: int, stamp: int) -> None:
        if self.knows(number):
            self.rows[number].tx = stamp

    def answered(self, number: int, stamp: int, now: int) -> bool:
        if not self.knows(number):
            self.forgotten += 0 <= number < self.head
            return False
        row, stray = self.rows[number], number < self.floor
        if row.rx:
            row.duplicates = min(row.duplicates + 1, 255)
            self.late_duplicates[row.flow] = self.late_duplicates.get(row.flow, 0) + stray
        else:
            row.rx, row.unstamped = stamp or now, not stamp
            self.late[row.flow] = self.late.get(row.flow, 0) + stray
        return True

    def failed(self, number: int, local: bool) -> None:
        if self.knows(number):
            row = self.rows[number]
            if local:
                self.stamping.add(row.flow)
            elif number < self.floor and not row.state & ERROR:
                self.late_errors[row.flow] = self.late_errors.get(row.flow, 0) + 1
            row.state |= ERROR | LOCAL if local else ERROR

    def cut(self, until: int) -> tuple[int, list[Row]]:
        rows = [self.rows[number] for number in range(self.floor, self.head)]
        inside = sum(row.due < until for row in rows)
        self.floor += inside
        self.stamping -= {row.flow for row in rows if row.rx and not row.tx}
        self.stamping |= {row.flow for row in rows if row.tx}
        return inside, rows


def as_rows(samples: Samples) -> list[Row]:
    columns = (
        samples.flow, samples.due, samples.sent, samples.tx, samples.rx, samples.state, samples.unstamped,
        samples.duplicates,
    )  # fmt: skip
    return [Row(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


@repeatable
@given(st.integers(0, 1 << 32), st.integers(1, 40), st.sampled_from([0, (1 << 32) - 700]))
def test_as_a_dictionary(seed: int, rounds: int, first: int) -> None:
    random = Random(seed)
    ledger, model = Ledger(1, 4), Model(SIZE)
    for it in (ledger, model):
        it.floor = it.head = it.planned = first
    now = 1_000
    for _ in range(rounds):
        if model.planned == model.head:
            count = random.choice([1, 3, 50, 400])
            flows, dues = random.choices(range(4), k=count), [now + n for n in range(count)]
            ledger.plan(array(*flows), array(*dues))
            model.plan(flows, dues)
        for _ in range(random.randrange(4)):
            count = random.randint(0, model.planned - model.head)
            state = random.choice([SENT, SENT, SENT, REFUSED, SKIPPED])
            ledger.leave(count, now, state)
            model.leave(count, now, state)
        now += 500
        ledger.settle()
        near = range(max(first, model.head - random.choice([10, 600, 2 * SIZE])), model.head + 3)
        stamps = {number: random.randrange(1, 9_999) for number in random.choices(near, k=20)}
        ledger.stamped(ids(*stamps), array(*stamps.values()))
        for number, stamp in stamps.items():
            model.stamped(number, stamp)
        numbers = random.choices(near, k=random.randrange(1, 60))
        arrivals = [random.choice([0, now, now + 1]) for _ in numbers]
        known = ledger.answered(array(*numbers), array(*arrivals), now)
        assert known.tolist() == [
            model.answered(n, stamp, now) for n, stamp in zip(numbers, arrivals, strict=True)
        ]
        for number in random.choices(near, k=2):
            local = random.random() < 0.5
            ledger.failed(number, local)
            model.failed(number, local)
        if random.random() < 0.5:
            until = now - random.randrange(600)
            samples = ledger.cut(until, 1_000)
            assert (samples.inside, as_rows(samples)) == model.cut(until)
            assert set(np.flatnonzero(samples.stamping).tolist()) == model.stamping
    for column, counted in (
        (ledger.late, model.late),
        (ledger.late_duplicates, model.late_duplicates),
        (ledger.late_errors, model.late_errors),
    ):
        assert column.tolist() == [counted.get(flow, 0) for flow in range(4)]
    assert ledger.forgotten == model.forgotten
    assert (ledger.floor, ledger.head, ledger.planned) == (model.floor, model.head, model.planned)
