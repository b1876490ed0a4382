"""Socket options and a number of ports in, an open socket for TCP SYN probes out: raw, with ports of its own.

Nobody's connections are touched. The probes' source ports are reserved (`probe.sockets.ports`), so no
connection of this host has one of them; a classic BPF program leaves the socket nothing but what comes to
these ports; and the kernel, which knows of no connection there, ends every handshake with RST before anybody
accepts it.

    from probe.engine.handshake import handshake
    from probe.engine.source_ports import share, width
    from probe.host.netlink import Changes

    spans = share(destinations, [width(interval, burst, poisson) for each flow])  # address and port of each
    syn_socket = open_syn(options, max(first + count for first, count in spans), Changes)
    channel = Channel(syn_socket, flows, ..., speak=handshake(syn_socket, spans))

with flows of any number of targets, `Flow(index, sockaddr(family, address), tcp.SIZE, stamped, lane, port)`.
What this costs besides: the kernel shows the socket every TCP segment that comes to this host, and the
program drops what is not ours.

IPv6's checksums are the kernel's to fill in. IPv4's are ours, and they cover the source address, which the
kernel chooses: so it is asked for once, and said with every probe (IP_PKTINFO). When routes or addresses
change it is asked for again, before the next probes are written. What was written before leaves from the old
address, or, where that is gone, is refused: no probe is sent with a wrong checksum, and called lost.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from probe.errors import PrivilegeError, SocketError
from probe.packets import tcp
from probe.sockets import abi, filters
from probe.sockets.opening import (
    SocketOptions,
    enlarge,
    kernel_takes_ids,
    quote_errors,
    set_path,
    set_stamping,
    setting_up,
)
from probe.sockets.packet_socket import ROWS, PacketSocket
from probe.sockets.ports import ReservedPorts
from probe.sockets.sources import Sources, Watch

_IPV6_CHECKSUM = 7  # at level IPPROTO_IPV6
_CHECKSUM_AT = 16  # the byte of a segment at which its checksum stands
_IP_PKTINFO = 8

# The control messages that an IPv4 probe leaves with:
#   0 cmsg_len(8) level(4) type(4) | 16 interface(4)=0 source(4) to(4)=0 pad(4) | 32 id of its TX stamp (24)
_CONTROL = np.dtype(
    {
        "names": ["len", "level", "type", "source", "stamp"],
        "formats": ["u8", "i4", "i4", "u4", abi.SEND_ID],
        "offsets": [0, 8, 12, 20, 32],
        "itemsize": 56,
    }
)
_SHARE = 50  # looking up sources takes at most a 50th of the time
_WITHOUT_ID = 32  # bytes of it on kernels that do not take ids


class SynSocket(PacketSocket):
    """A raw TCP socket; `ports` are the probes' source ports.

    `sources`: where IPv4 probes are sent from; None on IPv6. `hardware`: as of `PacketSocket`.
    """

    def __init__(
        self,
        handle: socket.socket,
        reserved: ReservedPorts,
        sources: Sources | None,
        *,
        choose_id: bool,
        hardware: frozenset[int],
    ) -> None:
        super().__init__(
            handle, raw=True, choose_id=choose_id, max_size=tcp.SIZE, quotes=True, hardware=hardware
        )
        self._reserved, self._sources = reserved, sources
        self.ports = reserved.numbers
        self._addresses: list[bytes] = []
        self._stale = False  # routes have changed that were not looked up again
        self._next_look = 0  # not before then, monotonic ns
        self._from = np.zeros(0, np.uint32)  # by destination, network order
        if sources is not None:
            self._control = np.zeros(ROWS, _CONTROL)
            self._control["len"] = 28
            self._control["level"] = socket.IPPROTO_IP
            self._control["type"] = _IP_PKTINFO
            self._control["stamp"] = self._send_id
            self._send_id = self._control["stamp"]
            at = np.arange(ROWS, dtype=np.uint64) * self._control.itemsize
            self._tx["control"] = self._control.ctypes.data + at
            self._tx["controllen"] = _CONTROL.itemsize if choose_id else _WITHOUT_ID

    def set_destinations(self, addresses: list[bytes]) -> None:
        """See `ProbeSocket`; their ports are 0, as a raw socket wants it."""
        super().set_destinations(addresses)
        self._addresses = [address[4:8] for address in addresses]
        if self._sources is not None:
            self._sources.stale()  # what has been announced so far is known in a moment
            self._look_up(self._sources)

    def refresh(self) -> None:
        """Bring `pseudo_sums` up to date, where routes or addresses have changed; one system call if not.

        Where they change all the time, that takes a small share of the time (_SHARE): until then probes leave
        from the addresses that were right before.
        """
        if self._sources is not None:
            self._stale |= self._sources.stale()
            if self._stale and time.monotonic_ns() >= self._next_look:
                self._look_up(self._sources)

    def _look_up(self, sources: Sources) -> None:
        begin = time.monotonic_ns()
        found = sources.to(self._addresses)
        self._from = np.frombuffer(b"".join(found), np.uint32)
        both = zip(found, self._addresses, strict=True)
        self.pseudo_sums = np.array([tcp.pseudo_sum(source, there) for source, there in both], np.int64)
        end = time.monotonic_ns()
        self._stale, self._next_look = False, end + _SHARE * (end - begin)

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        """See `ProbeSocket`."""
        super().prepare(where, destinations, sizes, ids)
        if self._sources is not None:
            self._control["source"][where] = self._from[destinations]

    def close(self) -> None:
        """Give the socket and its ports back."""
        super().close()
        self._reserved.close()
        if self._sources is not None:
            self._sources.close()


def open_syn(
    options: SocketOptions,
    ports: int = 1,
    watch: Callable[[], Watch] | None = None,
    *,
    choose_id: bool | None = None,
) -> SynSocket:
    """Open a socket for TCP SYN probes with kernel stamps in both directions.

    Args:
        options: `max_size` and `replies` are passed over.
        ports: how many to reserve, 1..255.
        watch: makes `probe.host.netlink.Changes`; without it, sources are looked up for every plan.
        choose_id: False asks for the fallback of kernels before 6.13.
    Raises: PrivilegeError without CAP_NET_RAW; SocketError where the family, the source, the interface or so
        many ports are not available.
    """
    v4 = options.family == socket.AF_INET
    with ExitStack() as opened:
        handle = opened.enter_context(_open(options.family))
        reserved = ReservedPorts(options.family, ports)
        opened.callback(reserved.close)
        with setting_up(handle, "TCP probe socket"):
            filters.attach(handle, filters.own_segments(options.family, reserved.numbers))
            enlarge(handle, options.receive_buffer)
            quote_errors(handle)
            if not v4:
                handle.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _CHECKSUM_AT)
            set_path(handle, options)
            _discard(handle)
            set_stamping(handle, hardware=bool(options.hardware))
        sources = Sources(options, watch) if v4 else None
        if sources is not None:
            opened.callback(sources.close)
        chosen = kernel_takes_ids() if choose_id is None else choose_id
        probe_socket = SynSocket(handle, reserved, sources, choose_id=chosen, hardware=options.hardware)
        opened.pop_all()
    return probe_socket


def _open(family: int) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
    except OSError as refusal:
        if refusal.errno in (errno.EPERM, errno.EACCES):
            raise PrivilegeError(
                "the kernel refuses raw TCP sockets to this process, which kind tcp needs. Either give it "
                "CAP_NET_RAW (run it as root, or with AmbientCapabilities=CAP_NET_RAW in its systemd unit), "
                "or use kind connect, which needs no privilege"
            ) from None
        name = "IPv4" if family == socket.AF_INET else "IPv6"
        raise SocketError(f"cannot open a raw TCP socket for {name}: {refusal.strerror}") from None


def _discard(handle: socket.socket) -> None:
    """What came before there was a filter is none of ours."""
    for _ in range(100_000):
        try:
            handle.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:  # an error of somebody's connection; it is taken off by being told
            continue
