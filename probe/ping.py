"""One target in, a live line (or JSON object) for every probe and a summary at the end out: `coloprobe
ping`."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from probe.clock import MILLISECOND, SECOND, Clock, SystemClock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import Engine, Notice
from probe.engine.samples import ERROR, LOCAL, REFUSED, SKIPPED, Cut, Samples, Strays
from probe.engine.schedule import Schedule
from probe.errors import UsageError
from probe.host.interfaces import stamped
from probe.host.processors import load
from probe.sockets import abi
from probe.sockets.opening import SocketOptions, open_icmp
from probe.sockets.privileges import drop_privileges
from probe.target_settings import Target
from probe.targets import Address, resolve
from probe.telemetry.lines import Value
from probe.telemetry.points import probe_fields
from probe.text import duration
from probe.windows.summary import Summaries, summarise

_KEEP = 1 << 22  # probes that the final summary looks at; the oldest go first
_SPARE = 20 * MILLISECOND  # beyond the timeout, for a reply that is still in the kernel's queue
_HELD_BACK = 3 * SECOND + 200 * MILLISECOND  # the kernel looks for a neighbour for three seconds


@dataclass(frozen=True)
class PingOptions:
    """What the command line asked for; times in ns, `count` None: until interrupted, `family` 0: any."""

    target: Target
    count: int | None = None
    timeout: int = SECOND
    family: int = 0
    as_json: bool = False
    quiet: bool = False


class _Counted(Schedule):
    """A schedule that ends after `count` probes; the first is due at once."""

    def __init__(self, interval: int, count: int | None) -> None:
        super().__init__([interval], [False], np.random.default_rng())
        self._next[:] = 0
        self._left = count

    def earliest(self) -> int:
        return super().earliest() if self._left is None or self._left else 1 << 62

    def skip(self, until: int) -> int:  # noqa: ARG002 - Schedule's signature
        """Nothing: every probe is reported, also one that this host was too late for."""
        return 0

    def take(self, until: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        flows, dues = super().take(until, limit if self._left is None else min(limit, self._left))
        if self._left is not None:
            self._left -= len(flows)
        return flows, dues


class _View:
    """Reports what became of each probe, once, in the order of sending; late and duplicate replies as they
    come."""

    def __init__(
        self, options: PingOptions, address: Address, channel: Channel, engine: Engine, out: TextIO
    ) -> None:
        self._options, self._address, self._out = options, address, out
        self._channel, self._ledger, self._engine = channel, channel.ledger, engine
        self._shown = 0
        # By the ledger's rows: whether a probe was called lost, and how many of its duplicates were reported.
        self._lost = np.zeros(channel.ledger.size, np.bool_)
        self._repeats = np.zeros(channel.ledger.size, np.uint8)

    def update(self, now: int) -> None:
        """Report what can be said at `now` (monotonic ns)."""
        ledger = self._ledger
        ledger.settle()
        while self._shown < ledger.head and self._settled(self._shown, now):
            self._shown += 1
        news = (ledger.duplicates > self._repeats) | (self._lost & (ledger.rx != 0))
        for row in np.flatnonzero(news).tolist():
            number = ledger.planned // ledger.size * ledger.size + row
            number -= ledger.size if number >= ledger.planned else 0
            if number >= self._shown:
                continue  # its row held another probe before, and its own turn comes
            if self._lost[row] and ledger.rx[row]:
                self._lost[row] = False
                self._report(number, "late")
            for _ in range(int(ledger.duplicates[row]) - int(self._repeats[row])):
                self._report(number, "duplicate")
            self._repeats[row] = ledger.duplicates[row]

    def done(self, count: int | None) -> bool:
        """Whether every probe of a counted run has been reported."""
        return count is not None and self._shown >= count

    def _settled(self, number: int, now: int) -> bool:
        ledger, row = self._ledger, self._ledger.row(number)
        state = int(ledger.state[row])
        self._lost[row], self._repeats[row] = False, 0
        if state & (REFUSED | SKIPPED | ERROR):
            self._report(number, "error")
        elif ledger.rx[row]:
            late = self._rtt(row)[0] > self._options.timeout and not ledger.unstamped[row]
            self._report(number, "late" if late else "received")
        else:
            # What has no TX stamp may still be waiting for its neighbour in this host.
            patience = self._options.timeout + _SPARE + (0 if ledger.tx[row] else _HELD_BACK)
            if now <= int(ledger.sent[row]) + patience:
                return False
            never_left = not ledger.tx[row] and self._stamping()
            self._report(number, "error" if never_left else "lost")
            self._lost[row] = True
        return True

    def _stamping(self) -> bool:
        """Whether the kernel stamps what goes to this target, so that no stamp means: not sent."""
        known = self._channel.flows[0].stamped and not self._ledger.rx.any()
        return bool(known or self._ledger.tx.any() or (self._ledger.state & LOCAL).any())

    def _rtt(self, row: int) -> tuple[int, str]:
        ledger = self._ledger
        sent, rx = int(ledger.tx[row]), int(ledger.rx[row])
        if sent and not ledger.unstamped[row] and rx >= sent:
            return rx - sent, "kernel"
        return rx - int(ledger.sent[row]), "user"

    def _report(self, number: int, outcome: str) -> None:
        if self._options.quiet:
            return
        ledger, row = self._ledger, self._ledger.row(number)
        sent = int(ledger.tx[row]) or int(ledger.sent[row])
        answered = outcome in ("received", "late") and ledger.rx[row] != 0
        rtt, stamp = self._rtt(row) if answered else (0, "kernel" if ledger.tx[row] else "user")
        if self._options.as_json:
            record: dict[str, object] = {"flow": 0, "seq": number, "sent_ns": self._engine.to_mono.wall(sent)}
            if answered:
                record["rtt_ns"] = rtt
            record |= {"stamp": stamp, "outcome": outcome}
            self._print(json.dumps(record))
            return
        if answered:
            notes = "" if stamp == "kernel" else "  (no kernel timestamp)"
            notes += "  late" if outcome == "late" else ""
            source = f"{self._options.target.size} bytes from {self._address.text}"
            text = f"{source}: seq={number} rtt={duration(rtt)}{notes}"
        elif outcome == "error":
            text = f"seq={number} {self._why(int(ledger.state[row]))}"
        else:
            text = f"seq={number} " + ("no reply" if outcome == "lost" else "duplicate reply")
        self._print(text)

    def _why(self, state: int) -> str:
        if state & SKIPPED:
            return "not sent: this host was stalled"
        if state & REFUSED:
            return f"not sent: {abi.error_name(self._engine.channels[0].counters.last_errno)}"
        if state & LOCAL:
            return "not sent: no neighbour answers for it"
        return "ICMP error: unreachable" if state & ERROR else "not sent: held back or dropped by this host"

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def ping(options: PingOptions, *, out: TextIO = sys.stdout, clock: Clock | None = None) -> int:
    """Probe until the count is reached or a signal comes. Returns the exit status: 0, or 1 where nothing was
    received.

    Raises: ResolveError, PrivilegeError, SocketError.
    """
    if (options.target.kind, options.target.flows, options.target.burst) != ("icmp", 1, 1):
        raise UsageError("this version pings one flow of ICMP")
    clock = clock or SystemClock()
    address = resolve(options.target.address, options.family or options.target.family)
    socket_options = SocketOptions(address.family, options.target.dscp, options.target.size)
    probe_socket = open_icmp(socket_options)
    drop_privileges()
    # Room for ten seconds and the timeout, so that a late reply still finds its probe.
    capacity = (10 * SECOND + 4 * options.timeout) // options.target.interval + 2048
    schedule = _Counted(options.target.interval, options.count)
    (sure,) = stamped([(address.family, address.sockaddr)])
    channel = Channel(
        probe_socket,
        [Flow(0, address.sockaddr, options.target.size, sure)],
        schedule,
        capacity=capacity,
        all_flows=1,
        token=secrets.token_bytes(8),
        base_id=secrets.randbelow(1 << 16),
    )
    cuts: deque[Cut] = deque()

    def notice(said: Notice) -> None:
        print(said.text, file=sys.stderr)

    engine = Engine(
        [channel],
        clock,
        window=10 * SECOND,
        timeout=max(options.timeout, 2 * options.target.interval),
        tick=min(MILLISECOND, options.target.interval),
        flows=1,
        on_cut=cuts.append,
        on_notice=notice,
        load=load,
        drain_every=10 * MILLISECOND,
    )
    view = _View(options, address, channel, engine, out)
    if not options.as_json:
        how = "raw socket" if probe_socket.raw else "ping socket"
        size = f"{options.target.size} bytes of IP payload"
        print(f"PING {options.target.address} ({address.text}): {size}, {how}", file=out)
    stop = _Interrupt()
    started = clock.wall()
    try:
        while not stop.asked and not view.done(options.count):
            wake = engine.turn()
            view.update(clock.mono())
            while len(cuts) > 1 and sum(len(c.samples[0].flow) for c in cuts) > _KEEP:
                cuts.popleft()
            time.sleep(max(0, wake - clock.mono()) / 1e9)
        engine.finish(time.sleep)
        view.update(clock.mono() + options.timeout + _HELD_BACK)
    finally:
        engine.close()
    summaries = _whole(list(cuts), started, clock.wall(), options.timeout)
    _conclude(summaries, options, out)
    return 0 if summaries.values["received"][0] else 1


class _Interrupt:
    """SIGINT and SIGTERM as a flag: the summary is still printed."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def _whole(cuts: list[Cut], start: int, end: int, timeout: int) -> Summaries:
    """All cuts as one window."""
    parts = [cut.samples[0] for cut in cuts]
    names = ("flow", "due", "sent", "tx", "rx", "state", "unstamped", "duplicates")
    columns = {name: np.concatenate([getattr(p, name)[: p.inside] for p in parts]) for name in names}
    stamping = np.array([any(bool(p.stamping[0]) for p in parts)])
    samples = Samples(**columns, inside=len(columns["flow"]), stamping=stamping)
    late, duplicates, errors = (
        sum((getattr(cut.strays, name) for cut in cuts), np.zeros(1, np.int64))
        for name in ("late", "duplicates", "errors")
    )
    return summarise(Cut(start, end, (samples,), Strays(late, duplicates, errors)), 1, timeout)


