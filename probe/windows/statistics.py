"""Values with the number of their row in, statistics of every row out, exactly, in a few array operations.

A row is a flow, or a group of flows. What has to stay inside a row (runs, differences, ranks) is kept there
by comparing neighbours of samples that are sorted by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

PERCENTILES = {"p50": (50, 100), "p90": (90, 100), "p99": (99, 100), "p999": (999, 1000)}
SPREAD = ("min", "mean", "stddev", *PERCENTILES, "max")
_BITS = 43  # of a value below the row's number: 2.4 hours in ns, and more samples than fit into memory
_LOW = (1 << _BITS) - 1
_JITTER_GAIN = 16  # RFC 3550 section 6.4.1: J += (|D| - J) / 16


@dataclass(frozen=True)
class Spread:
    """How values lie in each row; arrays of shape (rows,). `count` 0: nothing else means anything."""

    count: Ints
    values: dict[str, Ints]  # names of SPREAD


def order_by(row: NDArray[np.int32]) -> Ints:
    """Stable order by row: row and place in one number, as plain integers are what sorts fastest."""
    places = np.arange(len(row))
    return np.sort(row.astype(np.int64) << _BITS | places) & _LOW


def spread(row: Ints, value: Ints, rows: int, names: Sequence[str] = SPREAD) -> Spread:
    """These statistics of values from 0 to 2**43, in any order."""
    return _spread(row, value, rows, names, np.sort(row << _BITS | value) & _LOW)


def signed_spread(row: Ints, value: Ints, rows: int) -> Spread:
    """All statistics of any values within 2**62 of 0, in any order."""
    lowest = np.full(rows, np.iinfo(np.int64).max)
    np.minimum.at(lowest, row, value)
    above = value - lowest[row]
    if not len(above) or int(above.max()) <= _LOW:
        found = spread(row, above, rows)
    else:
        # A clock was set by hours within the window: sums need more than 64 bits.
        ordered = above[np.lexsort((above, row))].astype(object)
        found = _spread(row, above, rows, SPREAD, ordered)
    has = found.count > 0
    for name, column in found.values.items():
        if name != "stddev":
            column[has] += lowest[has]
    return found


def _spread(row: Ints, value: Ints, rows: int, names: Sequence[str], ordered: NDArray[np.generic]) -> Spread:
    """`ordered`: the values in ascending order within each row, row after row."""
    n = np.bincount(row, minlength=rows)
    values = {name: np.zeros(rows, np.int64) for name in names}
    has = np.flatnonzero(n)
    if not len(has):
        return Spread(n, values)
    first = (np.cumsum(n) - n)[has]
    many = n[has]
    total = np.add.reduceat(ordered, first)
    for name, column in values.items():
        if name == "min":
            column[has] = ordered[first]
        elif name == "max":
            column[has] = ordered[first + many - 1]
        elif name == "mean":
            column[has] = (2 * total + many) // (2 * many)
        elif name == "stddev":
            mean = np.zeros(rows)
            mean[has] = total / many
            deviation = value - mean[row]
            variance = np.bincount(row, deviation * deviation, rows)[has] / many
            column[has] = np.rint(np.sqrt(variance))
        else:
            column[has] = ordered[first + _ranks(many, *PERCENTILES[name])]
    return Spread(n, values)


def _ranks(n: Ints, numerator: int, denominator: int) -> Ints:
    """Index of a percentile among n sorted values: RFC 2330 section 11.3, the smallest x with F(x) >= p."""
    return np.maximum(-(-n * numerator // denominator) - 1, 0)


def same_row(row: Ints) -> Mask:
    """Whether each sample belongs to the row of the one before it."""
    same = np.zeros(len(row), np.bool_)
    same[1:] = row[1:] == row[:-1]
    return same


def maxima(row: Ints, value: Ints, rows: int) -> Ints:
    """The largest value of each row, 0 where there is none above it."""
    out = np.zeros(rows, np.int64)
    np.maximum.at(out, row, value)
    return out


def longest_runs(row: Ints, lost: Mask, rows: int) -> Ints:
    """Longest run of consecutive lost probes of each row (RFC 3357 'loss run length')."""
    out = np.zeros(rows, np.int64)
    if lost.any():
        begins = lost.copy()
        begins[1:] &= ~(lost[:-1] & same_row(row)[1:])
        lengths = np.bincount(np.cumsum(begins)[lost] - 1)
        np.maximum.at(out, row[begins], lengths)
    return out


def edge_runs(row: Ints, lost: Mask, sent: Ints) -> tuple[Ints, Ints]:
    """Lost probes in a row at the beginning and at the end of each row, of `sent` probes each."""
    if not lost.any():
        return np.zeros(len(sent), np.int64), np.zeros(len(sent), np.int64)
    # A row in which nothing came is one run, which is both.
    first, last = sent.copy(), sent.copy()
    begin = np.cumsum(sent) - sent
    came = np.flatnonzero(~lost)
    if not len(came):
        return first, last
    places = np.flatnonzero(np.append(True, row[came][1:] != row[came][:-1]))
    rows = row[came[places]]
    first[rows] = came[places] - begin[rows]
    ends = np.append(places[1:], len(came)) - 1
    last[rows] = begin[rows] + sent[rows] - 1 - came[ends]
    return first, last


def reordered(row: Ints, rx: Ints, answered: Mask) -> Mask:
    """RFC 4737 section 3.3: a reply is reordered when the reply to a later probe of its row arrived before
    it."""
    out = np.zeros(len(row), np.bool_)
    who = np.flatnonzero(answered)
    if len(who) < 2:
        return out
    row, rx = row[who], rx[who]
    if (same_row(row)[1:] <= (rx[1:] >= rx[:-1])).all():
        return out
    # Each row's times lie above those of all rows before it, so one running minimum from the end
    # never crosses from one row into the next.
    rx = rx - rx.min()
    keyed = rx + row * (int(rx.max()) + 1)
    earliest_after = np.empty(len(keyed), np.int64)
    earliest_after[-1] = np.iinfo(np.int64).max
    earliest_after[:-1] = np.minimum.accumulate(keyed[::-1])[::-1][1:]
    out[who] = earliest_after < keyed
    return out


def jitter(row: Ints, rtt: Ints, rx: Ints, n: Ints) -> NDArray[np.float64]:
    """RFC 3550 section 6.4.1 over RTTs in order of arrival, from J = 0: J_n is a weighted sum of the
    |D_i|. `n`: RTTs of each row."""
    same = same_row(row)
    if (rx[1:] < rx[:-1])[same[1:]].any():  # replies overtook each other
        order = np.lexsort((rx, row))
        rtt = rtt[order]  # row and same stay as they are: the order is within rows
    change = np.zeros(len(rtt))
    change[1:] = np.abs(rtt[1:] - rtt[:-1])
    to_go = (np.cumsum(n)[row] - 1) - np.arange(len(row))
    weight = (1 - 1 / _JITTER_GAIN) ** to_go.astype(np.float64) / _JITTER_GAIN
    return np.bincount(row, np.where(same, change * weight, 0.0), len(n)).astype(np.float64, copy=False)


def changes(row: Ints, rtt: Ints, timed: Mask) -> tuple[Ints, Ints]:
    """RFC 3393: the row and |difference| of the RTTs of consecutive probes that both have one."""
    pair = np.zeros(len(row), np.bool_)
    pair[1:] = timed[1:] & timed[:-1] & same_row(row)[1:]
    later = np.flatnonzero(pair)
    return row[later], np.abs(rtt[later] - rtt[later - 1])
