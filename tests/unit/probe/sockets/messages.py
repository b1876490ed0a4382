"""Golden messages in, a kernel out that delivers them: it fills a receive call's memory as Linux does."""

from __future__ import annotations

import ctypes
import errno
import struct
import tomllib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.sockets import abi

VECTORS = Path(__file__).parents[3] / "vectors" / "stamps.toml"
MSG_CTRUNC = 8


@dataclass(frozen=True)
class Message:
    """What a queue holds: control messages, data, and the address it came with."""

    control: bytes
    data: bytes = b""
    name: bytes = b""


def vectors(kind: str) -> list[dict[str, Any]]:
    """The golden messages of one kind: 'sent', 'error' or 'received', with a `Message` in "message"."""
    found: list[dict[str, Any]] = tomllib.loads(VECTORS.read_text(encoding="ascii"))[kind]
    for vector in found:
        part = {name: bytes.fromhex(vector[name]) for name in ("control", "quoted", "name") if name in vector}
        vector["message"] = Message(part["control"], part.get("quoted", b""), part.get("name", b""))
    return found


def vector(kind: str, version: int, what: str = "") -> dict[str, Any]:
    """The one of them that this describes."""
    (found,) = (v for v in vectors(kind) if v["version"] == version and v.get("what", "") == what)
    return found


class Kernel:
    """recvmmsg of one socket whose queues hold what the test has put there."""

    def __init__(self) -> None:
        self.ordinary: deque[Message] = deque()
        self.errors: deque[Message] = deque()

    def recvmmsg(self, _fd: int, headers: int, count: int, flags: int) -> int:
        queue = self.errors if flags & abi.MSG_ERRQUEUE else self.ordinary
        taken = min(count, len(queue))
        for i in range(taken):
            _deliver(queue.popleft(), headers + i * abi.MMSGHDR.itemsize)
        return taken or -errno.EAGAIN


def _deliver(message: Message, at: int) -> None:
    name, namelen, iov, _, control, room = struct.unpack("=QI4xQQQQ", ctypes.string_at(at, 48))
    base, space = struct.unpack("=QQ", ctypes.string_at(iov, 16))
    ctypes.memmove(base, message.data, min(space, len(message.data)))
    ctypes.memmove(control, message.control, min(room, len(message.control)))
    if name:
        ctypes.memmove(name, message.name, min(namelen, len(message.name)))
        namelen = len(message.name)
    flags = MSG_CTRUNC if room < len(message.control) else 0
    ctypes.memmove(at + 8, struct.pack("=I", namelen), 4)
    used, length = min(room, len(message.control)), min(space, len(message.data))
    ctypes.memmove(at + 40, struct.pack("=Qi4xI", used, flags, length), 20)
