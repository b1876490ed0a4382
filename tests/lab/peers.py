"""A namespace and a target in, what a peer measured there out: one row a probe, or the mean where it says no
more.

iputils ping, fping, irtt, smokeping_prober, icmplib and scapy. Raises: AssertionError where one of them
fails.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.netlab import Namespace

ROOT = Path(__file__).parents[2]
IRTT_PORT = 2112
_PROBER_PORT = 19374
_PATIENCE_S = 10.0

# iputils: "64 bytes from 10.99.0.2: icmp_seq=1 ttl=64 time=0.075 ms"
_PING = re.compile(r"^\d+ bytes from .*? icmp_seq=(\d+) .*?time=([\d.]+) ms", re.MULTILINE)
# fping: "10.99.0.2 : [0], 64 bytes, 0.046 ms (0.046 avg, 0% loss)"
_FPING = re.compile(r"^(\S+)\s*: \[(\d+)\], \d+ bytes, ([\d.]+) ms", re.MULTILINE)


@dataclass(frozen=True)
class PeerRtt:
    """One answered probe as a peer prints it.

    ping prints three significant digits, but no digit beyond the microsecond: to 1 us under 1 ms, 10 us under
    10 ms; fping the same; irtt, icmplib and scapy as they have it.
    """

    target: str
    sequence: int
    rtt_ns: int


def ping(
    namespace: Namespace,
    address: str,
    *,
    count: int,
    interval_s: float = 0.01,
    size: int = 56,
    timeout_s: float = 1,
) -> list[PeerRtt]:
    """iputils ping: `size` is bytes of ICMP payload."""
    argv = [
        "ping",
        "-n",
        "-c",
        str(count),
        "-i",
        str(interval_s),
        "-s",
        str(size),
        "-W",
        str(timeout_s),
        address,
    ]
    # 1 is "some were lost": the caller counts rows. 2 is an error.
    done = namespace.run(argv, check=False, timeout_s=count * interval_s + timeout_s + 30)
    assert done.returncode in (0, 1), done.stderr
    return [PeerRtt(address, int(sequence), _ns(rtt)) for sequence, rtt in _PING.findall(done.stdout)]


def fping(
    namespace: Namespace,
    *addresses: str,
    count: int,
    period_ms: float = 10,
    interval_ms: float = 0,
    size: int = 56,
    timeout_ms: float = 1000,
) -> list[PeerRtt]:
    """fping: `period_ms` between probes of one target, `interval_ms` between any two probes."""
    argv = [
        "fping",
        *("-c", str(count), "-p", f"{period_ms:g}", "-i", f"{interval_ms:g}"),
        *("-b", str(size), "-t", f"{timeout_ms:g}"),
        *addresses,
    ]
    done = namespace.run(argv, check=False, timeout_s=count * period_ms / 1000 + timeout_ms / 1000 + 30)
    assert done.returncode in (0, 1), done.stderr
    return [PeerRtt(target, int(sequence), _ns(rtt)) for target, sequence, rtt in _FPING.findall(done.stdout)]


def _ns(milliseconds: str) -> int:
    return round(float(milliseconds) * 1_000_000)


@contextlib.contextmanager
def irtt_server(namespace: Namespace) -> Iterator[str]:
    """An irtt server at every address of the namespace, for the length of the block; yields HOST:PORT."""
    server = namespace.popen(
        # It throttles clients that send more often than -i; 0: nobody.
        ["irtt", "server", "-b", f"0.0.0.0:{IRTT_PORT}", "-i", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    port = f":{IRTT_PORT:04X} "
    try:
        _poll(
            lambda: (
                server.poll() is not None
                or port in namespace.call(Path("/proc/thread-self/net/udp").read_text)
            ),
            "irtt server",
        )
        assert server.poll() is None, f"irtt server ended with {server.returncode}"
        yield f"{namespace.ipv4}:{IRTT_PORT}"
    finally:
        server.kill()
        server.wait()


def irtt(namespace: Namespace, server: str, *, count: int, interval_s: float = 0.01) -> list[PeerRtt]:
    """irtt over UDP. Without the server's time stamps what it calls RTT is between its own two clock
    readings."""
    argv = ["irtt", "client", "-Q", "-o", "-", "--tstamp=none", "-i", f"{interval_s * 1e6:.0f}us"]
    argv += ["-d", f"{count * interval_s * 1e6:.0f}us", server]
    done = namespace.run(argv, timeout_s=count * interval_s + 60)
    trips = json.loads(done.stdout)["round_trips"]
    return [
        PeerRtt(server, int(trip["seqno"]), int(trip["delay"]["rtt"]))
        for trip in trips
        if trip["lost"] == "false"
    ]


def icmplib(namespace: Namespace, address: str, *, count: int, interval_s: float = 0.01) -> list[PeerRtt]:
    """icmplib's loop of its `ping`."""
    return _python(namespace, "icmplib", address, count, interval_s)


