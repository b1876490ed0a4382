"""`python -m tests.lab.scapy_reflector ADDRESS PORT [stateful]`: a STAMP reflector made of scapy's layers.

Somebody else's reading of RFC 8762. It prints "ready", answers until its input ends, then prints how many
packets it answered. Sessions are addresses and ports; TLVs come back as they came, which says: unknown.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections import Counter

from scapy.contrib.stamp import (
    ErrorEstimate,
    STAMPSessionReflectorTestUnauthenticated,
    STAMPSessionSenderTestUnauthenticated,
)

_SO_TIMESTAMPNS = 35
_FROM_1900 = 2_208_988_800


def main(address: str, port: int, stateful: bool) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        server.bind((address, port))
        print("ready", flush=True)
        print(answer(server, stateful), flush=True)


def answer(server: socket.socket, stateful: bool) -> int:
    """Until the input ends; how many packets that were."""
    replies: Counter[object] = Counter()
    while True:
        ready, _, _ = select.select([server, sys.stdin], [], [])
        if server not in ready:
            return replies.total()
        packet, ancillary, _, peer = server.recvmsg(9000, 256)
        seconds, ns = struct.unpack("@qq", ancillary[0][2])
        request = STAMPSessionSenderTestUnauthenticated(packet)
        reply = STAMPSessionReflectorTestUnauthenticated(
            seq=replies[peer[:2]] if stateful else request.seq,
            err_estimate=ErrorEstimate(S=1, Z=0, scale=22, multiplier=43),
            ssid=request.ssid,
            seq_sender=request.seq,
            err_estimate_sender=request.err_estimate,
            ttl_sender=64,
            tlv_objects=request.tlv_objects,
        )
        replies[peer[:2]] += 1
        # As integers: the layer rounds what it takes for a time, and T1 has to come back bit by bit.
        received, now = seconds * 1_000_000_000 + ns, time.time_ns()
        reply.fields |= {"ts": ntp(now), "ts_rx": ntp(received), "ts_sender": request.fields["ts"]}
        server.sendto(bytes(reply), peer)


def ntp(wall: int) -> int:
    """64 bits: seconds since 1900, and their fraction."""
    return ((wall + _FROM_1900 * 1_000_000_000) << 32) // 1_000_000_000


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["stateful"])
