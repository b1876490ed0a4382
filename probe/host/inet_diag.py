"""Answers of sock_diag(7) in, this host's TCP connections and what the kernel knows of each out. Pure.

    inet_diag_msg: family(1) state(1) timer(1) retrans(1)
                   sport(2) dport(2) src(16) dst(16) if(4) cookie(8)   ports in network order
                   expires(4) rqueue(4) wqueue(4) uid(4) inode(4), then attributes

struct tcp_info (linux/tcp.h), as far as it is read; it grew from kernel to kernel, and what a kernel does not
have yet is None:

     0 state(1) ca_state(1) retransmits(1) probes(1) backoff(1) ...   8 rto(us)
    24 unacked | 32 lost | 44 last_data_sent(ms) | 52 last_data_recv(ms) 56 last_ack_recv(ms) 60 pmtu
    68 rtt(us) 72 rttvar(us) | 100 total_retrans | 120 bytes_acked(8) bytes_received(8) | 144 notsent_bytes
   148 min_rtt(us) | 160 delivery_rate(8, bytes/s) | 200 bytes_sent(8)
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from typing import NamedTuple

from probe.host.rtnetlink import DUMP, REQUEST, attributes, messages
from probe.host.watched import unmapped

BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_TCP, _INFO = 6, 2  # IPPROTO_TCP, INET_DIAG_INFO
STATES = (
    *("", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT"),
    *("CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING"),
)
# Those that carry data, did, or are to: what has no connection yet or no longer (LISTEN, TIME-WAIT) is none.
_LIVE = sum(
    1 << STATES.index(name)
    for name in ("ESTABLISHED", "SYN-SENT", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "LAST-ACK", "CLOSING")
)
_HEAD = struct.Struct("=BBBB2s2s16s16sI8s4xIIII")
_NO_MIN_RTT = 0xFFFFFFFF  # it has not measured any


class Connection(NamedTuple):
    """A TCP connection; addresses are 4 or 16 bytes. `cookie`: no other one ever has it. `inode`: of its
    socket; 0: no process holds it any more. `info`: struct tcp_info."""

    state: str
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    cookie: bytes
    inode: int
    info: bytes


class Info(NamedTuple):
    """TCP_INFO; times in ns, rates in bit/s. None: this kernel does not tell, or has no value."""

    retransmits: int  # in a row, of what waits now
    probes: int  # of a receiver that has no room
    rto_ns: int
    unacked: int
    lost: int
    last_sent_ns: int
    last_received_ns: int
    last_acknowledged_ns: int
    path_mtu: int
    rtt_ns: int | None
    rttvar_ns: int | None
    total_retransmits: int
    bytes_acknowledged: int | None
    bytes_received: int | None
    min_rtt_ns: int | None
    delivery_rate_bps: int | None
    bytes_sent: int | None


def request(family: int, sequence: int) -> bytes:
    """All live TCP connections of a family with their TCP_INFO.

    nlmsghdr, then inet_diag_req_v2: family(1) protocol(1) ext(1) pad(1) states(4), and a socket's id, which a
    dump leaves empty.
    """
    body = struct.pack("=BBBBI48x", family, _TCP, 1 << _INFO - 1, 0, _LIVE)
    return struct.pack("=IHHII", 16 + len(body), BY_FAMILY, REQUEST | DUMP, sequence, 0) + body


def connections(data: bytes, remotes: Container[bytes]) -> Iterator[Connection]:
    """Those of a datagram that lead to one of `remotes` (addresses); most of a busy host's do not, and are
    passed over before anything else is looked at."""
    for message in messages(data):
        body = message.body
        if message.kind != BY_FAMILY or len(body) < 72:
            continue
        family, state, _, _, sport, dport, src, dst, _, cookie, _, _, _, inode = _HEAD.unpack_from(body)
        local, remote = (src[:4], dst[:4]) if family == 2 else (unmapped(src), unmapped(dst))
        if remote not in remotes:
            continue
        info = next((value for which, value in attributes(body, 72) if which == _INFO), b"")
        yield Connection(
            STATES[state] if state < len(STATES) else str(state),
            local,
            int.from_bytes(sport, "big"),
            remote,
            int.from_bytes(dport, "big"),
            cookie,
            inode,
            info,
        )


def info(data: bytes) -> Info | None:
    """None where it is too short to say anything."""
    if len(data) < 104:
        return None
    retransmits, probes = data[2], data[3]
    u32 = struct.unpack_from("=26I", data)
    rtt, rttvar = u32[17] * 1000, u32[18] * 1000

    def u64(at: int) -> int | None:
        return int(struct.unpack_from("=Q", data, at)[0]) if len(data) >= at + 8 else None

    smallest = struct.unpack_from("=I", data, 148)[0] if len(data) >= 152 else _NO_MIN_RTT
    rate = u64(160)
    return Info(
        retransmits,
        probes,
        rto_ns=u32[2] * 1000,
        unacked=u32[6],
        lost=u32[8],
        last_sent_ns=u32[11] * 1_000_000,
        last_received_ns=u32[13] * 1_000_000,
        last_acknowledged_ns=u32[14] * 1_000_000,
        path_mtu=u32[15],
        rtt_ns=rtt or None,
        rttvar_ns=rttvar if rtt else None,
        total_retransmits=u32[25],
        bytes_acknowledged=u64(120),
        bytes_received=u64(128),
        min_rtt_ns=smallest * 1000 if smallest != _NO_MIN_RTT else None,
        delivery_rate_bps=rate * 8 if rate else None,
        bytes_sent=u64(200),
    )
