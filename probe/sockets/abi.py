"""Nothing in, Linux's socket structures out, as numpy dtypes, and its batch calls through ctypes (64-bit
Linux).

The kernel reads and writes these arrays directly, so one assignment patches a whole batch. Sources:
recvmmsg(2),
sendmmsg(2), cmsg(3), include/uapi/linux/net_tstamp.h, include/uapi/linux/errqueue.h.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

import numpy as np

# struct mmsghdr: a msghdr (56 bytes) and the length that the kernel moved.
MMSGHDR = np.dtype(
    {
        "names": ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags", "len"],
        "formats": ["u8", "u4", "u8", "u8", "u8", "u8", "i4", "u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
IOVEC = np.dtype([("base", "u8"), ("len", "u8")])
SOCKADDR = 28  # sizeof(struct sockaddr_in6); a sockaddr_in fits in

# SCM_TIMESTAMPING, the first control message of every stamped packet, and behind it, on the error queue, the
# sock_extended_err that says which packet the stamp belongs to:
#
#   0 cmsg_len(8) level(4) type(4) | 16 software sec(8) nsec(8) | 32 legacy (16) | 48 hardware sec(8) nsec(8)
#  64 cmsg_len(8) level(4) type(4) | 80 errno(4) origin(1) type(1) code(1) pad(1) info(4) data(4) | 96
# offender ...
# Both heads are read as one 64-bit word: a whole block is checked by two comparisons.
CONTROL = np.dtype(
    {
        "names": ["len", "kind", "sec", "nsec", "hw_sec", "hw_nsec", "origin", "id"],
        "formats": ["u8", "u8", "i8", "i8", "i8", "i8", "u8", "u4"],
        "offsets": [0, 8, 16, 24, 48, 56, 80, 92],
        "itemsize": 128,
    }
)
STAMP = np.dtype(
    {
        "names": ["len", "kind", "sec", "nsec", "hw_sec", "hw_nsec"],
        "formats": ["u8", "u8", "i8", "i8", "i8", "i8"],
        "offsets": [0, 8, 16, 24, 48, 56],
        "itemsize": 64,
    }
)

# With hardware stamps asked for, a reply that has one names the interface first (SCM_TIMESTAMPING_PKTINFO):
#
#   0 cmsg_len(8) level(4) type(4) | 16 interface(4) packet length(4) zeros(8) | 32 a STAMP | 96
#
# One that has none is a STAMP alone.
ARRIVAL = np.dtype(
    {
        "names": ["first", "interface", "second"],
        "formats": [STAMP, "u4", STAMP],
        "offsets": [0, 16, 32],
        "itemsize": 96,
    }
)

# The one control message that a probe leaves with: the id its TX stamp shall come back under.
#   0 cmsg_len(8) level(4) type(4) | 16 id(4) pad(4)
SEND_ID = np.dtype(
    {
        "names": ["len", "level", "type", "id"],
        "formats": ["u8", "i4", "i4", "u4"],
        "offsets": [0, 8, 12, 16],
        "itemsize": 24,
    }
)

SO_TIMESTAMPING = 37  # also SCM_TIMESTAMPING
SCM_TIMESTAMPING_PKTINFO = 58
SCM_TS_OPT_ID = 81  # Linux 6.13
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
SO_MEMINFO = 55  # its u32s: bytes that wait to be read, bytes there is room for, ... packets dropped
MEMINFO_RECEIVED, MEMINFO_ROOM, MEMINFO_DROPS = 0, 1, 8
ICMP_FILTER = 1  # at level SOL_RAW
SOL_RAW = 255
ICMP6_FILTER = 1  # at level IPPROTO_ICMPV6
IP_RECVERR, IPV6_RECVERR = 11, 25
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_DONTFRAG, IPV6_FLOWINFO_SEND, IPV6_FREEBIND = 23, 62, 33, 78

TX_HARDWARE, TX_SOFTWARE, RX_HARDWARE, RX_SOFTWARE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
SOFTWARE, RAW_HARDWARE, OPT_ID, OPT_TSONLY = 1 << 4, 1 << 6, 1 << 7, 1 << 11
OPT_PKTINFO, OPT_TX_SWHW = 1 << 13, 1 << 14
STAMPING = TX_SOFTWARE | RX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
# The interface's own clock, too: a TX stamp then comes as two messages, one by each clock.
HARDWARE_STAMPING = STAMPING | TX_HARDWARE | RX_HARDWARE | RAW_HARDWARE | OPT_TX_SWHW | OPT_PKTINFO

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 5, 6, 10
TPACKET_V2 = 1
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD

ORIGIN_ICMP, ORIGIN_ICMP6, ORIGIN_TIMESTAMPING = 2, 3, 4
_ENOMSG = 42

KIND_STAMP = np.uint64(socket.SOL_SOCKET | SO_TIMESTAMPING << 32)  # level and type of SCM_TIMESTAMPING
KIND_INTERFACE = np.uint64(socket.SOL_SOCKET | SCM_TIMESTAMPING_PKTINFO << 32)
ORIGIN_STAMP = np.uint64(
    _ENOMSG | ORIGIN_TIMESTAMPING << 32
)  # errno and origin of a TX stamp's extended error
MSG_DONTWAIT = int(socket.MSG_DONTWAIT)
MSG_ERRQUEUE = 0x2000

_libc = ctypes.CDLL(None, use_errno=True)
call_sendmmsg = _libc.sendmmsg  # -1 on failure; see `sendmmsg`
call_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


def sendmmsg(fd: int, headers: int, count: int) -> int:
    """Send `count` messages whose mmsghdr array is at address `headers`. Returns how many, or -errno for the
    first."""
    sent = call_sendmmsg(fd, headers, count, MSG_DONTWAIT)
    return sent if sent >= 0 else -ctypes.get_errno()


def recvmmsg(fd: int, headers: int, count: int, flags: int) -> int:
    """Receive at most `count` messages without waiting. Returns how many, or -errno."""
    received = _recvmmsg(fd, headers, count, flags | MSG_DONTWAIT, None)
    return received if received >= 0 else -ctypes.get_errno()


def bind_everywhere(handle: socket.socket, protocol: int) -> None:
    """Let a packet socket receive this protocol on all interfaces, which socket.bind cannot say. Raises:
    OSError."""
    # struct sockaddr_ll: family(2) protocol(2, network order) interface(4)=0 ...
    address = struct.pack("=H", socket.AF_PACKET) + struct.pack("!H", protocol) + bytes(16)
    if _libc.bind(handle.fileno(), address, len(address)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def sockaddr(family: int, address: str, scope: int = 0) -> bytes:
    """A sockaddr_in or sockaddr_in6 (port 0), padded to SOCKADDR bytes."""
    packed = socket.inet_pton(family, address)
    if family == socket.AF_INET:
        raw = family.to_bytes(2, "little") + bytes(2) + packed
    else:
        raw = family.to_bytes(2, "little") + bytes(6) + packed + scope.to_bytes(4, "little")
    return raw.ljust(SOCKADDR, b"\0")


def error_name(errno: int) -> str:
    """'EPERM: Operation not permitted' for 1."""
    import errno as names

    return f"{names.errorcode.get(errno, errno)}: {os.strerror(errno)}"
