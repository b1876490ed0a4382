"""An interface's name in, whether its own clock stamps packets out; and switched on, where that is wished.

Most network cards can stamp packets as they pass between card and line, but do so only when told to, by
SIOCSHWTSTAMP (Linux, Documentation/networking/timestamping.rst). Many stamp nothing but PTP packets: those
are of no use here.

What is on already is never reduced: another program, as a PTP daemon, may have asked for it. For the same
reason nothing is switched off again when we leave: whoever came after us may rely on it, and the kernel does
not say who does. It costs the host nothing but the card's own work. Who comes later may narrow it; then
probes are stamped by the kernel alone, as before, and nobody fights over it.

Some drivers set up their queues anew when the clock is switched on, and lose what arrives in that moment:
no thing to do to a trading host unasked. So only `hardware_stamps = "on"` switches anything.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass, replace

from probe.host import interfaces
from probe.host.interfaces import RAW_HARDWARE, RX_HARDWARE, RX_SOFTWARE, TX_HARDWARE, TX_SOFTWARE

_SIOCSHWTSTAMP, _SIOCGHWTSTAMP = 0x89B0, 0x89B1
# enum hwtstamp_tx_types and hwtstamp_rx_filters, linux/net_tstamp.h
TX_OFF, TX_ON = 0, 1
RX_NONE, RX_ALL = 0, 1
_TX = ("nothing", "all packets", "PTP Sync in one step", "PTP in one step")
_RX = (
    *("nothing", "all packets", "some packets"),
    *("PTPv1 events", "PTPv1 Sync", "PTPv1 Delay_Req"),
    *("PTPv2 events over UDP", "PTPv2 Sync over UDP", "PTPv2 Delay_Req over UDP"),
    *("PTPv2 events over Ethernet", "PTPv2 Sync over Ethernet", "PTPv2 Delay_Req over Ethernet"),
    *("PTPv2 events", "PTPv2 Sync", "PTPv2 Delay_Req", "NTP packets"),
)


@dataclass(frozen=True)
class Config:
    """struct hwtstamp_config: what an interface's clock stamps now."""

    flags: int
    tx: int
    rx: int

    def __str__(self) -> str:
        return f"sent: {_name(_TX, self.tx)}, received: {_name(_RX, self.rx)}"


@dataclass(frozen=True)
class Hardware:
    """What stamps an interface can take, and what it does.

    software_tx, software_rx: by the kernel as the driver sends, or gets a packet (any driver's).
    hardware_tx, hardware_rx: by its own clock, of any packet.
    clock: index of that clock, /dev/ptp<index>; -1: none.
    config: what the clock stamps now; None: the driver does not say.
    on: it stamps every packet both ways now: probes have hardware stamps.
    able: it does, or will once it is switched on.
    reason: why it is not on; empty where it is.
    """

    interface: str
    software_tx: bool
    software_rx: bool
    hardware_tx: bool
    hardware_rx: bool
    clock: int
    config: Config | None
    on: bool
    able: bool
    reason: str

    def __str__(self) -> str:
        """As `check` prints it."""
        ways = [
            f"{kind} {' and '.join(way for way, can in (('TX', tx), ('RX', rx)) if can)}"
            for kind, tx, rx in (
                ("software", self.software_tx, self.software_rx),
                ("hardware", self.hardware_tx, self.hardware_rx),
            )
            if tx or rx
        ]
        text = ", ".join(ways) or "no stamps"
        if self.clock >= 0:
            text += f", clock /dev/ptp{self.clock}"
        if self.config is not None:
            text += f" (stamps now, {self.config})"
        return text


