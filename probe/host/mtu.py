"""An interface's name in, the largest IP packet that leaves by it whole out."""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFMTU = 0x8921


def mtu(interface: str) -> int:
    """Bytes, IP header included (netdevice(7)); 0 where there is no such interface."""
    request = struct.pack("16s16x", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            answer = fcntl.ioctl(handle.fileno(), _SIOCGIFMTU, request)
        except OSError:
            return 0
    return int(struct.unpack_from("=i", answer, 16)[0])
