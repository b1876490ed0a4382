"""TARGET arguments and names in, addresses out; what is no target is refused in words."""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ResolveError, UsageError
from probe.targets import Address, parse_target, resolve, resolve_all
from tests.unit.probe.repeatable import repeatable


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("gateway.example", "gateway.example"),
        ("icmp://gateway.example", "gateway.example"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("icmp://[2001:db8::1]", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("host_1", "host_1"),
    ],
)
def test_targets(text: str, host: str) -> None:
    assert parse_target(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "icmp://",
        "[]",
        "a b",
        "a/b",
        "http://a",
        "tcp://a:1",
        "-c",
        "icmp://-c",
        "x" * 254,
        "é.example",
        "a\n",
    ],
)
def test_what_is_no_target_is_named(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_target(text)
    assert repr(text) in str(refusal.value)
    assert "allowed: a host, or icmp://host" in str(refusal.value)


@repeatable
@given(st.text(max_size=40))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        host = parse_target(text)
    except UsageError:
        return
    assert host
    assert host in text


def test_an_ipv4_address_as_the_kernel_wants_it() -> None:
    address = resolve("127.0.0.1")
    assert (address.family, address.text) == (socket.AF_INET, "127.0.0.1")
    assert address.sockaddr == b"\x02\x00\x00\x00\x7f\x00\x00\x01" + bytes(20)


def test_an_ipv6_address_as_the_kernel_wants_it() -> None:
    address = resolve("::1")
    assert (address.family, address.text) == (socket.AF_INET6, "::1")
    assert address.sockaddr == b"\x0a\x00" + bytes(6) + bytes(15) + b"\x01" + bytes(4)


def test_a_link_local_address_keeps_its_interface() -> None:
    index = socket.if_nametoindex("lo")
    address = resolve("fe80::1%lo")
    assert address.sockaddr[24:28] == index.to_bytes(4, "little")
    assert address.sockaddr[8:24] == ip_address("fe80::1").packed


def test_a_name_may_be_tied_to_a_family() -> None:
    assert resolve("localhost", socket.AF_INET).sockaddr[4:8] == b"\x7f\x00\x00\x01"
    with pytest.raises(ResolveError, match=r"'127\.0\.0\.1' has no address: "):
        resolve("127.0.0.1", socket.AF_INET6)


@pytest.mark.parametrize("name", ["a..b", "." * 70 + "x" * 70, "x" * 64 + ".test"])
def test_names_that_no_resolver_would_be_asked_for(name: str) -> None:
    with pytest.raises(ResolveError) as refusal:
        resolve(name)
    assert repr(name) in str(refusal.value)


class Names:
    """A name server that answers only when `together` questions wait at the same time."""

    def __init__(self, together: int) -> None:
        self._barrier = threading.Barrier(together, timeout=20)
        self._real = socket.getaddrinfo
        self.asked: list[str] = []

    def __call__(self, host: str, *arguments: Any, **options: Any) -> Any:
        if not host.endswith(".example"):
            return self._real(host, *arguments, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self.asked.append(host)
        self._barrier.wait()
        if host.startswith("bad"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._real("127.0.0.9", *arguments, **options)


def test_names_are_asked_for_side_by_side_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(together=3)
    monkeypatch.setattr(socket, "getaddrinfo", names)
    before = threading.active_count()
    hosts = ["127.0.0.1", "good.example", "bad.example", "::1", "best.example", "good.example"]
    found = {host: outcome for (host, _), outcome in resolve_all((host, 0) for host in hosts).items()}
    assert threading.active_count() == before
    assert sorted(names.asked) == ["bad.example", "best.example", "good.example"]
    assert set(found) == set(hosts)
    assert str(found["bad.example"]) == "'bad.example' has no address: Temporary failure in name resolution"
    texts = {host: address.text for host, address in found.items() if isinstance(address, Address)}
    assert texts == {
        "127.0.0.1": "127.0.0.1",
        "::1": "::1",
        "good.example": "127.0.0.9",
        "best.example": "127.0.0.9",
    }
