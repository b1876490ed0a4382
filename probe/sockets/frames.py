"""A ring of frames that the kernel writes in, TX stamps and replies out, read where they lie. No system call.

A TPACKET_V2 ring (Linux, Documentation/networking/packet_mmap.rst) as a matrix, one row a frame:

     0 status(4) wire length(4) kept(4) mac(2) net(2) | 16 sec(4) nsec(4) vlan(4) pad(4) | 32 sockaddr_ll, its
    42 packet type(1) ...                             | 66 Ethernet (14) | 80 IP header, then ICMP

A frame belongs to the kernel while bit 0 of its status is 0, and to us while it is 1. The kernel sets it
after the
rest is written; frames become ours in order, so a run of them is taken at once and given back at once.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.packets.ethernet import LINK
from probe.packets.icmp import HEADER

_USER = 1  # TP_STATUS_USER
_OUTGOING = 4  # PACKET_OUTGOING: the tap saw it on its way to the driver
_NET = 80  # where the kernel puts the IP header of an Ethernet frame
MOST = 8192  # frames that are looked at together

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Taken:
    """A run of frames: probes as they left (low 32 bits of their number, wall ns), and replies.

    `data`: uint8, a row a reply, from its IP header (IPv4) or its ICMP header (IPv6) on; memory of the ring,
    ours until `release`.
    `length`: as on the wire, from the same byte on; 0 where the frame has not the shape it should.
    """

    ids: NDArray[np.uint32]
    left: Ints
    data: NDArray[np.uint8]
    length: Ints
    arrived: Ints


class FrameRing:
    """Reads the ring in `memory`: uint8, shape (frames, bytes a frame); zeros, or as the kernel left it.

    `header`: bytes of the IP header, 20 or 40.
    """

    def __init__(self, memory: NDArray[np.uint8], header: int) -> None:
        self._memory = memory
        self.frames, size = memory.shape
        kept = LINK + header + HEADER
        self._shape = np.uint64(kept | (_NET - LINK) << 32 | _NET << 48)
        fields = {"status": ("u4", 0), "state": ("u8", 0), "shape": ("u8", 8), "stamp": ("u8", 16)}
        # The number's low half: a TX stamp's id.
        fields |= {"type": ("u1", 42), "number": (">u4", _NET + header + HEADER - 4)}
        dtype = np.dtype(
            {
                "names": list(fields),
                "formats": [kind for kind, _ in fields.values()],
                "offsets": [offset for _, offset in fields.values()],
                "itemsize": size,
            }
        )
        self._view = memory.view(dtype).reshape(self.frames)
        self._status = self._view["status"]
        # What a reply's row begins with: as a raw socket would deliver it.
        self._begin = _NET + (0 if header == 20 else header)
        self._cut = LINK + (0 if header == 20 else header)
        self._at = 0  # the frame that becomes ours next
        self._held = slice(0, 0)  # frames that were taken and not given back
        self._order = threading.Lock()
        self._order.acquire()

    @property
    def full(self) -> bool:
        """Whether the kernel has no frame left to write to."""
        return bool(self._status[self._at - 1] & _USER) and self._held == slice(0, 0)

    def take(self) -> Taken | None:
        """The frames that are ours now, at most MOST and not past the ring's end; None where there are none.

        They stay ours until `release`; call that first.
        """
        at = self._at
        if not self._status[at] & _USER:
            return None
        state = self._view["state"][at : at + MOST].copy()  # status, and above it the packet's length
        ours = state & _USER
        count = len(ours) if ours.all() else int(ours.argmin())
        self._fence()
        run = slice(at, at + count)
        self._held = run
        self._at = (at + count) % self.frames
        view = self._view[run]
        word = view["stamp"]
        stamp = (word & 0xFFFFFFFF).astype(np.int64) * 1_000_000_000
        stamp += (word >> 32).view(np.int64)
        odd = view["shape"] != self._shape
        outgoing = view["type"] == _OUTGOING
        strange = bool(odd.any())
        if strange:
            outgoing &= ~odd
        out, back = _split(outgoing)
        memory = self._memory[run]
        length = (state[:count][back] >> 32).view(np.int64) - self._cut
        if strange:
            length[odd[back]] = 0
        return Taken(
            view["number"][out].astype(np.uint32),
            stamp[out],
            memory[back, self._begin :],
            length,
            stamp[back],
        )

    def release(self) -> None:
        """Give what was taken back to the kernel; what `take` returned is no longer there."""
        if self._held.stop > self._held.start:
            self._fence()
            self._status[self._held] = 0
            self._held = slice(0, 0)

    def _fence(self) -> None:
        """Nothing before it in this thread is done after what follows it, on any processor.

        Statuses have to be read before frames are, and frames before statuses are written. Releasing and
        taking a lock are two instructions that order memory.
        """
        self._order.release()
        self._order.acquire()


def _split(mask: Mask) -> tuple[slice | Ints, slice | Ints]:
    """Where a mask is true and where it is not: as slices, which copy nothing, where that is possible."""
    if mask.all():
        return slice(None), slice(0, 0)
    if not mask.any():
        return slice(0, 0), slice(None)
    if (mask[1:] != mask[:-1]).all():  # a reply follows its probe
        first = 0 if mask[0] else 1
        return slice(first, None, 2), slice(1 - first, None, 2)
    return np.flatnonzero(mask), np.flatnonzero(~mask)
