"""One target in, the routers on the ways to it out, as a graph or as points: `coloprobe trace`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import TextIO

import msgspec

from probe import trace_view
from probe.errors import UsageError
from probe.path_points import observed, points
from probe.paths.memory import PathMemory
from probe.paths.records import Answer, Done, Path, Request, Start
from probe.settings import Target, TraceTable
from probe.targets import resolve
from probe.telemetry.lines import Point
from probe.tracing import request_for, trace, traced


@dataclass(frozen=True)
class TraceOptions:
    """What the command line asked for; `family` 0: any. mtu: whether it is looked for."""

    target: Target
    settings: TraceTable
    family: int = 0
    as_json: bool = False
    mtu: bool = True


@dataclass
class _Found:
    """What a trace has said."""

    paths: list[Path]
    growing: trace_view.Growing
    start: Start | None = None
    done: Done | None = None


def run(options: TraceOptions, *, out: TextIO = sys.stdout) -> int:
    """Trace once. Returns the exit status: 0 where the target answered, 1 where it did not.

    Raises: UsageError, ResolveError, MissingPartError, PrivilegeError, SocketError, ChildError.
    """
    target = options.target
    if options.settings.protocol == "tcp" and not target.port:
        raise UsageError("--protocol tcp: there is no port to trace to (say it: tcp://host:port)")
    address = resolve(target.address, options.family or target.family)
    request = request_for(traced(target, address), options.settings, mtu=options.mtu)
    if not options.as_json:
        print(trace_view.headline(target.name, request), file=out, flush=True)
    began = time.time_ns()
    found = asyncio.run(_find(request, options, out))
    paths = found.paths or found.growing.paths()
    if options.as_json:
        for line in point_lines(paths, request, {"target": target.name}, began):
            print(line.decode(), file=out)
        out.flush()
    else:
        print("\n".join(trace_view.told(paths, found.start, found.done)), file=out, flush=True)
    return 0 if any(path.reached for path in paths) else 1


async def _find(request: Request, options: TraceOptions, out: TextIO) -> _Found:
    """All that it says until it ends, or until a signal comes."""
    live = trace_view.Live(out, get_terminal_size) if out.isatty() and not options.as_json else None
    found = _Found([], trace_view.Growing())

    async def read() -> None:
        async with contextlib.aclosing(trace(request)) as records:
            async for record in records:
                if isinstance(record, Start):
                    found.start = record
                elif isinstance(record, Answer):
                    found.growing.add(record)
                elif isinstance(record, Path):
                    found.paths.append(record)
                else:
                    found.done = record
                if live is not None:
                    live.show(record, time.monotonic_ns())

    reading = asyncio.create_task(read())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, reading.cancel)
    try:
        await reading
    except asyncio.CancelledError:
        found.paths.clear()  # what has been seen so far is told
    finally:
        if live is not None:
            live.end()
    return found


def point_lines(paths: list[Path], request: Request, tags: Mapping[str, str], began: int) -> list[bytes]:
    """The points of a trace as `show --json` writes points."""
    ids = {path.flow: PathMemory().observe(observed(path), path.reached).path_id for path in paths}
    return [as_json(point) for point in points(paths, ids, request.protocol, tags, began)]


def as_json(point: Point) -> bytes:
    """One object."""
    head = {"time": point.time_ns, "measurement": point.measurement}
    return msgspec.json.encode({**head, **point.tags, **point.fields})
