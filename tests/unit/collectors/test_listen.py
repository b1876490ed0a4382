"""Addresses of options: what is bound, and how each mistake is called."""

from __future__ import annotations

import socket

import pytest

from collectors.listen import Listener, listen, parse
from probe.errors import UsageError


def test_addresses() -> None:
    assert parse("127.0.0.1:8080", "--board") == ("127.0.0.1", 8080)
    assert parse("[::1]:80", "--board") == ("::1", 80)
    assert parse(":8080", "--board") == ("", 8080)


@pytest.mark.parametrize(
    "text", ["", "8080", "host", "host:", "host:http", "::1:80", "[::1]", "h:65536", "a:b:1"]
)
def test_what_is_no_address_names_the_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"--board: .* \(allowed: HOST:PORT"):
        parse(text, "--board")


def test_a_free_port_and_its_urls() -> None:
    at = listen("127.0.0.1:0", "--board")
    with at.socket:
        assert at.url("http") == at.url("http", from_here=True) == f"http://127.0.0.1:{at.port}"
        assert not at.open_to_all
    everywhere = listen(":0", "--board")
    with everywhere.socket:
        assert everywhere.open_to_all
        assert everywhere.url("mqtt", from_here=True) == f"mqtt://127.0.0.1:{everywhere.port}"
        assert "0.0.0.0" not in everywhere.url("http")


def test_a_port_in_use_is_an_error_or_another_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UsageError, match=rf"--board {address}: the port is in use; choose another with --board"
        ):
            listen(address, "--board")
        other = listen(address, "--broker", fall_back=True)
        with other.socket:
            assert other.port != taken.getsockname()[1]
            assert f"using {other.port}" in other.note


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.77:0", "is not an address of this host"),
        ("x" * 64 + ".example:1", "is no address of any host: it is no host name"),
    ],
)
def test_an_address_of_somebody_else(address: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        listen(address, "--board")


@pytest.mark.parametrize(
    ("host", "others"),
    [
        *((host, False) for host in ("127.0.0.1", "127.9.9.9", "::1")),
        *((host, True) for host in ("0.0.0.0", "::", "192.0.2.1", "fe80::1%eth0", "2001:db8::1")),
    ],
)
def test_whom_an_address_lets_in(host: str, others: bool) -> None:
    with socket.socket() as unused:
        assert Listener(unused, host, 8080).open_to_others is others
