"""A socket and a dialect in, an engine of one channel that a test drives inside a namespace out."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

import numpy as np

from probe.clock import MILLISECOND, SECOND, SystemClock
from probe.engine.channel import Channel, Flow
from probe.engine.dialect import Speak
from probe.engine.engine import Engine, Notice
from probe.engine.samples import Cut
from probe.engine.schedule import Schedule
from probe.sockets.packet_socket import ProbeSocket
from tests.lab.netlab import Namespace

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
TIMEOUT = 250 * MILLISECOND


def address_of(namespace: Namespace, version: int) -> str:
    return namespace.ipv4 if version == 4 else namespace.ipv6


class Driven:
    """Every flow of a socket at one interval; `cuts` and `notices` are what the engine gave so far."""

    def __init__(
        self,
        near: Namespace,
        probe_socket: ProbeSocket,
        flows: Sequence[Flow],
        speak: Speak,
        *,
        interval: int,
        burst: int,
        timeout: int,
        window: int = SECOND,
        tick: int = 5 * MILLISECOND,
        reflecting: bool = False,
    ) -> None:
        self.near, self.timeout, self.flows = near, timeout, list(flows)
        count, rng = len(self.flows), np.random.default_rng()
        self.channel = Channel(
            probe_socket,
            self.flows,
            Schedule([interval] * count, [False] * count, rng, [burst] * count),
            capacity=16_384,
            all_flows=count,
            token=rng.bytes(8),
            base_id=int(rng.integers(0, 1 << 16)),
            speak=speak,
            reflecting=reflecting,
        )
        self.cuts: list[Cut] = []
        self.notices: list[Notice] = []
        self.engine = Engine(
            [self.channel],
            SystemClock(),
            window=window,
            timeout=timeout,
            tick=tick,
            flows=count,
            on_cut=self.cuts.append,
            on_notice=self.notices.append,
        )

    def run(self, count: int, deadline_s: float = 30) -> None:
        """Send at least so many more probes in all; returns once they have left."""
        until, head = time.monotonic() + deadline_s, self.channel.ledger.head
        with self.near.inside():
            while self.channel.ledger.head < head + count:
                assert time.monotonic() < until
                wake = self.engine.turn()
                time.sleep(max(0.0, wake / 1e9 - time.monotonic()))

    @property
    def foreign(self) -> int:
        return self.channel.counters.foreign + self.channel.counters.unanswerable

    def close(self) -> None:
        self.engine.close()

    def await_rest(self) -> None:
        """Wait for what is outstanding, and close the windows."""
        with self.near.inside():
            self.engine.finish(time.sleep)
