"""Nothing in, the record between a reflector's socket and its rules out: what came with a packet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Arrival:
    """What the kernel says of a received UDP packet besides its bytes.

    peer: the sender's sockaddr, 28 bytes. source, destination: addresses, 4 or 16 bytes. port: the sender's.
    unicast: whether the destination is an address of this host alone, no group and no broadcast.
    ttl: TTL or hop limit at which it arrived. received: wall ns. whole: all its bytes are there.
    """

    peer: bytes
    source: bytes
    port: int
    destination: bytes
    unicast: bool
    ttl: int
    received: int
    whole: bool = True