def _conclude(summaries: Summaries, options: PingOptions, out: TextIO) -> None:
    fields = probe_fields(summaries, 0)
    if options.as_json:
        tags = {"target": options.target.address, "kind": "icmp", "dscp": str(options.target.dscp)}
        print(
            json.dumps({"time": summaries.start_ns, "measurement": "probe", **tags, **fields}),
            file=out,
            flush=True,
        )
        return
    print(_summary_text(fields, options.target.address), file=out, flush=True)


def _summary_text(fields: dict[str, Value], host: str) -> str:
    if not fields:
        return "nothing was sent"
    loss = f"{fields['loss']:.2%}" if "loss" in fields else "-"
    text = [
        f"\n--- {host}: {fields['sent']} sent, {fields['received']} received, {fields['lost']} lost ({loss})",
        "    "
        + ", ".join(f"{fields[name]} {name}" for name in ("late", "duplicates", "reordered", "errors"))
        + f", longest loss burst {fields['loss_burst_max']}, {fields['unstamped']} without kernel stamps",
    ]

    def shown(name: str) -> str:
        return duration(int(fields[name]))

    if "rtt_min_ns" in fields:
        names = ("min", "p50", "p90", "p99", "p999", "max", "mean", "stddev")
        text.append("rtt " + "  ".join(f"{name} {shown(f'rtt_{name}_ns')}" for name in names))
    if "jitter_ns" in fields:
        text.append(f"jitter {shown('jitter_ns')} (RFC 3550)")
    if "ipdv_mean_ns" in fields:
        text[-1] += f"  ipdv mean {shown('ipdv_mean_ns')}  p99 {shown('ipdv_p99_ns')} (RFC 3393)"
    return "\n".join(text)
