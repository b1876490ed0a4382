"""Nothing in, the record between the engine and the windows out: what became of the probes of one window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SENT = 1  # the kernel took the probe
REFUSED = 2  # the kernel refused it: it never left, and is no loss
SKIPPED = 4  # the host was stalled past its time: it was never tried
ERROR = 8  # an ICMP error quoted it
LOCAL = 16  # ... and this host itself made that error: the probe never left
HIDDEN = 32  # nobody answered, and our own full receive buffer may have dropped the reply
BLURRED = 64  # that buffer was full at the time: the TX stamp may have been dropped, too
CLOSED = 128  # the reply was a refusal: nobody listens on that port (TCP RST)

ABSENT = -(1 << 63)  # of a delay that has no value; a delay itself may be negative, where clocks differ
# Where a probe to a reflector that numbers its replies was lost: `Reflections.lost`.
UNTOLD, FORWARD, BACKWARD = 0, 1, 2


@dataclass(frozen=True)
class Reflections:
    """What a STAMP reflector said of its half of the way (RFC 8762); all arrays have the samples' shape (n,).

    Delays and errors are integer ns, ABSENT where there is no value: no reply, a clock that is not
    synchronised, probes of another kind.
    """

    dwell: NDArray[np.int64]  # from the reflector's RX to its TX stamp, not part of the RTT; 0: unknown
    followed: NDArray[np.bool_]  # ... which ended with its kernel's TX stamp, not with its own clock reading
    forward: NDArray[np.int64]  # one-way delay to the reflector
    backward: NDArray[np.int64]  # one-way delay from the reflector
    clock_error: NDArray[np.int64]  # how far both clocks together may be off, where both are synchronised
    lost: NDArray[np.uint8]  # of an unanswered probe: UNTOLD, FORWARD or BACKWARD
    numbering: NDArray[np.bool_]  # shape (flows,): the reflector numbers its replies itself: losses are told
    # Shape (flows,): at the last cut the kernel's TX stamps of many replies were there; None: nobody knows.
    follows: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Samples:
    """Probes of one socket in the order in which they were due; rows from `inside` on belong to later
    windows.

    The later rows are there because a reply is reordered when the reply to a *later* probe overtook it. All
    arrays
    have shape (n,), times are integer ns on the monotonic clock's scale, 0 means 'never'.
    """

    flow: NDArray[np.int32]  # index into the agent's list of flows
    due: NDArray[np.int64]  # when the schedule wanted it to leave
    sent: NDArray[np.int64]  # our clock just before the send call
    tx: NDArray[np.int64]  # the kernel's TX stamp
    rx: NDArray[np.int64]  # the kernel's RX stamp of the first reply
    state: NDArray[np.uint8]  # SENT | REFUSED | SKIPPED, with ERROR, LOCAL, HIDDEN, BLURRED, CLOSED
    unstamped: NDArray[np.bool_]  # the first reply came without a kernel stamp; `rx` is our clock
    duplicates: NDArray[np.uint8]  # replies after the first, at most 255 a probe
    inside: int
    stamping: NDArray[np.bool_]  # shape (flows,): the kernel stamps this flow, as far as was seen last
    reflections: Reflections | None = None  # where probes of this socket go to STAMP reflectors
    hard_rtt: NDArray[np.int64] | None = None  # RX - TX by the interface's own clock; 0: not both are there


@dataclass(frozen=True)
class Strays:
    """Replies that came after their window had been closed, per flow: int64, shape (flows,)."""

    late: NDArray[np.int64]
    duplicates: NDArray[np.int64]
    errors: NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """One closed window of every flow.

    start_ns, end_ns: wall clock, ns since the epoch; `start_ns` is a multiple of the length unless the
    engine itself
    began, or the wall clock was stepped, inside the window.
    """

    start_ns: int
    end_ns: int
    samples: tuple[Samples, ...]
    strays: Strays
