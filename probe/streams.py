"""Targets with their addresses in, their flows out: where each goes, and by which label on IPv6. Pure."""

from __future__ import annotations

import hashlib
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from probe.settings import Target
from probe.targets import Address

_LABELS = (1 << 20) - 1  # IPv6 flow labels have 20 bits
_RUN = secrets.token_bytes(16)  # of this process


@dataclass(frozen=True)
class Stream:
    """One flow to be: the `lane`-th of its target."""

    target: Target
    address: Address
    lane: int = 0
    label: int = 0  # IPv6 flow label; 0: the kernel's choice

    def destination(self, port: int) -> bytes:
        """The sockaddr for the kernel: the port is at byte 2, the label of sockaddr_in6 at byte 4."""
        raw = self.address.sockaddr
        label = self.label.to_bytes(4, "big") if self.address.family == socket.AF_INET6 else raw[4:8]
        return raw[:2] + port.to_bytes(2, "big") + label + raw[8:]


def streams_of(members: Sequence[tuple[Target, Address]]) -> list[Stream]:
    """Every flow, those of one target one after the other.

    Flow labels are random, and those of one name the same as long as this process runs, however often its
    settings are read again: routers that heed them keep each flow on its path.
    """
    made = []
    for target, address in members:
        labelled = target.flows > 1 and address.family == socket.AF_INET6
        first = _first_label(target.name) if labelled else 0
        for lane in range(target.flows):
            label = (first + lane) % _LABELS + 1 if labelled else 0
            made.append(Stream(target, address, lane, label))
    return made


def _first_label(name: str) -> int:
    mixed = hashlib.blake2b(name.encode(), key=_RUN, digest_size=8).digest()
    return int.from_bytes(mixed, "big") % _LABELS
