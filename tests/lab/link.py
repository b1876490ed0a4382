"""Packets of one direction in, when each copy of them comes out (or why none does) out: the pure part of the
link emulator.

No clock, no socket, no thread: `now` is an argument (ns on any one scale), and all chance comes from the
seed, so the same packets at the same times always meet the same fate. What happens to a packet, in order:

1. **loss** takes it (every n-th, those listed, at random, or in Gilbert-Elliott bursts); it takes up no room
   further on.
2. **rate**: it waits in a queue of bounded length for its turn on a line of so many bits/s. Where the queue
   is full, it is lost for the reason "queue".
3. **delay**: constant, uniform, or the next of a recorded trace. *Order is kept*: whatever delay was drawn, a
   packet never comes out before one that came in earlier; it waits behind it, as in a real queue. So jitter
   alone reorders nothing. With `keep_order=False` each packet has its own drawn delay and jitter reorders.
4. **reorder** holds a packet back for some time more, and those behind it pass: it is reordered if any come
   within that time.
5. **duplicate**: a copy comes out some time after the packet itself, right behind it where that time is 0.

Every choice is made for every packet that comes in, also for those that are lost: the k-th packet's delay,
say, does not depend on the loss that was asked for, and "every 7th" is the 7th, 14th, ... that came in.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

# Why a packet was lost.
EVERY, RANDOM, BURST, LISTED, QUEUE = "every", "random", "burst", "listed", "queue"
SECOND = 1_000_000_000


def _check(good: bool, complaint: str) -> None:
    if not good:
        raise ValueError(complaint)


@dataclass(frozen=True)
class Every:
    """Exactly the n-th, 2n-th, ... packet."""

    n: int

    def __post_init__(self) -> None:
        _check(self.n >= 1, f"every: {self.n} is not at least 1")


@dataclass(frozen=True)
class Chance:
    """Each packet with this probability, whatever befell the others."""

    p: float

    def __post_init__(self) -> None:
        _check(0 <= self.p <= 1, f"chance: {self.p} is not within 0..1")


@dataclass(frozen=True)
class GilbertElliott:
    """Loss in bursts (Gilbert 1960, Elliott 1963): two states, each with its own loss.

    Each packet is lost with the probability of the present state; then the state changes, from good to bad
    with probability `p`, from bad to good with `r`. It begins good. Mean loss is
    (good r + bad p) / (p + r), a stay in the bad state 1 / r packets long on average.
    """

    p: float
    r: float
    good: float = 0.0
    bad: float = 1.0

    def __post_init__(self) -> None:
        for name in ("p", "r", "good", "bad"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"{name}: {value} is not within 0..1")


@dataclass(frozen=True)
class Listed:
    """Exactly these packets of the direction, counted from 1; of few numbers."""

    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(min(self.numbers, default=1) >= 1, "listed: a number is below 1")


@dataclass(frozen=True)
class Constant:
    """The same delay for all, ns."""

    ns: int

    def __post_init__(self) -> None:
        _check(self.ns >= 0, f"delay: {self.ns} ns is below 0")


@dataclass(frozen=True)
class Uniform:
    """Any whole number of ns from `low` to `high`, all equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check(0 <= self.low <= self.high, f"delay: {self.low}..{self.high} ns is no range from 0 up")


@dataclass(frozen=True)
class Trace:
    """Recorded delays, ns: the k-th packet gets the k-th, and after the last the first again."""

    delays: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(bool(self.delays), "delay trace: it is empty")
        _check(min(self.delays, default=0) >= 0, "delay trace: it holds a delay below 0")


@dataclass(frozen=True)
class Duplicate:
    """Whose copy comes too, and how long (ns) after the packet itself."""

    which: Every | Chance
    extra: int = 0

    def __post_init__(self) -> None:
        _check(self.extra >= 0, f"duplicate: {self.extra} ns is below 0")


@dataclass(frozen=True)
class Reorder:
    """Who is held back, and for how long (ns) beyond its delay."""

    which: Every | Chance
    extra: int

    def __post_init__(self) -> None:
        _check(self.extra > 0, f"reorder: {self.extra} ns holds nobody back")


@dataclass(frozen=True)
class Rate:
    """A line of so many bits/s (of IP packets) and room for `queue` packets, the one being sent included."""

    bits_per_second: int
    queue: int = 100

    def __post_init__(self) -> None:
        _check(self.bits_per_second > 0, f"rate: {self.bits_per_second} bit/s moves nothing")
        _check(self.queue >= 1, f"rate: a queue of {self.queue} packets has no room for one")


