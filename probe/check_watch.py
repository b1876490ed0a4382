"""[host] and the targets in, what of this host its kernel lets an agent watch out."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Sequence

from probe.clock import SECOND
from probe.findings import Finding
from probe.host.connections import Connections
from probe.host.counters import Driver
from probe.host.listener import Listener
from probe.host.picture import PARTS, Picture
from probe.host.watched import Aims, Watched
from probe.settings_tables import HostTable
from probe.target_settings import Target
from probe.targets import Address

_PATIENCE = 5 * SECOND


def watch_findings(host: HostTable, members: Sequence[tuple[Target, Address]]) -> Iterator[Finding]:
    """Links and routes, drivers' counters, TCP sessions; nothing of what the settings switch off."""
    if host.watch:
        yield _netlink()
    if host.counters is None or host.counters:
        yield _drivers()
    if host.sessions:
        yield _sessions([Watched(t.name, t.venue, t.line, a.text) for t, a in members])


def _netlink() -> Finding:
    part = "links and routes"
    try:
        listener = Listener(Picture(lambda: ()), True, time.monotonic_ns())
    except OSError as problem:
        remedy = "let the agent use AF_NETLINK (systemd: RestrictAddressFamilies), or set host.watch = false"
        return Finding(part, "warning", f"netlink is refused: {problem.strerror}; no events of them", remedy)
    end = time.monotonic_ns() + _PATIENCE
    try:
        listener.ask(PARTS, time.monotonic_ns())
        while listener.busy and (now := time.monotonic_ns()) < end:
            select.select([listener], [], [], (end - now) / SECOND)
            list(listener.take(time.monotonic_ns()))
        picture = listener.picture
    except OSError as problem:
        return Finding(
            part, "warning", f"netlink: {problem.strerror}", "host.watch = false, if that stays so"
        )
    finally:
        listener.close()
    tables = picture.routes[4].table, picture.routes[16].table
    beyond = sum(table.beyond for table in tables)
    routes = sum(len(table.current) for table in tables) + beyond
    text = (
        f"changes are announced; {len(picture.links.table.current)} interfaces, {routes:,} routes and "
        f"{len(picture.neighbours.table.current):,} neighbours now"
    )
    if beyond:
        remedy = "nothing, unless targets are reached by these: a default route is among the first"
        return Finding(part, "warning", f"{text}; changes of {beyond:,} routes will not be told", remedy)
    return Finding(part, "ok", text)


def _drivers() -> Finding:
    telling = [name for _, name in socket.if_nameindex() if Driver(name).drops() is not None]
    text = f"of {', '.join(telling)}" if telling else "no driver here tells what its queues drop"
    return Finding("queue drops", "ok", text)


def _sessions(watched: Sequence[Watched]) -> Finding:
    part = "TCP sessions"
    try:
        connections = Connections()
        try:
            found = connections.to(Aims(watched).at)
        finally:
            connections.close()
    except OSError as problem:
        remedy = "modprobe tcp_diag (and let the agent use AF_NETLINK), or set host.sessions = false"
        return Finding(part, "warning", f"the kernel does not tell of them: {problem.strerror}", remedy)
    many = len(found)
    return Finding(part, "ok", f"the kernel tells of them; {many} to targets' addresses now")
