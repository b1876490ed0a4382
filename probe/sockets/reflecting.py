"""UDP packets to our port in, each with its time, addresses and TTL; replies written in their place out.

A reply leaves from the memory that its request came in: nothing is copied. Control messages say what the
kernel knows of each packet, and from which address and with which DSCP its reply shall leave:

    received, IPv4:  SCM_TIMESTAMPING (64 bytes) | IP_PKTINFO (32) | IP_TTL (24) | IP_TOS (24)
    received, IPv6:  SCM_TIMESTAMPING (64) | IPV6_PKTINFO (40) | IPV6_HOPLIMIT (24) | IPV6_TCLASS (24)
    sent:            PKTINFO (32 or 40) | IP_TOS or IPV6_TCLASS (24) | SCM_TS_OPT_ID (24)
"""

from __future__ import annotations

import errno
import socket
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from probe.errors import PrivilegeError, SocketError
from probe.packets.arrival import Arrival
from probe.sockets import abi
from probe.sockets.opening import enlarge, kernel_takes_ids
from probe.sockets.packet_socket import pressure
from probe.sockets.receive_block import ReceiveBlock
from probe.sockets.stamp_ids import KernelCounter

ROWS = 64  # packets that are answered together: the first one's reply waits for the last one's
PITCH = 9216  # bytes kept of a packet: a jumbo frame's
_BUFFER = 4 << 20  # bytes, for each direction
_HEADER = abi.MMSGHDR.itemsize
_ECN = 0x03

# Option that asks for it, and type of the message that then comes or goes: packet info, TTL, class.
_IPV4 = (8, 8), (12, 2), (13, 1)
_IPV6 = (49, 50), (51, 52), (66, 67)

_NAMES = ("kind", "sec", "nsec", "interface", "own", "destination", "ttl", "class")
_RECEIVED = {
    4: np.dtype(
        {
            "names": _NAMES,
            "formats": ["u8", "i8", "i8", "u4", "(4,)u1", "(4,)u1", "i4", "u1"],
            "offsets": [8, 16, 24, 80, 84, 88, 112, 136],
            "itemsize": 144,
        }
    ),
    6: np.dtype(
        {
            "names": _NAMES,
            "formats": ["u8", "i8", "i8", "u4", "(16,)u1", "(16,)u1", "i4", "u1"],
            "offsets": [8, 16, 24, 96, 80, 80, 120, 144],
            "itemsize": 152,
        }
    ),
}
_SENT_NAMES = ("info", "interface", "own", "class_head", "class", "id_head", "id")
_SENT = {
    4: np.dtype(
        {
            "names": _SENT_NAMES,
            "formats": ["(2,)u8", "u4", "(4,)u1", "(2,)u8", "u4", "(2,)u8", "u4"],
            "offsets": [0, 16, 20, 32, 48, 56, 72],
            "itemsize": 80,
        }
    ),
    6: np.dtype(
        {
            "names": _SENT_NAMES,
            "formats": ["(2,)u8", "u4", "(16,)u1", "(2,)u8", "u4", "(2,)u8", "u4"],
            "offsets": [0, 32, 16, 40, 56, 64, 80],
            "itemsize": 88,
        }
    ),
}


def open_reflecting(family: int, address: str, port: int, scope: int = 0) -> ReflectingSocket:
    """A socket that receives what is sent to `port` of `address` (empty: all of this family).

    Raises: PrivilegeError where the port is kept for root; SocketError where it is in use, or the address is
        not this host's, or the family is not there.
    """
    name = "IPv4" if family == socket.AF_INET else "IPv6"
    where = f"[{address}]:{port}" if ":" in address else f"{address or name}:{port}"
    try:
        handle = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as problem:
        raise SocketError(f"cannot open an {name} socket: {problem.strerror}") from None
    try:
        enlarge(handle, _BUFFER)
        handle.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, abi.STAMPING)
        if family == socket.AF_INET6:
            handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option, _ in _IPV4 if family == socket.AF_INET else _IPV6:
            level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
            handle.setsockopt(level, option, 1)
        # The kernel switches stamping on in the background; the first packet after setsockopt may miss it.
        time.sleep(0.005)
        handle.bind((address, port) if family == socket.AF_INET else (address, port, 0, scope))
        if family == socket.AF_INET6:
            # What a local route delivers here may be answered from there, as on IPv4 without being asked.
            # After bind: an address that is not ours is a mistake there.
            handle.setsockopt(socket.IPPROTO_IPV6, abi.IPV6_FREEBIND, 1)
    except OSError as problem:
        handle.close()
        raise _translated(problem, where, port) from None
    return ReflectingSocket(handle, kernel_takes_ids())


