"""Neighbours as the kernel tells of them in, what matters about them out: another MAC address, silence. Pure.

That an entry grows stale and is asked for again is the table's daily life, and no change. A MAC address that
changes is one: where it is a gateway's, most likely a second router has taken over (a failover).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from probe.host.rtnetlink import FAILED, Neighbour
from probe.host.table import Change, Said, Table
from probe.host.watched import text_of

MOST = 20_000
Key = tuple[int, bytes]  # interface and IP address


class Known(NamedTuple):
    """`mac`: the last one that was heard of; empty: none yet. `silent`: it was asked and did not answer."""

    mac: bytes
    silent: bool


class Neighbours:
    """Every neighbour of every interface.

    behind: the names of the targets that are reached through one. gateway: whether a route leads to it.
    """

    def __init__(
        self,
        name: Callable[[int], str],
        behind: Callable[[Key], Sequence[str]],
        gateway: Callable[[Key], bool],
    ) -> None:
        self.table: Table[Key, Known] = Table(MOST)
        self._name, self._behind, self._gateway = name, behind, gateway

    def row(self, neighbour: Neighbour) -> None:
        key = neighbour.ifindex, neighbour.address
        self.table.row(key, _after(self.table.current.get(key), neighbour))

    def end(self) -> Iterator[Change]:
        kept = {key: known for key, known in self.table.current.items() if known.mac and self._matters(key)}
        for key, old, new in self.table.end():
            if new is None and key in kept:
                # It was forgotten for want of use. Who answers for it next is compared with who did last.
                self.table.row(key, kept[key])
            else:
                yield from self._compare(key, old, new)

    def announced(self, neighbour: Neighbour, gone: bool, by_hand: bool = False) -> Iterator[Change]:
        """`by_hand`: a program of this host has done it."""
        key = neighbour.ifindex, neighbour.address
        known = self.table.current.get(key)
        if gone or (by_hand and neighbour.state & FAILED):  # whose entry is deleted is called failed first
            if known is not None and not self._kept(key, known):
                self.table.change(key, lambda _: None)
            return
        old, new = self.table.change(key, lambda known: _after(known, neighbour))
        if known is None and self.table.complete:
            old = Known(b"", False)
        yield from self._compare(key, old, new, by_hand)

    def forget(self, index: int) -> None:
        """An interface is gone, and another one may get its number."""
        for key in [key for key in self.table.current if key[0] == index]:
            self.table.change(key, lambda _: None)

    def _kept(self, key: Key, known: Known) -> bool:
        """Whether it is remembered when the kernel forgets it."""
        return (bool(known.mac) or known.silent) and self._matters(key)

    def _matters(self, key: Key) -> bool:
        return self._gateway(key) or bool(self._behind(key))

    def _compare(
        self, key: Key, old: Known | None, new: Known | None, by_hand: bool = False
    ) -> Iterator[Change]:
        if old is None or new is None or old == new:
            return
        replaced = bool(old.mac) and bool(new.mac) and old.mac != new.mac
        if replaced:
            yield self._change(key, "mac", old, new, by_hand)
        elif old.silent != new.silent and self._matters(key):
            yield self._change(key, "silent" if new.silent else "back", old, new)

    def _change(self, key: Key, what: str, old: Known, new: Known, by_hand: bool = False) -> Change:
        targets, gateway = list(self._behind(key)), self._gateway(key)

        def say() -> Said:
            name, mac = text_of(key[1]), new.mac.hex(":")
            who = f"{'the gateway' if gateway else 'the neighbour'} {name} on {self._name(key[0])}"
            if what == "mac":
                question = " (set on this host)" if by_hand else " (failover?)" if gateway or targets else ""
                text = f"{who} has another MAC address{question}: {mac}, and had {old.mac.hex(':')}"
            elif what == "silent":
                text = f"{who} does not answer any more" if new.mac else f"{who} does not answer"
            else:
                text = f"{who} answers again"
            if targets:
                more = f" and {len(targets) - 5} more" if len(targets) > 5 else ""
                text += f"; behind it: {', '.join(targets[:5])}{more}"
            detail: dict[str, object] = {
                "what": what,
                "address": name,
                "before": old.mac.hex(":") or None,
                "after": new.mac.hex(":") or None,
                "state": "failed" if new.silent else "known",
                "gateway": gateway,
                "targets": targets,
            }
            return Said(text, detail, self._name(key[0]))

        return Change("neighbour", what, gateway or bool(targets), say)


def _after(known: Known | None, neighbour: Neighbour) -> Known:
    mac = neighbour.mac or (known.mac if known is not None else b"")
    if neighbour.state & FAILED:
        return Known(mac, True)
    # Between silence and an answer it is being asked again.
    return Known(mac, not neighbour.mac and known is not None and known.silent)
