"""A running measurement in, the same with its targets' names asked for again out: what moved is an event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from probe.errors import ColoprobeError
from probe.measurement import Measurement
from probe.targets import Address, Asked, is_numeric, resolve_all

log = logging.getLogger(__name__)

EVERY_S = 30.0


def asked_again(measurement: Measurement) -> list[Asked]:
    """The names that are measured, and those that had no address."""
    waiting = [(m.target.address, m.target.family) for m in measurement.unmeasured if m.unresolved]
    return waiting + [asked for asked in measurement.addresses if not is_numeric(asked[0])]


def moved(measurement: Measurement, found: dict[Asked, Address]) -> list[tuple[Asked, str]]:
    """Which names have another address than they are measured at, or have one at last, in words."""
    texts = []
    for asked, new in found.items():
        old = measurement.addresses.get(asked)
        if old is None:
            texts.append((asked, f"{asked[0]} has an address now: {new.text}"))
        elif old != new:
            texts.append((asked, f"{asked[0]} is {new.text} now, and was {old.text}"))
    return texts


async def keep_names(
    current: Callable[[], Measurement],
    on_moved: Callable[[Asked, str], None],
    rebuild: Callable[[], Awaitable[None]],
) -> None:
    """Ask for names every 30 s, and have the measurement built anew where one has moved; until cancelled.

    An address that a name still has is kept, so a name that rotates through several does not move. A name
    that cannot be asked for now stays where it was. `on_moved`: told of each before the rebuilding.
    """
    while True:
        await asyncio.sleep(EVERY_S)
        measurement = current()
        asked = asked_again(measurement)
        if not asked:
            continue
        answers = await asyncio.to_thread(resolve_all, asked, measurement.addresses)
        news = moved(measurement, {one: a for one, a in answers.items() if isinstance(a, Address)})
        for one, text in news:
            on_moved(one, text)
        if news:
            try:
                await rebuild()
            except ColoprobeError as problem:
                log.warning("names have moved, the measurement has not: %s", problem)
