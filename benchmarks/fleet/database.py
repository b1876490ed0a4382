"""A file of bodies in, what InfluxDB takes of them straight and through the fan-in out: part [c].

On two cores the database has to be the bottleneck on purpose: in both arms influxd runs on one core alone and
everything else on the other. Every arm begins with a new database, into which the first window of every agent
was written before, because new series cost InfluxDB many times what another point of an old one does. Both
arms write the same lines then. Straight means: bodies that are ready in a file, as large as those that the
collector makes, over 1 to 4 connections, plain, packed as one gzip member, or as the agents' own members one
after the other; the fastest of these ways is what the fan-in is compared with.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import re
import shutil
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

from benchmarks.fleet import rig as rigs
from benchmarks.fleet.pool import Pool, render
from benchmarks.fleet.pump import Pump
from benchmarks.fleet.setup import Setup
from benchmarks.measure import BenchmarkError
from benchmarks.processes import usage
from benchmarks.report import Bar
from tests.system.servers import Influx

LEAST = 0.9  # of what straight writing reaches
BODY_BYTES = 1 << 20  # of text, where the collector has not shown yet how much it puts into one

_ALLOWED = os.sched_getaffinity(0)  # before any of it is pinned

Form = Literal["plain", "gzip", "members"]
FORMS: tuple[Form, ...] = ("plain", "gzip", "members")


@dataclass(frozen=True)
class Arm:
    """One database filled. `influx_cores`: what influxd used of its core; `influx_cpu_s` in all."""

    way: str
    lines: int
    seconds: float
    influx_cpu_s: float
    requests: int
    text_bytes: int

    @property
    def per_s(self) -> float:
        return self.lines / self.seconds

    @property
    def influx_cores(self) -> float:
        return self.influx_cpu_s / self.seconds

    @property
    def body_bytes(self) -> float:
        return self.text_bytes / max(1, self.requests)


def database(setup: Setup) -> None:
    """[c] Lines per second into InfluxDB, through the fan-in and straight from a file."""
    if len(_ALLOWED) < 2:
        raise BenchmarkError("two cores are needed: one for the database, one for everything else")
    report, size = setup.report, setup.size
    agents = max(1, setup.agents // 10)
    windows = 1 + max(1, size.arm_lines // (agents * (setup.targets + 1)))
    report.progress(f"  [c] rendering {windows} windows of {agents} agents")
    start = time.time_ns() - round(windows * size.window_s * 1e9)
    every = render(agents, setup.targets, windows, window_s=size.window_s, start_ns=start)
    first = Pool(agents, setup.targets, [batch for batch in every.batches if not batch.window])
    pool = Pool(agents, setup.targets, [batch for batch in every.batches if batch.window])
    some = Pool(
        agents, setup.targets, pool.batches[: max(1, len(pool.batches) * size.try_lines // size.arm_lines)]
    )
    report.say(
        f"\n[c] {agents * setup.targets:,} series into InfluxDB 1.6 on one core, everything else on the "
        "other; a new database for every run"
    )
    scratch = setup.scratch / "database"
    looked = _fan_in(scratch, first, some, size.in_flight)
    body = looked.body_bytes or BODY_BYTES
    tries: dict[tuple[Form, int], Arm] = {}
    for form, connections in itertools.product(FORMS, size.connections):
        report.progress(f"  [c] straight, {form}, {connections}")
        with bodies(scratch, some, form, body) as file:
            tries[form, connections] = _straight(scratch, first, file, form, connections)
    form, connections = max(tries, key=lambda way: tries[way].per_s)
    rows = [(f"{name}", [f"{tries[name, n].per_s:,.0f}" for n in size.connections]) for name in FORMS]
    report.say(
        f"  straight from a file, {some.lines:,} lines, bodies of {body / 1e3:,.0f} kB of text: lines/s"
    )
    report.table(("form", *(f"{n} conn." for n in size.connections)), rows)
    straight: list[Arm] = []
    through: list[Arm] = []
    for n in range(size.arms):
        report.progress(f"  [c] round {n + 1} of {size.arms}")
        through.append(_fan_in(scratch, first, pool, size.in_flight))
        with bodies(scratch, pool, form, through[-1].body_bytes) as file:
            straight.append(_straight(scratch, first, file, form, connections))
    ratios = [a.per_s / b.per_s for a, b in zip(through, straight, strict=True)]
    rows = [
        (way, [
            f"{statistics.median(arm.per_s for arm in arms):,.0f}", f"{min(arm.per_s for arm in arms):,.0f}",
            f"{max(arm.per_s for arm in arms):,.0f}", f"{statistics.median(shares):.2f}",
            f"{statistics.median(arm.influx_cores for arm in arms):.2f}",
            f"{statistics.median(arm.influx_cpu_s / arm.lines * 1e6 for arm in arms):.1f}",
            f"{statistics.median(arm.body_bytes for arm in arms) / 1e3:,.0f}",
        ])
        for way, arms, shares in (
            (f"straight, {form}, {connections} conn.", straight, [1.0]),
            ("through the fan-in", through, ratios),
        )
    ]  # fmt: skip
    report.say(f"  {pool.lines:,} lines, {size.arms} interleaved rounds")
    report.table(
        ("way", "lines/s", "min", "max", "of straight", "influxd cores", "influxd us/line", "body kB"), rows
    )
    report.data["database"] = {
        "lines": pool.lines,
        "tries": {f"{name} {n}": asdict(arm) for (name, n), arm in tries.items()},
        "straight": [asdict(arm) for arm in straight],
        "through": [asdict(arm) for arm in through],
    }
    report.bars.append(
        Bar("[c] lines/s through the fan-in, of straight writing", ratios, LEAST, at_least=True)
    )


@contextlib.contextmanager
def bodies(scratch: Path, pool: Pool, form: Form, body_bytes: float) -> Iterator[list[memoryview]]:
    """The pool's lines as bodies of about `body_bytes` of text each, in a file that is mapped into memory."""
    scratch.mkdir(parents=True, exist_ok=True)
    path, spans = scratch / "bodies", []
    with path.open("wb") as out:
        group: list[bytes] = []
        size = 0
        batches = zip(pool.batches, pool.texts(), strict=True)
        for batch, text in itertools.chain(batches, [(None, b"")]):
            if group and (batch is None or size + len(text) > max(body_bytes * 1.05, len(text))):
                data = b"".join(group)
                if form == "gzip":
                    packer = zlib.compressobj(1, wbits=31)
                    data = packer.compress(data) + packer.flush()
                spans.append((out.tell(), len(data)))
                out.write(data)
                group, size = [], 0
            if batch is not None:
                packed = batch.payload.startswith(b"\x1f\x8b")
                member = batch.payload if packed else zlib.compress(text, 1, wbits=31)
                group.append(member if form == "members" else text)
                size += len(text)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        parts = [view[at : at + length] for at, length in spans]
        try:
            yield parts
        finally:
            for part in parts:
                part.release()
            view.release()
    path.unlink()


