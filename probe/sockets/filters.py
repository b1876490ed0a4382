"""Identifiers or ports in, a classic BPF program out: the kernel keeps other programs' packets from a socket.

A raw ICMP socket gets a copy of every echo reply that comes to its host. That is how packets that only
pretend to be
ours can be counted; but where another program floods, it fills our buffer too. Programs: Linux's
Documentation/networking/filter.rst; a packet begins with its IP header on IPv4 and with its ICMP header on
IPv6.

    load type           (IPv4: behind the header's options)
    not an echo reply?  -> accept: errors are few, and whose they are is told by what they quote
    load identifier, subtract the first of ours, mod 2^16
    below their number? -> accept
    drop

A raw TCP socket gets a copy of every segment that comes to its host, and keeps those to its own ports:

    load destination port   (IPv4: behind the header's options)
    one of ours?            -> accept
    drop
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

from probe.packets import icmp

Program = list[tuple[int, int, int, int]]  # code, jump if true, jump if false, k per instruction

SO_ATTACH_FILTER = 26
# Opcodes (linux/bpf_common.h): class | size | mode, or class | operation | source.
_LDX_HEADER = 0x01 | 0x10 | 0xA0  # X = 4 * (byte & 0xf): the length of an IPv4 header
_LD_BYTE, _LD_HALF = 0x00 | 0x10 | 0x40, 0x00 | 0x08 | 0x40  # at X + k
_LDX_NUMBER = 0x01 | 0x00
_SUBTRACT, _AND = 0x04 | 0x10, 0x04 | 0x50
_IF_EQUAL, _IF_AT_LEAST = 0x05 | 0x10, 0x05 | 0x30
_RETURN = 0x06
_WHOLE = 0xFFFFFFFF


def own_replies(family: int, first_id: int, ids: int) -> Program:
    """The program for a raw socket of `family`: (code, jump if true, jump if false, k) per instruction.

    Echo replies pass whose identifier is one of `first_id` to `first_id + ids - 1` (mod 2^16); all else
    passes.
    """
    return _replies(family, first_id, ids, keep=True)


def other_replies(family: int, first_id: int, ids: int) -> Program:
    """As `own_replies`, but what passes there is dropped: these identifiers are another socket's."""
    return _replies(family, first_id, ids, keep=False)


def _replies(family: int, first_id: int, ids: int, *, keep: bool) -> Program:
    v4 = family == socket.AF_INET
    head = (_LDX_HEADER, 0, 0, 0) if v4 else (_LDX_NUMBER, 0, 0, 0)
    return [
        head,
        (_LD_BYTE, 0, 0, 0),
        (_IF_EQUAL, 0, 4, icmp.ECHO_REPLY if v4 else icmp.ECHO6_REPLY),
        (_LD_HALF, 0, 0, 4),
        (_SUBTRACT, 0, 0, first_id & 0xFFFF),
        (_AND, 0, 0, 0xFFFF),
        (_IF_AT_LEAST, int(keep), int(not keep), min(ids, 1 << 16)),
        (_RETURN, 0, 0, _WHOLE),
        (_RETURN, 0, 0, 0),
    ]


def own_segments(family: int, ports: Sequence[int]) -> Program:
    """The program for a raw TCP socket of `family`: what comes to one of these ports passes, at most 255 of
    them."""
    v4 = family == socket.AF_INET
    head = (_LDX_HEADER, 0, 0, 0) if v4 else (_LDX_NUMBER, 0, 0, 0)
    tests = [(_IF_EQUAL, len(ports) - n, 0, port) for n, port in enumerate(ports)]
    return [head, (_LD_HALF, 0, 0, 2), *tests, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _WHOLE)]


def attach(handle: socket.socket, program: Program) -> None:
    """Let the kernel run it on every packet before the packet is queued. Raises: OSError."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are; the kernel copies them.
    head = struct.pack("@HP", len(program), ctypes.addressof(memory))
    handle.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
