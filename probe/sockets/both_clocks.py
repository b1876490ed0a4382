"""Control bytes of stamped messages in, times by the kernel's clock and by the interface's own out. Pure.

An interface with a clock of its own (a PTP hardware clock, PHC) stamps a packet as it passes between it and
the line. That time is raw: it counts on the PHC's own scale, and only another time of the same PHC may be
subtracted from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.sockets import abi

Ints = NDArray[np.int64]
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Departures:
    """TX stamps by the kernel's clock (`ids` uint32, `stamp` wall ns) and by the interface's (raw ns)."""

    ids: NDArray[np.uint32]
    stamp: Ints
    hard_ids: NDArray[np.uint32]
    hard_stamp: Ints


def departures(control: NDArray[np.void]) -> Departures:
    """From the error queue: rows of `abi.CONTROL` that are TX stamps. A packet has one by each clock, in two
    rows."""
    stamp, hard = _time(control, ""), _time(control, "hw_")
    by_kernel, by_interface = stamp != 0, hard != 0
    ids = control["id"]
    return Departures(ids[by_kernel], stamp[by_kernel], ids[by_interface], hard[by_interface])


@dataclass(frozen=True)
class Arrivals:
    """When packets came: `stamp` by the kernel's clock (wall ns), `hard` by an interface's (raw ns). 0: not
    told."""

    stamp: Ints
    hard: Ints


def arrivals(control: NDArray[np.void], used: NDArray[np.uint64], interfaces: NDArray[np.uint32]) -> Arrivals:
    """Of received messages: rows of `abi.ARRIVAL`, of which the kernel wrote `used` bytes.

    `interfaces`: indices of those whose clock counts; what came by another one has no time by the interface.
    """
    first, second = control["first"], control["second"]
    plain = (used >= abi.STAMP.itemsize) & (first["kind"] == abi.KIND_STAMP)
    led = (used >= abi.ARRIVAL.itemsize) & (first["kind"] == abi.KIND_INTERFACE)
    led &= second["kind"] == abi.KIND_STAMP
    stamp = np.where(led, _time(second, ""), np.where(plain, _time(first, ""), 0))
    counts = led & np.isin(control["interface"], interfaces)
    return Arrivals(stamp, np.where(counts, _time(second, "hw_"), 0))


def _time(stamps: NDArray[np.void], clock: str) -> Ints:
    time: Ints = stamps[f"{clock}sec"] * _SECOND + stamps[f"{clock}nsec"]
    return time
