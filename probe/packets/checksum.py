"""Rows of bytes in, Internet checksums (RFC 1071) out, for a whole matrix at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def word_sums(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum of the 16-bit big-endian words of each row, not yet folded.

    `rows`: uint8, shape (n, width), width even (an odd last byte is padded with zero by the caller, RFC 1071
    section 4.1).
    Returns int64, shape (n,).
    """
    words = np.ascontiguousarray(rows).view(">u2")
    sums: NDArray[np.int64] = words.sum(axis=1, dtype=np.int64)
    return sums


def fold(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """The checksum that goes into the packet: sums with their carries added in, complemented.

    `sums`: int64, 0 to 2**47, so that three rounds leave no carry. Returns values of 16 bits, in host order.
    """
    folded = (sums & 0xFFFF) + (sums >> 16)
    folded = (folded & 0xFFFF) + (folded >> 16)
    folded = (folded & 0xFFFF) + (folded >> 16)
    return folded ^ 0xFFFF


def fold_small(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """As `fold`, for sums below 2**32: a packet of at most 64 KiB. Two rounds leave no carry."""
    folded = (sums & 0xFFFF) + (sums >> 16)
    return ((folded & 0xFFFF) + (folded >> 16)) ^ 0xFFFF


def checksum(data: bytes) -> int:
    """The Internet checksum of one run of bytes (RFC 1071); over a packet that carries a right one it is
    0."""
    padded = data + b"\0" if len(data) % 2 else data
    return int(fold(word_sums(np.frombuffer(padded, np.uint8).reshape(1, -1)))[0])