@dataclass(frozen=True)
class Impairments:
    """What one direction of a link does to packets; the default does nothing."""

    delay: Constant | Uniform | Trace = Constant(0)
    loss: Every | Chance | GilbertElliott | Listed | None = None
    duplicate: Duplicate | None = None
    reorder: Reorder | None = None
    rate: Rate | None = None
    keep_order: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What befell a packet, and why. Times on the scale of `arrived`, lengths in ns.

    number: of the packet in its direction, from 1.
    lost: EVERY, RANDOM, BURST or QUEUE; empty where it came through.
    queued: waiting for the line and being sent at its rate.
    delay: as it was drawn.
    behind: waiting behind an earlier packet, to keep the order.
    held: held back to be reordered.
    due: when each copy comes out, itself first; empty where it was lost.
    """

    number: int
    arrived: int
    size: int
    lost: str = ""
    queued: int = 0
    delay: int = 0
    behind: int = 0
    held: int = 0
    due: tuple[int, ...] = ()


class Link:
    """One direction of a link. `seed` and `name` together decide what chance does."""

    def __init__(self, impairments: Impairments, seed: int | str = 0, name: str = "") -> None:
        self.impairments = impairments
        # A generator for each choice: to ask for duplicates as well must not change who is lost.
        self._dice = {
            what: random.Random(f"{seed}/{name}/{what}") for what in ("loss", "delay", "duplicate", "reorder")
        }
        self._number = 0
        self._bad = False
        self._last_due = 0  # of those whose order is kept
        self._line: deque[int] = deque()  # when those in the queue will have left it

    def packet(self, now: int, size: int) -> Verdict:
        """Decide about a packet of `size` bytes (IP header included) that came in at `now`.

        `now` never decreases from call to call.
        """
        wanted = self.impairments
        self._number += 1
        lost = self._loses()
        delay = self._delay()
        twice = wanted.duplicate is not None and self._chosen(wanted.duplicate.which, "duplicate")
        held = wanted.reorder is not None and self._chosen(wanted.reorder.which, "reorder")
        if lost:
            return Verdict(self._number, now, size, lost)
        leaves = self._leaves_line(now, size)
        if leaves is None:
            return Verdict(self._number, now, size, QUEUE)
        in_order = leaves + delay
        if wanted.keep_order:
            in_order = max(in_order, self._last_due)
            self._last_due = in_order
        extra = wanted.reorder.extra if wanted.reorder is not None and held else 0
        due: tuple[int, ...] = (in_order + extra,)
        if wanted.duplicate is not None and twice:
            due += (due[0] + wanted.duplicate.extra,)
        behind = in_order - leaves - delay
        return Verdict(self._number, now, size, "", leaves - now, delay, behind, extra, due)

    def _loses(self) -> str:
        loss = self.impairments.loss
        if loss is None:
            return ""
        if isinstance(loss, Listed):
            return LISTED if self._number in loss.numbers else ""
        if isinstance(loss, Every):
            return EVERY if self._chosen(loss, "loss") else ""
        if isinstance(loss, Chance):
            return RANDOM if self._chosen(loss, "loss") else ""
        dice = self._dice["loss"]
        lost = dice.random() < (loss.bad if self._bad else loss.good)
        if dice.random() < (loss.r if self._bad else loss.p):
            self._bad = not self._bad
        return BURST if lost else ""

    def _delay(self) -> int:
        delay = self.impairments.delay
        if isinstance(delay, Constant):
            return delay.ns
        if isinstance(delay, Uniform):
            return self._dice["delay"].randint(delay.low, delay.high)
        return delay.delays[(self._number - 1) % len(delay.delays)]

    def _chosen(self, which: Every | Chance, what: str) -> bool:
        if isinstance(which, Every):
            return self._number % which.n == 0
        return self._dice[what].random() < which.p

    def _leaves_line(self, now: int, size: int) -> int | None:
        """When its last bit is on its way; None where the queue is full."""
        rate = self.impairments.rate
        if rate is None:
            return now
        while self._line and self._line[0] <= now:
            self._line.popleft()
        if len(self._line) >= rate.queue:
            return None
        begins = self._line[-1] if self._line else now
        self._line.append(begins + -(-size * 8 * SECOND // rate.bits_per_second))
        return self._line[-1]
