"""A target and a seed in, what became of its inputs out: how many, how fast, the first that is a finding."""

from __future__ import annotations

import logging
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from tests.fuzz.mutating import inputs
from tests.fuzz.target import Feed, Target

LONG = 256 << 10  # bytes of a hostile shape: what is quadratic takes hours for it
PATIENCE_S = 30.0  # of processor time for one input


class TooSlow(Exception):  # noqa: N818 - it says what happened
    """An input took more than `PATIENCE_S`."""


@dataclass(frozen=True)
class Finding:
    """An input that a target must not do this with."""

    data: bytes
    text: str  # the traceback


@dataclass(frozen=True)
class Outcome:
    """seconds: of the wall clock. edges: of the code, as far as the way of fuzzing knows."""

    target: str
    tried: int
    seconds: float
    finding: Finding | None = None
    edges: int | None = None


@contextmanager
def impatient(seconds: float = PATIENCE_S) -> Iterator[None]:
    """Raise TooSlow in what takes so long by the processor's clock: a busy machine makes nothing slow."""

    def end(*_: object) -> None:
        raise TooSlow(f"more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def silent() -> Iterator[None]:
    """What is refused is told, and would be a hundred thousand times."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def judge(target: Target, feed: Feed, data: bytes) -> Finding | None:
    """Feed one input."""
    try:
        feed(data)
    except target.raises:
        return None
    except Exception:  # noqa: BLE001 - whatever else comes is a finding
        return Finding(data, traceback.format_exc())
    return None


def drive(target: Target, seed: int, *, count: int | None = None, seconds: float | None = None) -> Outcome:
    """Try `count` inputs, or as many as there is time for; ends at the first finding."""
    with silent():
        return _drive(target, seed, count, seconds)


def _drive(target: Target, seed: int, count: int | None, seconds: float | None) -> Outcome:
    feed = target.make()
    made = inputs(f"{target.name} {seed}", target.seeds(), target.words, target.longest)
    began = time.monotonic()
    tried = 0
    finding = None
    for data in islice(made, count):
        tried += 1
        with impatient():
            finding = judge(target, feed, data)
        if finding or (seconds is not None and time.monotonic() - began > seconds):
            break
    return Outcome(target.name, tried, time.monotonic() - began, finding)


def stretched(target: Target, size: int = LONG, patience_s: float = PATIENCE_S) -> Finding | None:
    """Feed every shape of the target at this length: the first one that breaks it, or takes for ever."""
    feed = target.make()
    for shape in target.shapes:
        data = shape.of(size)
        with silent(), impatient(patience_s):
            if finding := judge(target, feed, data):
                return finding
    return None
