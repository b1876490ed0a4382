"""A description in, real network namespaces joined by veth pairs out, gone at the end whatever happened.

    with Lab() as lab:
        near, far = lab.pair()                       # 10.99.0.1 <-> 10.99.0.2, fd99::1 <-> fd99::2
        rule = far.rule(every=7)                     # drops exactly the 7th, 14th, ... echo request
        near.run(["ping", "-c", "7", far.ipv4])
        assert rule.counts() == Counts(seen=7, hit=1)

Needs root. Addresses are the same in every lab: a namespace shares nothing with its host but the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pyroute2 import NetNS, netns

if TYPE_CHECKING:
    from tests.lab.emulated import EmulatedLink
    from tests.lab.link import Impairments

T = TypeVar("T")

_NETNS_DIR = Path("/run/netns")
_PREFIX = "coloprobe"
_CLONE_NEWNET = 0x40000000
IFA_F_NODAD = 0x02
NUD_PERMANENT = 0x80
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)

ECHO_REQUESTS = ("icmp type echo-request", "icmpv6 type echo-request")
ECHO_REPLIES = ("icmp type echo-reply", "icmpv6 type echo-reply")

# What a laboratory wants and a host does not: no answer is throttled, and everybody may open ping sockets.
_SYSCTLS = {
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.icmp_msgs_per_sec": "10000000",
    "net.ipv4.icmp_msgs_burst": "10000000",
    "net.ipv4.ping_group_range": "0 2147483647",
    "net.ipv6.icmp.ratelimit": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.router_solicitations": "0",
}


@dataclass(frozen=True)
class Counts:
    """What a rule's counters say: packets that it looked at, and those it acted on."""

    seen: int
    hit: int


@dataclass(frozen=True)
class Rule:
    """A rule of the packet filter in one namespace; its counters are the truth of what it did."""

    namespace: Namespace
    table: str

    def counts(self) -> Counts:
        listing = self.namespace.run(["nft", "-j", "list", "table", "inet", self.table]).stdout
        counters = {
            item["counter"]["name"]: int(item["counter"]["packets"])
            for item in json.loads(listing)["nftables"]
            if "counter" in item
        }
        return Counts(counters["seen"], counters["hit"])

    def remove(self) -> None:
        self.namespace.run(["nft", "delete", "table", "inet", self.table])


