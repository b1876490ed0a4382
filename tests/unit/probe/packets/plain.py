"""Numbers in, ICMP packets out, in plain Python, to hold the array code against; and the golden bytes."""

from __future__ import annotations

import struct
import tomllib
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[3] / "vectors" / "icmp.toml"
TOKEN = bytes.fromhex("0123456789abcdef")


def internet_checksum(data: bytes) -> int:
    """RFC 1071, the slow way: one's complement addition, word by word, carrying at once."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        if total > 0xFFFF:
            total -= 0xFFFF
    return total ^ 0xFFFF


def echo_request(kind: int, identifier: int, number: int, size: int, token: bytes = TOKEN) -> bytes:
    """An echo request of `size` bytes, its checksum over the message alone (IPv4)."""
    padding = bytes(0x40 + n % 64 for n in range(size - 24))
    rest = struct.pack(">HH8sQ", identifier, number % (1 << 16), token, number) + padding
    bare = struct.pack(">BBH", kind, 0, 0) + rest
    return struct.pack(">BBH", kind, 0, internet_checksum(bare)) + rest


def vectors(kind: str) -> list[dict[str, Any]]:
    """The golden packets of one kind: 'request' or 'error'."""
    found: list[dict[str, Any]] = tomllib.loads(VECTORS.read_text(encoding="ascii"))[kind]
    for vector in found:
        vector["bytes"] = bytes.fromhex(vector["hex"])
        vector["number"] = int(vector["number"])
    return found