def scapy(namespace: Namespace, address: str, *, count: int, interval_s: float = 0.0) -> list[PeerRtt]:
    """scapy's sr1."""
    return _python(namespace, "scapy", address, count, interval_s)


def _python(namespace: Namespace, library: str, address: str, count: int, interval_s: float) -> list[PeerRtt]:
    argv = [sys.executable, "-m", "benchmarks.libraries", library, address]
    argv += ["--count", str(count), "--interval", str(interval_s), "--each"]
    environment = ["env", f"PYTHONPATH={ROOT}", *argv]
    done = namespace.run(environment, timeout_s=count * (interval_s + 0.1) + 30)
    rtts = json.loads(done.stdout.splitlines()[-1])["rtts_ns"]
    return [PeerRtt(address, int(sequence), int(rtt)) for sequence, rtt in rtts]


@dataclass(frozen=True)
class ProberSums:
    """What smokeping_prober exposes of all its targets: a histogram's sum and count, and what it sent."""

    sent: int
    answered: int
    mean_ns: float


def smokeping_command(*addresses: str, interval: str) -> list[str]:
    """The command line; its packaged configuration would add a target of its own.

    It opens a socket for each target: raw ones, its default, would each get the replies to all targets.
    """
    return [
        "prometheus-smokeping-prober",
        "--config.file=",
        "--no-privileged",
        f"--web.listen-address=127.0.0.1:{_PROBER_PORT}",
        f"--ping.interval={interval}",
        "--log.level=error",
        *addresses,
    ]


def smokeping_metrics() -> str:
    """What it exposes; call it in its namespace."""
    with urllib.request.urlopen(f"http://127.0.0.1:{_PROBER_PORT}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def read_smokeping(metrics: str) -> ProberSums:
    """The sums over all targets."""

    def total(name: str) -> float:
        return sum(map(float, re.findall(rf"^{name}\{{[^}}]*\}} (\S+)$", metrics, re.MULTILINE)))

    answered = round(total("smokeping_response_duration_seconds_count"))
    mean = total("smokeping_response_duration_seconds_sum") / answered * 1e9 if answered else float("nan")
    return ProberSums(round(total("smokeping_requests_total")), answered, mean)


def smokeping(
    near: Namespace, far: Namespace, address: str, *, count: int, interval: str = "10ms"
) -> ProberSums:
    """smokeping_prober until `count` probes were answered, then until none is under way."""
    argv = smokeping_command(address, interval=interval)
    child = near.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def sums() -> ProberSums | None:
            assert child.poll() is None, f"smokeping_prober ended with {child.returncode}"
            with contextlib.suppress(OSError):
                return read_smokeping(near.call(smokeping_metrics))
            return None

        _poll(lambda: (seen := sums()) and seen.answered >= count, "smokeping_prober", _PATIENCE_S + count)
        # Nothing is answered from here on, so the sums stand still.
        rule = far.rule("drop")
        try:
            time.sleep(0.2)
            last = sums()
        finally:
            rule.remove()
        assert last is not None
        return last
    finally:
        child.kill()
        child.wait()


def _poll(what: Callable[[], object], name: str, patience_s: float = _PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, f"{name} does not answer"
        time.sleep(0.05)
