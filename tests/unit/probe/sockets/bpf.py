"""A classic BPF program and a packet in, how much of it the kernel would keep out: 0 is a packet dropped.

As Linux runs it (Documentation/networking/filter.rst): a load beyond the packet's end drops it. Only the
instructions that our programs use; another one is a KeyError.
"""

from __future__ import annotations

from dataclasses import dataclass

from probe.sockets.filters import Program

TO_US, TO_OTHERS, OUTGOING = 0, 3, 4
_AD = 0xFFFFF000  # from here on lies what the kernel knows of a packet besides its bytes


@dataclass(frozen=True)
class Packet:
    """What a program sees: bytes, from the first header of the socket's kind on, and what is not in them."""

    data: bytes
    kind: int = TO_US
    interface: int = 0
    vlan: int = 0


def run(program: Program, packet: Packet, begin: int = 0) -> int:
    """How many bytes of the packet are kept; the program sees it from byte `begin` on."""
    data = packet.data[begin:]
    special = {4: packet.kind, 8: packet.interface, 44: packet.vlan}
    a = x = at = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == 0x06:
            return k
        if code == 0xB1:
            if k >= len(data):
                return 0
            x = 4 * (data[k] & 0xF)
        elif code == 0x01:
            x = k
        elif code & 7 == 0:
            width = {0x00: 4, 0x08: 2, 0x10: 1}[code & 0x18]
            where = k + (x if code & 0xE0 == 0x40 else 0)
            if where >= _AD:
                a = special[where - _AD]
            elif where + width > len(data):
                return 0
            else:
                a = int.from_bytes(data[where : where + width], "big")
        elif code == 0x14:
            a = (a - k) & 0xFFFFFFFF
        elif code == 0x54:
            a &= k
        else:
            met = {0x15: a == k, 0x35: a >= k, 0x45: bool(a & k)}[code]
            at += yes if met else no
