"""A running site in, something truly broken in it out, and mended again: a class for each kind of fault.

`begin` breaks it; `keep` is called every tenth of a second while it lasts (most need nothing more); `end`
mends it. Each can be ended twice.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.parts import Part
from tests.faults.topology import Site
from tests.faults.wire import NEAR
from tests.lab.netlab import Namespace, Rule

_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_SO_RCVBUFFORCE = 33
_ETH_P_ARP = 0x0806
_libc = ctypes.CDLL(None, use_errno=True)


class Injection:
    """What can be broken and mended."""

    def begin(self, site: Site) -> None:
        """Break it."""

    def keep(self, site: Site) -> None:
        """Go on breaking it."""

    def end(self, site: Site) -> None:
        """Mend it."""


@dataclass
class LossyWire(Injection):
    """A cross-connect that loses `percent` of the frames, each way."""

    wire: str
    percent: int

    def begin(self, site: Site) -> None:
        site.wires[self.wire].lose(self.percent)

    def end(self, site: Site) -> None:
        site.wires[self.wire].mend()


@dataclass
class SlowWire(Injection):
    """A wire that has become longer: `ns` each way."""

    wire: str
    ns: int

    def begin(self, site: Site) -> None:
        site.wires[self.wire].delay(self.ns)

    def end(self, site: Site) -> None:
        site.wires[self.wire].mend()


@dataclass
class DroppingInterface(Injection):
    """The host's interface throws `percent` of what arrives away, and counts it in rx_dropped.

    A veth has no ring that could overflow, so the frames come with a protocol nobody registered: the kernel
    drops them where a packet leaves the driver, on the same counter.
    """

    wire: str
    percent: int

    def begin(self, site: Site) -> None:
        site.wires[self.wire].garble(NEAR, self.percent)

    def end(self, site: Site) -> None:
        site.wires[self.wire].mend()


@dataclass
class Flapping(Injection):
    """The carrier goes and comes: down `down_s`, up `up_s`, again and again."""

    wire: str
    down_s: float
    up_s: float
    times: int
    _next: float = 0.0
    _left: int = 0
    _down: bool = False

    def begin(self, site: Site) -> None:
        self._left, self._down, self._next = self.times, False, 0.0
        self.keep(site)

    def keep(self, site: Site) -> None:
        if time.monotonic() < self._next or (not self._down and not self._left):
            return
        if self._down:
            site.wires[self.wire].up()
        else:
            self._left -= 1
            site.wires[self.wire].down()
        self._down = not self._down
        self._next = time.monotonic() + (self.down_s if self._down else self.up_s)

    def end(self, site: Site) -> None:
        self._left, self._down = 0, False
        site.wires[self.wire].up()


@dataclass
class Failover(Injection):
    """Another router takes over a gateway's address: a new MAC, announced `gap_s` later."""

    router: str
    interface: str
    address: str
    gap_s: float
    _old: str = ""

    def begin(self, site: Site) -> None:
        place = site.places[self.router]
        self._old = _mac(place, self.interface)
        new = "02:00:5e:00:01:" + self._old[-2:]
        self._take_over(place, new, self.gap_s)

    def end(self, site: Site) -> None:
        if self._old:
            self._take_over(site.places[self.router], self._old, 0.0)
            self._old = ""

    def _take_over(self, place: Namespace, mac: str, gap_s: float) -> None:
        place.run(["ip", "link", "set", "dev", self.interface, "address", mac])
        time.sleep(gap_s)
        place.call(lambda: _announce(self.interface, mac, self.address))


@dataclass
class Rerouted(Injection):
    """Routers send packets another way: pairs of place and route, `there` instead of `back`."""

    there: tuple[tuple[str, str], ...]
    back: tuple[tuple[str, str], ...]

    def begin(self, site: Site) -> None:
        _route(site, self.there, "replace")

    def end(self, site: Site) -> None:
        _route(site, self.back, "replace")


@dataclass
class Filter(Injection):
    """A packet filter that drops what `matches` say, `percent` of it where that is below 100."""

    place: str
    matches: tuple[str, ...]
    hook: str = "forward"
    percent: int = 100
    _rule: Rule | None = None

    def begin(self, site: Site) -> None:
        some = "" if self.percent == 100 else f" numgen random mod 100 < {self.percent}"
        place = site.places[self.place]
        self._rule = place.rule("drop", hook=self.hook, matches=[match + some for match in self.matches])

    def end(self, site: Site) -> None:
        if self._rule is not None:
            self._rule.remove()
            self._rule = None


