"""Unix nanoseconds in, the 64-bit timestamps and 16-bit error estimates of STAMP out, and back. No I/O.

    NTP, 64 bits (RFC 5905, section 6): seconds since 1900 (32) | fraction, in units of 2^-32 s (32)
    PTPv2, truncated (IEEE 1588; RFC 8186): seconds since 1970 (32) | nanoseconds (32)

    Error estimate (RFC 4656, section 4.1.2; Z by RFC 8186, section 2.3):
     0                   1
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |S|Z|   Scale   |   Multiplier  |   error = Multiplier * 2^Scale * 2^-32 s
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    S: the clock is synchronised to UTC by an external source. Z: timestamps beside it are PTP's, not NTP's.

NTP's seconds begin again in 2036. With the highest bit clear they are taken as of the era after that
(RFC 4330, section 3), so times from 1968 to 2104 can be said. The fraction is finer than a nanosecond:
rounded to the nearest, every nanosecond comes back as it was. PTP's seconds are read as UTC; who sends TAI is
37 s ahead, and the packet does not say which it is: an RTT and a dwell time are right anyway, a one-way delay
is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FROM_1900 = 2_208_988_800  # s from 1900 to 1970
_ERA = 1 << 32
_SECOND = 1_000_000_000
_NEVER_MORE = 1 << 62  # ns; what is written for an error beyond

SYNCHRONISED, PTP = 0x8000, 0x4000  # bits S and Z of an error estimate


def to_ntp(ns: int) -> int:
    """The NTP timestamp of `ns` since 1970."""
    seconds, rest = divmod(ns, _SECOND)
    return ((seconds + _FROM_1900) % _ERA) << 32 | ((rest << 32) + _SECOND // 2) // _SECOND


def from_ntp(raw: int) -> int:
    """Nanoseconds since 1970 of an NTP timestamp."""
    seconds, fraction = raw >> 32, raw & 0xFFFFFFFF
    era = _ERA if seconds < _ERA // 2 else 0
    return (seconds + era - _FROM_1900) * _SECOND + ((fraction * _SECOND + (1 << 31)) >> 32)


def to_ntp_each(ns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """As `to_ntp`, of an array; uint64 in host order."""
    seconds = ns // _SECOND
    fraction = (((ns - seconds * _SECOND) << 32) + _SECOND // 2) // _SECOND
    return (((seconds + _FROM_1900) & 0xFFFFFFFF) << 32 | fraction).view(np.uint64)


def from_ntp_each(raw: NDArray[np.uint64]) -> NDArray[np.int64]:
    """As `from_ntp`, of an array in host or network order; int64."""
    host = raw.astype(np.uint64)
    seconds = (host >> np.uint64(32)).view(np.int64)
    fraction = (host & np.uint64(0xFFFFFFFF)).view(np.int64)
    era = np.where(seconds < _ERA // 2, _ERA - _FROM_1900, -_FROM_1900)
    return (seconds + era) * _SECOND + ((fraction * _SECOND + (1 << 31)) >> 32)


def from_ptp_each(raw: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Nanoseconds since 1970 of an array of truncated PTP timestamps, in host or network order; int64."""
    host = raw.astype(np.uint64)
    seconds = (host >> np.uint64(32)).view(np.int64)
    return seconds * _SECOND + (host & np.uint64(0xFFFFFFFF)).view(np.int64)


def times_of(raw: NDArray[np.uint64], errors: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Nanoseconds since 1970 of timestamps, each in the format that the error estimate beside it names."""
    times = from_ntp_each(raw)
    ptp = (errors & PTP) != 0
    if ptp.any():
        times[ptp] = from_ptp_each(raw[ptp])
    return times


def error_estimate(error_ns: int, synchronised: bool) -> int:
    """The estimate, beside NTP timestamps, of a clock that is at most `error_ns` off: rounded up, never 0."""
    units = max(1, -(-(error_ns << 32) // _SECOND))
    scale = max(0, units.bit_length() - 8)
    multiplier = -(-units >> scale)
    if multiplier > 0xFF:
        scale, multiplier = scale + 1, 0x80
    if scale > 0x3F:
        scale, multiplier = 0x3F, 0xFF
    return (SYNCHRONISED if synchronised else 0) | scale << 8 | multiplier


def errors_of(estimates: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The errors in ns, rounded up, at most 2^62; int64."""
    scale = ((estimates >> 8) & 0x3F).astype(np.int64)
    # Exact: 38 bits of a product, moved by whole powers of two.
    errors = np.ceil(np.ldexp((estimates & 0xFF) * float(_SECOND), scale - 32))
    whole: NDArray[np.int64] = np.minimum(errors, float(_NEVER_MORE)).astype(np.int64)
    return whole


def synchronised_of(estimates: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Where a clock is said to be synchronised; an estimate with the multiplier 0 says nothing (RFC 4656)."""
    said: NDArray[np.bool_] = ((estimates & SYNCHRONISED) != 0) & ((estimates & 0xFF) != 0)
    return said
