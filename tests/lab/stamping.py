"""A namespace and reflectors in another one in, an engine of STAMP probes, and every probe's fate, out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.clock import MICROSECOND, MILLISECOND, SECOND, SystemClock
from probe.engine.channel import Flow
from probe.engine.reflection import KEPT, reflection
from probe.engine.samples import ABSENT
from probe.sockets.abi import sockaddr
from probe.sockets.datagram import DatagramSocket, open_datagram
from probe.sockets.opening import SocketOptions
from probe.windows.outcomes import judge
from tests.lab.driving import FAMILIES, TIMEOUT, Driven, address_of
from tests.lab.netlab import Namespace
from tests.system.commands import DEADLINE_S, ROOT, coloprobe

PORT = 862
OWN_ERROR = 20 * MICROSECOND


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


class Sender(Driven):
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
        options = SocketOptions(FAMILIES[version], max_size=max(sizes), ttl=ttl)
        self.socket: DatagramSocket = near.call(
            lambda: open_datagram(options, kept=KEPT, choose_id=choose_id)
        )
        self.count = len(targets)
        flows = []
        for n, target in enumerate(targets):
            raw = sockaddr(FAMILIES[version], target)
            there = raw[:2] + port.to_bytes(2, "big") + raw[4:]
            flows.append(Flow(n, there, sizes[n % len(sizes)], True, 0, port))
        super().__init__(
            near,
            self.socket,
            flows,
            reflection(SystemClock(), lambda: OWN_ERROR, key),
            interval=interval,
            burst=burst,
            timeout=TIMEOUT,
            window=window,
            tick=2 * MILLISECOND,
            reflecting=True,
        )

    def finish(self) -> list[Fate]:
        """Wait for what is outstanding, and close the windows. Returns every probe in order of sending."""
        self.await_rest()
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


def one_way(fate: Fate) -> bool:
    return ABSENT not in (fate.forward, fate.backward, fate.clock_error)