def _translated(problem: OSError, where: str, port: int) -> SocketError:
    if problem.errno in (errno.EACCES, errno.EPERM):
        return PrivilegeError(
            f"this process may not listen on {where}. Either give it CAP_NET_BIND_SERVICE (run it as root, "
            "or with AmbientCapabilities=CAP_NET_BIND_SERVICE in its systemd unit), or allow the port for "
            f"everybody: sysctl -w net.ipv4.ip_unprivileged_port_start={port}, or choose a port from 1024 on "
            "with --bind"
        )
    if problem.errno == errno.EADDRINUSE:
        return SocketError(
            f"{where} is in use by another program (which one, says: ss -ulnp 'sport = :{port}'); "
            "end it, or choose another port with --bind"
        )
    if problem.errno == errno.EADDRNOTAVAIL:
        return SocketError(f"{where}: no interface of this host has that address (see: ip address)")
    return SocketError(f"cannot listen on {where}: {problem.strerror}")


class ReflectingSocket:
    """A bound UDP socket with kernel stamps both ways; at most ROWS packets are in hand at a time.

    `choose_id`: whether the kernel takes our own TX stamp ids (SCM_TS_OPT_ID).
    """

    def __init__(self, handle: socket.socket, choose_id: bool) -> None:
        self._socket, self._choose_id = handle, choose_id
        self.fd = handle.fileno()
        self.unstamped = 0  # packets that came without a stamp, so that our clock told their time
        self.unsent: Counter[str] = Counter()  # replies that the kernel refused, by its reason
        self._six = handle.family == socket.AF_INET6
        self._width = 16 if self._six else 4
        self._rx = ReceiveBlock(_RECEIVED[6 if self._six else 4], names=True, kept=PITCH, rows=ROWS)
        self._err = ReceiveBlock(abi.CONTROL, names=False, kept=8, rows=4 * ROWS)
        self._bytes = self._rx.data.reshape(-1).data
        self._counter = KernelCounter()
        self._early: list[tuple[int, int]] = []
        self._next_id = 0
        self._prepare()

    def _prepare(self) -> None:
        """The headers of replies, as far as they are the same for all."""
        place = np.arange(ROWS, dtype=np.uint64)
        self._tx, self._iov = np.zeros(ROWS, abi.MMSGHDR), np.zeros(ROWS, abi.IOVEC)
        self._control = np.zeros(ROWS, _SENT[6 if self._six else 4])
        self._tx["iov"] = self._iov.ctypes.data + place * abi.IOVEC.itemsize
        self._tx["iovlen"] = 1
        self._tx["namelen"] = abi.SOCKADDR if self._six else 16
        self._tx["control"] = self._control.ctypes.data + place * self._control.itemsize
        self._tx["controllen"] = self._control.itemsize - (0 if self._choose_id else 24)
        level = socket.IPPROTO_IPV6 if self._six else socket.IPPROTO_IP
        (_, info), _, (_, traffic) = _IPV6 if self._six else _IPV4
        self._control["info"] = 36 if self._six else 28, level | info << 32
        self._control["class_head"] = 20, level | traffic << 32
        self._control["id_head"] = 20, socket.SOL_SOCKET | abi.SCM_TS_OPT_ID << 32
        self._tx_at = self._tx.ctypes.data

    def receive(self) -> list[tuple[memoryview, Arrival]]:
        """What waits, at most ROWS packets; memory and all of it valid until the next call."""
        count = self._rx.take(self.fd, 0)
        if not count:
            return []
        headers, control = self._rx.headers[:count], self._rx.control[:count]
        plain = (headers["controllen"] == control.itemsize) & (control["kind"] == abi.KIND_STAMP)
        if not plain.all():
            for i in np.flatnonzero(~plain).tolist():
                self._set_right(i)
            self._rx.odd = True
        stamps = (control["sec"] * 1_000_000_000 + control["nsec"]).tolist()
        if 0 in stamps:
            self.unstamped += stamps.count(0)
            now = time.time_ns()
            stamps = [stamp or now for stamp in stamps]
        destinations = control["destination"]
        if self._six:
            unicast = (destinations[:, 0] != 0xFF).tolist()
        else:
            # Where they differ the kernel has chosen one of our addresses instead of a group's.
            unicast = (destinations == control["own"]).all(1).tolist()
        whole = (headers["flags"] & int(socket.MSG_TRUNC) == 0).tolist()
        lengths, ttls = headers["len"].tolist(), control["ttl"].tolist()
        names, addresses, width = self._rx.names[:count].tobytes(), destinations.tobytes(), self._width
        source = 8 if self._six else 4
        found = []
        for i in range(count):
            peer = names[i * abi.SOCKADDR : (i + 1) * abi.SOCKADDR]
            arrival = Arrival(
                peer,
                peer[source : source + width],
                peer[2] << 8 | peer[3],
                addresses[i * width : (i + 1) * width],
                unicast[i],
                ttls[i] & 0xFF,
                stamps[i],
                whole[i],
            )
            found.append((self._bytes[i * PITCH : i * PITCH + lengths[i]], arrival))
        return found

    def _set_right(self, i: int) -> None:
        """Rewrite the control messages of row i, which came in another order or without a stamp."""
        row = self._rx.control[i : i + 1]
        used = int(self._rx.headers["controllen"][i])
        messages = dict(_messages(row.tobytes()[:used]))
        (_, info), (_, ttl), (_, traffic) = _IPV6 if self._six else _IPV4
        level = int(socket.IPPROTO_IPV6 if self._six else socket.IPPROTO_IP)
        row.view(np.uint8)[:] = 0
        stamp = messages.get((socket.SOL_SOCKET, abi.SO_TIMESTAMPING), b"")
        if len(stamp) >= 16:
            row["sec"], row["nsec"] = (int.from_bytes(stamp[at : at + 8], "little") for at in (0, 8))
        found = messages.get((level, info), b"")
        if len(found) == (20 if self._six else 12):
            parts = (found[:16], found[:16], found[16:]) if self._six else (found[4:8], found[8:], found[:4])
            row["own"], row["destination"] = (np.frombuffer(part, np.uint8) for part in parts[:2])
            row["interface"] = int.from_bytes(parts[2], "little")
        row["ttl"] = int.from_bytes(messages.get((level, ttl), b""), "little") & 0xFF
        row["class"] = int.from_bytes(messages.get((level, traffic), b""), "little") & 0xFF

    def reply(self, rows: list[int]) -> list[int]:
        """Send these rows of what was received last, as long as they were, to where they came from.

        From the address that they were sent to, with their DSCP. Returns for each the id under which `stamps`
        will report when it left, or -1 where the kernel refused it.
        """
        count = len(rows)
        which = np.array(rows)
        place = which.astype(np.uint64)
        received, sent = self._rx.control[which], self._control[:count]
        self._tx["name"][:count] = self._rx.names.ctypes.data + place * abi.SOCKADDR
        self._iov["base"][:count] = self._rx.data.ctypes.data + place * PITCH
        self._iov["len"][:count] = self._rx.headers["len"][which]
        sent["own"], sent["class"] = received["own"], received["class"] & ~np.uint8(_ECN)
        if self._six:
            # Only within a link an address needs its interface beside it.
            near = (sent["own"][:, 0] == 0xFE) & (sent["own"][:, 1] & 0xC0 == 0x80)
            sent["interface"] = np.where(near, received["interface"], 0)
        ids = (self._next_id + np.arange(count)) & 0xFFFFFFFF
        self._next_id += count
        sent["id"] = ids
        return self._send(ids.astype(np.uint32), count)

    def _send(self, ids: NDArray[np.uint32], count: int) -> list[int]:
        left: list[int] = ids.tolist()
        done = 0
        while done < count:
            moved = abi.sendmmsg(self.fd, self._tx_at + done * _HEADER, count - done)
            if moved > 0:
                if not self._choose_id:
                    self._counter.sent(ids[done : done + moved])
                done += moved
                if done < count and not self._choose_id:
                    self._restart_counter()
            elif moved != -errno.EINTR:
                # A reply that leaves later than it says would be a lie: it is not tried again.
                self.unsent[abi.error_name(-moved)] += 1
                left[done] = -1
                done += 1
                if not self._choose_id:
                    self._restart_counter()
        return left

    def stamps(self) -> list[tuple[int, int]]:
        """When replies left: their ids with wall ns, all that the kernel has told by now."""
        early, self._early = self._early, []
        return early + self._take_stamps()

    def _take_stamps(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while count := self._err.take(self.fd, abi.MSG_ERRQUEUE):
            control = self._err.control[:count]
            good = (control["origin"] == abi.ORIGIN_STAMP) & (control["kind"] == abi.KIND_STAMP)
            if not good.all():
                self._err.odd = True
                control = control[good]
            ids, wall = control["id"], control["sec"] * 1_000_000_000 + control["nsec"]
            if not self._choose_id:
                ids, wall = self._counter.translate(ids, wall)
            found += zip(ids.tolist(), wall.tolist(), strict=True)
            if count < 4 * ROWS:
                break
        return found

    def _restart_counter(self) -> None:
        """Whether a refused packet took a number of the kernel's depends on who refused it: count anew."""
        self._early += self._take_stamps()
        without = (abi.STAMPING & ~abi.OPT_ID) & ~abi.OPT_TSONLY
        self._socket.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, without)
        self._socket.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, abi.STAMPING)
        self._counter.restart(time.time_ns())

    @property
    def overflowed(self) -> int:
        """Packets that found the receive buffer full, ever."""
        return pressure(self._socket).drops

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        self._socket.close()


def _messages(control: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """(level, type) and data of each control message."""
    at = 0
    while at + 16 <= len(control):
        length, level, kind = (
            int.from_bytes(control[at + a : at + b], "little") for a, b in ((0, 8), (8, 12), (12, 16))
        )
        if length < 16:
            return
        yield (level, kind), control[at + 16 : at + length]
        at += (length + 7) & ~7
