"""A matrix of packets and a layout in, the packets' fields as columns out. No I/O."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray


def columns(rows: NDArray[np.uint8], layout: np.dtype[np.void], offset: int = 0) -> NDArray[np.void]:
    """The fields of what starts at byte `offset` of each row; a view, nothing is copied.

    `rows`: uint8, shape (n, pitch), C-contiguous, pitch >= offset + the layout's size. `layout`: a structured
    dtype. Returns a structured array, shape (n,).
    """
    return rows.view(_placed(layout, rows.shape[1], offset)).reshape(rows.shape[0])


@cache
def _placed(layout: np.dtype[np.void], pitch: int, offset: int) -> np.dtype[np.void]:
    fields = layout.fields
    assert fields is not None
    return np.dtype(
        {
            "names": list(fields),
            "formats": [field[0] for field in fields.values()],
            "offsets": [field[1] + offset for field in fields.values()],
            "itemsize": pitch,
        }
    )
