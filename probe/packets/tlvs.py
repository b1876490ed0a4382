"""A STAMP packet's TLVs as a sender wrote them in, the same as a session-reflector answers them out. No I/O.

The rules of RFC 8972, section 4, for a reflector:
- every TLV comes back, in its place and of its length, so that a reply is as long as its request;
- U (unknown) is set where the type is not one of `stamp`'s three, and cleared where it is;
- M (malformed) is set where a length is not that of its type, or goes past the packet's end. Processing stops
  there: what follows comes back as it came;
- in authenticated mode TLVs need an HMAC of their own, behind all others but padding, unless padding is all
  there is. Where it is missing, misplaced or wrong, I (integrity) is set in every TLV and none is processed.
Type 0 is reserved, and what a sender without TLVs pads with: nothing from there on is taken for a TLV. Nor
are the last bytes, where they are fewer than a TLV's header. More than `MOST` TLVs are not looked at.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from probe.packets import stamp

MOST = 32
_SIZES = {stamp.FOLLOW_UP: stamp.FOLLOW_UP_SIZE, stamp.HMAC: stamp.MAC}


def answer_tlvs(packet: memoryview, base: int, follow_up: Callable[[], bytes], key: bytes) -> None:
    """Turn the TLVs of a packet, from byte `base` on, into a reply's, in place.

    The packet's first four bytes are the sequence number: the sender's, until this returns. `follow_up`:
    gives the value of the follow-up telemetry, 16 bytes, where it is asked for. `key`: in authenticated
    mode; empty: unauthenticated, where nobody has agreed on a key, and an HMAC is as unknown as any other
    type.
    """
    found, whole = _walk(packet, base)
    if not found:
        return
    if key and not _genuine(packet, base, found, key):
        for at, _, _ in found:
            packet[at] = stamp.INTEGRITY
        if not whole:
            packet[found[-1][0]] |= stamp.MALFORMED
        return
    for n, (at, kind, size) in enumerate(found):
        value = at + stamp.TLV
        if (not whole and n == len(found) - 1) or size != _SIZES.get(kind, size):
            packet[at] = stamp.MALFORMED
            if kind == stamp.FOLLOW_UP:
                end = min(value + min(size, 12), len(packet))
                packet[value:end] = bytes(end - value)
            break
        if kind == stamp.EXTRA_PADDING or (kind == stamp.HMAC and key):
            packet[at] = 0
        elif kind == stamp.FOLLOW_UP:
            packet[at] = 0
            packet[value : value + size] = follow_up()
        else:
            packet[at] = stamp.UNKNOWN


def seal_tlvs(packet: memoryview, base: int, key: bytes) -> None:
    """Write the HMAC of a reply's TLVs, where it has one; the sequence number is the reflector's by now."""
    for at, kind, size in _walk(packet, base)[0]:
        if kind == stamp.HMAC and size == stamp.MAC and packet[at] == 0:
            packet[at + stamp.TLV : at + stamp.TLV + size] = _mac(packet, base, at, key)
            return


def _walk(packet: memoryview, base: int) -> tuple[list[tuple[int, int, int]], bool]:
    """Where each TLV begins, its type and length; and whether the last of them ends within the packet."""
    found: list[tuple[int, int, int]] = []
    at, end = base, len(packet)
    while at + stamp.TLV <= end and packet[at + 1] and len(found) < MOST:
        size = packet[at + 2] << 8 | packet[at + 3]
        found.append((at, packet[at + 1], size))
        at += stamp.TLV + size
    return found, at <= end


def _genuine(packet: memoryview, base: int, found: list[tuple[int, int, int]], key: bytes) -> bool:
    kinds = [kind for _, kind, _ in found]
    if kinds == [stamp.EXTRA_PADDING]:
        return True
    if stamp.HMAC not in kinds:
        return False
    n = kinds.index(stamp.HMAC)
    at, _, size = found[n]
    if size != stamp.MAC or at + stamp.TLV + size > len(packet):
        return False
    if any(kind != stamp.EXTRA_PADDING for kind in kinds[n + 1 :]):
        return False
    theirs = packet[at + stamp.TLV : at + stamp.TLV + size]
    return hmac.compare_digest(theirs, _mac(packet, base, at, key))


def _mac(packet: memoryview, base: int, at: int, key: bytes) -> bytes:
    return stamp.mac(key, bytes(packet[:4]) + packet[base:at])
