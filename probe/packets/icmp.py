"""Probe numbers in, ICMP echo requests out; received rows in, columns (type, token, number) out. No I/O.

An echo request as we send it (RFC 792, RFC 4443), `size` bytes of IP payload:

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |  Type 8 / 128 |    Code 0     |           Checksum            |  0
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |      Identifier: the flow     |   Sequence: number mod 2^16   |  4
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                    Token: the run's secret                    |  8
    |                            (64 bits)                          | 12
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |            Probe number (64 bits, network order)              | 16
    |                                                               | 20
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                    Padding up to `size` bytes ...             | 24

The probe number counts every probe of one socket, so it alone says flow and sequence; nothing has to be
unwrapped. Where a
router quotes only the first 8 bytes in an ICMP error, identifier and sequence lead back to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.packets.checksum import fold_small, word_sums
from probe.packets.columns import columns

ECHO_REPLY, ECHO_REQUEST = 0, 8
UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM = 3, 11, 12
ECHO6_REQUEST, ECHO6_REPLY = 128, 129
UNREACHABLE6, TOO_BIG6, TIME_EXCEEDED6, PARAMETER_PROBLEM6 = 1, 2, 3, 4

ERRORS4 = (UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM)
ERRORS6 = (UNREACHABLE6, TOO_BIG6, TIME_EXCEEDED6, PARAMETER_PROBLEM6)

_ICMP, _ICMPV6 = 1, 58  # protocol numbers
_OTHERS6 = (6, 17, 132)  # TCP, UDP, SCTP: not a header in front of ICMPv6

HEADER = 24  # bytes up to and including the probe number: the smallest probe
_PADDING = bytes(range(0x40, 0x80))

_ECHO = np.dtype(
    {
        "names": ["type", "code", "checksum", "id", "seq", "token", "number"],
        "formats": ["u1", "u1", ">u2", ">u2", ">u2", "u8", ">u8"],
        "offsets": [0, 1, 2, 4, 6, 8, 16],
    }
)


def echo_view(rows: NDArray[np.uint8], offset: int = 0) -> NDArray[np.void]:
    """The columns of the packets that start at byte `offset` of each row; a view, nothing is copied.

    `rows`: uint8, shape (n, pitch), C-contiguous, pitch >= offset + 24. Returns a structured array, shape
    (n,).
    """
    return columns(rows, _ECHO, offset)


class EchoWriter:
    """Writes echo requests into a packet matrix, a block of rows at a time.

    `rows`: uint8, shape (n, pitch), the matrix that sendmmsg reads. `token`: 8 secret bytes. Raw IPv6 and
    ping sockets leave
    the checksum to the kernel (`checksums=False`). `offset`: the byte of a row at which the request begins.
    """

    def __init__(
        self, rows: NDArray[np.uint8], token: bytes, request_type: int, checksums: bool, offset: int = 0
    ) -> None:
        longest = rows.shape[1] - offset
        padding = np.frombuffer(_PADDING * (longest // 64 + 1), np.uint8)
        rows[:, offset + HEADER :] = padding[: longest - HEADER]
        self._view = echo_view(rows, offset)
        self._view["type"] = request_type
        self._view["code"] = 0
        self._view["checksum"] = 0
        self._view["token"] = np.frombuffer(token, "u8")[0]
        self._checksums = checksums
        self._fixed = int(word_sums(np.frombuffer(token, np.uint8).reshape(1, 8))[0]) + (request_type << 8)
        self._padding_sums = np.zeros(longest + 1, np.int64)
        words = word_sums(np.frombuffer(_PADDING, np.uint8).reshape(32, 2))
        for size in range(HEADER, longest + 1):
            even = (size - HEADER) // 2
            total = int(words[: even % 32].sum()) + (even // 32) * int(words.sum())
            odd = _PADDING[(size - HEADER - 1) % 64] << 8 if size % 2 else 0
            self._padding_sums[size] = total + odd

    def write(
        self,
        where: slice,
        numbers: NDArray[np.int64],
        ids: NDArray[np.integer],
        sizes: NDArray[np.int64] | int,
        besides: NDArray[np.int64] | int = 0,
    ) -> None:
        """Fill the rows of `where` with probes; all arrays have its length, at least 1.

        `sizes` in bytes of IP payload: of each, or of all. `besides`: sum of the 16-bit words that the
        checksum covers besides the message (IPv6: the pseudo-header, RFC 8200 section 8.1).
        """
        view = self._view[where]
        view["id"] = ids
        view["seq"] = numbers  # its low 16 bits
        view["number"] = numbers
        if self._checksums:
            # The number's lowest word stands twice: in the sequence field and in the number.
            sums: NDArray[np.int64] = (numbers & 0xFFFF) << 1
            sums += ids
            sums += self._padding_sums[sizes]
            sums += besides
            high = numbers >> 16
            if (high == high[0]).all():  # as nearly always
                sums += self._fixed + _words(int(high[0]))
            else:
                sums += self._fixed + (high & 0xFFFF) + ((high >> 16) & 0xFFFF) + (high >> 32)
            view["checksum"] = fold_small(sums)


def _words(value: int) -> int:
    """Sum of the 16-bit words of a number."""
    return (value & 0xFFFF) + ((value >> 16) & 0xFFFF) + (value >> 32)


@dataclass(frozen=True)
class IcmpError:
    """An ICMP error and the probe it quotes; `number` is None where the router quoted only 8 bytes."""

    type: int
    code: int
    id: int
    sequence: int
    token: bytes | None
    number: int | None
    destination: bytes  # the quoted packet's destination address, 4 or 16 bytes; empty where unknown
    local: bool  # whoever sent the probe sent the error too: this host could not deliver it


def parse_error4(packet: bytes) -> IcmpError | None:
    """The error in an IPv4 packet (IP header first), or None where it is malformed or quotes no echo request.

    IP header | type code checksum(2) unused(4) | quoted IP header | quoted ICMP: at least 8 bytes
    """
    outer = (packet[0] & 0xF) * 4 if packet else 0
    quoted = packet[outer + 8 :]
    if outer < 20 or len(quoted) < 28 or quoted[0] >> 4 != 4 or quoted[9] != _ICMP:
        return None
    inner = (quoted[0] & 0xF) * 4
    if inner < 20:
        return None
    local = packet[12:16] == quoted[12:16]
    return _quoted_echo(packet[outer], packet[outer + 1], quoted[inner:], ECHO_REQUEST, quoted[16:20], local)


def parse_error6(packet: bytes, source: bytes) -> IcmpError | None:
    """The error in an ICMPv6 message (no IP header) from `source`, or None. Quoted extension headers are not
    followed."""
    quoted = packet[8:]
    if len(quoted) < 48 or quoted[0] >> 4 != 6 or quoted[6] != _ICMPV6:
        return None
    local = source == quoted[8:24]
    return _quoted_echo(packet[0], packet[1], quoted[40:], ECHO6_REQUEST, quoted[24:40], local)


def quotes_others(packet: bytes, *, v4: bool) -> bool:
    """Whether an ICMP error is about a packet that is no ICMP at all: nothing that concerns echo requests.

    `packet` begins with the IP header where `v4`, else with the ICMPv6 message.
    """
    if v4:
        quoted = packet[(packet[0] & 0xF) * 4 + 8 :] if packet else b""
        return len(quoted) >= 20 and quoted[0] >> 4 == 4 and quoted[9] != _ICMP
    quoted = packet[8:]
    return len(quoted) >= 40 and quoted[0] >> 4 == 6 and quoted[6] in _OTHERS6


def parse_quoted(error_type: int, code: int, quoted: bytes, request: int, local: bool) -> IcmpError | None:
    """The error that a ping socket's error queue reports: `quoted` is our own ICMP message, perhaps cut
    short."""
    return _quoted_echo(error_type, code, quoted, request, b"", local)


def _quoted_echo(
    error_type: int, code: int, echo: bytes, request: int, destination: bytes, local: bool
) -> IcmpError | None:
    if len(echo) < 8 or echo[0] != request or echo[1] != 0:
        return None
    whole = len(echo) >= HEADER
    return IcmpError(
        error_type,
        code,
        int.from_bytes(echo[4:6], "big"),
        int.from_bytes(echo[6:8], "big"),
        echo[8:16] if whole else None,
        int.from_bytes(echo[16:24], "big") if whole else None,
        destination,
        local,
    )
