"""Targets in, what of this host their sockets are tied to (sources, interfaces) out; and later what came
back.

A socket that is bound to an interface knows it by its number. An interface that is taken away and made again
has another one, so its targets' sockets would be refused for ever: the measurement is built anew. So it is
when a source or an interface appears that was not there.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from probe.clock import SECOND, Clock
from probe.engine.engine import Notice
from probe.errors import ColoprobeError, SocketError
from probe.settings import Target
from probe.sockets.opening import SocketOptions, set_path
from probe.targets import Address

EVERY_S = 1.0
STEADY = 10 * SECOND  # a measurement is not built anew more often than this


@dataclass(frozen=True)
class Binding:
    """What of this host one or several targets are tied to; either may be empty, not all.

    zone: the interface that the target's own link-local address names.
    """

    family: int
    source: str
    interface: str
    zone: str

    def __str__(self) -> str:
        parts = (("source", self.source), ("interface", self.interface or self.zone))
        return " and ".join(f"{what} {name}" for what, name in parts if name)


# The numbers of its interfaces at one moment; empty where something of it is not there.
Standing = tuple[int, ...]


def binding_of(target: Target, address: Address) -> Binding | None:
    """None: the target leaves it all to the kernel."""
    zone = target.address.partition("%")[2]
    if not (target.source or target.interface or zone):
        return None
    return Binding(address.family, target.source, target.interface, zone)


def standing(binding: Binding) -> Standing:
    """Whether a socket may be bound so now, and to which interfaces that would be."""
    names = (binding.interface, binding.source.partition("%")[2], binding.zone)
    try:
        numbers = [socket.if_nametoindex(name) if name else 0 for name in names]
        with socket.socket(binding.family, socket.SOCK_DGRAM) as trial:
            options = SocketOptions(binding.family, source=binding.source, interface=binding.interface)
            set_path(trial, options)
    except (SocketError, OSError):
        return ()
    return tuple(numbers)


def stand(members: Iterable[tuple[Target, Address]]) -> dict[Binding, Standing]:
    """How everything stands that the targets are tied to; ask before their sockets are opened."""
    wanted = (binding_of(target, address) for target, address in members)
    return {binding: standing(binding) for binding in dict.fromkeys(wanted) if binding is not None}


def returned(before: Mapping[Binding, Standing]) -> list[str]:
    """What is there now and was not `before`, or was another one, in words."""
    texts = []
    for binding, old in before.items():
        new = standing(binding)
        if new and new != old:
            texts.append(f"{binding} {'is another one now' if old else 'is there now'}")
    return list(dict.fromkeys(texts))


class Bound(Protocol):
    """A measurement."""

    bindings: Mapping[Binding, Standing]


async def keep_bindings(
    current: Callable[[], Bound],
    clock: Clock,
    on_notice: Callable[[Notice], None],
    rebuild: Callable[[], Awaitable[None]],
) -> None:
    """Have whatever measurement is the current one built anew where something has come back; until
    cancelled."""
    import asyncio  # late: `coloprobe ping` watches nothing

    steady = 0  # until then it is not built anew
    while True:
        await asyncio.sleep(EVERY_S)
        if clock.mono() < steady or not (texts := returned(current().bindings)):
            continue
        steady = clock.mono() + STEADY
        for text in texts:
            on_notice(Notice("host", text, clock.wall()))
        try:
            await rebuild()
        except ColoprobeError as problem:
            text = f"what was missing is back, the measurement has not changed: {problem}"
            on_notice(Notice("host", text, clock.wall()))