@dataclass
class Dead(Injection):
    """A host that neither answers nor asks: nothing enters it, not even ARP."""

    place: str
    interface: str

    def begin(self, site: Site) -> None:
        site.places[self.place].nft(f"""
table netdev dead {{
  chain enters {{
    type filter hook ingress device "{self.interface}" priority 0; policy drop;
  }}
}}
""")

    def end(self, site: Site) -> None:
        site.places[self.place].run(["nft", "delete", "table", "netdev", "dead"], check=False)


@dataclass
class Closed(Injection):
    """A program that listens is gone; its host answers that nobody listens."""

    part: str

    def begin(self, site: Site) -> None:
        site.parts[self.part].kill()

    def end(self, site: Site) -> None:
        site.parts[self.part].start()


@dataclass
class Stalled(Injection):
    """A process that is not run for `stop_s` out of every `every_s`."""

    part: str
    stop_s: float
    every_s: float
    _next: float = 0.0
    _frozen: bool = False

    def begin(self, site: Site) -> None:
        self._next, self._frozen = 0.0, False
        self.keep(site)

    def keep(self, site: Site) -> None:
        if time.monotonic() < self._next:
            return
        part = site.parts[self.part]
        if self._frozen:
            part.thaw()
        else:
            part.freeze()
        self._frozen = not self._frozen
        self._next = time.monotonic() + (self.stop_s if self._frozen else self.every_s - self.stop_s)

    def end(self, site: Site) -> None:
        self._frozen = False
        site.parts[self.part].thaw()


@dataclass
class TinyBuffers(Injection):
    """A process' sockets for packets get receive buffers of `size` bytes, while it runs."""

    part: str
    size: int
    _before: list[tuple[socket.socket, int]] = field(default_factory=list)

    def begin(self, site: Site) -> None:
        for sock in _packet_sockets(site.parts[self.part]):
            # The kernel keeps twice what is asked for.
            size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
            self._before.append((sock, size))
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self.size)

    def end(self, site: Site) -> None:
        for sock, size in self._before:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
            sock.close()
        self._before.clear()


@dataclass
class SteppedClock(Injection):
    """The agent's wall clock is stepped; see `tests.faults.stepping_agent`, which says what is true of it."""

    part: str

    def begin(self, site: Site) -> None:
        site.parts[self.part].signal(signal.SIGUSR1)

    def end(self, site: Site) -> None:
        site.parts[self.part].signal(signal.SIGUSR2)


@dataclass
class Together(Injection):
    """Several at once."""

    them: tuple[Injection, ...]

    def begin(self, site: Site) -> None:
        self._all(lambda one: one.begin(site))

    def keep(self, site: Site) -> None:
        self._all(lambda one: one.keep(site))

    def end(self, site: Site) -> None:
        self._all(lambda one: one.end(site))

    def _all(self, do: Callable[[Injection], None]) -> None:
        for one in self.them:
            do(one)


def _route(site: Site, routes: tuple[tuple[str, str], ...], verb: str) -> None:
    for place, route in routes:
        site.places[place].run(["ip", "route", verb, *route.split()])


def _mac(place: Namespace, interface: str) -> str:
    # /sys would show the namespace of who mounted it.
    words = place.run(["ip", "-o", "link", "show", "dev", interface]).stdout.split()
    return words[words.index("link/ether") + 1]


def _announce(interface: str, mac: str, address: str) -> None:
    """A gratuitous ARP reply (RFC 5227 section 3): `address` is at `mac`."""
    hardware, ip = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    header = b"\xff" * 6 + hardware + _ETH_P_ARP.to_bytes(2, "big")
    body = bytes.fromhex("0001080006040002") + hardware + ip + b"\xff" * 6 + ip
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, _ETH_P_ARP))
        sock.send(header + body)


def _packet_sockets(part: Part) -> list[socket.socket]:
    """Our own descriptors of the raw and datagram sockets of a running part."""
    pid = part.pid
    process = _libc.syscall(_PIDFD_OPEN, pid, 0)
    assert process >= 0, f"pidfd_open: {os.strerror(ctypes.get_errno())}"
    found = []
    try:
        for entry in Path("/proc", str(pid), "fd").iterdir():
            if not str(entry.readlink()).startswith("socket:"):
                continue
            descriptor = _libc.syscall(_PIDFD_GETFD, process, int(entry.name), 0)
            if descriptor < 0:
                continue
            sock = socket.socket(fileno=descriptor)
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type != socket.SOCK_STREAM:
                found.append(sock)
            else:
                sock.close()
    finally:
        os.close(process)
    return found
