"""Two devices and a delay in, frames of each out of the other that much later: a slow piece of wire.

A process of its own, in the namespace of a `Wire`: it says "ready", reads a delay (ns) from standard input,
and carries frames until that ends. Frames keep what the kernel knows of their checksums (PACKET_VNET_HDR).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections import deque

PRIORITY = 20  # SCHED_FIFO, as the link emulator's
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 15, 23
_SO_TIMESTAMPNS = 35
_LARGEST = 70_000
_SPIN = 100_000  # ns
_QUEUE = 10_000  # frames; what is beyond is lost, as on a wire whose queue is full


def _tap(device: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    tap.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    tap.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    tap.bind((device, _ETH_P_ALL))
    tap.setblocking(False)
    return tap


def _arrived(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, ns = struct.unpack("qq", data[:16])
            return int(seconds * 1_000_000_000 + ns)
    return time.time_ns()


def main() -> None:
    """Carry frames until standard input ends."""
    taps = [_tap(device) for device in sys.argv[1:3]]
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    print("ready", flush=True)
    delay = int(sys.stdin.readline())
    for tap in taps:  # what came before was carried by the bridge
        with contextlib.suppress(BlockingIOError):
            while tap.recv(_LARGEST):
                pass
    control = sys.stdin.fileno()
    waiting: deque[tuple[int, socket.socket, bytes]] = deque()
    pairs = tuple(zip(taps, reversed(taps), strict=True))
    while True:
        while waiting and waiting[0][0] <= time.time_ns():
            _, tap, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # the other end is down: a frame for it is lost
                tap.send(frame)
        ahead = waiting[0][0] - time.time_ns() - _SPIN if waiting else 1_000_000_000
        readable, _, _ = select.select([*taps, control], [], [], max(ahead, 0) / 1e9)
        if control in readable:
            return
        for tap, other in pairs:
            with contextlib.suppress(OSError):
                while True:
                    frame, ancillary, *_ = tap.recvmsg(_LARGEST, 64)
                    if len(waiting) < _QUEUE:
                        waiting.append((_arrived(ancillary) + delay, other, frame))


if __name__ == "__main__":
    main()
