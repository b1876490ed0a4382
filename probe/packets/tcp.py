"""Ports and sequence numbers in, TCP SYN segments out; received rows in, columns (ports, acknowledgement,
flags) out. No I/O.

A probe is a connection request (RFC 9293 section 3.1), 24 bytes of IP payload:

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |    Source port: the lane's    |  Destination port: target's   |  0
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |        Sequence number: leads back to the probe               |  4
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                  Acknowledgment number: 0                     |  8
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |Offset 6|   0   |  Flags: SYN  |         Window: 64240         | 12
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |           Checksum            |       Urgent pointer: 0       | 16
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Option: kind 2|   Length 4    |     Maximum segment size      | 20
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

What answers it has the acknowledgment number `sequence + 1` (section 3.10.7): SYN and ACK where somebody
listens, RST and ACK where nobody does. Nothing else of ours comes back, so the sequence number alone leads to
the probe:

    sequence = (number mod 2^bits, then 32 - bits bits of noise) + secret        (mod 2^32)

A firewall or a server that has not forgotten the last probe of a flow takes the next one for a new connection
only if its sequence number is greater, by more than a window (section 3.10.7.4; Linux: tcp_check_req,
nf_conntrack_proto_tcp): hence the number in the high bits, which count up, and the noise below. A step of
less than the target's window would be answered by RST, as if nobody listened; so the noise leaves that much
of each step alone, where there is as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.packets.checksum import fold_small
from probe.packets.columns import columns

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
HEADER = 20  # bytes of a segment's header without options
SIZE = 24  # bytes of a probe
PROTOCOL = 6  # IP's number for TCP
MSS4, MSS6 = 1460, 1440  # of Ethernet's 1,500 bytes, as everybody says
_WINDOW = 64_240  # what Linux says
_STEP = _WINDOW + 1  # between the probes of a flow, at least
_OFFSET = (SIZE // 4) << 4  # the header's length in words, in the high four bits
_MSS = 0x0204  # kind and length of that option

_SEGMENT = np.dtype(
    {
        "names": [
            "source",
            "destination",
            "sequence",
            "acknowledgment",
            "offset",
            "flags",
            "window",
            "checksum",
        ],
        "formats": [">u2", ">u2", ">u4", ">u4", "u1", "u1", ">u2", ">u2"],
        "offsets": [0, 2, 4, 8, 12, 13, 14, 16],
    }
)


def segment_view(rows: NDArray[np.uint8], offset: int = 0) -> NDArray[np.void]:
    """The columns of the segments that start at byte `offset` of each row; a view, nothing is copied.

    `rows`: uint8, shape (n, pitch), C-contiguous, pitch >= offset + 20. Returns a structured array, shape
    (n,).
    """
    return columns(rows, _SEGMENT, offset)


class SynWriter:
    """Writes SYN segments into a packet matrix, a block of rows at a time.

    `rows`: uint8, shape (n, pitch), the matrix that sendmmsg reads; all of it is ours. `mss`: bytes. Raw IPv6
    sockets leave the checksum to the kernel (`checksums=False`). `offset`: the byte of a row at which the
    segment begins.
    """

    def __init__(self, rows: NDArray[np.uint8], mss: int, checksums: bool, offset: int = 0) -> None:
        self._view = segment_view(rows, offset)
        rows[:, offset : offset + SIZE] = 0
        self._view["offset"] = _OFFSET
        self._view["flags"] = SYN
        self._view["window"] = _WINDOW
        option = _MSS.to_bytes(2, "big") + mss.to_bytes(2, "big")
        rows[:, offset + HEADER : offset + SIZE] = np.frombuffer(option, np.uint8)
        self._checksums = checksums
        self._fixed = (_OFFSET << 8 | SYN) + _WINDOW + _MSS + mss

    def write(
        self,
        where: slice,
        sequences: NDArray[np.uint32],
        sources: NDArray[np.integer],
        destinations: NDArray[np.integer],
        besides: NDArray[np.int64] | int = 0,
    ) -> None:
        """Fill the rows of `where` with probes; all arrays have its length.

        `sources` and `destinations`: ports. `besides`: sum of the 16-bit words of the pseudo-header, all of
        which the checksum covers, too (`pseudo_sum`).
        """
        view = self._view[where]
        view["source"] = sources
        view["destination"] = destinations
        view["sequence"] = sequences
        if self._checksums:
            sums: NDArray[np.int64] = (sequences & 0xFFFF).astype(np.int64)
            sums += sequences >> 16
            sums += sources
            sums += destinations
            sums += besides
            view["checksum"] = fold_small(sums + self._fixed)


def pseudo_sum(source: bytes, destination: bytes) -> int:
    """Sum of the 16-bit words of a probe's pseudo-header: addresses of 4 or 16 bytes, protocol and length.

    RFC 9293 section 3.1 for IPv4, RFC 8200 section 8.1 for IPv6.
    """
    both = source + destination
    words = sum(int.from_bytes(both[at : at + 2], "big") for at in range(0, len(both), 2))
    return words + PROTOCOL + SIZE


class Numbering:
    """Probe numbers to sequence numbers and back.

    `remembered`: probes of which an answer may still come. `secret`: 32 random bits of this run, so that
    nobody who has not seen a probe knows where its numbers begin.
    """

    def __init__(self, remembered: int, secret: int) -> None:
        bits = min(28, (2 * remembered - 1).bit_length())
        self._low = 32 - bits
        self._mask = (1 << bits) - 1
        whole = 1 << self._low
        # Where a step is less than that, many flows take turns, and each one's own steps are longer.
        self._noise = whole - _STEP if whole > _STEP else whole // 2
        self._secret = secret & 0xFFFFFFFF

    def sequences(self, numbers: NDArray[np.int64], noise: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """`noise`: 32 random bits for each."""
        high = (numbers & self._mask) << self._low
        low = (noise.astype(np.int64) * self._noise) >> 32
        return ((high + low + self._secret) & 0xFFFFFFFF).astype(np.uint32)

    def numbers(self, sequences: NDArray[np.uint32], last: int) -> NDArray[np.int64]:
        """The number of each probe, unwrapped from the last one sent; may be below 0 where it is none of
        ours.

        The random bits are not looked at: compare the sequence number with what was sent.
        """
        low = ((sequences.astype(np.int64) - self._secret) & 0xFFFFFFFF) >> self._low
        return last - ((last - low) & self._mask)


@dataclass(frozen=True)
class QuotedSyn:
    """What an ICMP error quotes of a segment: its ports and its sequence number."""

    source: int
    destination: int
    sequence: int


def parse_quoted(quoted: bytes) -> QuotedSyn | None:
    """The segment that begins here, perhaps cut short; None with fewer than the 8 bytes that every router
    quotes (RFC 792)."""
    if len(quoted) < 8:
        return None
    source, destination = int.from_bytes(quoted[:2], "big"), int.from_bytes(quoted[2:4], "big")
    return QuotedSyn(source, destination, int.from_bytes(quoted[4:8], "big"))
