"""A target whose path is wanted in, the records of a trace out, as they come: the child process on a lead."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from probe.children import lines_of
from probe.errors import ChildError
from probe.paths.records import (
    Answer,
    Done,
    Path,
    Request,
    Start,
    Traced,
    decode,
    encode,
    protocol_of,
)
from probe.settings import Target, TraceTable
from probe.targets import Address

CHILD = "probe.paths.child"
Records = AsyncGenerator[Start | Answer | Path | Done, None]


def traced(target: Target, address: Address) -> Traced:
    """Where the path of a target leads, and as what its packets go."""
    return Traced(
        target.name,
        address.text,
        address.family,
        target.kind,
        target.port,
        target.flows,
        target.dscp,
        target.source,
        target.interface,
    )


def request_for(asked: Traced, settings: TraceTable, *, mtu: bool = True) -> Request:
    """What its child is asked. A target with more flows than the settings say is traced with as many."""
    protocol, port = protocol_of(asked, settings.protocol)
    if protocol == "tcp" and not port:
        protocol = "icmp"  # tcp is for targets that have a port
    # Who traces the same end the same way has the same flows, and sees the same paths: an agent again and
    # again, and the command line beside it.
    end = (asked.address, protocol, port, asked.dscp, asked.source, asked.interface)
    return Request(
        address=asked.address,
        family=asked.family,
        protocol=protocol,
        port=port,
        flows=max(settings.flows, asked.flows),
        max_hops=settings.max_hops,
        probes=settings.probes,
        timeout=int(settings.timeout),
        rate=float(settings.rate),
        dscp=asked.dscp,
        source=asked.source,
        interface=asked.interface,
        seed=repr(end),
        mtu=mtu,
    )


async def trace(request: Request) -> Records:
    """Yields the records of one trace; the last one is `Done`.

    Raises: ChildError, MissingPartError (scapy), PrivilegeError, SocketError.
    """
    lines = lines_of([CHILD], timeout_s=request.longest_s(), stdin=encode(request))
    done = False
    async with contextlib.aclosing(lines):
        async for line in lines:
            record = decode(line)
            yield record
            done = isinstance(record, Done)
    if not done:
        raise ChildError("a trace ended before it was done")
