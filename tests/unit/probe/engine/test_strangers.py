"""What others send us: ICMP errors that quote a probe or seem to, and more packets than anybody can read."""

from __future__ import annotations

import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND
from probe.sockets.memory import MemorySocket, lossless
from probe.sockets.packet_socket import BLOCK, PITCH, Replies
from tests.unit.probe.engine.driving import TOKEN, Driver
from tests.unit.probe.engine.test_ip_header import RawDriver

ROUTER, SELF = bytes([10, 0, 0, 9]), bytes([10, 0, 0, 1])


def unreachable(quoted: bytes) -> bytes:
    """A router's ICMP error about an echo request to 0.0.0.0, the target of these tests."""
    outer = b"\x45" + bytes(11) + ROUTER + SELF
    inner = b"\x45" + bytes(8) + b"\x01" + bytes(2) + SELF + bytes(4)
    return outer + b"\x03\x01" + bytes(6) + inner + quoted


def echo(number: int, secret: bytes) -> bytes:
    head = b"\x08\x00\x00\x00" + (100).to_bytes(2, "big") + number.to_bytes(2, "big")
    return head + secret + number.to_bytes(8, "big") + bytes(40)


@pytest.mark.parametrize(
    ("quoted", "errors"),
    [
        (echo(5, TOKEN), 1),
        (echo(5, TOKEN)[:8], 1),  # all that some routers quote
        (echo(5, b"another!"), 0),  # another program's, with our identifier, sequence and target
        (echo(5, TOKEN)[:7], 0),
    ],
)
def test_an_icmp_error_counts_where_it_quotes_a_probe_of_ours(quoted: bytes, errors: int) -> None:
    driver = RawDriver([0])
    driver.run(200 * MILLISECOND)
    driver.socket.deliver((driver.clock.mono_ns, unreachable(quoted)))
    driver.run(SECOND)
    driver.finish()
    assert driver.totals()["errors"] == errors
    assert driver.channel.counters.unanswerable == 1 - errors
    assert driver.channel.counters.foreign == driver.totals()["lost"] == 0


def test_an_icmp_error_about_this_hosts_other_traffic_is_nothing_foreign() -> None:
    driver = RawDriver([0])
    driver.run(200 * MILLISECOND)
    about_udp = bytearray(unreachable(echo(5, TOKEN)))
    at = 28 + 9  # behind the outer IP header and the ICMP one: the quoted IP header's protocol
    assert about_udp[at] == 1
    about_udp[at] = 17
    driver.socket.deliver((driver.clock.mono_ns, bytes(about_udp)))
    driver.run(SECOND)
    driver.finish()
    counters = driver.channel.counters
    assert driver.totals()["errors"] == counters.unanswerable == counters.foreign == 0


class Flooded(MemorySocket):
    """There is always one more block of somebody else's replies."""

    def receive(self) -> Replies | None:
        rows = np.zeros((BLOCK, PITCH), np.uint8)
        stamps = np.full(BLOCK, self.clock.wall(), np.int64)
        return Replies(rows, np.full(BLOCK, 64, np.uint32), stamps, np.zeros((BLOCK, 28), np.uint8), True)


def test_a_flood_is_counted_and_does_not_keep_us_from_sending() -> None:
    driver = Driver(lossless(MILLISECOND))
    driver.channel.socket = driver.socket = Flooded(driver.clock, lossless(MILLISECOND))
    driver.run(SECOND)
    driver.finish()
    assert len(driver.socket.sent) > 90
    assert driver.channel.counters.foreign > 10 * BLOCK
