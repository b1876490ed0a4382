"""A seed in, a random window out: every outcome a probe can have, with ties, huge values and empty flows."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hypothesis import strategies as st

from probe.engine.samples import (
    BACKWARD,
    BLURRED,
    CLOSED,
    ERROR,
    FORWARD,
    HIDDEN,
    LOCAL,
    REFUSED,
    SENT,
    SKIPPED,
    UNTOLD,
)
from tests.unit.probe.windows.plain import Probe, Said, Window

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

    Each socket has a kind of its own, each target one or several flows, on any sockets of its kind.
    Drawn from a seed, because hundreds of probes drawn one by one take seconds; sizes shrink all the same.
    """
    sizes = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=3)
    return st.builds(
        lambda seed, sizes, targets: _window(Random(seed), sizes, targets, scale),
        st.integers(0, 1 << 32),
        sizes,
        st.integers(1, 5),
    )


@dataclass(frozen=True)
class _Socket:
    kind: str
    hard: bool  # the interface is asked for its time
    far: int  # how far the reflector's clock is ahead of ours


def _window(random: Random, sizes: list[tuple[int, int]], targets: int, scale: int) -> Window:
    kind = random.choice(["icmp", "icmp", "stamp", "tcp", "connect", ""])
    sockets = [
        _Socket(
            kind or random.choice(["icmp", "stamp", "tcp"]),
            random.random() < 0.3,
            random.choice([0, 0, -5 * scale, 10**17, -(10**18)]),
        )
        for _ in sizes
    ] or [_Socket(kind or "icmp", False, 0)]
    counts = tuple(random.choice([1, 1, 1, 2, 3]) for _ in range(targets))
    # Of each flow: its kind, and the socket it is on.
    kinds: list[str] = []
    places: list[int] = []
    for count in counts:
        mine = random.choice(sockets).kind
        kinds += [mine] * count
        fitting = [at for at, socket in enumerate(sockets) if socket.kind == mine]
        places += [random.choice(fitting) for _ in range(count)]
    channels = []
    for at, (inside, after) in enumerate(sizes):
        flows = [flow for flow, place in enumerate(places) if place == at]
        due = random.randrange(1, 10**15)
        channels.append(
            tuple(
                _probe(random, random.choice(flows), due + n * 50 * scale, n < inside, scale, sockets[at])
                for n in range(inside + after if flows else 0)
            )
        )
    seen = {p.flow for channel in channels for p in channel if p.tx}
    late, duplicates, errors = (tuple(random.choices([0, 0, 0, 1, 5], k=len(kinds))) for _ in range(3))
    return Window(
        tuple(channels),
        tuple(f in seen for f in range(len(kinds))),
        late,
        duplicates,
        errors,
        tuple(kinds),
        tuple(random.random() < 0.6 for _ in kinds),
        counts,
    )


def _probe(random: Random, flow: int, due: int, inside: bool, scale: int, socket: _Socket) -> Probe:
    state = random.choice(_STATES)
    sent = due + random.randrange(20) * scale
    tx = rx = duplicates = 0
    unstamped = False
    took = 0
    if state & SENT:
        tx = random.choice([0, *[sent + 3 * scale] * 6])
        delay = random.choice(_DELAYS)
        if delay is not None:
            took = delay * scale + random.randrange(scale)
            rx = (tx or sent) + took
            unstamped = random.random() < 0.1
            duplicates = random.choice([0] * 9 + [1, 2, 255])
            if socket.kind in ("tcp", "connect") and random.random() < 0.3:
                state |= CLOSED
    hard = None
    if socket.hard:
        hard = random.choice([0, max(took - 1, 0), max(took // 2, 0), 2 * TIMEOUT * scale]) if rx else 0
    said = _said(random, took, rx != 0, scale, socket.far) if socket.kind == "stamp" else None
    return Probe(flow, due, sent, tx, rx, state, unstamped, duplicates, inside, hard, said)


def _said(random: Random, took: int, answered: bool, scale: int, far: int) -> Said:
    if not answered:
        return Said(lost=random.choice([UNTOLD, FORWARD, BACKWARD]))
    dwell = random.choice([0, 3 * scale, took // 2, took, took + 1, -7, -(1 << 40)])
    synchronised = random.random() < 0.8
    forward, backward = (took // 3 + far, took - took // 3 - far)
    return Said(
        dwell=dwell,
        followed=random.random() < 0.5,
        forward=forward if synchronised else None,
        backward=backward if synchronised and random.random() < 0.9 else None,
        error=random.randrange(1_000_000) if synchronised else None,
        # What is said of answered probes is nobody's business.
        lost=random.choice([UNTOLD, FORWARD]),
    )
