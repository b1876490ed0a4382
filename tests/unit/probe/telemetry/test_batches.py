"""Lines into batches: whole, in order, within the limit, and held while the spool refuses."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import SpoolError
from probe.telemetry.batches import HEAD_ROOM, LIMIT, Batcher, pack, unpack


def head(number: int) -> str:
    return f"agent,agent=a batch={number}i 1"


class Shelf:
    """A spool in memory: what was appended, as text."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.full = False

    def append(self, make: Callable[[int], bytes]) -> int:
        if self.full:
            raise SpoolError("the disk is full")
        payload = make(len(self.batches) + 1)
        self.batches.append((gzip.decompress(payload) if payload[:2] == b"\x1f\x8b" else payload).decode())
        return len(self.batches)


def test_each_batch_opens_with_the_agents_line_and_its_number() -> None:
    shelf, batcher = Shelf(), Batcher(head)
    batcher.add(["probe a=1i 1", "probe a=2i 2"])
    assert batcher.flush(shelf.append) == [1]
    batcher.add(["probe a=3i 3"])
    assert batcher.flush(shelf.append) == [2]
    assert shelf.batches == [
        "agent,agent=a batch=1i 1\nprobe a=1i 1\nprobe a=2i 2\n",
        "agent,agent=a batch=2i 1\nprobe a=3i 3\n",
    ]


def test_nothing_makes_no_batch_unless_asked_for() -> None:
    shelf, batcher = Shelf(), Batcher(head)
    assert batcher.flush(shelf.append) == []
    assert batcher.flush(shelf.append, empty=True) == [1]
    assert shelf.batches == ["agent,agent=a batch=1i 1\n"]


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=400)))
def test_every_line_comes_out_once_in_order_and_batches_stay_below_the_limit(lines: list[str]) -> None:
    limit = HEAD_ROOM + 500
    shelf, batcher = Shelf(), Batcher(head, limit=limit)
    fitting = [line for line in lines if len(line.encode()) < 500]
    batcher.add(lines)
    numbers = batcher.flush(shelf.append)
    assert numbers == list(range(1, len(shelf.batches) + 1))
    out = []
    for number, text in enumerate(shelf.batches, 1):
        assert len(text.encode()) <= limit
        first, *rest = text.split("\n")[:-1]
        assert first == head(number)
        out += rest
    assert out == fitting
    assert batcher.oversized == len(lines) - len(fitting)
    assert batcher.held_bytes == 0


def test_many_lines_fill_few_batches() -> None:
    shelf, batcher = Shelf(), Batcher(head)
    line = "probe,agent=a,target=t " + "x" * 976
    batcher.add([line] * 1000)
    assert len(batcher.flush(shelf.append)) == 4
    assert all(LIMIT - HEAD_ROOM - 1000 < len(text) <= LIMIT for text in shelf.batches[:3])


def test_line_over_the_limit_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    shelf, batcher = Shelf(), Batcher(head)
    batcher.add(["x" * LIMIT, "probe a=1i 1", "y" * LIMIT])
    assert batcher.flush(shelf.append) == [1]
    assert shelf.batches == ["agent,agent=a batch=1i 1\nprobe a=1i 1\n"]
    assert batcher.oversized == 2
    [record] = caplog.records
    assert record.getMessage().startswith("a line of 262145 bytes fits into no batch and is lost: xxx")
    assert len(record.getMessage()) < 200


def test_lines_are_held_while_the_spool_refuses_then_the_oldest_go_counted() -> None:
    shelf, batcher = Shelf(), Batcher(head, hold=1000)
    shelf.full = True
    for n in range(300):
        batcher.add([f"probe n={n:03d}i 1"])  # 15 bytes with its newline
        with pytest.raises(SpoolError):
            batcher.flush(shelf.append)
    assert batcher.held_bytes <= 1000
    assert batcher.dropped == 300 - 1000 // 15
    shelf.full = False
    batcher.flush(shelf.append)
    kept = [f"probe n={n:03d}i 1" for n in range(batcher.dropped, 300)]
    assert shelf.batches == ["\n".join(["agent,agent=a batch=1i 1", *kept, ""])]


def test_head_that_outgrows_its_room_is_an_error() -> None:
    batcher = Batcher(lambda number: "agent " + "x" * HEAD_ROOM)
    with pytest.raises(SpoolError, match=r"agent\.site"):
        batcher.flush(Shelf().append, empty=True)


def test_gzip_only_where_it_pays() -> None:
    noise = random.Random(1).randbytes(20_000)
    assert pack(b"short") == b"short"
    assert pack(noise) == noise
    text = b"probe,agent=ny4-01,target=cme sent=40i 1700000000000000000\n" * 200
    assert pack(text)[:2] == b"\x1f\x8b"
    assert gzip.decompress(pack(text)) == text
    assert len(pack(text)) < len(text) // 10
    assert pack(text) == pack(text)  # no time stamp in it: the same batch has the same bytes


@given(st.binary(max_size=200), st.integers(1, 200))
def test_what_was_packed_comes_out_again(piece: bytes, times: int) -> None:
    assert unpack(gzip.compress(piece * times)) == piece * times
    assert unpack(pack(b"text " + piece * times)) == b"text " + piece * times


def test_what_cannot_be_unpacked_stays_as_it_is() -> None:
    packed = gzip.compress(random.Random(1).randbytes(500))
    for damaged in (packed[:-1], packed[:12], packed[:100] + b"x" + packed[101:], b"\x1f\x8b", b""):
        assert unpack(damaged) == damaged
