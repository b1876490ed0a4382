"""What the kernel says of TCP connections (TCP_INFO) in, when their SYNs were answered out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# struct tcp_info (linux/tcp.h), as far as it is read; times before byte 60 in ms, behind it in us:
#
#   0 state(1) ca_state(1) retransmits(1) probes(1) backoff(1) options(1) wscale(1) flags(1)
#   8 rto ato snd_mss rcv_mss unacked sacked lost retrans fackets (4 each)
#  44 last_data_sent last_ack_sent last_data_recv | 56 last_ack_recv: so long ago | 60 pmtu rcv_ssthresh
#  68 rtt | 72 rttvar snd_ssthresh snd_cwnd advmss reordering rcv_rtt rcv_space | 100 total_retrans | 104
INFO = np.dtype(
    {
        "names": ["state", "acknowledged", "rtt", "repeated"],
        "formats": ["u1", "u4", "u4", "u4"],
        "offsets": [0, 56, 68, 100],
        "itemsize": 104,
    }
)
BEGINNING = (2, 3)  # states SYN_SENT and SYN_RECV
CLOSE = 7  # the state of a socket that is not, or no longer, connected
# The kernel repeats a SYN after 1 s (RFC 6298 section 2.1): what answers a SYN that left later than half of
# that after the first one, by the kernel's account of the RTT, answers the repetition.
_REPETITION = 500_000_000

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def answer_times(infos: Sequence[bytes], sent: Ints, looked: Ints) -> tuple[Ints, Mask, Mask]:
    """When the SYN/ACK of each connection came.

    Args:
        infos: TCP_INFO of connections that came to be, INFO's size each.
        sent: when they were begun, wall ns. looked: when TCP_INFO was read.
    Returns the times (wall ns, so that time - sent is the kernel's RTT); where they are from ms instead, as
    the kernel has no RTT of a SYN that it repeated; and which answer the first SYN, not one that was repeated
    because nobody answered in time.
    """
    info = np.frombuffer(b"".join(infos), INFO)
    rtt = info["rtt"] * np.int64(1_000)
    repeated = info["repeated"] != 0
    came = np.where(repeated, looked - info["acknowledged"] * np.int64(1_000_000), sent + rtt)
    return came, repeated, ~repeated | (came - sent - rtt < _REPETITION)
