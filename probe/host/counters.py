"""An interface's name in, what its driver counts out (ethtool); and what the processors' backlogs dropped."""

from __future__ import annotations

import array
import fcntl
import os
import re
import socket
import struct
from typing import NamedTuple

_SIOCETHTOOL = 0x8946
# linux/ethtool.h
_GSET, _GSTRINGS, _GSTATS, _GSSET_INFO, _SS_STATS = 0x01, 0x1B, 0x1D, 0x37, 1
_MOST = 16_384  # numbers of one interface
_UNKNOWN = (0, 0xFFFF, 0xFFFF_FFFF)  # speeds that are none

# Of one queue: rx_queue_0_drops (veth, virtio), rx_queue_3_alloc_fail, rx-0.rx_dropped, rx0_xdp_tx_full ...
_QUEUE = re.compile(r"(?:queue[_-]?\d+[_.-])?(rx|tx)(?:[_-]?queue)?[_-]?\d*[_.-](?!xdp)(.*)")
_DROP = re.compile(r"drop|discard|no_?buf|out_of_buffer|alloc_(?:fail|err)|no_desc|(?:miss|fifo)\w*_?err")
_WILFUL = re.compile(r"xdp|filter|vlan|bcast|mcast|unicast|multicast|broadcast|error_drop|pause|prio")


class Softnet(NamedTuple):
    """All processors together, since boot (/proc/net/softnet_stat)."""

    packets: int
    dropped: int
    squeezed: int


def softnet() -> Softnet | None:
    """None where the kernel does not tell.

    A line for each processor, hexadecimal: processed, dropped (its backlog, net.core.netdev_max_backlog, was
    full), time_squeeze (it had used up net.core.netdev_budget), and more.
    """
    try:
        fd = os.open("/proc/net/softnet_stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = b""
        while part := os.read(fd, 1 << 16):
            data += part
    except OSError:
        return None
    finally:
        os.close(fd)
    return parse_softnet(data.decode("ascii", "replace"))


def parse_softnet(text: str) -> Softnet | None:
    """The sum of all lines; None where there is none."""
    try:
        rows = [[int(word, 16) for word in line.split()[:3]] for line in text.splitlines() if line]
        return Softnet(*(sum(column) for column in zip(*rows, strict=True)))
    except (ValueError, TypeError):
        return None


class Driver:
    """What one interface's driver counts. Its names are read again when there are more or fewer of them."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._count = -1
        self._rx: tuple[int, ...] = ()
        self._tx: tuple[int, ...] = ()

    def speed(self) -> int:
        """Bits a second; 0 where it does not tell."""
        memory = array.array("B", struct.pack("=I40x", _GSET))
        if not _ioctl(self._interface, memory):
            return 0
        # struct ethtool_cmd: the speed's low half is at 12, the high one at 28
        low, high = struct.unpack_from("=H", memory, 12)[0], struct.unpack_from("=H", memory, 28)[0]
        speed = high << 16 | low
        return 0 if speed in _UNKNOWN else speed * 1_000_000

    def drops(self) -> tuple[int, int] | None:
        """What its receive and its send queues dropped, since it was made; None: it does not tell."""
        sizes = array.array("B", struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_STATS, 0))
        if not _ioctl(self._interface, sizes):
            return None
        count = struct.unpack_from("=I", sizes, 16)[0] if struct.unpack_from("=Q", sizes, 8)[0] else 0
        if not 0 < count <= _MOST:
            return None
        if count != self._count:
            names = array.array("B", struct.pack("=III", _GSTRINGS, _SS_STATS, count) + bytes(32 * count))
            if not _ioctl(self._interface, names):
                return None
            raw = names.tobytes()[12:]
            rows = [
                raw[32 * n : 32 * n + 32].split(b"\0", 1)[0].decode("ascii", "replace") for n in range(count)
            ]
            self._count, self._rx, self._tx = count, *dropping(rows)
        if not self._rx and not self._tx:
            return None
        values = array.array("B", struct.pack("=II", _GSTATS, count) + bytes(8 * count))
        if not _ioctl(self._interface, values):
            return None
        numbers = struct.unpack_from(f"={count}Q", values, 8)
        return sum(numbers[n] for n in self._rx), sum(numbers[n] for n in self._tx)


def dropping(names: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of a driver's numbers count packets that its receive, and its send queues dropped.

    Where it counts queue by queue these are added up; totals only where it does not, or each packet would
    count twice. What a program or filter dropped on purpose is none of it.
    """
    found: dict[str, tuple[list[int], list[int]]] = {"rx": ([], []), "tx": ([], [])}
    for n, name in enumerate(names):
        lower = name.strip().lower()
        match = _QUEUE.match(lower)
        if match is None or not _DROP.search(lower) or _WILFUL.search(lower):
            continue
        own = bool(re.search(r"\d", lower[: match.start(2)]))
        found[match[1]][0 if own else 1].append(n)
    rx, tx = (tuple(found[way][0] or found[way][1]) for way in ("rx", "tx"))
    return rx, tx


def _ioctl(interface: str, memory: array.array[int]) -> bool:
    name = os.fsencode(interface)
    if len(name) > 15:
        return False
    frame = struct.pack("16sP16x", name, memory.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle.fileno(), _SIOCETHTOOL, frame)
        except OSError:
            return False
    return True
