"""An agent's settings in, what this host lets them do out: sockets, interfaces, clock, targets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from probe.check_trace import trace_finding
from probe.check_watch import watch_findings
from probe.errors import PrivilegeError, ResolveError, SocketError
from probe.findings import Finding
from probe.host.clock import clock_state
from probe.host.hardware import describe
from probe.host.interfaces import outlets
from probe.host.mtu import mtu
from probe.settings import AgentSettings, Target
from probe.sockets.opening import SocketOptions, enlarge, set_path
from probe.targets import Address, resolve_all
from probe.text import duration

Member = tuple[Target, Address]
_FAMILIES = {int(socket.AF_INET): "IPv4", int(socket.AF_INET6): "IPv6"}
_LOOK_S = 0.25  # replies and stamps wait at most this long
_PACKET = 1280  # bytes that a small one of them costs in the kernel's account
_IP_HEADER = {int(socket.AF_INET): 20, int(socket.AF_INET6): 40}


def host_findings(agent: AgentSettings) -> Iterator[Finding]:
    """Everything but the settings themselves and the broker."""
    addresses = resolve_all((target.address, target.family) for target in agent.target)
    members = [
        (t, a) for t in agent.target if not isinstance(a := addresses[t.address, t.family], ResolveError)
    ]
    kinds = {target.kind for target in agent.target}
    if "icmp" in kinds:
        yield from _icmp()
    if "tcp" in kinds:
        yield from _tcp(members)
    if "connect" in kinds:
        yield _connect(agent)
    yield _buffer(agent)
    yield from _interfaces(agent)
    yield _clock(agent)
    if "stamp" in kinds:
        yield _one_way(agent)
        yield from _keys(agent)
    yield from _paths(members)
    for target in agent.target:
        yield _name(target, addresses[target.address, target.family])
    yield from _unbroken(members)
    yield from watch_findings(agent.host, members)
    yield trace_finding(agent.trace)
    if agent.engine.backend == "ring":
        yield from _ways(members)


def _icmp() -> Iterator[Finding]:
    from probe.sockets.opening import kernel_takes_ids, open_icmp

    for family, name in _FAMILIES.items():
        part = f"sockets {name}"
        try:
            opened = open_icmp(SocketOptions(family))
        except PrivilegeError as problem:
            yield Finding(part, "failed", "neither raw nor ping sockets are allowed", str(problem))
        except SocketError as problem:
            yield Finding(part, "warning", str(problem), "targets of this family cannot be measured")
        else:
            kind = "raw socket (CAP_NET_RAW)" if opened.raw else "unprivileged ping socket"
            ids = "own TX stamp ids" if kernel_takes_ids() else "the kernel's TX stamp counter"
            opened.close()
            yield Finding(part, "ok", f"{kind}, kernel stamps both ways, {ids}")


def _tcp(members: Sequence[Member]) -> Iterator[Finding]:
    from probe.sockets.syn_socket import open_syn

    lanes = dict.fromkeys(_FAMILIES, 0)
    for target, address in members:
        if target.kind == "tcp":
            lanes[int(address.family)] = max(lanes[int(address.family)], target.flows)
    for family, many in lanes.items():
        if not many:
            continue
        part = f"TCP probes {_FAMILIES[family]}"
        try:
            open_syn(SocketOptions(family), many).close()
        except PrivilegeError:
            remedy = (
                "give the agent CAP_NET_RAW (run it as root, or with AmbientCapabilities=CAP_NET_RAW in its "
                'systemd unit), or set kind = "connect", which needs no privilege'
            )
            yield Finding(part, "failed", "raw TCP sockets are not allowed", remedy)
        except SocketError as problem:
            yield Finding(part, "failed", str(problem), 'targets of kind = "tcp" cannot be measured')
        else:
            ports = "1 source port" if many == 1 else f"{many} source ports"
            yield Finding(part, "ok", f"raw socket (CAP_NET_RAW), kernel stamps both ways, {ports} reserved")


def _connect(agent: AgentSettings) -> Finding:
    """What stays unanswered is open for as long as the timeout."""
    from probe.preparing import most_descriptors
    from probe.sockets.handles import MOST, RESERVED

    part = "TCP connections"
    rate = sum(target.rate for target in agent.target if target.kind == "connect")
    wanted = int(rate * agent.window.timeout.seconds) + 1
    may = min(MOST, most_descriptors() - RESERVED)
    text = f"{wanted:,} at once where nobody answers"
    if wanted > may:
        remedy = "longer intervals, fewer flows, a shorter window.timeout"
        if may < MOST:
            remedy += f", or LimitNOFILE={wanted + RESERVED} in the systemd unit"
        return Finding(part, "warning", f"{text}, and {may:,} are possible: the rest is not sent", remedy)
    return Finding(part, "ok", f"{text}; {may:,} are possible")


def _buffer(agent: AgentSettings) -> Finding:
    """Whether what waits for us between two looks fits the buffer that this process gets."""
    part = "receive buffer"
    wanted = int(agent.engine.receive_buffer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        enlarge(trial, wanted)
        got = trial.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # socket(7): it tells the double
    if got >= wanted:
        return Finding(part, "ok", f"{agent.engine.receive_buffer}, as engine.receive_buffer says")
    rate = sum(target.rate for target in agent.target)
    text = (
        f"{got:,} bytes of the {wanted:,} of engine.receive_buffer: "
        "without CAP_NET_ADMIN net.core.rmem_max is the most"
    )
    if rate * _LOOK_S * 2 * _PACKET <= 2 * got:
        return Finding(part, "ok", f"{text}; it is enough for {rate:,.0f} probes/s")
    remedy = (
        f"sysctl -w net.core.rmem_max={wanted}, or a smaller engine.receive_buffer to say that this is known"
    )
    return Finding(part, "warning", f"{text}; it may be too small for {rate:,.0f} probes/s", remedy)


def _interfaces(agent: AgentSettings) -> Iterator[Finding]:
    wish = agent.engine.hardware_stamps
    for _, name in socket.if_nameindex():
        found = describe(name)
        part, text = f"timestamping {name}", str(found)
        if wish == "off" and found.able:
            text += '; the hardware\'s are not used: engine.hardware_stamps = "off"'
        elif found.able and not found.on:
            remedy = f"hwstamp_ctl -i {name} -t 1 -r 1 (linuxptp) before the agent starts, or "
            remedy += (
                'engine.hardware_stamps = "on"'
                if wish == "auto"
                else "CAP_NET_ADMIN for the agent, which then switches it on when it starts"
            )
            yield Finding(part, "warning", f"{text}; no hardware stamps yet: {found.reason}", remedy)
            continue
        elif found.hardware_tx or found.hardware_rx:
            text += f"; no hardware stamps: {found.reason}" if found.reason else ""
        if found.software_tx or found.on:
            yield Finding(part, "ok", text)
        else:
            remedy = "RTTs through it include the way from our send call to the driver (unstamped)"
            yield Finding(part, "warning", f"{text}: the driver takes no TX stamps", remedy)


def _clock(agent: AgentSettings) -> Finding:
    state = clock_state()
    stated = agent.host.clock_error
    if stated is not None:
        kernel = f"at most {duration(state.error_ns)}" if state.synchronised else "it is not synchronised"
        text = f"at most {duration(stated)} off by host.clock_error (the kernel says: {kernel})"
        return Finding("clock", "ok", text)
    if state.synchronised:
        return Finding("clock", "ok", f"synchronised, error at most {duration(state.error_ns)}")
    remedy = "run chrony or ptp4l; round-trip times are right all the same, only window times may be off"
    return Finding("clock", "warning", "the kernel does not call the wall clock synchronised", remedy)


def _one_way(agent: AgentSettings) -> Finding:
    from probe.kinds import own_clock_error

    part = "one-way delays"
    error = own_clock_error(agent)()
    if error is not None:
        text = (
            f"this host's clock is at most {duration(error)} off; the reflector's own error is added to that"
        )
        return Finding(part, "ok", f"{text}, and where its clock is not synchronised they are absent")
    text = (
        "forward_*, backward_* and clock_error_ns will be absent: "
        "the kernel does not call the wall clock synchronised"
    )
    remedy = (
        "run chrony or ptp4l with phc2sys, here and at the reflectors; where something disciplines the clock "
        "without telling the kernel, say how far it may be off: host.clock_error"
    )
    return Finding(part, "warning", text, remedy)


def _keys(agent: AgentSettings) -> Iterator[Finding]:
    from probe.keys import read_key

    who = f"user {agent.agent.user}" if agent.agent.user else "this user"
    for file in dict.fromkeys(target.key_file for target in agent.target if target.key_file):
        part = f"key_file {file}"
        try:
            with as_user(agent.agent.user):
                read_key(file)
        except SocketError as problem:
            yield Finding(
                part, "failed", str(problem), f"a file with the reflector's key that {who} can read"
            )
            continue
        if Path(file).stat().st_mode & 0o007:
            yield Finding(part, "warning", "everybody on this host may read it", f"chmod o= {file}")
        else:
            yield Finding(part, "ok", "can be read, and not by everybody")


@contextmanager
def as_user(name: str) -> Iterator[None]:
    """What `agent.user` may do, where this process may find out: it reads keys and certificates then."""
    import pwd

    if not name or os.geteuid() != 0:
        yield
        return
    try:
        account = pwd.getpwnam(name)
    except KeyError:  # starting the agent says so
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _paths(members: Sequence[Member]) -> Iterator[Finding]:
    """Whether packets can leave from the sources and by the interfaces that were asked for."""
    asked = {
        (int(a.family), t.source, t.interface): t for t, a in reversed(members) if t.source or t.interface
    }
    for (family, source, interface), target in sorted(asked.items()):
        said = [f"source {source}"] * bool(source) + [f"interface {interface}"] * bool(interface)
        part = " ".join(said)
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as trial:
                set_path(trial, SocketOptions(family, source=source, interface=interface))
        except (SocketError, OSError) as problem:
            names = ", ".join(name for _, name in socket.if_nameindex())
            remedy = f"what `ip -br address` lists here; interfaces: {names}"
            yield Finding(part, "failed", f"{problem} (asked for by target {target.name})", remedy)
        else:
            yield Finding(part, "ok", f"is of this host ({_FAMILIES[family]})")


def _name(target: Target, address: Address | ResolveError) -> Finding:
    part = f"target {target.name}"
    if isinstance(address, ResolveError):
        remedy = "correct the address; the agent retries it every 30 s"
        return Finding(part, "failed", str(address), remedy)
    text = f"{target.address} is {address.text}"
    if target.port:
        text += f", {target.kind} to port {target.port}, {target.rate:.4g} probes/s"
    if target.flows > 1:
        text += f" in {target.flows} flows"
    return Finding(part, "ok", text)


def _unbroken(members: Sequence[Member]) -> Iterator[Finding]:
    """Whether probes that may not be fragmented fit the interface that they leave by."""
    for target, address in members:
        if not target.dont_fragment:
            continue
        family = int(address.family)
        index = outlets([(family, address.sockaddr)], target.interface, target.source)[0]
        try:
            name = socket.if_indextoname(index)
        except OSError:  # no way there now
            continue
        whole = mtu(name)
        most = whole - _IP_HEADER[family]
        if target.size > most:
            yield Finding(
                f"size of target {target.name}",
                "failed",
                f"{target.size} bytes and the IP header do not fit the MTU of {name} ({whole}), and "
                "dont_fragment is set: no probe can be sent",
                f"a size of at most {most}, or without dont_fragment",
            )


def _ways(members: Sequence[Member]) -> Iterator[Finding]:
    from probe.host.netlink import Hop
    from probe.ways import STAMP, choose

    pinged = [(target, address) for target, address in members if target.kind == "icmp"]
    for (target, _), way in zip(pinged, choose(pinged), strict=True):
        part = f"engine.backend for {target.name}"
        if isinstance(way, Hop):
            yield Finding(part, "ok", f"whole frames by {way.interface} to {way.neighbour}; {STAMP}")
        else:
            yield Finding(part, "warning", way, "a raw socket will be used, and a ring once that is possible")
