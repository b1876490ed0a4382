"""What became of packets of some sizes in, the next sizes to try and at last the path's MTU out. Pure.

Packets of the interface's size with DF come first; where they arrive, that is all. A router that cannot pass
one on says its own limit (RFC 1191, RFC 8201), and the next packet is as large as that. Where large packets
vanish without a word (an MTU black hole, RFC 2923) sizes are tried that links are known to have, then those
in between (RFC 4821). Where it happens the large packets themselves say, with a small TTL: routers before
that place say that the TTL was exceeded, those behind it never see them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

# RFC 1191 section 7, and what tunnels leave of Ethernet's 1,500: PPPoE, GRE, IPsec, WireGuard, VXLAN.
PLATEAUS = (
    *(17914, 9000, 8950, 8166, 4352, 2002, 1500, 1492, 1480, 1476, 1472, 1468, 1460, 1450, 1438, 1420),
    *(1400, 1380, 1360, 1320, 1280, 1200, 1006, 576, 296),
)
SMALL = 96  # bytes of a packet that gets through everywhere, and is larger than any probe has to be
LEAST = {4: 68, 6: 1280}  # bytes: no link has less (RFC 791, RFC 8200)
_AT_ONCE = 8  # sizes
_MOST_STEPS = 40

Ask = tuple[int, int]  # bytes of a packet with DF, and its TTL


@dataclass(frozen=True)
class Outcome:
    """What became of packets of a size. passed: one was answered from where it should end. limit: what a
    router said that it can pass on (0: it did not say), None: none said so."""

    passed: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Found:
    """mtu: bytes. last: the TTL of the last router that larger ones reach; None: there is no limit on the
    way.

    silent: no router says so. steps: sizes, and the last TTL that packets of that size reach.
    """

    mtu: int
    last: int | None = None
    silent: bool = False
    steps: tuple[tuple[int, int], ...] = ()

    def at(self, ttl: int, top: int) -> int:
        """The largest packet that gets as far as the router at this TTL; `top`: the interface's MTU."""
        if self.last is None:
            return top
        return max((size for size, last in self.steps if ttl <= last), default=self.mtu)


Search = Generator[Sequence[Ask], Mapping[Ask, Outcome], Found | None]


def search(top: int, end: int, least: int, hint: int = 0) -> Search:
    """Yields what to send, is sent what became of it; returns what it found, or None: nothing ever answered.

    top: the interface's MTU. end: the TTL at which the path ends; where its end does not answer, the hop
    before it, or the one before that, has to do. least: see LEAST. hint: what another flow's path has found.
    """
    ends = [ttl for ttl in (end, end - 1, end - 2) if ttl > 0]
    told = yield [(SMALL, ttl) for ttl in ends]
    end = next((ttl for ttl in ends if told[SMALL, ttl].passed), 0)
    if not end:
        return None
    good, bad = SMALL, top
    limits: list[int] = []  # sizes that are too large, each of them the largest that was not known to be then
    size, silent = top, False
    while True:
        told = yield [(size, end)]
        outcome = told[size, end]
        if outcome.passed:
            good = size
            break
        bad = size
        limits.append(size)
        silent = outcome.limit is None
        if outcome.limit is None or not least <= outcome.limit < size:
            break  # it says nothing of use (RFC 1191 section 5: old routers say 0)
        size = outcome.limit
    if good == top:
        return Found(top)
    if good == SMALL:  # else the routers have said it all
        if SMALL < hint < bad:
            told = yield [(hint, end), (hint + 1, end)]
            if told[hint, end].passed and not told[hint + 1, end].passed:
                good, bad = hint, hint + 1
        narrowed = yield from _narrow(good, bad, end, limits)
        if narrowed is None:
            return Found(top)
        good, silent = narrowed
        limits.append(good + 1)
    steps = yield from _where(limits, good, end)
    return Found(good, max((last for _, last in steps), default=0), silent, steps)


def _narrow(
    good: int, bad: int, end: int, limits: Sequence[int]
) -> Generator[Sequence[Ask], Mapping[Ask, Outcome], tuple[int, bool] | None]:
    """The largest size that passes, between one that does and one that does not, and whether nobody says so;
    None: there is no limit after all."""
    top, silent = limits[0], True
    for _ in range(_MOST_STEPS):
        if bad - good > 1:
            sizes = _between(good, bad)
            told = yield [(size, end) for size in sizes]
            good = max((size for size in sizes if told[size, end].passed), default=good)
            bad = min((size for size in sizes if size > good), default=bad)
            continue
        # Lost packets look like a limit: it has to hold once more.
        told = yield list(dict.fromkeys([(bad, end), (top, end)]))
        if told[top, end].passed:
            return None
        silent = told[bad, end].limit is None
        if not told[bad, end].passed:
            break
        good, bad = bad, min(size for size in limits if size > bad)
    return good, silent


def _between(good: int, bad: int) -> list[int]:
    """Sizes to try next: those that links have, then the largest below a limit, then evenly spread ones."""
    known = [size for size in PLATEAUS if good < size < bad]
    if good == SMALL and known:
        return sorted({*known, bad - 1})
    step = max((bad - good) // (_AT_ONCE + 1), 1)
    return sorted({*range(good + step, bad, step)} | {bad - 1})[: 2 * _AT_ONCE]


def _where(
    sizes: Sequence[int], good: int, end: int
) -> Generator[Sequence[Ask], Mapping[Ask, Outcome], tuple[tuple[int, int], ...]]:
    """For each size that is too large, the last TTL that it reaches."""
    asked = sorted({size for size in sizes if size > good}, reverse=True)[:4]
    places = range(1, end)
    if not places:
        return tuple((size, 0) for size in asked)
    told = yield [(size, ttl) for size in asked for ttl in places]
    return tuple((size, max((ttl for ttl in places if told[size, ttl].passed), default=0)) for size in asked)
