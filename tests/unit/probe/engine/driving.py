"""A rule for the network in, an engine over a memory socket with a clock to turn by hand out."""

from __future__ import annotations

import numpy as np

from probe.clock import MILLISECOND, SECOND, ManualClock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import Engine, Notice
from probe.engine.samples import Cut
from probe.engine.schedule import Schedule
from probe.sockets.memory import MemorySocket, Rule
from probe.windows.summary import Summaries, summarise

TOKEN = b"\x01\x23\x45\x67\x89\xab\xcd\xef"


class Driver:
    """One channel of `flows` flows, `interval` apart, in windows of 1 s with a timeout of 200 ms."""

    def __init__(
        self,
        rule: Rule,
        *,
        flows: int = 1,
        interval: int = 10 * MILLISECOND,
        capacity: int = 4096,
        hard_ahead: int | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.socket = MemorySocket(self.clock, rule, hard_ahead=hard_ahead)
        self.flows = flows
        schedule = Schedule([interval] * flows, [False] * flows, np.random.default_rng(7))
        self.channel = Channel(
            self.socket,
            [Flow(n, bytes(28), 64) for n in range(flows)],
            schedule,
            capacity=capacity,
            all_flows=flows,
            token=TOKEN,
            base_id=100,
            hardware=hard_ahead is not None,
        )
        self.cuts: list[Cut] = []
        self.notices: list[Notice] = []
        self.timeout = 200 * MILLISECOND
        self.engine = Engine(
            [self.channel],
            self.clock,
            window=SECOND,
            timeout=self.timeout,
            tick=2 * MILLISECOND,
            flows=flows,
            on_cut=self.cuts.append,
            on_notice=self.notices.append,
        )

    def run(self, length: int) -> None:
        """Let time pass, waking the engine when it asks to be woken."""
        end = self.clock.mono_ns + length
        while self.clock.mono_ns < end:
            wake = self.engine.turn()
            self.clock.advance(max(1, min(wake, end) - self.clock.mono_ns))

    def finish(self) -> None:
        """End as the agent does; sleeping is advancing."""
        self.engine.finish(lambda seconds: self.clock.advance(int(seconds * 1e9)))

    def summaries(self) -> list[Summaries]:
        return [summarise(cut, self.flows, self.timeout) for cut in self.cuts]

    def totals(self, flow: int = 0) -> dict[str, int]:
        """Every count, summed over all windows."""
        names = ("sent", "received", "lost", "late", "duplicates", "reordered", "errors", "unstamped")
        return {name: sum(int(s.values[name][flow]) for s in self.summaries()) for name in names}