def describe(interface: str) -> Hardware:
    """What the interface can, and does now. Changes nothing; needs no privilege."""
    can = interfaces.timestamping(interface)
    if can is None:
        nothing = "its driver does not say what it can stamp"
        return Hardware(interface, False, True, False, False, -1, None, False, False, nothing)
    flags, raw = can.flags, bool(can.flags & RAW_HARDWARE)
    tx = raw and bool(flags & TX_HARDWARE) and bool(can.tx_types >> TX_ON)
    rx = raw and bool(flags & RX_HARDWARE) and bool(can.rx_filters >> RX_ALL & 1)
    config: Config | None
    try:
        config, refusal = _get(interface), ""
    except OSError as problem:
        config, refusal = None, problem.strerror or str(problem)
    on = tx and rx and can.clock >= 0 and config is not None and _complete(config)
    able = tx and rx and can.clock >= 0 and config is not None
    if on:
        reason = ""
    elif can.clock < 0 or not flags & (TX_HARDWARE | RX_HARDWARE):
        reason = "it has no clock of its own"
    elif not tx:
        reason = "its clock does not stamp what is sent"
    elif not flags & RX_HARDWARE:
        reason = "its clock does not stamp what is received"
    elif not rx:
        filters = [_name(_RX, n) for n in range(1, 32) if can.rx_filters >> n & 1]
        reason = f"of what it receives its clock stamps {', '.join(filters) or 'nothing'} alone"
    elif config is None:
        reason = f"its driver does not say what its clock stamps now: {refusal}"
    else:
        reason = f"switched off ({config})"
    return Hardware(
        interface,
        bool(flags & TX_SOFTWARE),
        bool(flags & RX_SOFTWARE),
        tx,
        rx,
        can.clock,
        config,
        on,
        able,
        reason,
    )


def switch_on(interface: str) -> Hardware:
    """Let the interface's clock stamp every packet both ways, if it can. Returns what it does then, and if it
    still does not, why."""
    before = describe(interface)
    config = before.config
    if before.on or not before.able or config is None:
        return before
    # One step is more than TX_ON, and flags are the driver's business.
    wanted = Config(config.flags, config.tx or TX_ON, RX_ALL)
    try:
        _set(interface, wanted)
    except OSError as problem:
        if problem.errno in (errno.EPERM, errno.EACCES):
            return replace(before, reason=f"switched off ({config}), and to switch it on needs CAP_NET_ADMIN")
        return replace(before, reason=f"its driver refuses to stamp all packets: {problem.strerror}")
    after = describe(interface)
    if after.on:
        return after
    refused = f"its driver does not stamp all packets, though it says it can ({after.config})"
    if after.config != config:
        try:
            _set(interface, config)
        except OSError as problem:
            refused += f"; it stamped ({config}) before, and does not go back: {problem.strerror}"
        after = describe(interface)
    return replace(after, able=False, reason=refused)


def clock_of(index: int, *, switch: bool) -> tuple[frozenset[int], str]:
    """The indices of all interfaces that share the clock of the one with this index, what a socket wants to
    know; or none, and why. `switch`: switch the clock on, if it is not."""
    try:
        name = socket.if_indextoname(index)
    except OSError:
        return frozenset(), "there is no such interface"
    found = switch_on(name) if switch else describe(name)
    return (interfaces.sharing_clock(index) if found.on else frozenset()), found.reason


def _complete(config: Config) -> bool:
    return config.tx != TX_OFF and config.rx == RX_ALL


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else f"kind {number}"


def _get(interface: str) -> Config:
    return _ioctl(interface, _SIOCGHWTSTAMP, Config(0, 0, 0))


def _set(interface: str, config: Config) -> None:
    _ioctl(interface, _SIOCSHWTSTAMP, config)


def _ioctl(interface: str, request: int, config: Config) -> Config:
    """struct hwtstamp_config (flags, tx_type, rx_filter: int each) behind the pointer of a struct ifreq."""
    name = os.fsencode(interface)
    if len(name) > 15:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    memory = array.array("B", struct.pack("=3i", config.flags, config.tx, config.rx))
    frame = struct.pack("16sP16x", name, memory.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle.fileno(), request, frame)
    return Config(*struct.unpack("=3i", memory))