def _straight(scratch: Path, first: Pool, parts: Sequence[memoryview], form: Form, connections: int) -> Arm:
    """Fill a new database from a file."""
    with _fresh(scratch, first) as (_, server), rigs.pinned({_cores()[1]}):
        return _timed(
            server, f"straight, {form}, {connections}", lambda: _write(server, parts, form, connections)
        )


def fill(server: Influx, scratch: Path, pool: Pool) -> None:
    """Write a pool's lines straight, so that the database knows their series; their agents' `batch` is 0."""
    unnumbered = [
        replace(batch, payload=re.sub(rb"(?m)^(agent,.* batch=)\d+i", rb"\g<1>0i", text))
        for batch, text in zip(pool.batches, pool.texts(), strict=True)
    ]
    # New series are dear: smaller bodies, or InfluxDB gives up a write after its 10 s and says so.
    with bodies(scratch, replace(pool, batches=unnumbered), "plain", BODY_BYTES // 4) as parts:
        _write(server, parts, "plain", 1, tries=5)


def _write(
    server: Influx, parts: Sequence[memoryview], form: Form, connections: int, *, tries: int = 1
) -> None:
    """Every part once, over so many connections. Raises: BenchmarkError where one is not taken."""
    coming = iter(parts)
    turn = threading.Lock()
    failed: list[str] = []
    target = f"/write?db={rigs.DATABASE}&precision=ns"
    headers = {"Content-Type": "text/plain; charset=utf-8"} | (
        {} if form == "plain" else {"Content-Encoding": "gzip"}
    )

    def work() -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
        connection.connect()
        try:
            while not failed:
                with turn:
                    part = next(coming, None)
                if part is None:
                    return
                for left in reversed(range(tries)):
                    connection.request("POST", target, part, {**headers, "Content-Length": str(len(part))})
                    answer = connection.getresponse()
                    said = answer.read()
                    if answer.status == 204:
                        break
                    if answer.status < 500 or not left:
                        failed.append(f"HTTP {answer.status} {said[:200]!r}")
                        break
        except OSError as problem:
            failed.append(str(problem))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise BenchmarkError(f"InfluxDB does not take it: {failed[0]}")


def _fan_in(scratch: Path, first: Pool, pool: Pool, in_flight: int) -> Arm:
    """Fill a new database through broker and collector."""
    with (
        _fresh(scratch, first) as (folder, server),
        rigs.pinned({_cores()[1]}),
        rigs.rig(folder / "rig", into=server) as made,
        Pump(made.broker.port, pool) as pump,
    ):
        arm = _timed(server, "through the fan-in", lambda: pump.saturate(3600.0, in_flight, once=True))
        made.check()
        [row] = server.query("select count(batch) as n from agent where agent != 'collector'")
        if row["n"] != len(first.batches) + len(pool.batches):
            raise BenchmarkError(
                f"{row['n']} of {len(first.batches) + len(pool.batches)} batches are in the database"
            )
        return arm


def _cores() -> tuple[int, int]:
    """The database's core, and everybody else's."""
    first, second, *_ = sorted(_ALLOWED)
    return first, second


@contextlib.contextmanager
def _fresh(scratch: Path, first: Pool) -> Iterator[tuple[Path, Influx]]:
    """A folder that is removed at the end, and in it a new InfluxDB on a core of its own with these lines."""
    folder = scratch / "arm"
    try:
        with contextlib.ExitStack() as stack:
            with rigs.pinned({_cores()[0]}):
                server = stack.enter_context(rigs.database(folder))
            fill(server, folder, first)
            yield folder, server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _timed(server: Influx, way: str, write: Callable[[], None]) -> Arm:
    """Run it; InfluxDB's own counters say what it took."""
    counters, cpu, began = _counters(server), usage(server.pid).cpu_s, time.monotonic()
    write()
    seconds, cpu = time.monotonic() - began, usage(server.pid).cpu_s - cpu
    found = {name: value - counters[name] for name, value in _counters(server).items()}
    if found["pointsWrittenDropped"] or found["pointsWrittenFail"]:
        raise BenchmarkError(f"{way}: InfluxDB dropped points: {found}")
    return Arm(way, found["pointsWrittenOK"], seconds, cpu, found["writeReq"], found["writeReqBytes"])


def _counters(server: Influx) -> dict[str, int]:
    """Of its HTTP service. `writeReqBytes` counts text: bodies as they are after unpacking."""
    document: dict[str, Any] = json.loads(server.request("GET", "/debug/vars").body)
    parts = [part for part in document.values() if isinstance(part, dict)]
    values = next(part["values"] for part in parts if part.get("name") == "httpd")
    names = ("pointsWrittenOK", "pointsWrittenDropped", "pointsWrittenFail", "writeReq", "writeReqBytes")
    return {name: int(values.get(name, 0)) for name in names}
