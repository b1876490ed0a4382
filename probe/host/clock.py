"""Nothing in, what the kernel believes of its wall clock out (adjtimex(2), read only)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
# Once: each CDLL is a class of its own, kilobytes that only the garbage collector finds again.
_adjtimex = ctypes.CDLL(None).adjtimex


class _Timex(ctypes.Structure):
    """The head of struct timex; the kernel writes 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 168),
    )


@dataclass(frozen=True)
class ClockState:
    """`synchronised`: somebody disciplines the clock. `error_ns`: its maximum error by the kernel's
    account."""

    synchronised: bool
    error_ns: int


def clock_state() -> ClockState:
    """Ask the kernel; `modes` 0 changes nothing and needs no privilege."""
    timex = _Timex()
    state = _adjtimex(ctypes.byref(timex))
    synchronised = state not in (-1, _TIME_ERROR) and not timex.status & _STA_UNSYNC
    return ClockState(synchronised, int(timex.maxerror) * 1000)
