"""Stamps by the kernel's and by an interface's own clock in, out those RTTs by that clock that can be
believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.clock import MICROSECOND

Ints = NDArray[np.int64]
# An interface stamps between the kernel and the line, so its RTT is the shorter one. There is room for clocks
# that are coarse, and for rates that differ by up to 2^-12 (244 ppm).
_SLACK = 50 * MICROSECOND
_RATE = 12


def hard_rtt(tx: Ints, rx: Ints, hard_tx: Ints, hard_rx: Ints) -> Ints:
    """RTTs in ns by the interface's clock; 0 where it did not stamp both ways, or cannot be believed.

    All have shape (n,), ns, 0: none. `tx` and `rx` are the kernel's stamps, `rx` our own clock where the
    kernel gave none. `hard_tx` and `hard_rx` count on the interface's own scale; both must be of one clock.

    An RTT is believed that is positive, and not longer than the kernel's where that is known: otherwise the
    clock was set in between, or a stamp is another packet's.
    """
    took = hard_rx - hard_tx
    by_kernel = rx - tx
    believed = (hard_tx != 0) & (hard_rx != 0) & (rx != 0) & (took > 0)
    believed &= (tx == 0) | (took <= by_kernel + (by_kernel >> _RATE) + _SLACK)
    return np.where(believed, took, 0)
