"""Questions and answers over the broker in, targets out: what strangers say to an agent, and to who asks."""

from __future__ import annotations

import json

from tests.fuzz.target import Feed, Shape, Target

ID = "0123456789abcdef" * 2
OPTIONS = {"count": 5, "interval_ns": 20_000_000, "flows": 2, "size": 100, "timeout_ns": 500_000_000}
SAID: list[dict[str, object]] = [
    {"flow": 0, "seq": 1, "rtt_ns": 12_000, "stamp": "kernel", "outcome": "received", "state": "open"},
    {"measurement": "probe", "sent": 3, "received": 2, "lost": 1, "loss": 0.3, "flow": "1", "jitter_ns": 9},
    {
        "measurement": "session",
        "target": "gw",
        "rtt_ns": 1,
        "stalled": True,
        "waiting_ns": 5,
        "state": "OPEN",
    },
    {"measurement": "interface", "interface": "eth0", "up": False, "speed_bps": 10**10, "mtu": 1500},
    {"measurement": "hop", "flow": "0", "ttl": "1", "address": "192.0.2.1", "sent": 3, "received": 2},
    {"measurement": "path", "flow": "0", "reached": True, "mtu": 1400, "mtu_hop": 1, "mtu_black_hole": True},
    {"part": "broker", "state": "failed", "text": "away", "remedy": "start it"},
]


def _ask() -> Feed:
    from probe.ask_rules import Rules
    from probe.command_line import parser
    from probe.errors import AskError
    from probe.settings import AskTable, agent_from
    from probe.telemetry import asks

    raw = {
        "agent": {"id": "ny4-01"},
        "target": [
            {"name": "gw", "address": "192.0.2.1", "dscp": 46},
            {"name": "port", "address": "192.0.2.2", "kind": "tcp", "port": 9000},
        ],
    }
    targets = agent_from(raw, "agent.toml").target
    every = [
        Rules("ny4-01", AskTable(any_target=anywhere), targets, lambda target: target.address)
        for anywhere in (False, True)
    ]
    understand = parser()

    def feed(data: bytes) -> None:
        try:
            ask = asks.parse(data)
        except AskError as problem:
            assert len(str(problem)) < 400
            assert asks.id_of(data) in ("", ID) or len(asks.id_of(data)) == 32
            return
        assert asks.parse(asks.encode(ask)) == ask
        for rules in every:
            try:
                rules.check_allowed(ask)
                if ask.what != "ping":
                    continue
                target = rules.target(ask.target)
                argv = rules.ping(ask, target)
            except AskError as problem:
                assert str(problem).isprintable()
                assert len(str(problem)) < 1000
                continue
            assert target in targets or rules.table.any_target
            made = understand.parse_args(argv[1:])
            assert made.flows * 1e9 / made.interval <= rules.table.packets_per_second
            assert (made.count - 1) * made.interval + made.timeout <= rules.table.longest

    return feed


def _answer() -> Feed:
    from probe.ask_text import display
    from probe.telemetry import asks

    def feed(data: bytes) -> None:
        part = asks.parse_part(data)
        if part is None:
            return
        for what in ("ping", "trace", "sessions", "links", "check"):
            shown = display(what, 2)
            said = shown.begun(part.begun) if isinstance(part.begun, dict) else []
            for line in part.lines:
                said += shown.line(line)
            said += shown.end()
            assert all(line.isprintable() for line in said)

    return feed


def _status() -> Feed:
    from probe.agents import table
    from probe.asker import status_of

    def feed(data: bytes) -> None:
        first, _, second = data.partition(b"\n")
        status = status_of(first)
        try:
            about = json.loads(second)
        except (ValueError, RecursionError):
            about = {}
        if status is not None:
            told = {"ny4-01": about} if isinstance(about, dict) else {}
            assert all(line.isprintable() for line in table({"ny4-01": status}, told, 1_795_000_000 * 10**9))

    return feed


def _asks() -> list[bytes]:
    from probe.telemetry import asks

    whole = {"id": ID, "what": "ping", "target": "gw", "options": OPTIONS, "from": "ops@desk", "wait_ns": 1}
    return [
        *(json.dumps({"id": ID, "what": what}).encode() for what in ("links", "about", "cancel")),
        json.dumps(whole).encode(),
        json.dumps({**whole, "target": "tcp://192.0.2.9:443", "options": {}}).encode(),
        asks.encode(asks.Ask(id=ID, what="trace", target="gw", options=asks.Options(protocol="udp"))),
    ]


def _parts() -> list[bytes]:
    from probe.telemetry import asks

    about = {"agent": "ny4-01", "target": "gw", "address": "2001:db8::1", "port": 9000, "kind": "tcp"}
    lines = [json.dumps(said).encode() for said in SAID]
    both = json.dumps({"id": ID, "n": 0, "begun": about, "lines": SAID, "done": True}).encode()
    return [both, asks.begun(ID, about), asks.lines(ID, 1, lines), asks.done(ID, 2, 1, "no")]


def _statuses() -> list[bytes]:
    status = {
        "state": "online",
        "version": "0.1.0",
        "since": 1_795_000_000_000_000_000,
        "settings_sha256": "ab",
    }
    about = {"batch": 5, "batch_ns": 17, "wall_ns": 18, "allow": ["ping"], "targets": 3, "unmeasured": 1}
    return [f"{json.dumps(status)}\n{json.dumps(about)}".encode(), b"1\n{}", b"0\n[]"]


WORDS = [
    b'"what":"ping"',
    b'"target":"',
    b'"options":{',
    b'"count":',
    b"null",
    b"-1",
    b"1e999",
    b"\\u001b",
    b"$(",
]

TARGETS = (
    Target(
        "ask",
        "probe.telemetry.asks.parse, probe.ask_rules.Rules",
        "a refusal in words, or a command line within the limits, to a target of ours unless any may be",
        _ask,
        _asks,
        words=WORDS,
        inputs=500,
        shapes=[Shape(b"", b"["), Shape(b'{"id":', b'{"id":'), Shape(b'{"target":"', b"a", b'"}')],
    ),
    Target(
        "answer-part",
        "probe.telemetry.asks.parse_part, probe.ask_text.display",
        "whatever an agent answers, text that moves no terminal's cursor",
        _answer,
        _parts,
        words=[b'"lines":[', b'"measurement":"', b'"path"', b'"mtu_hop":-1', b"\\u009b", b"\\n", b"1e308"],
        inputs=500,
    ),
    Target(
        "agents",
        "probe.asker.status_of, probe.agents.table",
        "whatever an agent says of itself, text that moves no terminal's cursor",
        _status,
        _statuses,
        words=[b'"state"', b'"offline"', b'"since":', b"99999999999999999999", b'"allow":', b"\\u001b[2J"],
        inputs=500,
    ),
)
