"""A capture of the broker's traffic in, every batch that passed it out: who sent what, and how often.

An independent record: it does not ask any of the parts. A TCP stream is put together by its sequence
numbers up to its first hole, which is as far as a program can have read it; of the MQTT packets in it the
PUBLISH ones count (OASIS MQTT 3.1.1 and 5, section 3.3).
"""

from __future__ import annotations

import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.netlab import Namespace

PORT = 1883
_CONNECT, _PUBLISH = 1, 3
_SYN = 0x02
_MOD = 1 << 32
_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Published:
    """A PUBLISH packet; `to_broker`: from an agent or collector, otherwise the broker hands it on."""

    time_s: float
    to_broker: bool
    topic: str
    payload: bytes


class WireProblem(Exception):  # noqa: N818 - as in probe/errors.py, the name says what happened
    """The capture does not hold everything, or cannot be read."""


class WireCapture:
    """tcpdump beside the broker: `start` before the first connection, `stop` when the last one has ended."""

    def __init__(self, namespace: Namespace, file: Path) -> None:
        self.file = file
        self._namespace = namespace
        self._log = file.with_suffix(".log")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns once it listens. Raises: WireProblem."""
        argv = [
            "tcpdump",
            "-i",
            self._namespace.interface,
            "-n",
            "-s",
            "0",
            "-B",
            "65536",
            "--immediate-mode",
        ]
        argv += ["-U", "-Z", "root", "-w", str(self.file), f"tcp port {PORT}"]
        with self._log.open("w") as log:
            self._process = self._namespace.popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + _DEADLINE_S
        while "listening on" not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise WireProblem(f"tcpdump does not start: {self._log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Raises: WireProblem where the kernel had no room for some packets."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(_DEADLINE_S)
        said = self._log.read_text()
        dropped = re.search(r"(\d+) packets? dropped by kernel", said)
        if dropped is None or int(dropped[1]):
            raise WireProblem(f"the capture is not whole: {said}")

    def published(self) -> Iterator[Published]:
        """Every PUBLISH packet, in the order in which they were complete."""
        return published(self.file.read_bytes())


@dataclass
class _Stream:
    """One direction of a TCP connection."""

    begin: int  # sequence number of its first byte
    next: int  # and of the next one
    early: dict[int, bytes] = field(default_factory=dict)
    text: bytearray = field(default_factory=bytearray)
    five: bool = False  # MQTT 5, where properties stand before a payload

    def add(self, sequence: int, data: bytes) -> None:
        """Take a segment; those that came before their turn follow when their turn comes."""
        if len(data) > len(self.early.get(sequence, b"")):
            self.early[sequence] = data
        while self.early:
            # What begins at or before the next byte: its distance backwards is small.
            first = min(self.early, key=lambda number: (number - self.next + _MOD // 2) % _MOD)
            seen = (self.next - first) % _MOD
            if seen >= _MOD // 2:
                return
            fresh = self.early.pop(first)[seen:]
            self.text += fresh
            self.next = (self.next + len(fresh)) % _MOD


def published(pcap: bytes) -> Iterator[Published]:
    """Of a pcap file of Ethernet frames. Raises: WireProblem."""
    streams: dict[tuple[bytes, bytes], _Stream] = {}
    for when, frame in _frames(pcap):
        if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != 6:
            continue
        header = 14 + (frame[14] & 15) * 4
        end = 14 + int.from_bytes(frame[16:18], "big")
        destination = int.from_bytes(frame[header + 2 : header + 4], "big")
        key = (frame[26:34], frame[header : header + 4])
        sequence = int.from_bytes(frame[header + 4 : header + 8], "big")
        data = frame[header + (frame[header + 12] >> 4) * 4 : end]
        if frame[header + 13] & _SYN:
            begin = (sequence + 1) % _MOD
            if key not in streams or streams[key].begin != begin:  # not the same one sent again
                streams[key] = _Stream(begin, begin)
            continue
        stream = streams.get(key)
        if stream is None or not data:
            continue
        stream.add(sequence, data)
        for kind, flags, body in _packets(stream.text):
            if kind == _PUBLISH:
                topic, payload = _publish(flags, body, stream.five)
                yield Published(when, destination == PORT, topic, payload)
            elif kind == _CONNECT and body[6:7] == b"\5":  # after its name, as length and text, the version
                (source, target), (port, other) = _halves(key[0]), _halves(key[1])
                for way in (key, (target + source, other + port)):
                    if way in streams:
                        streams[way].five = True


def _frames(pcap: bytes) -> Iterator[tuple[float, bytes]]:
    if len(pcap) < 24 or pcap[:4] != b"\xd4\xc3\xb2\xa1":
        raise WireProblem("not a little-endian pcap file with microseconds")
    at = 24
    while at + 16 <= len(pcap):
        seconds, micros, length, whole = struct.unpack_from("<IIII", pcap, at)
        if length != whole:
            raise WireProblem(f"a packet of {whole} bytes was cut to {length}")
        yield seconds + micros / 1e6, pcap[at + 16 : at + 16 + length]
        at += 16 + length


def _halves(ends: bytes) -> tuple[bytes, bytes]:
    return ends[: len(ends) // 2], ends[len(ends) // 2 :]


def _packets(text: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each complete packet at the beginning of `text`, which loses what was read."""
    while (size := _size(text)) is not None and len(text) >= sum(size):
        head, (start, length) = text[0], size
        body = bytes(text[start : start + length])
        del text[: start + length]
        yield head >> 4, head & 15, body


def _publish(flags: int, body: bytes, five: bool) -> tuple[str, bytes]:
    """Topic and payload of a PUBLISH packet."""
    named = 2 + int.from_bytes(body[:2], "big")
    at = named + (2 if flags & 0x06 else 0)  # a packet identifier where the QoS is not 0
    if five:
        # The properties' length has the form of a packet's; their text is not needed.
        before, length = _size(b"\0" + body[at : at + 4]) or (1, 0)
        at += before - 1 + length
    return body[2:named].decode(), body[at:]


def _size(text: bytes | bytearray) -> tuple[int, int] | None:
    """Bytes of the packet's fixed header and of what follows it (2.2.3); None: not all of it is there."""
    length = 0
    for place, byte in enumerate(text[1:5]):
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return 2 + place, length
    return None
