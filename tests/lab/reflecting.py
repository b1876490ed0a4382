"""A namespace in, a `coloprobe reflect` in it and what it said out; and UDP packets as a capture has them."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tests.lab.capture import Packet
from tests.lab.netlab import Namespace
from tests.system.commands import DEADLINE_S, ROOT, coloprobe, wait_for

PORT = 862


class Reflecting:
    """`with Reflecting(namespace, directory, "--rate", "10") as reflector: ...`; ends it with SIGTERM."""

    def __init__(
        self, namespace: Namespace, directory: Path, *arguments: str | Path, wrapper: Sequence[str] = ()
    ) -> None:
        self._namespace, self._arguments, self._wrapper = namespace, arguments, wrapper
        self._log = directory / "reflect.log"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Reflecting:
        with self._log.open("ab") as log:
            self._process = self._namespace.popen(
                [*self._wrapper, *coloprobe("reflect", *self._arguments)], stdout=log, stderr=log, cwd=ROOT
            )
        wait_for(lambda: "reflecting STAMP" in self.text() or not self.running(), self.text())
        assert self.running(), self.text()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(DEADLINE_S)
        assert status == 0, self.text()
        assert "Traceback" not in self.text(), self.text()
        assert "ended: " in self.text()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def ended(self) -> dict[str, int]:
        """The counters of the summary at its end."""
        summary = self.text().rpartition("ended: ")[2].strip()
        replies, packets, sessions = re.findall(r"\d+", summary.partition(";")[0])
        found = {"replies": int(replies), "packets": int(packets), "sessions": int(sessions)}
        for part in summary.split("; ")[1:]:
            count, _, what = part.partition(" ")
            found[what] = int(count)
        return found


@dataclass(frozen=True)
class Datagram:
    """A UDP packet; `payload` as far as it was captured. `time_ns`: wall ns."""

    time_ns: int
    outgoing: bool
    source: tuple[str, int]
    destination: tuple[str, int]
    traffic_class: int
    payload: bytes


def datagrams(packets: Sequence[Packet]) -> list[Datagram]:
    """The UDP packets among what was captured, in order of time; fragments left out."""
    return [found for packet in packets if (found := _datagram(packet)) is not None]


def _datagram(packet: Packet) -> Datagram | None:
    data = packet.data
    if data[0] >> 4 == 4 and data[9] == 17 and not int.from_bytes(data[6:8], "big") & 0x3FFF:
        header, traffic = (data[0] & 15) * 4, data[1]
        addresses = data[12:16], data[16:20]
    elif data[0] >> 4 == 6 and data[6] == 17:
        header, traffic = 40, int.from_bytes(data[:2], "big") >> 4 & 0xFF
        addresses = data[8:24], data[24:40]
    else:
        return None
    source, destination, length, _ = struct.unpack_from(">HHHH", data, header)
    here, there = (str(ip_address(address)) for address in addresses)
    payload = data[header + 8 : header + length]
    return Datagram(packet.time_ns, packet.outgoing, (here, source), (there, destination), traffic, payload)


@contextmanager
def sender(
    namespace: Namespace, peer: str, port: int = PORT, *, timeout_s: float = 10
) -> Iterator[socket.socket]:
    """A UDP socket in there, connected to a reflector: it receives from that address and port alone."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with namespace.inside():
        opened = socket.socket(family, socket.SOCK_DGRAM)
    with opened:
        opened.settimeout(timeout_s)
        opened.connect((peer, port))
        yield opened


def ask(opened: socket.socket, request: bytes) -> bytes:
    """The reply to a request. Fails where there is none in time."""
    opened.send(request)
    return opened.recv(65536)
