"""Columns in, STAMP test packets (RFC 8762, RFC 8972) out; received rows in, their columns out. No I/O.

Offsets in bytes of UDP payload. What is not named is zero. SSID: RFC 8972, section 3; 0 in RFC 8762.

Sender, unauthenticated, 44 bytes:            Reflector, unauthenticated, 44 bytes:
     0        1        2        3                  0        1        2        3
    +--------+--------+--------+--------+         +--------+--------+--------+--------+
    | Sequence number                   |  0      | Sequence number                   |  0
    | Timestamp T1                      |  4      | Timestamp T3                      |  4
    |                                   |  8      |                                   |  8
    | Error estimate  | SSID            | 12      | Error estimate  | SSID            | 12
    |                                   | 16      | Receive timestamp T2              | 16
    |                                   | 20      |                                   | 20
    |                                   | 24      | Sender's sequence number          | 24
    |                                   | 28      | Sender's timestamp T1             | 28
    |                                   | 32      |                                   | 32
    |                                   | 36      | Sender's error  |                 | 36
    |                                   | 40      | TTL    |                          | 40
    +--------+--------+--------+--------+         +--------+--------+--------+--------+
    | TLVs ...                          | 44      | TLVs ...                          | 44

Sender, authenticated, 112 bytes:             Reflector, authenticated, 112 bytes:
    | Sequence number                   |  0      | Sequence number                   |  0
    | Timestamp T1 (8)                  | 16      | Timestamp T3 (8)                  | 16
    | Error estimate  | SSID            | 24      | Error estimate  | SSID            | 24
    |                                   |         | Receive timestamp T2 (8)          | 32
    |                                   |         | Sender's sequence number          | 48
    |                                   |         | Sender's timestamp T1 (8)         | 64
    |                                   |         | Sender's error  |                 | 72
    |                                   |         | TTL    |                          | 80
    | HMAC of bytes 0 to 95 (16)        | 96      | HMAC of bytes 0 to 95 (16)        | 96
    | TLVs ...                          | 112     | TLVs ...                          | 112

HMAC: HMAC-SHA-256, its first 16 bytes (RFC 8762, section 4.4).

A TLV (RFC 8972, section 4), and the three that are spoken here:
    +--------+--------+--------+--------+
    | Flags  | Type   | Length of value |   flags: U 0x80 unknown, M 0x40 malformed, I 0x20 integrity failed
    | Value ...                         |   a sender sets U alone, a reflector clears what it found right
    +--------+--------+--------+--------+
    Type 1, extra padding: any value; comes back as it was sent.
    Type 7, follow-up telemetry, 16 bytes: sequence number of the session's last reply (4) |
        its time of sending (8) | how that was taken (1): 1 hardware, 2 software, 3 control plane | zeros (3)
    Type 8, HMAC, 16 bytes: of the sequence number and all TLVs before this one.

Our own probes carry, where they fit: extra padding that begins with 8 secret bytes, follow-up telemetry, in
authenticated mode the HMAC, then extra padding up to their size: `Layout`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

PORT = 862
OPEN, SEALED = 44, 112  # bytes of a test packet without TLVs: unauthenticated, authenticated
LEAST = 41  # bytes in which a reply says all: a TWAMP reflector's may be no longer (RFC 5357, 4.2.1)
SIGNED = 96  # bytes of an authenticated packet that its HMAC covers
MAC = 16  # bytes of an HMAC
TLV = 4  # bytes of a TLV in front of its value
UNKNOWN, MALFORMED, INTEGRITY = 0x80, 0x40, 0x20
EXTRA_PADDING, FOLLOW_UP, HMAC = 1, 7, 8
FOLLOW_UP_SIZE = 16  # bytes of its value
HARDWARE, SOFTWARE, CONTROL = 1, 2, 3  # ways to take a time
TOKEN = 8  # bytes of the secret
_MAC_HEADER = bytes((0, HMAC, 0, MAC))

_REQUEST = {
    False: {"seq": (">u4", 0), "timestamp": (">u8", 4), "error": (">u2", 12), "ssid": (">u2", 14)},
    True: {"seq": (">u4", 0), "timestamp": (">u8", 16), "error": (">u2", 24), "ssid": (">u2", 26)},
}
_REPLY = {
    False: {
        **_REQUEST[False],
        "received": (">u8", 16),
        "sender_seq": (">u4", 24),
        "sender_timestamp": (">u8", 28),
        "sender_error": (">u2", 36),
        "ttl": ("u1", 40),
    },
    True: {
        **_REQUEST[True],
        "received": (">u8", 32),
        "sender_seq": (">u4", 48),
        "sender_timestamp": (">u8", 64),
        "sender_error": (">u2", 72),
        "ttl": ("u1", 80),
    },
}
# The header as one number: flags, type, length.
_FOLLOW_UP = {"header": (">u4", -4), "seq": (">u4", 0), "timestamp": (">u8", 4), "mode": ("u1", 12)}
_TOKEN = {"token": ("u8", 0)}
# What stands in `follow_up_view`'s header when a reflector has filled in the rest.
FOLLOWED = FOLLOW_UP << 16 | FOLLOW_UP_SIZE


def request_view(rows: NDArray[np.uint8], sealed: bool, offset: int = 0) -> NDArray[np.void]:
    """Columns `seq`, `timestamp`, `error`, `ssid` of a sender's packets, from byte `offset` of each row on.

    A view: what is assigned stands in the rows. `rows`: uint8, shape (n, pitch), C-contiguous. `sealed`: in
    authenticated mode. Timestamps and estimates are raw: see `timestamps`.
    """
    return rows.view(_dtype("request", rows.shape[1], sealed, offset)).reshape(rows.shape[0])


def reply_view(rows: NDArray[np.uint8], sealed: bool, offset: int = 0) -> NDArray[np.void]:
    """As `request_view`, of a reflector's: also `received`, `sender_seq`, `sender_timestamp`, `sender_error`,
    `ttl` (at which the probe arrived). `timestamp` is T3, `received` T2, `sender_timestamp` T1."""
    return rows.view(_dtype("reply", rows.shape[1], sealed, offset)).reshape(rows.shape[0])


def follow_up_view(rows: NDArray[np.uint8], at: int) -> NDArray[np.void]:
    """Columns `header`, `seq`, `timestamp`, `mode` of the follow-up telemetry whose value is at byte `at`.

    Only where `header` is FOLLOWED and `mode` is not 0 has a reflector said something. `at`:
    `Layout.follow_up`, plus the byte of the row at which the packet begins.
    """
    return rows.view(_dtype("follow-up", rows.shape[1], False, at)).reshape(rows.shape[0])


def token_view(rows: NDArray[np.uint8], at: int) -> NDArray[np.uint64]:
    """The 8 secret bytes at byte `at` (`Layout.token`, plus where the packet begins) of each row."""
    view = rows.view(_dtype("token", rows.shape[1], False, at)).reshape(rows.shape[0])
    token: NDArray[np.uint64] = view["token"]
    return token


@cache
def _dtype(what: str, pitch: int, sealed: bool, offset: int) -> np.dtype[np.void]:
    fields = {
        "request": _REQUEST[sealed],
        "reply": _REPLY[sealed],
        "follow-up": _FOLLOW_UP,
        "token": _TOKEN,
    }[what]
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [at + offset for _, at in fields.values()],
            "itemsize": pitch,
        }
    )


@dataclass(frozen=True)
class Layout:
    """Where our own TLVs stand in a probe of `size` bytes of UDP payload; 0: it has no room for that one.

    token: of the 8 secret bytes. follow_up: of the value of the follow-up telemetry.
    mac: of the value of the TLVs' HMAC, in authenticated mode.
    end: how many bytes of a reply have to be kept, so that all of these are in it.
    """

    size: int
    sealed: bool
    token: int
    follow_up: int
    mac: int
    end: int

    @classmethod
    def of(cls, size: int, sealed: bool = False) -> Layout:
        """Raises ValueError where `size` is less than a test packet."""
        base = SEALED if sealed else OPEN
        if size < base:
            raise ValueError(f"a STAMP packet has at least {base} bytes of UDP payload, not {size}")
        room = size - base
        follow_up = TLV + FOLLOW_UP_SIZE + (TLV + MAC if sealed else 0)
        left = room - (TLV + TOKEN + follow_up)
        if left < 0:
            token = base + TLV if room >= TLV + TOKEN else 0
            return cls(size, sealed, token, 0, 0, token + TOKEN if token else base)
        # Fewer than a TLV's header needs cannot stand behind: they are part of the first padding.
        value = base + TLV + TOKEN + (left if left < TLV else 0) + TLV
        mac = value + FOLLOW_UP_SIZE + TLV if sealed else 0
        return cls(size, sealed, base + TLV, value, mac, mac + MAC if mac else value + FOLLOW_UP_SIZE)

    def template(self, token: bytes) -> bytes:
        """A probe with all that is the same in every one: all but `request_view`'s columns and the HMACs."""
        base = SEALED if self.sealed else OPEN
        room = self.size - base
        if not self.follow_up:
            return bytes(base) + (tlv(EXTRA_PADDING, room - TLV, token) if room >= TLV else bytes(room))
        packet = bytes(base) + tlv(EXTRA_PADDING, self.follow_up - TLV - self.token, token)
        packet += tlv(FOLLOW_UP, FOLLOW_UP_SIZE)
        if self.mac:
            packet += tlv(HMAC, MAC)
        left = self.size - len(packet)
        return packet + (tlv(EXTRA_PADDING, left - TLV) if left else b"")

    def seal(self, rows: NDArray[np.uint8], key: bytes, offset: int = 0) -> None:
        """Write the HMACs of authenticated probes, which begin at byte `offset` of each row; last of all."""
        for row in rows:
            packet = memoryview(row)[offset : offset + self.size]
            packet[SIGNED:SEALED] = mac(key, packet[:SIGNED])
            if self.mac:
                packet[self.mac : self.mac + MAC] = self._mac_of_tlvs(packet, key)

    def genuine(
        self, rows: NDArray[np.uint8], key: bytes, offset: int = 0
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the HMAC of each reply is right, and, of those, whether that of its TLVs is.

        Only where both are may the token and the follow-up telemetry be believed; a reflector that does not
        speak TLVs gives the first alone. Rows hold at least `end` bytes of a reply, from byte `offset` on.
        """
        packets, tlvs = np.zeros((2, len(rows)), np.bool_)
        for i, row in enumerate(rows):
            packet = memoryview(row)[offset:]
            packets[i] = hmac.compare_digest(packet[SIGNED:SEALED], mac(key, packet[:SIGNED]))
            if self.mac and packets[i] and packet[self.mac - TLV : self.mac] == _MAC_HEADER:
                theirs = packet[self.mac : self.mac + MAC]
                tlvs[i] = hmac.compare_digest(theirs, self._mac_of_tlvs(packet, key))
        return packets, tlvs

    def _mac_of_tlvs(self, packet: memoryview, key: bytes) -> bytes:
        return mac(key, bytes(packet[:4]) + packet[SEALED : self.mac - TLV])


def tlv(kind: int, size: int, value: bytes = b"") -> bytes:
    """A TLV as a sender writes it; `size` bytes of value, filled up with zeros."""
    return bytes((UNKNOWN, kind)) + size.to_bytes(2, "big") + value[:size].ljust(size, b"\0")


def mac(key: bytes, data: bytes | memoryview) -> bytes:
    """HMAC-SHA-256, truncated to 128 bits."""
    return hmac.digest(key, data, "sha256")[:MAC]
