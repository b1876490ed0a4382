"""TARGET arguments and names in, addresses out; what is no target is refused in words."""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ResolveError, SettingsError, UsageError
from probe.settings import Knobs
from probe.targets import Address, parse_target, resolve, resolve_all, target_for
from probe.units import Duration
from tests.unit.probe.repeatable import repeatable


@pytest.mark.parametrize(
    ("text", "kind", "host", "port", "name"),
    [
        ("192.0.2.1", "icmp", "192.0.2.1", 0, "192.0.2.1"),
        ("gateway.example", "icmp", "gateway.example", 0, "gateway.example"),
        ("icmp://gateway.example", "icmp", "gateway.example", 0, "gateway.example"),
        ("::1", "icmp", "::1", 0, "::1"),
        ("[::1]", "icmp", "::1", 0, "::1"),
        ("icmp://[2001:db8::1]", "icmp", "2001:db8::1", 0, "2001:db8::1"),
        ("icmp://2001:db8::1", "icmp", "2001:db8::1", 0, "2001:db8::1"),
        ("fe80::1%eth0", "icmp", "fe80::1%eth0", 0, "fe80::1%eth0"),
        ("host_1", "icmp", "host_1", 0, "host_1"),
        ("stamp://ld4.example", "stamp", "ld4.example", 862, "stamp://ld4.example"),
        ("stamp://ld4.example:862", "stamp", "ld4.example", 862, "stamp://ld4.example"),
        ("stamp://ld4.example:8620", "stamp", "ld4.example", 8620, "stamp://ld4.example:8620"),
        ("stamp://2001:db8::1", "stamp", "2001:db8::1", 862, "stamp://[2001:db8::1]"),
        ("stamp://[2001:db8::1]:1", "stamp", "2001:db8::1", 1, "stamp://[2001:db8::1]:1"),
        ("tcp://192.0.2.20:9000", "tcp", "192.0.2.20", 9000, "tcp://192.0.2.20:9000"),
        ("tcp://[fe80::1%eth0]:65535", "tcp", "fe80::1%eth0", 65535, "tcp://[fe80::1%eth0]:65535"),
        ("connect://gw:1", "connect", "gw", 1, "connect://gw:1"),
    ],
)
def test_targets(text: str, kind: str, host: str, port: int, name: str) -> None:
    got = parse_target(text)
    assert (got.kind, got.host, got.port, got.name) == (kind, host, port, name)


ALLOWED = (
    "(allowed: a host, icmp://host, stamp://host[:862], tcp://host:port or connect://host:port; "
    "an IPv6 address with a port in brackets)"
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *(
            (text, " is not a target")
            for text in (
                *("", "icmp://", "[]", "a b", "a/b", "-c", "icmp://-c", "x" * 254, "é.example", "a\n", "[a]"),
                *("[::1", "::1]", "[::1]:", "a:b", "tcp://", "tcp://:80", "tcp://a:", "tcp://a:80/", "1:2:3"),
                *("tcp://u@a:80", "tcp://a:-1", "tcp://a:+1", "tcp://a:٣", "tcp://[::g]:80", "fe80::1%"),
            )
        ),
        ("http://a", ": http:// is not a kind of probe"),
        ("udp://a:1", ": udp:// is not a kind of probe"),
        ("://a", ": :// is not a kind of probe"),
        ("TCP://a:1", ": TCP:// is not a kind of probe"),
        ("tcp://a", " has no port"),
        ("connect://[::1]", " has no port"),
        ("tcp://::1", " has no port"),
        ("tcp://a:0", ": 0 is not a port, 1 to 65535"),
        ("stamp://a:65536", ": 65536 is not a port, 1 to 65535"),
        ("a:80", ": ICMP has no ports; to probe one: tcp://a:80"),
        ("icmp://[::1]:80", ": ICMP has no ports; to probe one: tcp://[::1]:80"),
    ],
)
def test_what_is_no_target_is_named(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_target(text)
    assert str(refusal.value) == f"{text!r}{problem} {ALLOWED}"
    assert refusal.value.exit_status == 2


@repeatable
@given(st.text(max_size=40) | st.from_regex(r"\A(stamp|tcp)://[0-9a-f:.\[\]]{0,20}(:[0-9]{0,7})?\Z"))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        got = parse_target(text)
    except UsageError:
        return
    assert got.host
    assert got.host in text
    assert 0 <= got.port <= 65535
    assert parse_target(got.name) == got


ONE_SECOND = Knobs(interval=Duration.parse("1s"))


def test_a_target_and_its_options_mean_what_a_settings_file_would_mean() -> None:
    got = target_for(parse_target("stamp://[::1]:99"), {"flows": 16, "size": 100, "ttl": 3}, ONE_SECOND)
    assert (got.name, got.address, got.kind, got.port) == ("stamp://[::1]:99", "::1", "stamp", 99)
    assert (got.flows, got.size, got.ttl, got.interval) == (16, 100, 3, 10**9)
    polite = target_for(parse_target("tcp://a:1"), {"flows": 4}, ONE_SECOND)
    assert polite.interval == 4 * 10**9
    asked = target_for(parse_target("tcp://a:1"), {"flows": 4, "interval": Duration(10**7)}, ONE_SECOND)
    assert asked.interval == 10**7


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (
            "tcp://a:1",
            {"size": 64},
            '-s/--size: kind = "tcp" always sends 24 bytes (allowed: no size for this target)',
        ),
        ("stamp://a", {"size": 40}, '-s/--size: 40 is not allowed for kind = "stamp" (allowed: 52 to 9000)'),
        (
            "a",
            {"key_file": "/k"},
            '--key-file: kind = "icmp" has no keys (allowed: no key_file, or kind = "stamp")',
        ),
        (
            "192.0.2.1",
            {"source": "::1"},
            "--source: '::1' is not of the family of TARGET = '192.0.2.1' "
            "(allowed: an IPv4 address of this host)",
        ),
        (
            "a",
            {"interface": "a/b"},
            "--interface: 'a/b' is not an interface's name "
            "(allowed: at most 15 bytes without spaces, / and :, for example eth0)",
        ),
    ],
)
def test_options_that_contradict_each_other_are_named(text: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        target_for(parse_target(text), options, ONE_SECOND)
    assert str(refusal.value) == f"command line: {says}"


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
    with pytest.raises(ResolveError, match=r"'127\.0\.0\.1' has no IPv6 address: "):
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
