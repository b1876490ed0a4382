"""A broker's address and numbers of agents and targets in, that many agents' traffic out: real uplinks.

Each simulated agent is the agent's own `Uplink`, with a connection and a client id of its own, over a spool
in memory. All of them live in one event loop: 28 KB each, and about a millisecond of processor time a batch.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from benchmarks.fleet.hosts import HISTOGRAM_NS, Host
from benchmarks.fleet.pool import lines_in, name
from benchmarks.fleet.spools import DEFAULT_BYTES, InlineExecutor, TimedSpool
from probe import __version__
from probe.clock import SECOND, SystemClock
from probe.settings import MqttTable, UplinkTable
from probe.telemetry.uplink import Uplink

AT_ONCE = 32  # connections that are opened at a time
CONNECT_DEADLINE_S = 60.0
DESCRIPTORS = 128  # beside one a connection

Phase = Literal["aligned", "spread"]


@dataclass
class Member:
    """One agent of the fleet; `ready`: payloads of windows that were rendered before, oldest first."""

    host: Host
    spool: TimedSpool
    uplink: Uplink
    ready: deque[list[bytes]]
    lines: int = 0  # spooled


@dataclass(frozen=True)
class Told:
    """What one agent had sent and heard by the end: `last` is its highest batch number."""

    agent: str
    spool: str
    last: int
    acknowledged: int
    waiting: int
    dropped: int
    lines: int
    published: int
    republished: int
    reconnects: int


class Fleet:
    """`agents` agents of `targets` targets each, with windows of `window_s` seconds, at the broker `url`.

    phase: "aligned": all windows end at the same instants, as those of real agents do; "spread": each agent's
        a little later than the last one's, evenly over a window.
    ahead: windows that are rendered before anything is sent, so that rendering disturbs nobody; 0: each in
        the time before its end.
    mqtt: how to connect, with TLS and so on; its `url` is the argument's.
    Raises (constructor): OSError where the kernel does not allow so many open files.
    """

    def __init__(
        self,
        url: str,
        agents: int,
        targets: int,
        window_s: float = 10.0,
        *,
        phase: Phase = "aligned",
        seed: int = 1,
        prefix: str = "fleet",
        histograms: bool = False,
        ahead: int = 0,
        mqtt: MqttTable | None = None,
        password: str | None = None,
        uplink: UplinkTable | None = None,
        spool_bytes: int = DEFAULT_BYTES,
    ) -> None:
        allow_connections(agents)
        self.window_ns = round(window_s * SECOND)
        self.members: list[Member] = []
        self._phase = phase
        self._histograms = histograms
        self._clock = SystemClock()
        self._running: list[asyncio.Task[None]] = []
        table = mqtt or MqttTable(url=url)
        # None of them lies ahead.
        start = (self._clock.wall() // self.window_ns - ahead) * self.window_ns
        for number in range(agents):
            host = Host(name(prefix, number), number, targets, self.window_ns, seed)
            spool = TimedSpool(host.spool, spool_bytes)
            made = Uplink(
                agent=host.agent,
                mqtt=table,
                uplink=uplink or UplinkTable(),
                spool=spool,
                clock=self._clock,
                password=password,
                version=__version__,
                settings_sha256="0" * 64,
            )
            self.members.append(Member(host, spool, made, deque(self._ahead(host, ahead, start))))

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_default_executor(InlineExecutor(max_workers=32))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def acknowledged(self) -> int:
        """Batches that a collector acknowledged, of all agents."""
        return sum(member.spool.forgotten for member in self.members)

    @property
    def waiting(self) -> int:
        """Batches that wait for it."""
        return sum(member.spool.depth for member in self.members)

    async def connect(self, *, deadline_s: float = CONNECT_DEADLINE_S) -> bool:
        """Connect everybody, a few at a time; at the deadline go on. Returns whether all are in."""
        until = time.monotonic() + deadline_s
        for at in range(0, len(self.members), AT_ONCE):
            some = self.members[at : at + AT_ONCE]
            self._running += [asyncio.create_task(member.uplink.run()) for member in some]
            while any(m.uplink.state == "offline" for m in some) and time.monotonic() < until:
                self._check()
                await asyncio.sleep(0.005)
        return all(member.uplink.state != "offline" for member in self.members)

    async def play(self, seconds: float) -> None:
        """Send each window when it ends, for `seconds`; of windows rendered ahead, all of them.

        Those carry the times of their rendering: they end as far apart as these say, and all later.
        """
        until = self._clock.wall() + round(seconds * SECOND)
        await asyncio.gather(*(self._play(at, until) for at in range(len(self.members))))

    async def settle(self, deadline_s: float) -> bool:
        """Wait until everything is acknowledged, at most so long. Returns whether it is."""
        until = time.monotonic() + deadline_s
        while self.waiting and time.monotonic() < until:
            self._check()
            await asyncio.sleep(0.02)
        return not self.waiting

    def told(self) -> list[dict[str, Any]]:
        """Every agent's account: see `Told`."""
        return [
            asdict(
                Told(
                    agent=member.host.agent,
                    spool=member.spool.id,
                    last=member.spool.last,
                    acknowledged=member.spool.forgotten,
                    waiting=member.spool.depth,
                    dropped=member.spool.dropped,
                    lines=member.lines,
                    published=member.uplink.published,
                    republished=member.uplink.republished,
                    reconnects=member.uplink.reconnects,
                )
            )
            for member in self.members
        ]

    def times(self) -> dict[tuple[str, int], list[int]]:
        """By agent and batch number: when it was spooled, first published and acknowledged; monotonic ns, 0
        where it did not happen."""
        return {
            (member.host.agent, number): times
            for member in self.members
            for number, times in member.spool.times.items()
        }

    async def _play(self, at: int, until: int) -> None:
        member, length = self.members[at], self.window_ns
        offset = length * at // len(self.members)
        spread = self._phase == "spread"
        prepared = bool(member.ready)
        start = self._clock.wall() // length * length + (offset if spread else 0)
        window = 0
        while member.ready if prepared else start + length <= until:
            end = start + length
            if prepared:
                payloads = member.ready.popleft()
            else:
                # So many hosts render at the same time what one processor has to render in turn.
                await self._until(end if spread else start + offset * 9 // 10)
                payloads = self._render(member, window, start)
            await self._until(end)
            member.lines += sum(lines_in(payload) for payload in payloads)
            for payload in payloads:
                member.spool.append(lambda _, payload=payload: payload)  # type: ignore[misc]
            member.uplink.wake()
            window, start = window + 1, end

    def _render(self, member: Member, window: int, start_ns: int) -> list[bytes]:
        host, spool = member.host, member.spool
        lines, end = host.window(window, start_ns), start_ns + self.window_ns
        if self._histograms and end // HISTOGRAM_NS > start_ns // HISTOGRAM_NS:
            minute = end // HISTOGRAM_NS - 1
            lines += host.histogram(minute, minute * HISTOGRAM_NS)
        return host.batches(lines, spool.last + 1, end, spool=lambda: (spool.depth, spool.bytes))

    @staticmethod
    def _ahead(host: Host, windows: int, start_ns: int) -> list[list[bytes]]:
        made: list[list[bytes]] = []
        first = 1
        for at in range(windows):
            begin = start_ns + at * host.window_ns
            made.append(host.batches(host.window(at, begin), first, begin + host.window_ns))
            first += len(made[-1])
        return made

    async def _until(self, wall_ns: int) -> None:
        while (left := wall_ns - self._clock.wall()) > 0:  # noqa: ASYNC110 - it is time that is waited for
            await asyncio.sleep(left / SECOND)

    def _check(self) -> None:
        """An uplink never ends by itself: what it fell over is raised."""
        for task in self._running:
            if task.done():
                task.result()


def allow_connections(count: int) -> None:
    """Let this process open so many. Raises: OSError where it may not, naming the remedy."""
    wanted = count + DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted) if hard >= 0 else hard))
    except (ValueError, OSError):
        raise OSError(
            f"{count} agents need {wanted} open files and this process may have {hard}: raise it "
            f"(ulimit -Hn {wanted}), or start several fleets with fewer agents and a --prefix each"
        ) from None
