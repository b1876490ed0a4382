"""What a real kernel wrote into its netlink sockets in, what it meant out."""

from __future__ import annotations

import pytest

from probe.host import inet_diag, rtnetlink
from probe.host.rtnetlink import (
    Address,
    Leg,
    Link,
    Neighbour,
    Route,
    link,
    messages,
    neighbour,
    route,
)
from tests.unit.probe.host.kernel import every_recorded, ip, recorded

DECODERS = {16: link, 20: rtnetlink.address, 24: route, 28: neighbour}


def announced(what: str) -> tuple[int, object]:
    """The kind of a recorded announcement, and its record."""
    (data,) = recorded("announcement", what)
    message = next(messages(data))
    return message.kind, DECODERS[message.kind & ~1](message.body)


def test_addresses() -> None:
    veth = next(row.ifindex for row in links().values() if row.name == "veth0")
    assert announced("an address, by somebody") == (20, Address(veth, ip("10.77.0.1"), 24, duplicate=False))
    assert announced("an IPv6 address that is gone") == (
        21,
        Address(veth, ip("fd77::1"), 64, duplicate=False),
    )


@pytest.mark.parametrize(
    ("what", "kind", "expected"),
    [
        (
            "a route",
            24,
            Route(ip("10.60.0.0"), 16, 254, 0, 50, 1, (Leg(ip("10.99.0.2"), 2, 1),), b""),
        ),
        (
            "a route that replaces one",
            24,
            Route(ip("10.60.0.0"), 16, 254, 0, 50, 1, (Leg(ip("10.99.0.3"), 2, 1),), b""),
        ),
        (
            "a route of two next hops",
            24,
            Route(
                *(ip("10.61.0.0"), 24, 254, 0, 0, 1),
                (Leg(ip("10.99.0.2"), 2, 1), Leg(ip("10.99.0.3"), 2, 3)),
                b"",
            ),
        ),
        (
            "the default route in table 300",
            24,
            Route(ip("::"), 0, 300, 0, 1024, 1, (Leg(ip("fd99::2"), 2, 1),), b""),
        ),
        (
            "one of two IPv6 next hops that is gone",
            25,
            Route(ip("fd61::"), 64, 254, 0, 1024, 1, (Leg(ip("fd99::2"), 2, 1),), b""),
        ),
        ("a blackhole", 24, Route(ip("10.62.0.0"), 16, 254, 0, 0, 6, (), b"")),
    ],
)
def test_routes(what: str, kind: int, expected: Route) -> None:
    assert announced(what) == (kind, expected)


def test_neighbours_that_are_known_silent_and_deleted() -> None:
    _, known = announced("a neighbour that is known now")
    assert isinstance(known, Neighbour)
    assert (known.ifindex, known.address, known.mac.hex(":")) == (2, ip("10.99.0.2"), "02:00:00:00:00:02")
    _, silent = announced("a neighbour that does not answer")
    assert silent == Neighbour(2, ip("10.99.0.7"), b"", rtnetlink.FAILED)
    (data,) = recorded("announcement", "a neighbour whose entry is deleted")
    assert next(messages(data)).port, "by whom it was done"


def test_a_link_and_what_is_none() -> None:
    kind, found = announced("a link without carrier")
    assert kind == 16
    assert isinstance(found, Link)
    assert (found.name, found.mtu, found.kind, found.admin_up) == ("veth0", 1500, "veth", True)
    assert (found.carrier, found.operstate, found.carrier_changes) == (False, "down", 3)
    assert announced("a port of a bridge") == (16, None)


def links() -> dict[str, Link]:
    rows = [m for data in recorded("rows", "links") for m in messages(data) if m.kind == 16]
    return {found.name: found for row in rows if (found := link(row.body)) is not None}


def test_rows_end_with_a_mark_and_have_counters() -> None:
    found = links()
    assert list(found) == ["lo", "veth0", "br9"]
    # rx and tx packets, bytes, errors, drops, and what was missed
    assert len(found["veth0"].stats) == len(rtnetlink.STATS) + 1
    packets, sent, received_bytes, sent_bytes, *rest = found["veth0"].stats
    assert min(packets, sent) > 10
    assert received_bytes > 40 * packets
    assert sent_bytes > 40 * sent
    assert rest == [0] * 5
    for name in ("links", "routes"):
        *_, last = messages(b"".join(recorded("rows", name)))
        assert (last.kind, last.sequence) == (rtnetlink.DONE, 7)


