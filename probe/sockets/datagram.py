"""A family and socket options in, an open UDP probe socket out: works without any privilege.

ICMP errors come by the error queue with what they quote of our datagram and where that went; replies begin
behind the UDP header. One socket has one source port, so one flow to a target.
"""

from __future__ import annotations

import socket

import numpy as np
from numpy.typing import NDArray

from probe.errors import SocketError
from probe.sockets.opening import (
    SocketOptions,
    enlarge,
    kernel_takes_ids,
    quote_errors,
    set_path,
    set_stamping,
    setting_up,
)
from probe.sockets.packet_socket import PITCH, PacketSocket

HEADER = 8  # bytes of a UDP header: part of the IP payload, and the kernel's to write


class DatagramSocket(PacketSocket):
    """A `PacketSocket` whose rows are UDP payload; sizes are of IP payload all the same, 8 bytes more."""

    @property
    def port(self) -> int:
        """The source port of its probes."""
        return int(self._socket.getsockname()[1])

    def prepare(
        self,
        where: slice,
        destinations: NDArray[np.int64],
        sizes: NDArray[np.int64] | int,
        ids: NDArray[np.uint32],
    ) -> None:
        super().prepare(where, destinations, sizes - HEADER, ids)


def open_datagram(
    options: SocketOptions, *, kept: int = PITCH, choose_id: bool | None = None
) -> DatagramSocket:
    """Open a UDP socket for probes with kernel stamps in both directions, on a port of the kernel's choice.

    `kept`: bytes kept of each reply, and of what an ICMP error quotes. `choose_id=False` asks for the
    fallback that a kernel before 6.13 would get.
    Raises: SocketError where the family is not available, or source or interface are not this host's.
    """
    name = "IPv4" if options.family == socket.AF_INET else "IPv6"
    try:
        handle = socket.socket(options.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as problem:
        raise SocketError(f"cannot open an {name} UDP socket: {problem.strerror}") from None
    with setting_up(handle, "UDP probe socket"):
        enlarge(handle, options.receive_buffer)
        if options.family == socket.AF_INET6:
            handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        quote_errors(handle)
        set_path(handle, options)
        if not options.source:
            handle.bind(("", 0))  # now, so that the first probe finds the port taken
        set_stamping(handle, hardware=bool(options.hardware))
    chosen = kernel_takes_ids() if choose_id is None else choose_id
    return DatagramSocket(
        handle,
        raw=False,
        choose_id=chosen,
        max_size=options.max_size - HEADER,
        names=False,
        kept=kept,
        hardware=options.hardware,
    )
