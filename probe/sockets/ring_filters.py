"""Identifiers and a secret in, two classic BPF programs out: which packets go into the ring, and which to the
socket that watches all interfaces.

The ring takes what looks as nearly all of it does, so that it can be read without looking twice:

    our requests on their way out     with our secret
    echo replies to this host         untagged; IPv4 without options and from the first byte on, or IPv6
                                      without extension headers; with one of our identifiers (a wrong
                                      secret is to be counted), or with our secret

The other socket takes what else comes as such a reply: by another interface, or with IPv4 options. So each
comes by exactly one of the two ways. Neither takes an IPv6 reply with extension headers, or in fragments.
"""

from __future__ import annotations

import socket

from probe.packets import icmp
from probe.packets.ethernet import IPV4, IPV6, LINK
from probe.sockets.filters import Program

# Opcodes (linux/bpf_common.h): class | size | mode, or class | operation | source.
_WORD, _HALF, _BYTE = 0x00 | 0x20, 0x08 | 0x20, 0x10 | 0x20  # loads at k
_WORD_X, _HALF_X, _BYTE_X = 0x00 | 0x40, 0x08 | 0x40, 0x10 | 0x40  # loads at X + k
_HEADER_X = 0x01 | 0x10 | 0xA0  # X = 4 * (byte & 0xf): the length of an IPv4 header
_NUMBER_X = 0x01 | 0x00
_SUBTRACT, _AND = 0x04 | 0x10, 0x04 | 0x50
_EQUAL, _AT_LEAST, _ANY_BIT = 0x05 | 0x10, 0x05 | 0x30, 0x05 | 0x40
_RETURN = 0x06
# What the kernel knows of a packet besides its bytes (linux/filter.h).
_AD = 0xFFFFF000
_PACKET_TYPE, _INTERFACE, _VLAN = _AD + 4, _AD + 8, _AD + 44
_TO_US, _OUTGOING = 0, 4
_OFFSET = 0x1FFF  # of a fragment

# A jump's target: the next instruction, or a label.
_Step = tuple[int, str, str, int] | str


def ring_program(family: int, token: bytes, first_id: int, ids: int) -> Program:
    """For the packet socket with the ring; a packet begins with its Ethernet header."""
    v4 = family == socket.AF_INET
    at = LINK + (IPV4 if v4 else IPV6)
    kept = at + icmp.HEADER
    if v4:
        whole: list[_Step] = [
            (_BYTE, "", "", LINK),
            (_EQUAL, "", "drop", 0x45),
            (_HALF, "", "", LINK + 6),
            (_ANY_BIT, "drop", "", _OFFSET),
        ]
    else:
        whole = []
    return _assemble(
        [
            (_HALF, "", "", 12),
            (_EQUAL, "", "drop", 0x0800 if v4 else 0x86DD),
            (_BYTE, "", "", LINK + (9 if v4 else 6)),
            (_EQUAL, "", "drop", socket.IPPROTO_ICMP if v4 else socket.IPPROTO_ICMPV6),
            (_WORD, "", "", _PACKET_TYPE),
            (_EQUAL, "out", "", _OUTGOING),
            (_EQUAL, "", "drop", _TO_US),
            (_WORD, "", "", _VLAN),
            (_ANY_BIT, "drop", "", 0xFFF),
            *whole,
            (_BYTE, "", "", at),
            (_EQUAL, "", "drop", icmp.ECHO_REPLY if v4 else icmp.ECHO6_REPLY),
            (_HALF, "", "", at + 4),
            *_one_of_ours(first_id, ids, "keep", "secret"),
            "out",
            (_BYTE, "", "", at),
            (_EQUAL, "", "drop", icmp.ECHO_REQUEST if v4 else icmp.ECHO6_REQUEST),
            "secret",
            (_WORD, "", "", at + 8),
            (_EQUAL, "", "drop", int.from_bytes(token[:4], "big")),
            (_WORD, "", "", at + 12),
            (_EQUAL, "", "drop", int.from_bytes(token[4:], "big")),
            "keep",
            (_RETURN, "", "", kept),
            "drop",
            (_RETURN, "", "", 0),
        ]
    )


def other_program(family: int, interface: int, token: bytes, first_id: int, ids: int) -> Program:
    """For the packet socket of all interfaces; a packet begins with its IP header."""
    v4 = family == socket.AF_INET
    if v4:
        regular: list[_Step] = [
            (_BYTE, "", "", 0),
            (_EQUAL, "drop", "", 0x45),
        ]
        header: list[_Step] = [
            (_HALF, "", "", 6),
            (_ANY_BIT, "drop", "", _OFFSET),
            (_HEADER_X, "", "", 0),
        ]
    else:
        regular = [(_AT_LEAST, "drop", "drop", 0)]
        header = [(_NUMBER_X, "", "", IPV6)]
    return _assemble(
        [
            (_BYTE, "", "", 9 if v4 else 6),
            (_EQUAL, "", "drop", socket.IPPROTO_ICMP if v4 else socket.IPPROTO_ICMPV6),
            (_WORD, "", "", _PACKET_TYPE),
            (_EQUAL, "", "drop", _TO_US),
            *header,
            (_BYTE_X, "", "", 0),
            (_EQUAL, "", "drop", icmp.ECHO_REPLY if v4 else icmp.ECHO6_REPLY),
            (_WORD, "", "", _INTERFACE),
            (_EQUAL, "", "ours", interface),
            *regular,
            "ours",
            (_HALF_X, "", "", 4),
            *_one_of_ours(first_id, ids, "keep", ""),
            (_WORD_X, "", "", 8),
            (_EQUAL, "", "drop", int.from_bytes(token[:4], "big")),
            (_WORD_X, "", "", 12),
            (_EQUAL, "", "drop", int.from_bytes(token[4:], "big")),
            "keep",
            (_RETURN, "", "", 0xFFFF),
            "drop",
            (_RETURN, "", "", 0),
        ]
    )


def _one_of_ours(first_id: int, ids: int, yes: str, no: str) -> list[_Step]:
    """Whether the loaded identifier is one of `first_id` and the `ids - 1` after it (mod 2^16)."""
    return [
        (_SUBTRACT, "", "", first_id & 0xFFFF),
        (_AND, "", "", 0xFFFF),
        (_AT_LEAST, no, yes, min(ids, 1 << 16)),
    ]


def _assemble(steps: list[_Step]) -> Program:
    """Jumps to labels as distances."""
    where: dict[str, int] = {}
    code: list[tuple[int, str, str, int]] = []
    for step in steps:
        if isinstance(step, str):
            where[step] = len(code)
        else:
            code.append(step)

    def away(label: str, here: int) -> int:
        return where[label] - here - 1 if label else 0

    return [(op, away(yes, i), away(no, i), k) for i, (op, yes, no, k) in enumerate(code)]
