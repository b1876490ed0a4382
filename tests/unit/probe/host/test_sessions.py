"""Readings of TCP connections in, sessions with their slots, what waits and what is told of them out."""

from __future__ import annotations

import struct

import pytest

from probe.clock import MILLISECOND, SECOND
from probe.host.inet_diag import Connection
from probe.host.quota import OTHERS, WEIGHTY, Quota
from probe.host.sessions import MOST, MOST_OF_A_TARGET, STALL, Sessions
from probe.host.table import Change, Said
from probe.host.watched import Aims, Watched
from probe.telemetry.schema import SESSION
from tests.unit.probe.host.kernel import ip

CME = Watched("cme-a", "CME", "A", "10.60.0.7", 9000)
ANY = Watched("any-port", "", "", "10.60.0.7")
AIMS = Aims([ANY, CME])
LATE = 3_600_000  # ms


def tcp_info(
    *,
    unacked: int = 0,
    sent_ms: int = 5,
    acknowledged_ms: int = 5,
    rto_ms: int = 200,
    retransmits: int = 0,
    probes: int = 0,
    total: int = 0,
    bytes_acknowledged: int = 100,
) -> bytes:
    info = bytearray(232)
    info[0:4] = bytes([1, 0, retransmits, probes])
    for at, value in (
        *((8, rto_ms * 1000), (24, unacked), (44, sent_ms), (52, LATE), (56, acknowledged_ms)),
        *((60, 1500), (68, 40), (72, 7), (100, total), (148, 0xFFFFFFFF)),
    ):
        struct.pack_into("=I", info, at, value)
    for at, value in ((120, bytes_acknowledged), (128, 0), (160, 1000), (200, 12)):
        struct.pack_into("=Q", info, at, value)
    return bytes(info)


def connection(
    number: int = 1,
    remote: str = "10.60.0.7",
    port: int = 9000,
    state: str = "ESTABLISHED",
    local: str = "10.99.0.1",
    **info: int,
) -> Connection:
    told = tcp_info(**info)
    return Connection(state, ip(local), 40_000 + number, ip(remote), port, bytes([number]), number, told)


def texts(changes: object) -> list[str]:
    assert hasattr(changes, "__iter__")
    return [change.say().text for change in changes]


def sessions(*own: int) -> Sessions:
    return Sessions(lambda: set(own))


def test_the_point_of_a_session_has_the_fields_of_the_schema() -> None:
    live = sessions()
    list(live.update([connection(unacked=2, sent_ms=30, acknowledged_ms=20, total=3)], AIMS, SECOND))
    (session,) = live.live
    assert session.tags == {
        "target": "cme-a",
        "venue": "CME",
        "line": "A",
        "remote": "10.60.0.7:9000",
        "session": "0",
    }
    fields = session.fields
    assert [field.name for field in SESSION.fields if field.name in fields] == list(fields)
    kinds = {field.name: field.kind for field in SESSION.fields}
    assert all(type(value).__name__ == kinds[name] for name, value in fields.items())
    assert (fields["rtt_ns"], fields["retransmits_total"], fields["unacked"]) == (40_000, 3, 2)
    assert (fields["delivery_rate_bps"], fields["last_received_ns"]) == (8000, LATE * MILLISECOND)
    assert (fields["waiting_ns"], fields["stalled"]) == (20 * MILLISECOND, False)
    assert "min_rtt_ns" not in fields, "it has none yet"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (connection(port=9000), ("cme-a", "10.60.0.7:9000")),
        (connection(port=8000), ("any-port", "10.60.0.7:8000")),
        (connection(port=51_234), ("any-port", "10.60.0.7")),
        (connection(remote="10.60.0.8"), None),
    ],
)
def test_whose_a_connection_is(found: Connection, expected: tuple[str, str] | None) -> None:
    live = sessions()
    list(live.update([found], AIMS, SECOND))
    assert [(s.target.name, s.remote) for s in live.live] == ([expected] if expected else [])


def test_lines_to_one_gateway_are_told_apart_by_the_address_of_the_interface() -> None:
    lines = [Watched("g-a", "", "A", "10.60.0.7", 0, "eth0"), Watched("g-b", "", "B", "10.60.0.7", 0, "eth1")]
    addresses = {"eth0": {ip("10.1.0.1")}, "eth1": {ip("10.2.0.1")}}
    live = sessions()
    found = [
        connection(1, local="10.2.0.1"),
        connection(2, local="10.1.0.1"),
        connection(3, local="10.3.0.1"),
    ]
    list(live.update(found, Aims(lines), SECOND, addresses.__getitem__))
    assert {(s.target.line, s.connection.cookie[0]) for s in live.live} == {("B", 1), ("A", 2)}


def test_own_sockets_are_no_sessions() -> None:
    live = sessions(1)
    list(live.update([connection(1), connection(2)], AIMS, SECOND))
    assert [session.connection.inode for session in live.live] == [2]


