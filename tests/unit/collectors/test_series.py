"""How many series an agent may have, and that the book about it stays small."""

from __future__ import annotations

import pytest

from collectors.series import SeriesBook
from collectors.validate import validate
from probe.clock import SECOND

NOW = 1_790_000_000 * SECOND
DAY = 86_400 * SECOND


def heads(first: int, last: int) -> frozenset[bytes]:
    return frozenset(b"probe,agent=a,target=%d" % number for number in range(first, last))


def test_what_is_within_the_limit_is_let_in_again_and_again() -> None:
    book = SeriesBook(10)
    for _ in range(3):
        assert book.admit_all("a", heads(0, 10), NOW)
    assert len(book) == 10
    assert book.knows("a", heads(0, 10))
    assert not book.knows("b", heads(0, 10))
    assert not book.knows("a", heads(0, 9))


def test_series_beyond_the_limit_are_refused_and_the_known_ones_are_not() -> None:
    book = SeriesBook(10)
    book.admit("a", heads(0, 8), NOW)
    refused = book.admit("a", heads(4, 20), NOW)
    assert len(refused) == 10
    assert refused.isdisjoint(heads(0, 8))
    assert book.admit("a", heads(0, 8), NOW) == set()
    assert book.admit("b", heads(4, 14), NOW) == set()
    assert not book.knows("a", heads(4, 20))


def test_all_or_none_where_that_is_asked_for() -> None:
    book = SeriesBook(10)
    assert book.admit_all("a", heads(0, 8), NOW)
    assert not book.admit_all("a", heads(5, 11), NOW)
    assert len(book) == 8
    assert book.admit_all("a", heads(5, 10), NOW)
    assert not book.knows("a", heads(5, 11))


def test_every_collector_lets_the_same_series_in() -> None:
    order = [b"probe,agent=a,target=%d" % number for number in range(20)]
    for _ in range(2):
        assert SeriesBook(10).admit("a", order, NOW) == set(order[10:])


def test_the_next_day_begins_anew() -> None:
    book = SeriesBook(10)
    book.admit("a", heads(0, 10), NOW)
    assert book.admit("a", heads(10, 20), NOW + DAY - 1) != set()
    assert book.admit("a", heads(10, 20), NOW + DAY) == set()
    assert len(book) == 10


def test_the_whole_book_is_bounded_and_who_was_silent_longest_goes() -> None:
    book = SeriesBook(100, total=250)
    for agent in ("a", "b", "a", "c", "d"):
        assert book.admit_all(agent, heads(0, 100), NOW)
        assert len(book) <= 250
    assert [agent for agent in "abcd" if book.knows(agent, heads(0, 100))] == ["c", "d"]
    book.admit_all("c", heads(0, 100), NOW)
    book.admit_all("e", heads(0, 100), NOW)
    assert [agent for agent in "abcde" if book.knows(agent, heads(0, 100))] == ["c", "e"]


def text(*targets: int, escaped: str = "") -> bytes:
    return "".join(f"probe,agent=a,target={t}{escaped} sent=1i {NOW}\n" for t in targets).encode()


@pytest.mark.parametrize("escaped", ["", "\\ x"])  # one look at the whole, and line by line
def test_a_batch_keeps_its_lines_of_known_series(escaped: str) -> None:
    book = SeriesBook(3)
    topic = "coloprobe/v1/a/lines/9f2c41d0/1"

    def judged(*targets: int) -> tuple[list[bytes], int, int]:
        batch = validate(topic, text(*targets, escaped=escaped), now_ns=NOW, max_bytes=1 << 18, series=book)
        assert all("limits.series, 3" in bad.reason for bad in batch.bad)
        return batch.body.splitlines(keepends=True), batch.over_limit, len(batch.bad)

    assert judged(1, 2) == ([text(1, escaped=escaped), text(2, escaped=escaped)], 0, 0)
    assert judged(2, 3, 3) == ([text(n, escaped=escaped) for n in (2, 3, 3)], 0, 0)
    assert judged(1, 4, 2, 5, 5) == ([text(1, escaped=escaped), text(2, escaped=escaped)], 3, 3)
    assert judged(7, 8) == ([], 2, 2)
    assert len(book) == 3


def test_known_series_are_no_pass_for_another_agents_topic() -> None:
    book = SeriesBook(3)
    validate("coloprobe/v1/a/lines/9f2c41d0/1", text(1), now_ns=NOW, max_bytes=1 << 18, series=book)
    with pytest.raises(Exception, match="does not come from b"):
        validate("coloprobe/v1/b/lines/9f2c41d0/1", text(1), now_ns=NOW, max_bytes=1 << 18, series=book)


def test_agents_with_a_single_series_each_are_bounded_too() -> None:
    book = SeriesBook(100, total=1000)
    for number in range(1000):
        assert book.admit_all(f"a{number}", heads(0, 1), NOW)
    assert len(book) <= 100


def test_who_sends_the_same_series_again_and_again_was_not_silent() -> None:
    book = SeriesBook(100, total=1000)
    assert book.admit_all("steady", heads(0, 1), NOW)
    for number in range(1000):
        assert book.admit_all(f"a{number}", heads(0, 1), NOW)
        assert book.knows("steady", heads(0, 1))
