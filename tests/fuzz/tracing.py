"""What comes while a path is traced, and what a trace's process says, in; targets out."""

from __future__ import annotations

import struct

from tests.fuzz.target import Chooser, Feed, Target

US, ROUTER, GATEWAY = bytes([10, 0, 0, 1]), bytes([10, 0, 9, 1]), bytes([10, 98, 0, 1])
US6, ROUTER6, GATEWAY6 = (bytes([0xFD, n]) + bytes(14) for n in (1, 2, 3))
PORT = 9000
WAYS = 4  # in which packets come


def _replies() -> Feed:
    from probe.paths import identity
    from probe.paths.replies import Matcher

    flows = identity.flows("x", 4)
    secrets = identity.Secrets.of(bytes(range(1, 17)), 1_700_000_000 * 10**9)
    four, six = (Matcher(target, PORT, flows, secrets) for target in (GATEWAY, GATEWAY6))
    marks = [one.ident.to_bytes(2, "big") for one in flows] + [one.port.to_bytes(2, "big") for one in flows]

    def feed(data: bytes) -> None:
        chosen = Chooser(data)
        way = chosen.number(WAYS)
        rest = chosen.rest
        if way == 0:
            reply = four.icmp4(rest)
        elif way == 1:
            reply = six.icmp6(rest, (GATEWAY6, ROUTER6)[chosen.number(2)])
        elif way == 2:
            reply = four.segment(GATEWAY, rest)
        else:
            reply = four.datagram(1, GATEWAY, PORT, rest)
        if reply is None:
            return
        assert 0 <= reply.flow < len(flows)
        assert reply.number >= 0  # whether such a probe has left, its sender knows
        assert 0 <= reply.mtu < 1 << 32
        # It knows a number of a flow of ours, which is nowhere but in our packets.
        assert way == 3 or any(mark in rest for mark in marks)

    return feed


def _reply_seeds() -> list[bytes]:
    from probe.paths import identity

    flow = identity.flows("x", 4)[2]
    secrets = identity.Secrets.of(bytes(range(1, 17)), 1_700_000_000 * 10**9)
    echo = struct.pack("!BBHHH", 8, 0, 0, flow.ident, secrets.echo_sequence(7)) + secrets.token + bytes(2)
    udp = struct.pack("!HHHH", flow.port, PORT, 52, secrets.udp_checksum(7)) + bytes(44)
    syn = struct.pack("!HHIIHHHH", flow.port, PORT, secrets.tcp_sequence(7), 0, 0x5002, 64240, 0, 0)
    answer = struct.pack(
        "!HHIIHHHH", PORT, flow.port, 9, secrets.tcp_sequence(7) + 1 & 0xFFFFFFFF, 0x5012, 64240, 0, 0
    )
    seeds = [b"\2" + answer, b"\3" + bytes(28) + secrets.token[:6] + bytes(10)]
    for protocol, inner in ((1, echo), (17, udp), (6, syn)):
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(inner), 1, 0x4000, 1, protocol, 0) + US + GATEWAY
        error = struct.pack("!BBHI", 11, 0, 0, 0) + head + inner
        seeds.append(b"\0" + struct.pack("!BBHHHBBH", 0x45, 0, 60, 7, 0, 63, 1, 0) + ROUTER + US + error)
        head6 = struct.pack("!IHBB", 6 << 28, len(inner), 58 if protocol == 1 else protocol, 1)
        seeds.append(b"\1\1" + struct.pack("!BBHI", 3, 0, 0, 0) + head6 + US6 + GATEWAY6 + inner)
    return seeds


def _records() -> Feed:
    from probe.errors import ColoprobeError
    from probe.paths.records import decode

    def feed(data: bytes) -> None:
        try:
            decode(data)
        except ColoprobeError as problem:
            assert len(str(problem)) < 1000

    return feed


TARGETS = (
    Target(
        "trace-replies",
        "probe.paths.replies.Matcher",
        "only what names a flow of this trace answers one of its probes",
        _replies,
        _reply_seeds,
        longest=256,
        inputs=2000,
    ),
    Target(
        "trace-records",
        "probe.paths.records.decode",
        "a record, or one error of bounded length",
        _records,
        lambda: [
            b'{"type":"answer","flow":1,"ttl":3,"address":"192.0.2.1","rtt_ns":12,"stamp":"kernel","what":"x"}',
            b'{"type":"failed","error":"SocketError","text":"no way out"}',
        ],
        inputs=1000,
    ),
)
