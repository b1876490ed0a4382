"""Addresses that no packet may be sent to in, the reason out."""

from __future__ import annotations

import socket

import pytest

from probe.errors import SocketError
from probe.paths.records import Request
from probe.paths.wire import Wire


def test_what_is_prohibited_is_that_targets_trouble_and_no_lack_of_privileges() -> None:
    """Of which it would be taken that no target can be traced."""
    with pytest.raises(SocketError, match=r"no route to 127\.255\.255\.255: a broadcast address, or"):
        Wire(Request("127.255.255.255", socket.AF_INET, "icmp"), [])
