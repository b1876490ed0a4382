"""Questions and settings in, the child that answers out; what is beyond the settings is refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from probe.ask_rules import Rules
from probe.command_line import parser
from probe.errors import AskError
from probe.settings import AskTable, agent_from
from probe.telemetry import asks
from probe.telemetry.asks import Ask, Options

SETTINGS = agent_from(
    {
        "agent": {"id": "ny4-01"},
        "target": [
            {"name": "pinged", "address": "192.0.2.1", "dscp": 46, "source": "192.0.2.9", "size": 1400},
            {"name": "named", "address": "gateway.example", "ttl": 3, "dont_fragment": True},
            {"name": "port", "address": "192.0.2.2", "kind": "tcp", "port": 9000},
            {"name": "quick", "address": "192.0.2.3", "kind": "tcp", "port": 9000, "interval": "100ms"},
            {"name": "reflector", "address": "2001:db8::1", "kind": "stamp", "key_file": "/k"},
            {"name": "twice-a", "address": "192.0.2.5"},
            {"name": "twice-b", "address": "192.0.2.5", "kind": "tcp", "port": 443},
        ],
    },
    "agent.toml",
)
ADDRESSES = {"gateway.example": "198.51.100.7"}


def rules(**table: Any) -> Rules:
    made = AskTable(**table)
    return Rules(
        "ny4-01", made, SETTINGS.target, lambda target: ADDRESSES.get(target.address, target.address)
    )


def question(target: str = "", what: Any = "ping", **options: Any) -> Ask:
    return Ask(id=asks.new_id(), what=what, target=target, options=Options(**options))


def ping(target: str, made: Rules | None = None, **options: Any) -> list[str]:
    made = made or rules()
    argv = made.ping(question(target, **options), made.target(target))
    assert argv[:2] == ["probe.cli", "ping"]
    parser().parse_args(argv[1:])  # a command line that is understood
    return argv[2:]


def refused(target: str, made: Rules | None = None, **options: Any) -> str:
    with pytest.raises(AskError) as caught:
        ping(target, made, **options)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_a_ping_is_like_the_agents_own_probes() -> None:
    assert (
        ping("pinged")
        == [
            *("--json", "--count=10", "--interval=1000000000ns", "--timeout=1000000000ns", "--flows=1"),
            *("--size=1400", "--dscp=46", "--source=192.0.2.9", "--", "icmp://192.0.2.1"),
        ]
        or ping("pinged")[-1] == "192.0.2.1"
    )
    assert ping("named")[-5:] == ["--size=64", "--ttl=3", "--dont-fragment", "--", "198.51.100.7"]
    assert ping("port")[-2:] == ["--", "tcp://192.0.2.2:9000"]
    assert ping("reflector")[-3:] == ["--key-file=/k", "--", "stamp://[2001:db8::1]:862"]
    assert ping("pinged", count=3, interval_ns=20_000_000, flows=2, size=100)[1:6] == [
        *("--count=3", "--interval=20000000ns", "--timeout=1000000000ns", "--flows=2", "--size=100"),
    ]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("pinged", "pinged"),
        ("192.0.2.1", "pinged"),
        ("gateway.example", "named"),
        ("198.51.100.7", "named"),
        ("tcp://192.0.2.2:9000", "port"),
        ("tcp://192.0.2.5:443", "twice-b"),
        ("icmp://192.0.2.5", "twice-a"),
        ("stamp://[2001:db8::1]", "reflector"),
    ],
)
def test_a_target_is_meant_by_name_address_or_url(said: str, name: str) -> None:
    assert rules().target(said).name == name


@pytest.mark.parametrize(
    "said",
    [
        *(
            "192.0.2.77",
            "tcp://192.0.2.2:9001",
            "localhost",
            "pinged; reboot",
            "$(id)",
            "-f",
            "--flood",
            "../x",
        ),
        *("pinged\n", "PINGED", "*", "icmp://", "\x00", "10.0.0.0/8"),
    ],
)
def test_what_is_no_target_is_refused_and_may_be_allowed_only_as_a_host(said: str) -> None:
    words = refused(said)
    assert "it has pinged, named, port, quick, reflector, twice-a, twice-b" in words
    assert "ask.any_target in its agent.toml" in words
    assert words.isprintable()
    anywhere = rules(any_target=True)
    if said in ("192.0.2.77", "tcp://192.0.2.2:9001", "localhost", "PINGED"):
        assert ping(said, anywhere)[-2] == "--"
    else:
        assert " is not a target" in refused(said, anywhere)


def test_an_address_of_two_targets_is_neither() -> None:
    assert refused("192.0.2.5") == "192.0.2.5 is several targets of ny4-01: twice-a, twice-b; name one"


def test_no_more_packets_than_allowed() -> None:
    assert refused("pinged", interval_ns=1_000_000) == (
        "1 flows every 1ms are 1000 packets a second (allowed: 100, ask.packets_per_second of ny4-01)"
    )
    ping("pinged", rules(packets_per_second=1000), interval_ns=1_000_000)
    assert "are 128 packets a second" in refused("pinged", flows=64, interval_ns=500_000_000)
    ping("pinged", flows=50, interval_ns=500_000_000)


def test_a_port_that_takes_connections_gets_what_the_agent_itself_may_send() -> None:
    assert ping("port")[2] == "--interval=1000000000ns"
    assert ping("port", flows=4)[2] == "--interval=4000000000ns"
    assert "a port that takes connections (allowed: 1, " in refused("port", interval_ns=500_000_000)
    ping("quick", interval_ns=100_000_000)
    assert "(allowed: 10, " in refused("quick", interval_ns=50_000_000)
    anywhere = rules(any_target=True)
    assert "(allowed: 1, " in refused("tcp://192.0.2.77:80", anywhere, interval_ns=500_000_000)
    assert "always have" in refused("port", size=1000)


def test_no_longer_than_allowed() -> None:
    assert ping("pinged", count=60)[1] == "--count=60"
    assert refused("pinged", count=61) == (
        "61 probes every 1s, with 1s for the last reply, are 61s (allowed: 1m, ask.longest of ny4-01): "
        "fewer, or faster"
    )
    short = rules(longest=3_000_000_000)
    assert ping("pinged", short)[1] == "--count=3"  # unless the asker says otherwise, what there is time for
    assert "(allowed: " in refused("pinged", short, timeout_ns=4_000_000_000)


def test_only_what_is_allowed() -> None:
    some = rules(allow=("links", "ping"))
    for what in ("ping", "links", "about"):
        some.check_allowed(question(what=what))
    for made, what, had in ((some, "trace", "links, ping"), (rules(allow=()), "about", "nothing")):
        with pytest.raises(AskError) as caught:
            made.check_allowed(question(what=what))
        assert str(caught.value) == f"ny4-01 does not allow {what}: ask.allow in its agent.toml has {had}"
        assert caught.value.exit_status == 1