def test_slots_are_small_and_used_again() -> None:
    live = sessions()

    def slots(*numbers: int) -> dict[int, int]:
        list(live.update([connection(n) for n in numbers], AIMS, SECOND))
        return {session.connection.inode: session.slot for session in live.live}

    assert slots(1, 2, 3) == {1: 0, 2: 1, 3: 2}
    assert slots(1, 3) == {1: 0, 3: 2}
    assert slots(1, 3, 4, 5) == {1: 0, 3: 2, 4: 1, 5: 3}
    assert sorted(slots(*range(10, 10 + MOST_OF_A_TARGET + 3)).values()) == list(range(MOST_OF_A_TARGET))
    assert live.beyond == 3
    assert MOST >= MOST_OF_A_TARGET


def test_a_session_that_ended_is_told_of_if_it_was_more_than_a_moment() -> None:
    live = sessions()
    list(live.update([connection(1)], AIMS, SECOND))
    assert texts(live.update([connection(2)], AIMS, 2 * SECOND)) == []
    list(live.update([connection(2, unacked=1)], AIMS, 3 * SECOND))
    assert texts(live.update([], AIMS, 4 * SECOND)) == [
        "session 0 to cme-a (10.60.0.7:9000) has ended; what it had sent last was not acknowledged"
    ]


def test_a_stall_begins_once_and_ends_once() -> None:
    live = sessions()
    at = iter(range(1, 100))

    def reading(**info: int) -> list[str]:
        found = connection()._replace(info=tcp_info(**info))
        return texts(live.update([found], AIMS, next(at) * SECOND))

    # Idle for an hour, and then something was sent 5 ms ago: nobody is stalled.
    assert reading(unacked=1, sent_ms=5, acknowledged_ms=LATE) == []
    # A second later it is still the same.
    assert reading(unacked=1, sent_ms=1005, acknowledged_ms=LATE, retransmits=2, rto_ms=800) == [
        "session 0 to cme-a (10.60.0.7:9000) is stalled: 1 segments sent, no acknowledgement for 1.6 s"
    ]
    assert reading(unacked=1, sent_ms=5, acknowledged_ms=LATE, retransmits=3, rto_ms=1600) == []
    (session,) = live.live
    assert session.waiting_ns >= 2 * SECOND
    assert reading(bytes_acknowledged=200) == ["session 0 to cme-a (10.60.0.7:9000) goes on"]
    assert reading(bytes_acknowledged=200) == []


def test_data_that_flows_is_no_stall_however_long_one_looks() -> None:
    live = sessions()
    for n in range(20):
        changes = live.update([connection(unacked=9, bytes_acknowledged=100 * n)], AIMS, n * 10 * SECOND)
        assert texts(changes) == []


def test_what_is_acknowledged_by_nobody_though_acks_come_is_a_stall() -> None:
    """As where the other end's kernel lives, and our segments are lost on the way."""
    live = sessions()
    list(live.update([connection(unacked=1)], AIMS, 10 * SECOND))
    assert len(texts(live.update([connection(unacked=1)], AIMS, 10 * SECOND + STALL))) == 1


def test_a_receiver_without_room_is_a_stall() -> None:
    live = sessions()
    assert texts(live.update([connection(probes=2)], AIMS, SECOND)) == [
        "session 0 to cme-a (10.60.0.7:9000) is stalled: the other end takes no more data"
    ]


def test_a_connection_that_is_being_made_waits_as_long_as_it_has_been_tried() -> None:
    live = sessions()
    syn = {"unacked": 1, "sent_ms": LATE, "acknowledged_ms": LATE}
    calling = connection(state="SYN-SENT")
    first = calling._replace(info=tcp_info(**syn, rto_ms=1000))
    second = calling._replace(info=tcp_info(**syn, rto_ms=4000, retransmits=2))
    assert texts(live.update([first], AIMS, 10 * SECOND)) == []
    assert len(texts(live.update([second], AIMS, 11 * SECOND))) == 1
    assert live.live[0].waiting_ns == 3 * SECOND


def change(what: str, weighty: bool = False) -> Change:
    return Change("route", what, weighty, lambda: Said("", {}))


def test_of_many_changes_the_first_are_told_and_the_rest_counted() -> None:
    quota = Quota()
    told = [quota.passes(change("added")) for _ in range(312 + OTHERS)]
    assert told == [True] * OTHERS + [False] * 312
    # What matters has room of its own.
    assert [quota.passes(change("removed", weighty=True)) for _ in range(WEIGHTY + 1)].count(True) == WEIGHTY
    ((kind, said),) = quota.rest()
    assert kind == "route"
    assert said.text == "313 more routes changed (312 added, 1 removed), too many to tell of each"
    assert said.detail == {"what": "many", "count": 313, "added": 312, "removed": 1}
    assert list(quota.rest()) == []
    assert quota.passes(change("added"))