def test_of_routes_those_of_the_host_itself_are_none() -> None:
    rows = [m for data in recorded("rows", "routes") for m in messages(data) if m.kind == 24]
    found = [one for row in rows if (one := route(row.body)) is not None]
    assert len(found) < len(rows)
    assert {(one.address, one.length) for one in found} == {
        *((ip("10.99.0.0"), 24), (ip("10.77.0.0"), 24), (ip("10.60.0.0"), 16)),
        *((ip("10.61.0.0"), 24), (ip("10.62.0.0"), 16)),
    }


def test_a_session_is_what_ss_said_of_it() -> None:
    """`ss -tie`, at the same time: rtt:0.01/0.001 pmtu:1500 bytes_sent:5000 bytes_acked:5001
    bytes_received:5000 delivery_rate 1448000000bps minrtt:0.008"""
    datagrams = recorded("sessions", "one to 10.99.0.2:9000, after 50 times 100 bytes there and back")
    everything = b"".join(datagrams)
    assert list(inet_diag.connections(everything, {ip("10.99.0.3")})) == []
    (found,) = inet_diag.connections(everything, {ip("10.99.0.2")})
    assert (found.state, found.local, found.remote_port) == ("ESTABLISHED", ip("10.99.0.1"), 9000)
    assert (found.local_port, found.inode) == (57924, 4467880)
    told = inet_diag.info(found.info)
    assert told is not None
    assert (told.rtt_ns, told.rttvar_ns, told.min_rtt_ns) == (10_000, 1_000, 8_000)
    assert (told.bytes_sent, told.bytes_acknowledged, told.bytes_received) == (5_000, 5_001, 5_000)
    assert (told.delivery_rate_bps, told.path_mtu, told.unacked) == (1_448_000_000, 1500, 0)
    assert (told.total_retransmits, told.lost, told.rto_ns) == (0, 0, 204_000_000)
    assert 0 < told.last_sent_ns == told.last_received_ns <= 676_000_000


def test_an_older_kernel_tells_less() -> None:
    (found,) = inet_diag.connections(
        b"".join(recorded("sessions", "one to 10.99.0.2:9000, after 50 times 100 bytes there and back")),
        {ip("10.99.0.2")},
    )
    old = inet_diag.info(found.info[:104])
    assert old is not None
    assert old.rtt_ns == 10_000
    assert (old.bytes_sent, old.bytes_received, old.min_rtt_ns, old.delivery_rate_bps) == (None,) * 4
    assert inet_diag.info(found.info[:103]) is None


def test_what_is_cut_short_or_damaged_ends_nothing() -> None:
    remotes = {ip("10.99.0.2")}
    seen = 0
    for data in every_recorded():
        damaged = [data[:length] for length in range(0, len(data), 7)]
        damaged += [data[:at] + b"\xff\xff" + data[at + 2 :] for at in range(0, min(len(data), 600), 5)]
        damaged += [data[:at] + b"\0\0" + data[at + 2 :] for at in range(0, min(len(data), 600), 5)]
        for one in damaged:
            for message in messages(one):
                seen += 1
                if (decode := DECODERS.get(message.kind & ~1)) is not None:
                    decode(message.body)
            for connection in inet_diag.connections(one, remotes):
                inet_diag.info(connection.info)
    assert seen > 1000


def test_requests_are_as_the_kernel_wants_them() -> None:
    assert rtnetlink.dump(rtnetlink.ROUTE, 7, 2).hex() == (
        "1c000000" + "1a00" + "0103" + "07000000" + "00000000" + "02" + "00" * 11
    )
    asked = inet_diag.request(10, 3)
    assert len(asked) == 16 + 56
    # ESTABLISHED, SYN-SENT, FIN-WAIT-1 and -2, CLOSE-WAIT, LAST-ACK and CLOSING (net/tcp_states.h)
    states = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11
    assert asked[16:24] == bytes([10, 6, 2, 0]) + states.to_bytes(4, "little")
