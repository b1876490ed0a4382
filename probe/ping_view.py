"""Channels' ledgers and the time in, what became of each probe out: once, in each flow's order of sending.

Late and duplicate replies are told of as they come. Everything is judged as the summary judges it
(`probe.windows.outcomes`); what is not settled yet, as a probe that waits for its neighbour in this host, is
not told of before it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probe.clock import MILLISECOND, SECOND
from probe.engine.channel import Channel
from probe.engine.samples import ABSENT, ERROR, HIDDEN, LOCAL, REFUSED, SKIPPED, Reflections, Samples
from probe.windows.outcomes import Outcomes, judge

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

OUTCOMES = ("received", "late", "lost", "error", "duplicate")
_RECEIVED, _LATE, _LOST, _ERROR, _DUPLICATE = range(len(OUTCOMES))
STAMPS = ("user", "kernel", "hw")

_SPARE = 20 * MILLISECOND  # beyond the timeout, for a reply that is still in the kernel's queue
HELD_BACK = 3 * SECOND + 200 * MILLISECOND  # the kernel looks for a neighbour for three seconds
# A reflector's TX stamp comes with its next reply, or one behind that. Where that is soon, a probe is not
# told of before: else what is told of each would not be what is in the summary.
_SOON = SECOND
_FOLLOW_UP = 250 * MILLISECOND  # beyond the interval
_BEHIND = 8  # probes behind its own whose replies are searched for it
_ENOUGH = 4  # ... until so many have come


@dataclass(frozen=True)
class News:
    """What became of some probes of one channel; arrays of shape (n,), in order.

    flow: index. seq: n-th probe of its flow, from 0. outcome, stamp: places in OUTCOMES and STAMPS.
    sent: monotonic ns. rtt: ns, negative where there is none. state: of `probe.engine.samples`.
    forward, backward: one-way delays, ns; ABSENT where there are none.
    unfollowed: the reflector did not tell when its kernel sent the reply.
    again: it was told of before.
    refusal: the errno of the channel's last refused probe.
    """

    flow: Ints
    seq: Ints
    outcome: NDArray[np.uint8]
    stamp: NDArray[np.uint8]
    sent: Ints
    rtt: Ints
    state: NDArray[np.uint8]
    forward: Ints
    backward: Ints
    unfollowed: Mask
    again: bool
    refusal: int

    def __len__(self) -> int:
        return len(self.flow)


def nth(flow: Ints, flows: int) -> Ints:
    """How many of its flow stand before each, in this order."""
    if flows == 1:
        return np.arange(len(flow))
    counts = np.bincount(flow, minlength=flows)
    order = np.argsort(flow, kind="stable")
    out = np.empty(len(flow), np.int64)
    out[order] = np.arange(len(flow)) - np.repeat(np.cumsum(counts) - counts, counts)
    return out


class View:
    """What can be told of the probes of all channels.

    Args:
        channels: of one target.
        flows: how many it has.
        timeout: ns; a reply that took longer is late.
        interval: between two probes of a flow, ns.
    """

    def __init__(self, channels: Sequence[Channel], flows: int, timeout: int, interval: int) -> None:
        wait = interval + _FOLLOW_UP if interval <= _SOON else 0
        self._views = [_ChannelView(channel, flows, timeout, wait) for channel in channels]

    def update(self, now: int) -> Iterator[News]:
        """What can be told at `now` (monotonic ns)."""
        for view in self._views:
            yield from view.update(now)

    @property
    def told(self) -> int:
        """How many probes were told of."""
        return sum(view.told for view in self._views)


class _ChannelView:
    """What can be told of the probes of one channel."""

    def __init__(self, channel: Channel, flows: int, timeout: int, wait: int) -> None:
        self._channel, self._ledger = channel, channel.ledger
        self._flows, self._timeout, self._wait = flows, timeout, wait
        self.told = 0
        self._taken = 0  # numbers below this have left, or been refused, and been looked at
        self._open = np.zeros(0, np.int64)  # of these, the ones that nothing was told of yet
        self._count = np.zeros(flows, np.int64)  # of probes, by flow
        self._stamping = np.zeros(flows, np.bool_)  # the kernel stamps this flow, as far as is known
        self._stamping[[flow.index for flow in channel.flows if flow.stamped]] = True
        size = self._ledger.size
        # By the ledger's rows: the place in its flow, whether it was told of, as lost, and its duplicates.
        self._seq = np.zeros(size, np.int64)
        self._reported = np.zeros(size, np.bool_)
        self._lost = np.zeros(size, np.bool_)
        self._repeats = np.zeros(size, np.uint8)

    def update(self, now: int) -> Iterator[News]:
        ledger = self._ledger
        ledger.settle()
        self._take()
        if len(self._open):
            yield from self._settled(now)
        many = ledger.duplicates > self._repeats
        late = self._lost & (ledger.rx != 0)
        rows = np.flatnonzero((many | late) & self._reported)
        if len(rows):
            yield from self._later(rows)

    def _take(self) -> None:
        """Take notice of what has left."""
        ledger = self._ledger
        if self._taken == ledger.head:
            return
        numbers = np.arange(max(self._taken, ledger.planned - ledger.size), ledger.head)
        self._taken = ledger.head
        rows = ledger.row(numbers)
        flow = ledger.flow[rows].astype(np.int64)
        self._seq[rows] = self._count[flow] + nth(flow, self._flows)
        self._count += np.bincount(flow, minlength=self._flows)
        self._reported[rows] = self._lost[rows] = False
        self._repeats[rows] = 0
        self._open = np.concatenate([self._open, numbers])

    def _settled(self, now: int) -> Iterator[News]:
        """What is known of those that nothing was told of, as far as nobody of the flow stands before it."""
        numbers = self._open
        rows = self._ledger.row(numbers)
        samples = self._samples(numbers, rows)
        self._learn(samples)
        outcomes = judge(samples, self._timeout)
        failed = (samples.state & (REFUSED | SKIPPED | ERROR)) != 0
        answered = samples.rx != 0
        # What has no TX stamp may still be waiting for its neighbour in this host.
        patience = self._timeout + _SPARE + np.where(samples.tx != 0, 0, HELD_BACK)
        expired = now > samples.sent + patience
        known = failed | answered | expired
        if self._wait and samples.reflections is not None:
            come = sum((behind >= 0).astype(np.int64) for behind in self._behind(numbers, samples))
            enough = samples.reflections.followed | (come >= _ENOUGH)
            known &= ~answered | enough | (now > samples.rx + self._wait)
        flow = samples.flow.astype(np.int64)
        first = np.full(self._flows, len(numbers))
        waiting = np.flatnonzero(~known)
        np.minimum.at(first, flow[waiting], waiting)
        ready = np.flatnonzero(np.arange(len(numbers)) < first[flow])
        if not len(ready):
            return
        # What never left this host, and what it may have dropped the reply to, is not lost.
        ours = (samples.tx == 0) & self._stamping[flow] | ((samples.state & HIDDEN) != 0)
        outcome = np.where(ours, _ERROR, _LOST).astype(np.uint8)
        outcome[answered] = np.where(outcomes.received, _RECEIVED, _LATE)[answered]
        outcome[failed] = _ERROR
        self._lost[rows[ready]] = (~answered & ~failed)[ready]
        self._repeats[rows[ready]] = 0
        self._reported[rows[ready]] = True
        self.told += len(ready)
        yield self._news(rows[ready], ready, samples, outcomes, outcome[ready], again=False)
        self._open = np.delete(numbers, ready)

    def _later(self, rows: Ints) -> Iterator[News]:
        """Late replies to probes that were told of as lost, and replies after the first."""
        ledger = self._ledger
        numbers = ledger.planned // ledger.size * ledger.size + rows
        numbers -= np.where(numbers >= ledger.planned, ledger.size, 0)
        samples = self._samples(numbers, rows)
        outcomes = judge(samples, self._timeout)
        late = np.flatnonzero(self._lost[rows] & (samples.rx != 0))
        if len(late):
            self._lost[rows[late]] = False
            outcome = np.full(len(late), _LATE, np.uint8)
            yield self._news(rows[late], late, samples, outcomes, outcome, again=True)
        more = np.repeat(np.arange(len(rows)), ledger.duplicates[rows] - self._repeats[rows])
        self._repeats[rows] = ledger.duplicates[rows]
        if len(more):
            outcome = np.full(len(more), _DUPLICATE, np.uint8)
            yield self._news(rows[more], more, samples, outcomes, outcome, again=True)

    def _learn(self, samples: Samples) -> None:
        """Whether the kernel stamps a flow, so that no stamp means: not sent."""
        flow = samples.flow
        self._stamping[flow[(samples.tx == 0) & (samples.rx != 0)]] = False
        self._stamping[flow[(samples.tx != 0) | ((samples.state & LOCAL) != 0)]] = True

    def _samples(self, numbers: Ints, rows: Ints) -> Samples:
        ledger = self._ledger
        hard = None
        if len(ledger.hard_rx):
            sent, came = ledger.hard_tx[rows], ledger.hard_rx[rows]
            hard = np.where((sent != 0) & (came != 0), came - sent, 0)
        samples = Samples(
            ledger.flow[rows],
            ledger.due[rows],
            ledger.sent[rows],
            ledger.tx[rows],
            ledger.rx[rows],
            ledger.state[rows],
            ledger.unstamped[rows],
            ledger.duplicates[rows],
            len(rows),
            self._stamping,
            hard_rtt=hard,
        )
        if ledger.reflected is None:
            return samples
        behind = self._behind(numbers, samples)
        return replace(samples, reflections=ledger.reflected.glance(rows, samples, behind))

    def _behind(self, numbers: Ints, samples: Samples) -> list[Ints]:
        """The rows of the next probes where they are answered and of the same flows, else -1."""
        ledger, found = self._ledger, []
        for n in range(1, _BEHIND + 1):
            sent = numbers + n < ledger.head
            rows = ledger.row(np.where(sent, numbers + n, ledger.head - 1))
            there = sent & (ledger.rx[rows] != 0) & (ledger.flow[rows] == samples.flow)
            found.append(np.where(there, rows, -1))
        return found

    def _news(
        self,
        rows: Ints,
        at: Ints,
        samples: Samples,
        outcomes: Outcomes,
        outcome: NDArray[np.uint8],
        *,
        again: bool,
    ) -> News:
        """`at`: the places of the `rows` in the samples."""
        timed = (outcome == _RECEIVED) | (outcome == _LATE)
        # Of a probe that nobody answered, where the time of sending is from.
        stamp = np.where(timed, outcomes.stamped[at], samples.tx[at] != 0).astype(np.uint8)
        if outcomes.hardware is not None:
            stamp[timed & outcomes.hardware[at]] = 2
        said: Reflections | None = samples.reflections
        delays, unfollowed = [np.full(len(at), ABSENT, np.int64)] * 2, np.zeros(len(at), np.bool_)
        if said is not None:
            delays = [np.where(timed, way[at], ABSENT) for way in (said.forward, said.backward)]
            unfollowed = timed & ~said.followed[at]
        return News(
            samples.flow[at].astype(np.int64),
            self._seq[rows],
            outcome,
            stamp,
            np.where(samples.tx != 0, samples.tx, samples.sent)[at],
            np.where(timed, outcomes.rtt[at], -1),
            samples.state[at],
            delays[0],
            delays[1],
            unfollowed,
            again,
            self._channel.counters.last_errno,
        )
