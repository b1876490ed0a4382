"""A namespace and a target in, what `ping` or `fping` measured there out, one row a probe."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.lab.netlab import Namespace

# iputils: "64 bytes from 10.99.0.2: icmp_seq=1 ttl=64 time=0.075 ms"
_PING = re.compile(r"^\d+ bytes from .*? icmp_seq=(\d+) .*?time=([\d.]+) ms", re.MULTILINE)
# fping: "10.99.0.2 : [0], 64 bytes, 0.046 ms (0.046 avg, 0% loss)"
_FPING = re.compile(r"^(\S+)\s*: \[(\d+)\], \d+ bytes, ([\d.]+) ms", re.MULTILINE)


@dataclass(frozen=True)
class PeerRtt:
    """One answered probe as a peer prints it: to the microsecond under 1 ms, coarser above."""

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
