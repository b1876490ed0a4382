"""An emulator's log and captures at its link's ends in, agreement between them or a failed assertion out.

Three witnesses that know nothing of each other: the emulator's log, its counters, and the kernel's taps.
"""

from __future__ import annotations

from tests.lab.capture import Capture, Packet
from tests.lab.emulated import EmulatedLink
from tests.lab.truthlog import BACKWARD, DELIVERED, FORWARD, HEAD, IN_FLIGHT, LOST, LoggedPacket, TruthLog


def assert_same_story(log: TruthLog, link: EmulatedLink, near: Capture, far: Capture | None = None) -> None:
    """Each packet that a capture saw is in the log and the other way round, in one order; counters agree.

    The captures began before anything was sent and ended after the link (`link.stop`).
    """
    directions = log.of(FORWARD), log.of(BACKWARD)
    for capture, (out, back) in ((near, directions), (far, directions[::-1])):
        if capture is not None:
            assert heads(capture, outgoing=True) == [packet.head for packet in out]
            assert heads(capture, outgoing=False) == [head for _, head in written(back)]
    for traffic, packets in zip(link.traffic(), directions, strict=True):
        copies = [copy for packet in packets for copy in packet.copies]
        assert [packet.number for packet in packets] == list(range(1, traffic.arrived + 1))
        outcomes = [packet.outcome for packet in packets]
        assert outcomes.count(LOST) == traffic.lost
        assert outcomes.count(DELIVERED) + outcomes.count(IN_FLIGHT) == traffic.arrived - traffic.lost
        assert sum(copy.written_ns is not None for copy in copies) == traffic.delivered
        assert sum(copy.written_ns is None for copy in copies) == traffic.in_flight
        assert sum(len(packet.copies) - 1 for packet in packets if packet.copies) == traffic.duplicated
        assert sum(packet.held > 0 for packet in packets) == traffic.held
        assert traffic.refused == 0


def carried(capture: Capture, *, outgoing: bool) -> list[Packet]:
    """What a link would carry of what a capture saw."""
    return [
        packet for packet in capture.packets if packet.outgoing == outgoing and not is_multicast(packet.data)
    ]


def heads(capture: Capture, *, outgoing: bool) -> list[bytes]:
    return [packet.data[:HEAD] for packet in carried(capture, outgoing=outgoing)]


def written(packets: list[LoggedPacket]) -> list[tuple[int, bytes]]:
    """When each copy came out, and its head, in that order."""
    return sorted(
        (copy.written_ns, packet.head)
        for packet in packets
        for copy in packet.copies
        if copy.written_ns is not None
    )


def is_multicast(data: bytes) -> bool:
    return data[16] >= 224 if data[0] >> 4 == 4 else data[24] == 0xFF
