"""Lines of an answer in, text for people out."""

from __future__ import annotations

from typing import Any

from probe.ask_text import display
from probe.columns import columns

PING = {"agent": "ny4-01", "target": "gw", "address": "2001:db8::1", "kind": "tcp", "port": 9000, "size": 24}


def shown(what: str, about: dict[str, Any], *lines: dict[str, Any], flows: int = 1) -> list[str]:
    text = display(what, flows)
    said = text.begun(about)
    for line in lines:
        said += text.line(line)
    return said + text.end()


def probe(**more: Any) -> dict[str, Any]:
    return {"flow": 0, "seq": 7, "stamp": "kernel", "outcome": "received", **more}


def test_a_ping_probe_by_probe() -> None:
    assert shown(
        "ping",
        PING,
        probe(rtt_ns=12_300, state="open"),
        probe(rtt_ns=1_200_000_000, state="closed", outcome="late", stamp="user"),
        probe(outcome="lost"),
        probe(outcome="error"),
        probe(outcome="duplicate"),
    ) == [
        "PING gw (2001:db8::1) port 9000 from ny4-01: tcp",
        "[2001:db8::1]:9000: seq=7 open rtt=12.3 us",
        "[2001:db8::1]:9000: seq=7 closed rtt=1.20 s  (no kernel timestamp)  late",
        "seq=7 no reply",
        "seq=7 not sent, or an ICMP error came back for it",
        "seq=7 duplicate reply",
    ]
    about = {**PING, "kind": "stamp", "address": "192.0.2.1", "port": 862, "size": 84}
    line = probe(rtt_ns=50_000, forward_ns=20_000, backward_ns=-300, unfollowed=True, flow=1)
    assert shown("ping", about, line, flows=2)[1] == (
        "flow=1 84 bytes from 192.0.2.1:862: seq=7 rtt=50.0 us fwd 20.0 us back -300 ns  (no follow-up)"
    )


def test_flows_of_a_ping_are_compared_at_the_end() -> None:
    point = {"measurement": "probe", "sent": 100, "lost": 0, "errors": 0, "rtt_p50_ns": 9000, "jitter_ns": 5}
    points = [{**point, "flow": str(n), "lost": 30 * (n == 2)} for n in range(4)]
    said = shown("ping", PING, *points, flows=4)
    assert said[2].split()[:4] == ["flow", "sent", "lost", "loss"]
    assert [line.endswith("<- loss") for line in said[3:7]] == [False, False, True, False]
    assert "flow 2" in said[-1]


def test_a_trace_is_a_graph() -> None:
    hops = [
        {
            "measurement": "hop",
            "flow": flow,
            "ttl": ttl,
            "address": address,
            "sent": 3,
            "received": 3,
            "rtt_ns": 1000,
        }
        for flow in "01"
        for ttl, address in (("1", "10.0.0.1"), ("2", f"10.0.{flow}.2"), ("3", "192.0.2.1"))
    ]
    paths = [{"measurement": "path", "flow": flow, "reached": True, "answer": "echo reply"} for flow in "01"]
    said = shown("trace", {**PING, "port": 0}, *hops, *paths)
    assert said[0] == "TRACE gw (2001:db8::1) from ny4-01"
    assert [line.split()[:2] for line in said[1:6]] == [
        ["1", "10.0.0.1"],
        ["|--", "flow"],
        ["|", "2"],
        ["|--", "flow"],
        ["|", "2"],
    ]
    assert said[-1] == "reached by every flow in 3 hops (echo reply), on 2 different paths"


def test_sessions_and_links_are_tables() -> None:
    session = {
        "target": "gw",
        "remote": "192.0.2.1:9000",
        "rtt_ns": 250_000,
        "retransmits_total": 12_345,
        "delivery_rate_bps": 9_000_000,
        "state": "ESTABLISHED",
        "stalled": True,
        "waiting_ns": 2_500_000_000,
    }
    about = {"agent": "ny4-01"}
    head, row = shown("sessions", about, session)
    assert head.split() == ["target", "remote", "rtt", "retransmits", "rate", "state"]
    assert " ".join(row.split()) == "gw 192.0.2.1:9000 250 us 12,345 9 Mb/s ESTABLISHED, STALLED for 2.50 s"
    assert shown("sessions", about) == ["ny4-01: no session to a target"]
    up = {"interface": "eth0", "up": True, "speed_bps": 25_000_000_000, "mtu": 1500, "rx_missed": 0}
    head, row, other = shown("links", about, up, {"interface": "eth1", "up": False, "mtu": 9000})
    assert row.split() == ["eth0", "up", "25", "Gb/s", "1,500", "0"]
    assert other.split() == ["eth1", "DOWN", "9,000"]


def test_findings_are_said_as_check_says_them() -> None:
    said = {"part": "broker", "state": "failed", "text": "it is away", "remedy": "start it"}
    assert shown("check", {"agent": "ny4-01"}, said) == [
        "ny4-01 checks itself",
        "failed  broker: it is away",
        "        -> start it",
    ]


def test_whatever_was_said_is_printed_as_harmless_text() -> None:
    evil: Any = "\x1b]0;owned\x07\n\u202e"
    for what in ("ping", "trace", "sessions", "links", "check"):
        keys = (
            *(
                "agent",
                "target",
                "address",
                "kind",
                "port",
                "size",
                "flow",
                "seq",
                "rtt_ns",
                "outcome",
                "ttl",
            ),
            *("part", "text", "remedy", "state", "stamp", "remote", "interface", "up", "mtu_hop", "reached"),
        )
        for value in (evil, None, -1, 10**30, [evil], {"a": evil}, True, 1e308):
            for measurement in ("", "probe", "hop", "path"):
                line = {**dict.fromkeys(keys, value), "measurement": measurement}
                assert all(text.isprintable() for text in shown(what, line, line, line, flows=2))


def test_columns_that_nobody_fills_are_left_out() -> None:
    assert columns(["a", "b", "n"], [["1", "", "5"], ["22", "", "10"]], ["n"]) == [
        "a    n",
        "1    5",
        "22  10",
    ]


def test_times_that_cannot_be_are_none() -> None:
    flows = [
        {"measurement": "probe", "flow": "0", "sent": 1, "rtt_p50_ns": 0},
        {"measurement": "probe", "flow": "1", "sent": 1, "rtt_p50_ns": -5, "jitter_ns": -1},
    ]
    assert not any("-5" in line for line in shown("ping", PING, *flows, flows=2))
