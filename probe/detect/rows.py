"""Rows of a state in, the same rows in another order out: what is known of flows outlives an engine."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Rows:
    """State of flows or targets, one row each: the first axis of every attribute that is an array."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def adopt(self, old: Self, source: Ints) -> None:
        """Take over what `old` knows: row i is its row `source[i]`; -1: it stays as new."""
        mine = np.flatnonzero(source >= 0)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                value[mine] = getattr(old, name)[source[mine]]
