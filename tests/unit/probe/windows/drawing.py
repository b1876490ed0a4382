"""A seed in, a random window out: every outcome a probe can have, with ties, huge values and empty flows."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from probe.engine.samples import BLURRED, ERROR, HIDDEN, LOCAL, REFUSED, SENT, SKIPPED
from tests.unit.probe.windows.plain import Probe, Window

TIMEOUT = 1_000
HUGE = 4_000_000_000_000  # more than an hour, the longest timeout allowed

_STATES = [SENT] * 12 + [
    SENT | ERROR,
    SENT | ERROR | LOCAL,
    REFUSED,
    SKIPPED,
    SENT | HIDDEN | BLURRED,
    SENT | BLURRED,
]
# Few different delays, so that equal ones and equal arrivals are common; some before the stamp, some late.
_DELAYS = [None, -5, 0, 1, 50, 100, 101, 150, 300, 999, TIMEOUT, TIMEOUT + 1, 5 * TIMEOUT]


def windows(scale: int = 1) -> st.SearchStrategy[Window]:
    """Windows of at most three sockets, for the timeout `TIMEOUT * scale`; no flow is on two sockets.

    Drawn from a seed, because hundreds of probes drawn one by one take seconds; sizes shrink all the same.
    """
    sizes = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=3)
    return st.builds(
        lambda seed, sizes, spread: _window(Random(seed), sizes, spread, scale),
        st.integers(0, 1 << 32),
        sizes,
        st.integers(1, 3),
    )


def _window(random: Random, sizes: list[tuple[int, int]], spread: int, scale: int) -> Window:
    sockets = len(sizes)
    flows = max(1, sockets) * spread
    channels = []
    for socket, (inside, after) in enumerate(sizes):
        due = random.randrange(1, 10**15)
        channels.append(
            tuple(
                _probe(
                    random,
                    random.randrange(spread) * sockets + socket,
                    due + n * 50 * scale,
                    n < inside,
                    scale,
                )
                for n in range(inside + after)
            )
        )
    seen = {p.flow for channel in channels for p in channel if p.tx}
    late, duplicates, errors = (tuple(random.choices([0, 0, 0, 1, 5], k=flows)) for _ in range(3))
    return Window(tuple(channels), tuple(f in seen for f in range(flows)), late, duplicates, errors)


def _probe(random: Random, flow: int, due: int, inside: bool, scale: int) -> Probe:
    state = random.choice(_STATES)
    sent = due + random.randrange(20) * scale
    tx = rx = duplicates = 0
    unstamped = False
    if state & SENT:
        tx = random.choice([0, *[sent + 3 * scale] * 6])
        delay = random.choice(_DELAYS)
        if delay is not None:
            rx = (tx or sent) + delay * scale + random.randrange(scale)
            unstamped = random.random() < 0.1
            duplicates = random.choice([0] * 9 + [1, 2, 255])
    return Probe(flow, due, sent, tx, rx, state, unstamped, duplicates, inside)
