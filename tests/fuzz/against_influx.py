"""Batches that a collector lets in, a real InfluxDB out: does it read in them what the collector read?

Random batches, each of an agent of its own, validated and written together as gzip members, as the collector
does; then every point is read back. It must be one of the agent whose batch it was in, and every line has to
be there, unless InfluxDB refuses it alone as well. `python -m tests.fuzz.against_influx --lines 20000`
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.fuzz.mutating import inputs
from tests.fuzz.samples import NOW, SPOOL, TEXTS, WORDS
from tests.system import servers
from tests.system.servers import Influx

TOGETHER = 40  # batches in one write
Point = tuple[str, tuple[tuple[str, str], ...], int]  # measurement, tags, time


@dataclass
class Comparison:
    """lines: let in by the collector. refused: of these, by InfluxDB. otherwise: points whose tags it reads
    in another way, by the line. findings: what must not be."""

    lines: int = 0
    refused: int = 0
    otherwise: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def compare(influx: Influx, lines: int, seed: int = 1) -> Comparison:
    """Write at least so many lines and read them back."""
    found = Comparison()
    batches = _batches(seed)
    while found.lines < lines and not found.findings:
        group = dict(next(batches) for _ in range(TOGETHER))
        _compare(influx, group, found)
    return found


def _batches(seed: int) -> Iterator[tuple[str, list[bytes]]]:
    """Agents with the lines of theirs that are let in; for ever."""
    from collectors.validate import validate
    from probe.errors import BatchError

    for number, text in enumerate(inputs(f"influx {seed}", TEXTS, WORDS, 8192)):
        agent = f"a{number}"
        payload = text.replace(b"ny4-01", agent.encode())
        topic = f"coloprobe/v1/{agent}/lines/{SPOOL}/1"
        try:
            batch = validate(topic, payload, now_ns=NOW, max_bytes=1 << 16)
        except BatchError:
            continue
        yield agent, batch.body.split(b"\n")[:-1]


def _compare(influx: Influx, group: dict[str, list[bytes]], found: Comparison) -> None:
    from probe.telemetry import lines as protocol

    influx.query("drop database fuzz")
    influx.create_database("fuzz")
    _write_halving(influx, [[line + b"\n" for line in lines] for lines in group.values()])
    there: dict[str, set[Point]] = {}
    for one in _points(influx):
        there.setdefault(dict(one[1]).get("agent", ""), set()).add(one)
    for stranger in there.keys() - group.keys():
        found.findings.append(f"points of {stranger!r}, which sent nothing: {there[stranger]}")
    for agent, lines in group.items():
        found.lines += len(lines)
        stored = there.get(agent, set())
        wanted = {}
        for line in lines:
            point = protocol.parse(line.decode())
            wanted[point.measurement, tuple(sorted(point.tags.items())), point.time_ns] = line
        missing = wanted.keys() - stored
        taken = [one for one in missing if _write(influx, [wanted[one] + b"\n"])]
        found.refused += len(missing) - len(taken)
        extra = stored - wanted.keys()
        # What it takes alone, but was not found, is there under other tags: it reads backslashes otherwise.
        if len(taken) != len(extra):
            found.findings.append(
                f"{agent}: {len(taken)} lines stand for {extra}: {[wanted[o] for o in taken]}"
            )
        found.otherwise += [repr(wanted[one]) for one in taken]


def _write_halving(influx: Influx, bodies: list[list[bytes]]) -> None:
    """As the collector does: what is rejected, in halves, and a single batch's lines in halves."""
    if _write(influx, [b"".join(lines) for lines in bodies]):
        return
    if len(bodies) == 1:
        bodies = [[line] for line in bodies[0]]
    if len(bodies) > 1:
        middle = len(bodies) // 2
        _write_halving(influx, bodies[:middle])
        _write_halving(influx, bodies[middle:])


def _write(influx: Influx, bodies: Sequence[bytes]) -> bool:
    """As one write of many gzip members; whether all of it was taken."""
    packed = b""
    for body in bodies:
        packer = zlib.compressobj(1, wbits=31)
        packed += packer.compress(body) + packer.flush()
    connection = HTTPConnection("127.0.0.1", influx.port, timeout=60)
    try:
        connection.request("POST", "/write?db=fuzz&precision=ns", packed, {"Content-Encoding": "gzip"})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    assert answer.status in (204, 400), answer.status
    return answer.status == 204


def _points(influx: Influx) -> Iterator[Point]:
    for series in _series(influx):
        tags = tuple(sorted((key, value) for key, value in series.get("tags", {}).items() if value))
        at = series["columns"].index("time")
        for row in series["values"]:
            yield series["name"], tags, row[at]


def _series(influx: Influx) -> Iterator[dict[str, Any]]:
    """Every series apart: `query` would let a field hide a tag of its name."""
    form = {"q": "select * from /.*/ group by *", "db": "fuzz", "epoch": "ns"}
    answer = influx.request("POST", f"/query?{urlencode(form)}")
    document = json.loads(answer.body)
    for result in document["results"]:
        assert "error" not in result, result
        yield from result.get("series", [])


def main(arguments: Sequence[str] | None = None) -> int:
    """0: they agree; 1: they do not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.against_influx", description=__doc__)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, servers.influxdb(Path(name)) as influx:
        found = compare(influx, asked.lines, asked.seed)
    print(f"{found.lines:,} lines let in, {found.refused:,} of them refused by InfluxDB alone as well")
    print("\n".join([f"{len(found.otherwise):,} read otherwise, of the same agent", *found.otherwise[:5]]))
    print("\n".join(found.findings) or "no findings")
    return 1 if found.findings else 0


if __name__ == "__main__":
    sys.exit(main())
