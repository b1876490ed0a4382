"""Round-trip times in, buckets out: bounds, adding, and percentiles read back within one bucket."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.windows.histogram import BOUNDS, BUCKETS, LABELS, Histogram, bucket_of
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.windows.plain import percentile

RTTS = st.one_of(
    st.integers(0, 1 << 40), st.sampled_from(BOUNDS), st.sampled_from([bound + 1 for bound in BOUNDS])
)


def counted(rtts: list[int], flows: list[int] | None = None, of: int = 1) -> list[tuple[int, str, int]]:
    histogram = Histogram(of)
    histogram.add(np.array(flows or [0] * len(rtts), np.int32), np.array(rtts, np.int64))
    return taken(histogram)


def taken(histogram: Histogram) -> list[tuple[int, str, int]]:
    counts = histogram.take()
    columns = (counts.flow.tolist(), counts.bucket.tolist(), counts.count.tolist())
    return [(flow, LABELS[bucket], count) for flow, bucket, count in zip(*columns, strict=True)]


def test_the_bounds_are_four_an_octave() -> None:
    assert len(BOUNDS) == BUCKETS - 1 == len(LABELS) - 1
    assert (BOUNDS[0], BOUNDS[-1]) == (1_024, 1 << 36)
    assert BOUNDS[:9] == (1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096)
    for lower, upper in itertools.pairwise(BOUNDS):
        assert 1 < Fraction(upper, lower) <= Fraction(5, 4)
    assert all(2 * bound in BOUNDS for bound in BOUNDS[:-4])


def test_labels_sort_as_numbers_do() -> None:
    assert [int(label) for label in LABELS[:-1]] == list(BOUNDS)
    assert {len(label) for label in LABELS[:-1]} == {12}
    assert LABELS[-1] == "+Inf"
    assert sorted(LABELS[:-1]) == list(LABELS[:-1])


@pytest.mark.parametrize(
    ("rtt", "label"),
    [
        (0, "000000001024"),
        (1_024, "000000001024"),
        (1_025, "000000001280"),
        (1_280, "000000001280"),
        (1_000_000, "000001048576"),
        (1 << 36, "068719476736"),
        ((1 << 36) + 1, "+Inf"),
        ((1 << 63) - 1, "+Inf"),
    ],
)
def test_an_upper_bound_belongs_to_its_bucket(rtt: int, label: str) -> None:
    assert counted([rtt]) == [(0, label, 1)]


@repeatable
@given(st.lists(RTTS, max_size=50))
def test_buckets_as_by_bisection(rtts: list[int]) -> None:
    assert bucket_of(np.array(rtts, np.int64)).tolist() == [bisect_left(BOUNDS, rtt) for rtt in rtts]


@repeatable
@given(st.lists(st.tuples(st.integers(0, 2), RTTS), max_size=60), st.integers(0, 60))
def test_merging_is_adding(rows: list[tuple[int, int]], cut: int) -> None:
    flows, rtts = [flow for flow, _ in rows], [rtt for _, rtt in rows]
    whole = counted(rtts, flows, of=3)
    merged: dict[tuple[int, str], int] = {}
    for part in (
        counted(rtts[:cut], flows[:cut], of=3),
        counted(rtts[cut:], flows[cut:], of=3),
    ):
        for flow, le, count in part:
            merged[flow, le] = merged.get((flow, le), 0) + count
    assert merged == {(flow, le): count for flow, le, count in whole}
    assert sum(merged.values()) == len(rtts)
    # Batch by batch into one histogram is the same again.
    together = Histogram(3)
    for some in (slice(0, cut), slice(cut, None)):
        together.add(np.array(flows[some], np.int32), np.array(rtts[some], np.int64))
    assert taken(together) == whole
    assert taken(together) == []
    # What is counted next stands alone.
    together.add(np.array(flows[:cut], np.int32), np.array(rtts[:cut], np.int64))
    assert taken(together) == counted(rtts[:cut], flows[:cut], of=3)


@repeatable
@given(st.lists(st.tuples(st.integers(0, 6), RTTS), max_size=60))
def test_buckets_come_by_flow_and_by_bound(rows: list[tuple[int, int]]) -> None:
    plain = Counter((flow, bisect_left(BOUNDS, rtt)) for flow, rtt in rows)
    expected = [(flow, LABELS[bucket], count) for (flow, bucket), count in sorted(plain.items())]
    assert counted([rtt for _, rtt in rows], [flow for flow, _ in rows], of=7) == expected


@repeatable
@given(
    st.lists(st.integers(1_025, 1 << 36), min_size=1, max_size=200),
    st.sampled_from([Fraction(1, 2), Fraction(9, 10), Fraction(99, 100), Fraction(999, 1000)]),
)
def test_a_percentile_read_from_merged_buckets_is_within_one_bucket(rtts: list[int], p: Fraction) -> None:
    counts: dict[int, int] = {}
    for agent in (rtts[::2], rtts[1::2]):
        for _, le, count in counted(agent) if agent else []:
            counts[int(le)] = counts.get(int(le), 0) + count
    seen = 0
    for bound in sorted(counts):
        seen += counts[bound]
        if Fraction(seen, len(rtts)) >= p:
            break
    exact = percentile(rtts, p)
    assert exact <= bound <= exact * Fraction(5, 4)
