"""Destinations in, source addresses out, as this host's kernel says; and when it is asked again."""

from __future__ import annotations

import socket

import pytest

from probe.errors import SocketError
from probe.sockets.opening import SocketOptions
from probe.sockets.sources import NOWHERE, Sources

LOOPBACK = bytes([127, 0, 0, 1])


class Announcements:
    """Of changes, as a test wants them."""

    def __init__(self) -> None:
        self.routes = self.neighbours = self.closed = False

    def seen(self) -> tuple[bool, bool]:
        seen, self.routes, self.neighbours = (self.routes, self.neighbours), False, False
        return seen

    def close(self) -> None:
        self.closed = True


def test_a_source_for_each_destination() -> None:
    sources = Sources(SocketOptions(socket.AF_INET), None)
    # The kernel lets nobody connect to a broadcast address who did not say that he wants to.
    asked = [LOOPBACK, bytes([127, 9, 9, 9]), LOOPBACK, bytes([255, 255, 255, 255])]
    assert sources.to(asked) == [LOOPBACK, LOOPBACK, LOOPBACK, NOWHERE]
    sources.close()


def test_it_is_asked_again_when_routes_have_changed_and_not_for_neighbours() -> None:
    announcements = Announcements()
    sources = Sources(SocketOptions(socket.AF_INET), lambda: announcements)
    assert not sources.stale()
    announcements.neighbours = True
    assert not sources.stale()
    announcements.routes = True
    assert sources.stale()
    assert not sources.stale()
    sources.close()
    assert announcements.closed


def refused() -> Announcements:
    raise OSError("no netlink here")


@pytest.mark.parametrize("watch", [None, refused])
def test_without_announcements_it_is_asked_every_time(watch: None) -> None:
    sources = Sources(SocketOptions(socket.AF_INET), watch)
    assert sources.stale()
    assert sources.stale()
    sources.close()


def test_a_source_that_was_asked_for_is_everybodys() -> None:
    sources = Sources(SocketOptions(socket.AF_INET, source="127.0.0.2"), refused)
    assert sources.to([LOOPBACK, bytes([192, 0, 2, 1])]) == [bytes([127, 0, 0, 2])] * 2
    assert not sources.stale()
    sources.close()
    with pytest.raises(SocketError, match=r"cannot send from 192\.0\.2\.1"):
        Sources(SocketOptions(socket.AF_INET, source="192.0.2.1"), None)
