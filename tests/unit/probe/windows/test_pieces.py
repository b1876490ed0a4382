"""A cut in pieces gives the same numbers as the whole."""

from __future__ import annotations

import numpy as np
import pytest

from probe.engine.samples import SENT, Cut, Samples, Strays
from probe.windows.layout import pieces
from probe.windows.summary import summarise

FLOWS = 7


def _samples(rng: np.random.Generator, count: int, inside: int) -> Samples:
    due = np.sort(rng.integers(0, 10**9, count)) + 10**12
    rx = due + rng.integers(1_000, 900_000, count)
    rx[rng.random(count) < 0.3] = 0
    return Samples(
        rng.integers(0, FLOWS, count).astype(np.int32),
        due,
        due + 10,
        due + 20,
        rx,
        np.full(count, SENT, np.uint8),
        np.zeros(count, np.bool_),
        rng.integers(0, 3, count).astype(np.uint8),
        inside,
        np.ones(FLOWS, np.bool_),
    )


@pytest.mark.parametrize("rows", [1, 30, 100, 10_000])
def test_pieces_together_say_what_the_whole_says(rows: int) -> None:
    rng = np.random.default_rng(rows)
    strays = Strays(*(rng.integers(0, 5, FLOWS) for _ in range(3)))
    cut = Cut(5, 10, (_samples(rng, 200, 150), _samples(rng, 80, 80)), strays)
    whole = summarise(cut, FLOWS, 500_000)
    covered = 0
    for first, flows, piece, _ in pieces(cut, FLOWS, rows):
        assert first == covered
        covered += flows
        part = summarise(piece, flows, 500_000)
        for name, column in whole.values.items():
            assert part.values[name].tolist() == column[first : first + flows].tolist(), name
        assert part.timed.tolist() == whole.timed[first : first + flows].tolist()
        assert part.pairs.tolist() == whole.pairs[first : first + flows].tolist()
    assert covered == FLOWS
