"""An interface and ways to destinations in, the bytes in front of each probe out. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.packets import ethernet

MAC = 6  # bytes of a MAC address; a frame begins with the receiver's


@dataclass(frozen=True)
class Way:
    """How packets get to a destination: our address (4 or 16 bytes), and the MAC address of the next hop."""

    source: bytes
    mac: bytes


@dataclass(frozen=True)
class Outlet:
    """An Ethernet interface: its index, its own MAC address, and the largest IP packet it carries."""

    index: int
    name: str
    mac: bytes
    mtu: int


class Heads:
    """Link and IP headers to a number of destinations, in the order of their ways."""

    def __init__(self, outlet: Outlet, ways: Sequence[Way], dscp: int) -> None:
        self._outlet, self._ways, self._dscp = outlet, list(ways), dscp
        self._addresses: list[bytes] = []
        self._by_size: dict[int, NDArray[np.uint8]] = {}

    def lead_to(self, addresses: Sequence[bytes]) -> NDArray[np.int64]:
        """Set the destinations (4 or 16 bytes each). Returns what checksums cover besides message and
        length."""
        self._addresses = list(addresses)
        both = zip(self._ways, self._addresses, strict=True)
        return np.array([ethernet.pseudo_sum(way.source, there) for way, there in both], np.int64)

    def of(self, size: int) -> NDArray[np.uint8]:
        """Of messages of `size` bytes: a row a destination."""
        if size not in self._by_size:
            heads = [
                ethernet.header(way.mac, self._outlet.mac, way.source, there, self._dscp, size)
                for way, there in zip(self._ways, self._addresses, strict=True)
            ]
            self._by_size[size] = np.frombuffer(b"".join(heads), np.uint8).reshape(len(heads), -1)
        return self._by_size[size]

    def redirect(self, ways: Sequence[Way]) -> NDArray[np.uint8]:
        """Take other next hops. Returns their MAC addresses, a row a destination."""
        self._ways = list(ways)
        self._by_size.clear()
        return np.frombuffer(b"".join(way.mac for way in ways), np.uint8).reshape(-1, MAC)
