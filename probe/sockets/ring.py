"""Prepared frames in, packets on the wire out; replies and the kernel's stamps of both directions from shared
memory.

What a raw socket leaves to the kernel's IP stack is done once: a probe's frame is complete, with link and IP
header, and goes to the driver as it is. A second packet socket taps the interface into a ring of frames,
where the kernel writes each probe as the driver gets it and each reply as it arrives, both with its time.

Two more sockets stand beside them. One sees the replies that come by another interface or in another shape
(`probe.sockets.ring_filters`). An ordinary raw socket receives ICMP errors, and sends a probe now and then,
so that the kernel goes on asking whether the neighbour is still there.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import socket
import struct
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probe.packets import ethernet
from probe.sockets import abi
from probe.sockets.frames import FrameRing
from probe.sockets.heads import MAC, Heads, Outlet, Way
from probe.sockets.packet_socket import SEND_BUFFER, PacketSocket, Pressure, Replies, Stamps, pressure
from probe.sockets.receive_block import ReceiveBlock

_ROW_BYTES = 1 << 20
_BURST = 1024  # UIO_MAXIOV: sendmmsg takes no more
_HEADER = abi.MMSGHDR.itemsize


class RingSocket:
    """A `ProbeSocket` over packet sockets (see `probe.sockets.ring_opening` for how they are opened).

    Args:
        out: packet socket that sends; it receives nothing.
        tap: packet socket whose ring is in `memory`, filtered.
        memory: the mapped ring.
        beside: raw socket that receives ICMP errors alone.
        other: packet socket of all interfaces, for replies that the ring does not take.
        frames: number of frames in the ring.
    """

    def __init__(
        self,
        out: socket.socket,
        tap: socket.socket,
        memory: mmap.mmap,
        beside: PacketSocket,
        other: socket.socket,
        *,
        frames: int,
        outlet: Outlet,
        ways: Sequence[Way],
        dscp: int,
        max_size: int,
    ) -> None:
        self.family = beside.family
        self.raw = True
        self.header = self.family == socket.AF_INET
        self.checksums = True
        self.outlet = outlet
        self._out, self._tap, self._beside, self._other = out, tap, beside, other
        self._out_fd = out.fileno()
        self._memory = memory
        header = ethernet.IPV4 if self.family == socket.AF_INET else ethernet.IPV6
        self._ring = FrameRing(np.frombuffer(memory, np.uint8).reshape(frames, -1), header)
        # Of all that the interpreter does for a batch, most is coming back to cold caches: few, large ones.
        # Rows of jumbo probes are fewer, so that they stay within some megabytes.
        self.row_offset = ethernet.LINK + header
        pitch = -(-(self.row_offset + max_size) // 64) * 64
        self.patience = self.batch = rows = min(frames // 4, max(256, _ROW_BYTES // pitch))
        self.crowded, self.hurried = SEND_BUFFER, False
        self.burst = _BURST
        self._heads = Heads(outlet, ways, dscp)
        self._many = len(ways) > 1
        self.rows = np.zeros((rows, pitch), np.uint8)
        self._tx = np.zeros(rows, abi.MMSGHDR)
        self._iov = np.zeros(rows, abi.IOVEC)
        self._iov["base"] = self.rows.ctypes.data + np.arange(rows, dtype=np.uint64) * pitch
        self._tx["iov"] = self._iov.ctypes.data + np.arange(rows, dtype=np.uint64) * abi.IOVEC.itemsize
        self._tx["iovlen"] = 1
        self._tx_at = self._tx.ctypes.data
        self._size = 0  # what every row's length is set to; 0: they differ
        self.pseudo_sums: NDArray[np.int64] | None = None
        self._whither = np.zeros(rows, np.int64)  # the destination of each row
        self._ids = np.zeros(rows, np.uint32)
        self._lengths = np.zeros(rows, np.int64)
        self._sources = np.zeros((frames, abi.SOCKADDR), np.uint8)  # of replies: only of errors it is asked
        self._strays = ReceiveBlock(abi.STAMP, names=False)
        self._strays_begin = 0 if self.family == socket.AF_INET else header
        self._left: list[Stamps] = []
        self._drops = 0
        # Set by other threads, looked at by the engine's between two blocks.
        self._new_ways: deque[Sequence[Way]] = deque(maxlen=1)
        self._asked: deque[int] = deque()
        self._asides: list[int] = []  # rows that leave through the raw socket, the next one last
        self._beside_stamps = False

    # -- sending ---------------------------------------------------------------------------------------------

    def set_destinations(self, addresses: list[bytes]) -> None:
        """In the order of the ways."""
        self._beside.set_destinations(addresses)
        at, length = (4, 4) if self.family == socket.AF_INET else (8, 16)
        self.pseudo_sums = self._heads.lead_to([address[at : at + length] for address in addresses])

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        if self._new_ways:
            self._redirect()
        self._asides = []
        if isinstance(sizes, int):
            if sizes != self._size:
                self._size = sizes
                self._iov["len"] = self.row_offset + sizes
                self.rows[:, : self.row_offset] = self._heads.of(sizes)[0]
            if self._many:
                self.rows[where, : self.row_offset] = self._heads.of(sizes)[destinations]
        else:
            self._size = 0
            self._iov["len"][where] = self.row_offset + sizes
            heads = self.rows[where]
            for size in np.unique(sizes).tolist():
                rows = np.flatnonzero(sizes == size)
                heads[rows, : self.row_offset] = self._heads.of(size)[destinations[rows]]
        if self._many:
            self._whither[where] = destinations
        if self._asked:
            self._set_aside(where, destinations, sizes, ids)

    def send(self, start: int, stop: int) -> tuple[int, int]:
        if self._asides and self._asides[-1] < stop:
            return self._send_aside(start, stop)
        done = start
        while done < stop:
            moved = abi.sendmmsg(self._out_fd, self._tx_at + done * _HEADER, stop - done)
            if moved > 0:
                done += moved
            elif moved != -errno.EINTR:
                return done - start, -moved
        return done - start, 0

    # -- the neighbour ---------------------------------------------------------------------------------------

    def redirect(self, ways: Sequence[Way]) -> None:
        """Take these next hops from now on, in the order of the destinations; from any thread."""
        self._new_ways.append(ways)

    def _redirect(self) -> None:
        self.rows[:, :MAC] = self._heads.redirect(self._new_ways.pop())[self._whither]

    def ask(self, destinations: Sequence[int]) -> None:
        """Let the kernel itself send the next probe to each of these, and so ask for the neighbour;
        from any thread."""
        self._asked.extend(destinations)

    def _set_aside(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        wanted = {self._asked.popleft() for _ in range(len(self._asked))}
        rows = []
        for destination in wanted:
            found = np.flatnonzero(destinations == destination)
            if len(found):
                rows.append(where.start + int(found[0]))
            else:
                self._asked.append(destination)  # it has no probe in this plan
        self._asides = sorted(rows, reverse=True)
        self._whither[where] = destinations
        self._lengths[where] = sizes
        self._ids[where] = ids

    def _send_aside(self, start: int, stop: int) -> tuple[int, int]:
        """`send` where some row leaves through the raw socket."""
        row = self._asides[-1]
        if row < start:  # it was skipped
            self._asides.pop()
            return self.send(start, stop)
        asides, self._asides = self._asides, []
        sent, refused = self.send(start, row)
        self._asides = asides
        if sent < row - start:
            return sent, refused
        self._asides.pop()
        beside, size = self._beside, int(self._lengths[row])
        beside.rows[0, :size] = self.rows[row, self.row_offset : self.row_offset + size]
        beside.prepare(slice(0, 1), self._whither[row : row + 1], size, self._ids[row : row + 1])
        moved, _ = beside.send(0, 1)
        self._beside_stamps = True
        if not moved:  # refused by the packet filter, perhaps: its way is not ours, and the probe still due
            asides, self._asides = self._asides, []
            moved, refused = self.send(row, row + 1)
            self._asides = asides
            if not moved:
                return row - start, refused
        rest, refused = self.send(row + 1, stop)
        return row + 1 - start + rest, refused

    # -- receiving -------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """The ring is emptied where it lies."""

    def waits(self) -> bool:
        """See `ProbeSocket`."""
        return False

    def receive(self) -> Replies | None:
        ring = self._ring
        ring.release()
        if self._new_ways:
            self._redirect()
        while (taken := ring.take()) is not None:
            if len(taken.ids):
                self._left.append(Stamps(taken.ids, taken.left, (), True))
            if len(taken.length):
                return Replies(
                    taken.data, taken.length, taken.arrived, self._sources[: len(taken.length)], True
                )
            ring.release()
        return self._receive_strays() or self._beside.receive()

    def _receive_strays(self) -> Replies | None:
        """Replies that the ring does not take, each row from where a raw socket would begin it."""
        block, begin = self._strays, self._strays_begin
        count = block.take(self._other.fileno(), 0)
        if count <= 0:
            return None
        length = np.maximum(block.headers["len"][:count].astype(np.int64) - begin, 0)
        return Replies(block.data[:count, begin:], length, block.arrival(count), block.names[:count], True)

    def stamps(self) -> Stamps | None:
        self._ring.release()
        if self._left:
            return self._left.pop(0)
        if self._beside_stamps:
            # The ring has them too, and a socket's stamp is not the ring's.
            self._beside_stamps = False
            while self._beside.stamps() is not None:
                self._beside_stamps = True
        return None

    def pressure(self) -> Pressure:
        statistics = self._tap.getsockopt(abi.SOL_PACKET, abi.PACKET_STATISTICS, 8)
        self._drops += struct.unpack("=II", statistics)[1]  # reading it sets it to 0
        full = self._ring.full
        others = self._beside.pressure(), pressure(self._other)
        full = full or any(each.full for each in others)
        return Pressure((self._drops + sum(each.drops for each in others)) & 0xFFFFFFFF, full)

    def admit(self, first_id: int, ids: int) -> None:
        """Nothing else is admitted anyway."""

    def dismiss(self, first_id: int, ids: int) -> None:
        """It has never been admitted."""

    def close(self) -> None:
        """Give the sockets back. The mapping holds the tap open until nobody looks into the ring any more, so
        its hook is taken off first."""
        if self._tap.fileno() >= 0:
            with contextlib.suppress(OSError):  # the interface is gone, and its hook with it
                self._tap.bind((self.outlet.name, 0))
        for each in (self._out, self._tap, self._other):
            each.close()
        self._beside.close()
