"""A namespace and a number of probes in, what each tool says of every probe and what the wire says of the
same out.

A tool's rows are joined to the capture's by what the packets carry: our probe's number in the payload, the
peers' sequence numbers. smokeping_prober says no more than a sum and a count, so that only means can be
compared.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.parts import Bench
from benchmarks.programs import APT, APT_PING, PIP_ICMPLIB, backends, targets
from tests.lab import peers
from tests.lab.capture import Capture
from tests.lab.peers import ROOT, PeerRtt

INTERVAL_S = 0.01
ENGINE_TARGETS = 10
_SLOW = 5  # takes 70 ms a probe: a fifth as many
_UDP, _IPV4_HEADER, _UDP_HEADER = 17, 20, 8
_IRTT_ECHO = 12  # a request's header with magic, flags, the connection's token; then the sequence number

Rtts = dict[int, int]  # ns, by what tells the probes of a run apart


@dataclass(frozen=True)
class Readings:
    """One run: RTTs in ns by probe. `means`: the tool's and the wire's, where a tool has no more; then
    `tool` is empty."""

    tool: Rtts
    wire: Rtts
    means: tuple[float, float] | None = None
    answered: int = 0


@dataclass(frozen=True)
class Meter:
    """`needs`: program or module, and the command that brings it."""

    name: str
    run: Callable[[Bench, int], Readings]
    program: str = ""
    module: str = ""
    needs: str = ""

    def missing(self) -> str:
        if (self.program and shutil.which(self.program) is None) or (
            self.module and importlib.util.find_spec(self.module) is None
        ):
            return f"{self.program or self.module} is missing; it comes with: {self.needs}"
        return ""


def numbered(capture: Capture) -> Rtts:
    """Our probes by the number that they carry."""
    return {
        int.from_bytes(trip.payload[8:16], "big"): trip.rtt_ns
        for trip in capture.round_trips()
        if trip.rtt_ns is not None
    }


def sequenced(capture: Capture) -> Rtts:
    """Echo requests by their sequence number."""
    return {trip.sequence: trip.rtt_ns for trip in capture.round_trips() if trip.rtt_ns is not None}


def irtt_packets(capture: Capture) -> Rtts:
    """irtt's packets by the sequence number in them (little-endian, as its header is)."""
    sent: Rtts = {}
    rtts: Rtts = {}
    for packet in capture.packets:
        data = packet.data
        at = _IPV4_HEADER + _UDP_HEADER + _IRTT_ECHO
        if len(data) < at + 4 or data[0] != 0x45 or data[9] != _UDP:
            continue
        port = int.from_bytes(data[_IPV4_HEADER + (2 if packet.outgoing else 0) :][:2], "big")
        flags = data[_IPV4_HEADER + _UDP_HEADER + 3]
        if port != peers.IRTT_PORT or flags & 0b0101:  # opens or closes the connection
            continue
        (sequence,) = struct.unpack_from("<I", data, at)
        if packet.outgoing:
            sent[sequence] = packet.time_ns
        elif sequence in sent and sequence not in rtts:
            rtts[sequence] = packet.time_ns - sent[sequence]
    return rtts


def _coloprobe_ping(bench: Bench, count: int) -> Readings:
    argv = [sys.executable, "-m", "probe.cli", "ping", bench.far.ipv4, "--json"]
    argv += ["-c", str(count), "-i", f"{INTERVAL_S * 1000:g}ms"]
    with Capture(bench.near, quiet=True) as capture:
        done = bench.near.run(["env", f"PYTHONPATH={ROOT}", *argv], timeout_s=120)
    rows = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    tool = {row["seq"]: row["rtt_ns"] for row in rows if row["outcome"] == "received"}
    return Readings(tool, numbered(capture))


def _engine(bench: Bench, count: int, backend: str = "raw") -> Readings:
    """The agent's engine at its defaults with a few targets, as many probes a second as the others."""
    interval = f"{INTERVAL_S * ENGINE_TARGETS * 1000:g}ms"
    rtts = bench.scratch / "rtts.json"
    argv = [sys.executable, "-m", "benchmarks.paced", "--first", targets(1)[0], "--rtts", str(rtts)]
    argv += ["--targets", str(ENGINE_TARGETS), "--interval", interval]
    argv += ["--seconds", str(count * INTERVAL_S), "--window", "1s", "--backend", backend]
    with Capture(bench.near, quiet=True) as capture:
        bench.near.run(["env", f"PYTHONPATH={ROOT}", *argv], timeout_s=120)
    flat = [rtt for part in json.loads(rtts.read_text(encoding="ascii")) for rtt in part]
    return Readings({n: rtt for n, rtt in enumerate(flat) if rtt >= 0}, numbered(capture))


def _peer(
    measure: Callable[[Bench, int], list[PeerRtt]], wire: Callable[[Capture], Rtts] = sequenced
) -> Callable[[Bench, int], Readings]:
    def run(bench: Bench, count: int) -> Readings:
        with Capture(bench.near, quiet=True) as capture:
            rows = measure(bench, count)
        return Readings({row.sequence: row.rtt_ns for row in rows}, wire(capture))

    return run


def _irtt(bench: Bench, count: int) -> Readings:
    with bench.irtt() as server:
        return _peer(lambda b, n: peers.irtt(b.near, server, count=n), irtt_packets)(bench, count)


def _smokeping(bench: Bench, count: int) -> Readings:
    with Capture(bench.near, quiet=True) as capture:
        sums = peers.smokeping(bench.near, bench.far, bench.far.ipv4, count=count)
    # It does not count the first reply, or the first few; of the last ones, all.
    wire = [trip.rtt_ns for trip in capture.round_trips() if trip.rtt_ns is not None]
    counted = wire[-sums.answered :]
    means = sums.mean_ns, sum(counted) / len(counted)
    return Readings({}, dict(enumerate(wire)), means, sums.answered)


METERS = (
    Meter("coloprobe ping", _coloprobe_ping),
    Meter("coloprobe agent's engine", _engine),
    *(
        Meter(f"coloprobe agent's engine, {backend}", partial(_engine, backend=backend))
        for backend in backends()[1:]
    ),
    Meter(
        "ping",
        _peer(lambda b, n: peers.ping(b.near, b.far.ipv4, count=n)),
        program="ping",
        needs=APT_PING,
    ),
    Meter(
        "fping",
        _peer(lambda b, n: peers.fping(b.near, b.far.ipv4, count=n)),
        program="fping",
        needs=APT + "fping",
    ),
    Meter("irtt", _irtt, program="irtt", needs=APT + "irtt"),
    Meter(
        "smokeping_prober",
        _smokeping,
        program="prometheus-smokeping-prober",
        needs=APT + "prometheus-smokeping-prober",
    ),
    Meter(
        "icmplib",
        _peer(lambda b, n: peers.icmplib(b.near, b.far.ipv4, count=n)),
        module="icmplib",
        needs=PIP_ICMPLIB,
    ),
    Meter(
        "scapy sr1",
        _peer(lambda b, n: peers.scapy(b.near, b.far.ipv4, count=max(n // _SLOW, 5))),
        module="scapy",
        needs="pip install scapy",
    ),
)