@dataclass
class Namespace:
    """One network namespace: its addresses (set by `Lab.link`), processes and packet filter."""

    name: str
    interface: str = ""
    ipv4: str = ""
    ipv6: str = ""
    _children: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    @property
    def path(self) -> Path:
        return _NETNS_DIR / self.name

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv` so that it runs in here; the program replaces nsenter, so its pid and usage are its own."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, argv)]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        timeout_s: float = 60,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. Raises: CalledProcessError (its stderr in the notes), TimeoutExpired."""
        done = subprocess.run(
            self.command(argv), capture_output=True, text=True, timeout=timeout_s, check=False, input=stdin
        )
        if check and done.returncode:
            problem = subprocess.CalledProcessError(
                done.returncode, list(map(str, argv)), done.stdout, done.stderr
            )
            problem.add_note(done.stderr)
            raise problem
        return done

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
        """Start a program; it is killed with the lab if it still runs then."""
        child: subprocess.Popen[str] = subprocess.Popen(self.command(argv), text=True, **options)
        self._children.append(child)
        return child

    def enter(self) -> None:
        """Put the calling *thread* in here for good: sockets it opens from now on belong here."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {self.path} failed")
        finally:
            os.close(descriptor)

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns, or raises, when a thread of its own runs it in here."""
        result: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                self.enter()
                result.append(function())
            except BaseException as problem:  # noqa: BLE001 - handed to the caller whatever it is
                failure.append(problem)

        thread = threading.Thread(target=body, name=self.name)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in here for the length of the block."""
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.enter()
            try:
                yield
            finally:
                if _libc.setns(home, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "the thread cannot return to its namespace")
        finally:
            os.close(home)

    def sysctl(self, key: str, value: str) -> None:
        """Set a `net.` sysctl of this namespace."""
        path = Path("/proc/sys") / key.replace(".", "/")
        self.call(lambda: path.write_text(value, encoding="ascii"))

    def nft(self, script: str) -> None:
        """Load an nftables script."""
        self.run(["nft", "-f", "-"], stdin=script)

    def rule(
        self,
        action: str = "drop",
        *,
        every: int = 1,
        hook: str = "input",
        matches: Sequence[str] = ECHO_REQUESTS,
    ) -> Rule:
        """Act on exactly every Nth packet that one of `matches` (in nftables' language) describes.

        The first packet hit is the Nth. `action`: "drop" (at hook "output" the sender gets EPERM), "accept"
        (count only), "reject with icmpx host-unreachable" and its like (the sender gets an ICMP error).
        """
        table = f"lab{next(_numbers)}"
        nth = f"numgen inc mod {every} {every - 1} " if every > 1 else ""
        jumps = "\n".join(f"    {match} jump matched" for match in matches)
        self.nft(f"""
table inet {table} {{
  counter seen {{ }}
  counter hit {{ }}
  chain matched {{
    counter name seen
    {nth}counter name hit {action}
  }}
  chain hooked {{
    type filter hook {hook} priority 0; policy accept;
{jumps}
  }}
}}
""")
        return Rule(self, table)

    def answer_for(self, network: str) -> None:
        """Own every address of `network` (any number of targets for one route, by the kernel's AnyIP)."""
        with NetNS(self.name) as ip:
            loopback = ip.link_lookup(ifname="lo")[0]
            ip.route("add", dst=network, oif=loopback, type="local", table=255, scope="host")

    def route(self, network: str, gateway: str) -> None:
        """Send what is for `network` to `gateway`."""
        with NetNS(self.name) as ip:
            ip.route("add", dst=network, gateway=gateway)

    def stop_children(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
        self._children.clear()


class Lab:
    """Namespaces that end with the `with` block."""

    def __init__(self) -> None:
        self._namespaces: list[Namespace] = []
        self._emulated: list[EmulatedLink] = []
        self._links = 0
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        remove_leftovers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        # pyroute2 forks to work in a namespace: a signal's exception there must not end the lab here.
        if os.getpid() != self._pid:
            return
        for namespace in self._namespaces:
            namespace.stop_children()
            with contextlib.suppress(FileNotFoundError):
                netns.remove(namespace.name)
        for link in self._emulated:
            link.discard()
        self._namespaces.clear()
        self._emulated.clear()

    def namespace(self, label: str = "ns") -> Namespace:
        """A namespace with loopback up and the laboratory's sysctls."""
        namespace = Namespace(f"{_PREFIX}-{os.getpid()}-{next(_numbers)}-{label}")
        netns.create(namespace.name)
        self._namespaces.append(namespace)
        with NetNS(namespace.name) as ip:
            ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")

        def write() -> None:
            for key, value in _SYSCTLS.items():
                (Path("/proc/sys") / key.replace(".", "/")).write_text(value, encoding="ascii")

        namespace.call(write)
        return namespace

    def link(
        self, near: Namespace, far: Namespace, *, static_neighbours: bool = True, mtu: int = 1500
    ) -> None:
        """Join two namespaces: `near` gets the first address of the next /24 and /64, `far` the second.

        `static_neighbours`: nobody has to ask for a MAC address, so the first packet finds its way at once.
        """
        number, self._links = self._links, self._links + 1
        networks = ip_network(f"10.99.{number}.0/24"), ip_network(f"fd99:0:0:{number:x}::/64")
        name = f"veth{number}"
        macs = f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02"
        with NetNS(near.name) as ip, NetNS(far.name) as peer:
            ip.link(
                "add",
                ifname=name,
                kind="veth",
                address=macs[0],
                mtu=mtu,
                peer={"ifname": name, "net_ns_fd": far.name, "address": macs[1], "mtu": mtu},
            )
            ends = (ip, near, 1), (peer, far, 2)
            for handle, _, _ in ends:
                handle.link("set", index=handle.link_lookup(ifname=name)[0], state="up")
            for handle, namespace, host in ends:
                index = handle.link_lookup(ifname=name)[0]
                for network in networks:
                    # Without duplicate address detection an address is usable at once.
                    flags = IFA_F_NODAD if network.version == 6 else 0
                    handle.addr(
                        "add",
                        index=index,
                        address=str(network[host]),
                        prefixlen=network.prefixlen,
                        flags=flags,
                    )
                    if static_neighbours:
                        handle.neigh(
                            "replace",
                            dst=str(network[3 - host]),
                            lladdr=macs[2 - host],
                            ifindex=index,
                            state=NUD_PERMANENT,
                        )
                if not namespace.interface:
                    namespace.interface = name
                    namespace.ipv4, namespace.ipv6 = str(networks[0][host]), str(networks[1][host])

    def pair(self, *, static_neighbours: bool = True, mtu: int = 1500) -> tuple[Namespace, Namespace]:
        """Two linked namespaces: where the prober runs, and where its targets are."""
        near, far = self.namespace("near"), self.namespace("far")
        self.link(near, far, static_neighbours=static_neighbours, mtu=mtu)
        return near, far

    def emulated(
        self,
        forward: Impairments | None = None,
        backward: Impairments | None = None,
        *,
        seed: int | str = 0,
        log: Path | None = None,
        logging: bool = True,
        mtu: int = 1500,
        ethernet: bool = False,
        between: tuple[Namespace, Namespace] | None = None,
    ) -> EmulatedLink:
        """Like `pair`, with a link that does to packets what is asked for and logs what it did.

        forward, backward: from `near` to `far` and back; None: nothing. log: a file that stays.
        logging: whether to log at all. ethernet: TAP devices instead of TUN. between: which namespaces are
        `near` and `far`; None: new ones.
        """
        from tests.lab.emulated import EmulatedLink
        from tests.lab.link import Impairments

        near, far = between or (self.namespace("near"), self.namespace("far"))
        number, self._links = self._links, self._links + 1
        directions = forward or Impairments(), backward or Impairments()
        link = EmulatedLink(
            near,
            far,
            *directions,
            number=number,
            seed=seed,
            log=log,
            logging=logging,
            mtu=mtu,
            ethernet=ethernet,
        )
        self._emulated.append(link)
        return link


def remove_leftovers() -> None:
    """Remove namespaces of earlier processes that were killed before they could do it themselves."""
    for path in _NETNS_DIR.glob(f"{_PREFIX}-*-*-*"):
        pid = path.name.split("-")[1]
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                netns.remove(path.name)
