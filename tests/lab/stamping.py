"""A namespace and reflectors in another one in, an engine of STAMP probes, and every probe's fate, out."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.clock import MICROSECOND, MILLISECOND, SECOND, SystemClock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import Engine, Notice
from probe.engine.reflection import KEPT, reflection
from probe.engine.samples import ABSENT, Cut
from probe.engine.schedule import Schedule
from probe.sockets.abi import sockaddr
from probe.sockets.datagram import DatagramSocket, open_datagram
from probe.sockets.opening import SocketOptions
from probe.windows.outcomes import judge
from tests.lab.netlab import Namespace
from tests.system.commands import DEADLINE_S, ROOT, coloprobe

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = 862
TIMEOUT = 250 * MILLISECOND
OWN_ERROR = 20 * MICROSECOND


def address_of(namespace: Namespace, version: int) -> str:
    return namespace.ipv4 if version == 4 else namespace.ipv6


class Reflecting:
    """A reflector's process in a namespace: `coloprobe reflect`, or one made of scapy's layers."""

    def __init__(self, namespace: Namespace, *, key: Path | None = None) -> None:
        more = ["--key-file", str(key)] if key else []
        self.process = namespace.popen(
            coloprobe("reflect", "--clock-error", "10us", "--rate", "100000", *more),
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.process.stderr is not None
        while "reflecting STAMP" not in (line := self.process.stderr.readline()):
            assert line, "the reflector did not begin"

    @classmethod
    def of_scapy(cls, namespace: Namespace, version: int, *, stateful: bool) -> Reflecting:
        one = cls.__new__(cls)
        where = [address_of(namespace, version), str(PORT), *(["stateful"] if stateful else [])]
        one.process = namespace.popen(
            [sys.executable, "-W", "error", "-m", "tests.lab.scapy_reflector", *where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert one.process.stdout is not None
        assert one.process.stdout.readline() == "ready\n"
        return one

    def end(self) -> str:
        """What it says of itself at the end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
            self.process.stdin = None
        else:
            self.process.terminate()
        out, problems = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, problems
        return out or problems


@dataclass(frozen=True)
class Fate:
    """What is known of one probe; times in ns, delays ABSENT where there is none."""

    flow: int
    seq: int
    state: int
    left: bool
    received: bool
    tx: int
    rx: int
    rtt: int
    dwell: int
    followed: bool
    forward: int
    backward: int
    clock_error: int
    lost: int


class Sender:
    """An engine in `near`: flow k goes to the k-th of `targets`, all from one socket."""

    def __init__(
        self,
        near: Namespace,
        version: int,
        targets: Sequence[str],
        *,
        port: int = PORT,
        sizes: Sequence[int] = (84,),
        interval: int = 10 * MILLISECOND,
        burst: int = 1,
        key: bytes = b"",
        choose_id: bool | None = None,
        window: int = SECOND,
        ttl: int = 0,
    ) -> None:
        self.near = near
        options = SocketOptions(FAMILIES[version], max_size=max(sizes), ttl=ttl)
        self.socket: DatagramSocket = near.call(
            lambda: open_datagram(options, kept=KEPT, choose_id=choose_id)
        )
        self.count = count = len(targets)
        flows = []
        for n, target in enumerate(targets):
            raw = sockaddr(FAMILIES[version], target)
            there = raw[:2] + port.to_bytes(2, "big") + raw[4:]
            flows.append(Flow(n, there, sizes[n % len(sizes)], True, 0, port))
        rng = np.random.default_rng()
        self.channel = Channel(
            self.socket,
            flows,
            Schedule([interval] * count, [False] * count, rng, [burst] * count),
            capacity=16_384,
            all_flows=count,
            token=rng.bytes(8),
            base_id=int(rng.integers(0, 1 << 16)),
            speak=reflection(SystemClock(), lambda: OWN_ERROR, key),
            reflecting=True,
        )
        self.cuts: list[Cut] = []
        self.notices: list[Notice] = []
        self.engine = Engine(
            [self.channel],
            SystemClock(),
            window=window,
            timeout=TIMEOUT,
            tick=2 * MILLISECOND,
            flows=count,
            on_cut=self.cuts.append,
            on_notice=self.notices.append,
        )

    def run(self, count: int, deadline_s: float = 30) -> None:
        """Send at least so many more probes; returns once they have left."""
        until, head = time.monotonic() + deadline_s, self.channel.ledger.head
        with self.near.inside():
            while self.channel.ledger.head < head + count:
                assert time.monotonic() < until
                wake = self.engine.turn()
                time.sleep(max(0.0, wake / 1e9 - time.monotonic()))

    def finish(self) -> list[Fate]:
        """Wait for what is outstanding, and close the windows. Returns every probe in order of sending."""
        with self.near.inside():
            self.engine.finish(time.sleep)
        return self.fates()

    def fates(self) -> list[Fate]:
        """Every probe whose window was cut."""
        found, seqs = [], [0] * self.count
        for cut in self.cuts:
            (samples,) = cut.samples
            said, outcomes = samples.reflections, judge(samples, TIMEOUT)
            assert said is not None
            for i in range(samples.inside):
                flow = int(samples.flow[i])
                found.append(
                    Fate(
                        flow,
                        seqs[flow],
                        int(samples.state[i]),
                        bool(outcomes.left[i]),
                        bool(outcomes.received[i]),
                        int(samples.tx[i]),
                        int(samples.rx[i]),
                        int(outcomes.rtt[i]),
                        int(said.dwell[i]),
                        bool(said.followed[i]),
                        int(said.forward[i]),
                        int(said.backward[i]),
                        int(said.clock_error[i]),
                        int(said.lost[i]),
                    )
                )
                seqs[flow] += 1
        return found

    @property
    def foreign(self) -> int:
        return self.channel.counters.foreign + self.channel.counters.unanswerable

    def close(self) -> None:
        self.engine.close()
        self.socket.close()


def one_way(fate: Fate) -> bool:
    return ABSENT not in (fate.forward, fate.backward, fate.clock_error)
