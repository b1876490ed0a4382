"""Real connections on loopback in, what inet_diag tells of them out."""

from __future__ import annotations

import os
import socket

import pytest

from probe.host import inet_diag
from probe.host.connections import Connections, own_inodes
from tests.unit.probe.host.kernel import ip


@pytest.mark.parametrize(
    ("family", "address", "remote"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        # An IPv6 socket with an IPv4 address in it.
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_both_ends_of_a_connection_and_no_other(family: int, address: str, remote: str) -> None:
    connections = Connections()
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.socket(family) as client:
            client.connect((address, port))
            accepted, _ = server.accept()
            with accepted:
                accepted.send(b"x" * 700)
                client.recv(700)
                found = {each.inode: each for each in connections.to({ip(remote)})}
                ours, theirs = (os.fstat(each.fileno()).st_ino for each in (client, accepted))
                assert {ours, theirs} <= found.keys()
                assert os.fstat(server.fileno()).st_ino not in found
                assert found[ours].remote_port == found[theirs].local_port == port
                assert found[ours].state == "ESTABLISHED"
                told = inet_diag.info(found[ours].info)
                assert told is not None
                assert told.bytes_received == 700
                assert {ours, theirs} <= own_inodes()
                assert connections.to({ip("192.0.2.1")}) == []
    # What has been closed is TIME-WAIT now, and no session.
    assert ours not in {each.inode for each in connections.to({ip(remote)})}
    connections.close()
