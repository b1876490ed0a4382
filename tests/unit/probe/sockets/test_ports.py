"""Ports asked for in, ports that nobody else can have out, on real sockets."""

from __future__ import annotations

import errno
import socket

import pytest

from probe.errors import SocketError
from probe.sockets.ports import ReservedPorts


def refusal(family: int, port: int) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as handle:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            handle.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
        except OSError as problem:
            return int(problem.errno or 0)
    return 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_ports_are_nobody_elses_until_they_are_given_back(family: int) -> None:
    reserved = ReservedPorts(family, 5)
    assert len(set(reserved.numbers)) == 5
    assert {refusal(family, port) for port in reserved.numbers} == {errno.EADDRINUSE}
    # Nobody listens there.
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, reserved.numbers[0]), timeout=10)
    reserved.close()
    assert {refusal(family, port) for port in reserved.numbers} == {0}


def test_no_port_is_kept_where_there_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    class Scarce(socket.socket):
        def bind(self, address: object) -> None:
            opened.append(self)
            if len(opened) == 3:
                raise OSError(errno.EADDRINUSE, "Address already in use")
            super().bind(("127.0.0.1", 0))

    monkeypatch.setattr(socket, "socket", Scarce)
    with pytest.raises(SocketError, match="cannot reserve 4 TCP ports to probe from: Address already in use"):
        ReservedPorts(socket.AF_INET, 4)
    assert [handle.fileno() for handle in opened] == [-1, -1, -1]
