"""Targets in, what they are to the kernel's tables out: which of them an address, or a network, holds."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:a.b.c.d, an IPv4 address as IPv6 sockets have it


@dataclass(frozen=True)
class Watched:
    """A target as the host sees it.

    name, venue, line: its tags. address: numeric, perhaps with a zone (`fe80::1%eth0`). port: of TCP
    connections to it; 0: any. interface: the only one it is reached by; empty: by route.
    """

    name: str
    venue: str
    line: str
    address: str
    port: int = 0
    interface: str = ""


def packed(address: str) -> bytes:
    """4 or 16 bytes of a numeric address; empty where it is none."""
    text = address.partition("%")[0]
    try:
        return socket.inet_pton(V6 if ":" in text else V4, text)
    except OSError:
        return b""


def unmapped(address: bytes) -> bytes:
    """The 4 bytes of an IPv4 address that an IPv6 socket has, or the address as it is."""
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def text_of(address: bytes) -> str:
    """An address as text; empty where these are not 4 or 16 bytes."""
    if len(address) not in (4, 16):
        return ""
    return socket.inet_ntop(V4 if len(address) == 4 else V6, address)


def prefix(address: bytes, length: int) -> bytes:
    """The network of this length (bits) that an address is in: family and length in a byte each, and as many
    bytes as it takes, the rest of them 0. Equal for all addresses of one network, and short."""
    many = (length + 7) // 8
    kept = bytearray(address[:many])
    if length % 8:
        kept[-1] &= 0xFF << (8 - length % 8) & 0xFF
    return bytes((len(address), length)) + bytes(kept)


class Aims:
    """Where the targets are, to be asked with an address or a network of the kernel's.

    A network is looked up, not compared with each of them: a thousand targets cost no more than one.
    """

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = tuple(watched)
        self.at: dict[bytes, list[Watched]] = {}
        for each in self.watched:
            if address := packed(each.address):
                self.at.setdefault(address, []).append(each)
        self._within: dict[tuple[int, int], dict[bytes, list[bytes]]] = {}

    def within(self, network: bytes) -> Sequence[bytes]:
        """The addresses of targets in a network, as `prefix` writes it."""
        key = network[0], network[1]
        found = self._within.get(key)
        if found is None:
            found = self._within[key] = {}
            for address in self.at:
                if len(address) == network[0]:
                    found.setdefault(prefix(address, network[1]), []).append(address)
        return found.get(network, ())
