"""The bytes of a ring as the kernel writes them in, stamps and replies out: runs, wrap, what is odd."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from probe.packets.ethernet import LINK
from probe.packets.icmp import HEADER
from probe.sockets.frames import FrameRing, Taken

NET = 80
TOKEN = bytes(range(8))
OUTGOING, TO_US = 4, 0


class Kernel:
    """Writes frames in order as Linux does for TPACKET_V2, and drops what finds the ring full."""

    def __init__(self, frames: int, header: int) -> None:
        size = 128 if header == 20 else 192
        self.memory: NDArray[np.uint8] = np.zeros((frames, size), np.uint8)
        self.header = header
        self.at = 0
        self.drops = 0

    def write(self, kind: int, number: int, stamp: int, *, kept: int | None = None, extra: int = 40) -> None:
        if self.memory[self.at, 0] & 1:
            self.drops += 1
            return
        whole = LINK + self.header + HEADER
        kept = whole if kept is None else kept
        icmp = bytes((8 if kind == OUTGOING else 0, 0, 0, 0, 0, 7)) + (number & 0xFFFF).to_bytes(2, "big")
        packet = (
            bytes(LINK) + bytes([0x45]) + bytes(self.header - 1) + icmp + TOKEN + number.to_bytes(8, "big")
        )
        head = struct.pack(
            "=IIIHHII8x", 1, whole + extra, kept, NET - LINK, NET, stamp // 10**9, stamp % 10**9
        )
        head += struct.pack("=HHiHBB8x", 17, 0, 2, 1, kind, 6)
        frame = (head.ljust(NET - LINK, b"\0") + packet[:kept]).ljust(self.memory.shape[1], b"\0")
        self.memory[self.at] = np.frombuffer(frame, np.uint8)
        self.at = (self.at + 1) % len(self.memory)


def numbers(taken: Taken, header: int) -> list[int]:
    """Of the replies, read where a raw socket would have them."""
    begin = 20 if header == 20 else 0
    return [int.from_bytes(row[begin + 16 : begin + 24].tobytes(), "big") for row in taken.data]


@pytest.mark.parametrize("header", [20, 40])
@pytest.mark.parametrize("order", ["orororor", "roroorro", "oooorrrr", "oooo", "rrrr", "o", "r"])
def test_probes_and_replies_come_apart_in_order(header: int, order: str) -> None:
    kernel = Kernel(16, header)
    ring = FrameRing(kernel.memory, header)
    stamp = 1_700_000_000_999_999_990
    for n, letter in enumerate(order):
        kernel.write(OUTGOING if letter == "o" else TO_US, (1 << 40) + n, stamp + n)
    taken = ring.take()
    assert taken is not None
    out = [n for n, letter in enumerate(order) if letter == "o"]
    back = [n for n, letter in enumerate(order) if letter == "r"]
    assert taken.ids.tolist() == out
    assert taken.left.tolist() == [stamp + n for n in out]
    assert numbers(taken, header) == [(1 << 40) + n for n in back]
    assert taken.arrived.tolist() == [stamp + n for n in back]
    whole = 40 + HEADER + (20 if header == 20 else 0)
    assert taken.length.tolist() == [whole] * len(back)
    assert not ring.full


def test_runs_end_at_the_rings_end_and_go_on_at_its_beginning() -> None:
    kernel = Kernel(8, 20)
    ring = FrameRing(kernel.memory, 20)
    seen: list[int] = []
    sent = 0
    for size in (5, 6, 8, 1, 7, 8):
        for _ in range(size):
            kernel.write(OUTGOING, sent, sent)
            sent += 1
        while (taken := ring.take()) is not None:
            seen += taken.ids.tolist()
            ring.release()
    assert seen == list(range(sent))
    assert kernel.drops == 0


def test_frames_stay_ours_until_they_are_released() -> None:
    kernel = Kernel(4, 20)
    ring = FrameRing(kernel.memory, 20)
    for n in range(4):
        kernel.write(TO_US, n, n)
    assert ring.full
    taken = ring.take()
    assert taken is not None
    kernel.write(TO_US, 4, 4)
    assert kernel.drops == 1
    assert numbers(taken, 20) == [0, 1, 2, 3]
    ring.release()
    assert ring.take() is None
    kernel.write(TO_US, 5, 5)
    again = ring.take()
    assert again is not None
    assert numbers(again, 20) == [5]


def test_a_frame_that_the_kernel_still_writes_ends_the_run() -> None:
    kernel = Kernel(8, 20)
    ring = FrameRing(kernel.memory, 20)
    for n in range(4):
        kernel.write(OUTGOING, n, n)
    kernel.memory[2, 0] = 0
    taken = ring.take()
    assert taken is not None
    assert taken.ids.tolist() == [0, 1]
    ring.release()
    assert ring.take() is None
    kernel.memory[2, 0] = 1
    taken = ring.take()
    assert taken is not None
    assert taken.ids.tolist() == [2, 3]


def test_an_odd_frame_is_no_stamp_and_no_reply_but_there() -> None:
    kernel = Kernel(8, 20)
    ring = FrameRing(kernel.memory, 20)
    kernel.write(OUTGOING, 0, 10)
    kernel.write(OUTGOING, 1, 20, kept=50)  # cut short: whose number it is cannot be read
    kernel.write(TO_US, 0, 30)
    kernel.write(TO_US, 7, 40, kept=50)
    taken = ring.take()
    assert taken is not None
    assert taken.ids.tolist() == [0]
    assert taken.length.tolist() == [0, 84, 0]  # what is too short is counted as foreign


def test_status_bits_besides_the_first_do_not_matter() -> None:
    kernel = Kernel(4, 20)
    ring = FrameRing(kernel.memory, 20)
    kernel.write(OUTGOING, 3, 5)
    kernel.memory[0, :4] = np.frombuffer(struct.pack("=I", 1 | 4 | 1 << 29), np.uint8)  # LOSING, TS_SOFTWARE
    taken = ring.take()
    assert taken is not None
    assert taken.ids.tolist() == [3]
    ring.release()
    assert kernel.memory[0, :4].tolist() == [0, 0, 0, 0]
