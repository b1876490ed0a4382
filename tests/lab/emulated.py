"""A lab and what a link should do to packets in, two namespaces joined by that link and the truth of what it
did out.

    with Lab() as lab:
        link = lab.emulated(Impairments(loss=Every(7)), Impairments(delay=Constant(2_000_000)))
        link.near.run(["ping", "-c", "14", link.far.ipv4], check=False)
        assert link.stop().reasons == {("forward", "every"): 2}

Forward is from `near` (the prober) to `far` (its targets). Devices are TUN: IP packets without Ethernet; or
with `ethernet=True` TAP, for programs that write whole frames. Each end knows the other's MAC address, so
nobody asks for neighbours. Multicast, which is kernels' own talk, is not carried and counted as `ignored`.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import pickle
import struct
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from ipaddress import ip_network
from pathlib import Path

from pyroute2 import NetNS

from tests.lab.emulator import COUNTERS, COUNTERS_SIZE, Orders
from tests.lab.link import Impairments
from tests.lab.netlab import IFA_F_NODAD, NUD_PERMANENT, Namespace
from tests.lab.truthlog import TruthLog, read

ROOT = Path(__file__).parents[2]
DEVICE = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_TAP, _IFF_NO_PI = 0x0001, 0x0002, 0x1000
_ETHERNET_HEADER = 14
_QUEUE = 16_384  # packets that may wait for the emulator; what overflows was never on the link
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Traffic:
    """What one direction did so far, in packets; `delivered`, `in_flight` and `refused` in copies of packets.

    `ignored`: multicast, not carried. `refused`: the kernel did not take it at the far end.
    """

    arrived: int
    lost: int
    delivered: int
    duplicated: int
    held: int
    in_flight: int
    ignored: int
    refused: int


class EmulatedLink:
    """A running emulator between two namespaces. Made by `Lab.emulated`, ended by it or by `stop`.

    Raises: OSError where the devices cannot be made.
    """

    def __init__(
        self,
        near: Namespace,
        far: Namespace,
        forward: Impairments,
        backward: Impairments,
        *,
        number: int = 0,
        seed: int | str = 0,
        log: Path | None = None,
        logging: bool = True,
        mtu: int = 1500,
        ethernet: bool = False,
    ) -> None:
        self.near, self.far = near, far
        self.warning = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if log is None and logging:
            self._folder = tempfile.TemporaryDirectory(prefix="coloprobe-link-")
            log = Path(self._folder.name, "log.jsonl")
        self._log = log
        self.device = f"tap{number}" if ethernet else f"tun{number}"
        self._truth: TruthLog | None = None
        self._last: tuple[Traffic, Traffic] | None = None
        descriptors: tuple[int, ...] = (
            _join(near, self.device, number, 1, mtu),
            _join(far, self.device, number, 2, mtu),
        )
        # Kept, so that the devices outlive the emulator: a capture of them ends when it wants to.
        self._descriptors = descriptors
        memory = os.memfd_create("coloprobe-link")
        os.truncate(memory, COUNTERS_SIZE)
        self._shared = mmap.mmap(memory, COUNTERS_SIZE)
        settings = {"seed": seed, "forward": _shown(forward), "backward": _shown(backward)}
        where = str(log.absolute()) if log else ""
        header = _ETHERNET_HEADER if ethernet else 0
        orders = pickle.dumps(
            Orders(descriptors[0], descriptors[1], memory, forward, backward, seed, settings, where, header)
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.lab.emulator"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                pass_fds=(*descriptors, memory),
            )
        finally:
            os.close(memory)
        self._tell(orders)

    def _tell(self, orders: bytes) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("!I", len(orders)) + orders)
        self._process.stdin.flush()
        said = self._process.stdout.readline().decode().split(maxsplit=1)
        assert said[:1] == ["ready"], f"the emulator did not begin: status {self._process.wait(_PATIENCE_S)}"
        self.warning = said[1].strip() if len(said) > 1 else ""

    @property
    def pid(self) -> int:
        """Of the emulator's process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def traffic(self) -> tuple[Traffic, Traffic]:
        """What it did so far: forward, backward. Each number is right by itself; read while it runs, they may
        differ from each other by the packet in hand."""
        if self._last is not None:
            return self._last
        numbers = struct.unpack(f"@{2 * len(COUNTERS)}q", self._shared[:])
        return Traffic(*numbers[: len(COUNTERS)]), Traffic(*numbers[len(COUNTERS) :])

    def stop(self) -> TruthLog:
        """End the link and read what it did.

        Raises: AssertionError where that is not the whole truth: packets did not fit into a device's queue,
        or the emulator failed.
        """
        if self._truth is None:
            overflow = {
                end.name: _overflow(end, self.device) for end in (self.near, self.far) if self.running
            }
            self.close()
            assert self._process.returncode == 0, f"the emulator ended with {self._process.returncode}"
            assert not any(overflow.values()), f"packets came faster than the emulator took them: {overflow}"
            self._truth = read(self._log) if self._log else TruthLog({}, [])
            if self._folder is not None:
                self._folder.cleanup()
        return self._truth

    def close(self) -> None:
        """End the emulator's process, once its log is written. Its devices stay; nothing crosses any more."""
        if self._last is None:
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                stream.close()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._last = self.traffic()
            self._shared.close()

    def discard(self) -> None:
        """End it, with its devices, and forget what it did unless a file was asked for."""
        self.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()
        if self._folder is not None:
            self._folder.cleanup()


def _join(namespace: Namespace, device: str, number: int, host: int, mtu: int) -> int:
    """Make a device in there, with the addresses that `Lab.link` would give; returns its descriptor."""
    ethernet = device.startswith("tap")
    kind = (_IFF_TAP if ethernet else _IFF_TUN) | _IFF_NO_PI
    macs = f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02"

    def make() -> int:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", device.encode(), kind))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    descriptor = namespace.call(make)
    networks = ip_network(f"10.99.{number}.0/24"), ip_network(f"fd99:0:0:{number:x}::/64")
    with NetNS(namespace.name) as ip:
        index = ip.link_lookup(ifname=device)[0]
        if ethernet:
            ip.link("set", index=index, address=macs[host - 1])
        ip.link("set", index=index, mtu=mtu, txqlen=_QUEUE, state="up")
        for network in networks:
            flags = IFA_F_NODAD if network.version == 6 else 0
            ip.addr("add", index=index, address=str(network[host]), prefixlen=network.prefixlen, flags=flags)
            if ethernet:
                other, mac = str(network[3 - host]), macs[2 - host]
                ip.neigh("replace", dst=other, lladdr=mac, ifindex=index, state=NUD_PERMANENT)
    if not namespace.interface:
        namespace.interface = device
        namespace.ipv4, namespace.ipv6 = str(networks[0][host]), str(networks[1][host])
    return descriptor


def _overflow(namespace: Namespace, device: str) -> int:
    """Packets that its queue had no room for."""
    with NetNS(namespace.name) as ip:
        index = ip.link_lookup(ifname=device)[0]
        return int(ip.get_links(index)[0].get("stats64")["tx_dropped"])


def _shown(impairments: Impairments) -> dict[str, object]:
    """For the log's first line."""
    named = {key: value for key, value in vars(impairments).items() if value is not None}
    plain: dict[str, object] = json.loads(json.dumps(asdict(impairments)))
    kinds = {key: type(value).__name__ for key, value in named.items() if key != "keep_order"}
    return {"kinds": kinds, **{key: plain[key] for key in named}}
