"""Announcements and rows of the kernel's tables in, what an operator is told of them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from probe.host.picture import Picture
from probe.host.routes import Routes, Way
from probe.host.rtnetlink import APPEND, Message
from probe.host.table import Said
from probe.host.watched import Aims, Watched, packed, prefix
from tests.unit.probe.host.kernel import (
    FAILED,
    GATEWAY,
    STALE,
    address,
    ip,
    link,
    neighbour,
    read,
    route,
    tell,
    texts,
)

LO = link(1, "lo")
HERE = [link(), link(3, "eth1"), address("10.99.0.1", 24), route("10.99.0.0/24"), route("fd99::/64")]
MAC, OTHER = "02:00:00:00:00:02", "02:00:00:00:00:77"


def picture(*rows: Message, watched: Sequence[Watched] = GATEWAY) -> Picture:
    """Of a host that was read once: nothing of that is news."""
    made = Picture(lambda: watched)
    assert read(made, *HERE, *rows) == []
    return made


def one(said: Sequence[Said]) -> Said:
    assert len(said) == 1, texts(said)
    return said[0]


# -- links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("news", "what", "before", "after", "text"),
    [
        (link(carrier=0, changes=2), "carrier", True, False, "eth0 lost its carrier"),
        (
            link(up=0, carrier=0, changes=2),
            "admin",
            "up",
            "down",
            "eth0 was switched off by somebody on this host",
        ),
        (link(mtu=1400), "mtu", 1500, 1400, "the MTU of eth0 is 1400 now, and was 1500"),
        (link(operstate=5), "operstate", "up", "dormant", "eth0 is dormant now, and was up"),
        (link(name="wan0"), "name", "eth0", "wan0", "the interface eth0 is called wan0 now"),
        (link(gone=True), "removed", "up", None, "the interface eth0 is gone"),
        (link(9, "eth9"), "added", None, "up", "there is an interface eth9 now"),
        (
            link(changes=3),
            *("changes", 1, 3),
            "eth0 flapped: its carrier went and came back once, faster than it is announced",
        ),
        (
            link(changes=21),
            *("changes", 1, 21),
            "eth0 flapped: its carrier went and came back 10 times, faster than it is announced",
        ),
    ],
)
def test_what_happens_to_a_link(news: Message, what: str, before: object, after: object, text: str) -> None:
    said = one(tell(picture(), news))
    assert said.text == text
    assert (said.detail["what"], said.detail["before"], said.detail["after"]) == (what, before, after)
    assert said.interface == ("wan0" if what == "name" else "eth9" if what == "added" else "eth0")


def test_a_carrier_that_comes_back_after_more_than_was_announced() -> None:
    seen = picture()
    tell(seen, link(carrier=0, changes=2))
    said = texts(tell(seen, link(changes=7)))
    assert said[0] == "eth0 has a carrier again: the link is up"
    assert said[1].startswith("eth0 flapped: its carrier went and came back 2 times")
    assert tell(seen, link(changes=7)) == [], "nothing is told twice"


def test_statistics_loopback_and_a_bridges_ports_are_no_news() -> None:
    seen = picture(LO)
    assert tell(seen, link(), LO, LO, link(gone=True, family=7)) == []


def test_a_link_knows_whose_it_is_also_when_its_routes_are_gone() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"))
    tell(seen, link(up=0, carrier=0, changes=2), route("10.60.0.0/16", "10.99.0.2", gone=True))
    back = one(tell(seen, link(changes=3)))
    assert (back.detail["targets"], back.detail["carrier_changes"]) == (["cme-a"], 3)


def test_containers_come_and_go_as_a_lesser_matter() -> None:
    seen = picture()
    (change,) = seen.announced(link(9, "veth9", veth=1))
    assert not change.weighty
    (change,) = seen.announced(link(9, "veth9", veth=1, carrier=0, changes=2))
    assert not change.weighty
    (change,) = seen.announced(link(3, "eth1", carrier=0, changes=2))
    assert change.weighty  # though no target is behind it now
    leading = picture(link(9, "veth9", veth=1), route("10.60.0.0/16", index=9))
    (change,) = leading.announced(link(9, "veth9", veth=1, carrier=0, changes=2))
    assert change.weighty


def test_a_speed_that_changes_and_one_that_is_not_told_for_a_while() -> None:
    links = picture().links
    assert [list(links.speed(2, bps)) for bps in (10**10, 0, 10**10)] == [[], [], []]
    (change,) = links.speed(2, 10**9)
    assert change.say().text == "the speed of eth0 is 1 Gbit/s now, and was 10 Gbit/s"
    assert list(links.speed(77, 10**9)) == []


# -- addresses -----------------------------------------------------------------------------------------------


def test_addresses_come_go_and_are_refused() -> None:
    seen = picture()
    news = [
        *(address("10.77.0.1", 24), address("10.77.0.1", 24), address("10.77.0.1", 24, gone=True)),
        *(address("fd99::1", 64, flags=0x48), address("fd99::1", 64), address("fe80::1", 64)),
    ]
    said = tell(seen, *news)
    assert texts(said) == [
        "eth0 has the address 10.77.0.1/24 now",
        "eth0 has the address 10.77.0.1/24 no longer",
        "the address fd99::1/64 of eth0 is not used: another host has it as well",
        "the address fd99::1/64 of eth0 is no other host's any more",
    ]
    assert [one.detail["what"] for one in said] == ["added", "removed", "duplicate", "usable"]


# -- routes --------------------------------------------------------------------------------------------------


def test_a_route_to_a_target() -> None:
    seen = picture()
    new = one(tell(seen, route("10.60.0.0/16", "10.99.0.2")))
    assert new.text == "the route to 10.60.0.0/16 is new: by 10.99.0.2 on eth0; it leads to cme-a"
    changed = one(tell(seen, route("10.60.0.0/16", "10.99.0.3", index=3)))
    assert changed.text == (
        "the route to 10.60.0.0/16 is by 10.99.0.3 on eth1 now, and was by 10.99.0.2 on eth0; "
        "it leads to cme-a"
    )
    assert changed.interface == "", "it is about two"
    gone = one(tell(seen, route("10.60.0.0/16", "10.99.0.3", index=3, gone=True)))
    assert gone.detail == {
        "what": "removed",
        "destination": "10.60.0.0/16",
        "before": "by 10.99.0.3 on eth1",
        "after": None,
        "table": 254,
        "priority": 0,
        "targets": ["cme-a"],
    }
    assert tell(seen, route("10.60.0.0/16", "10.99.0.3", index=3, gone=True)) == []


def test_a_route_leads_where_nothing_is_more_specific() -> None:
    seen = picture(route("10.60.0.0/24", "10.99.0.2"))
    assert one(tell(seen, route("10.60.0.0/16", "10.99.0.3"))).detail["targets"] == []
    assert (
        one(tell(seen, route("0.0.0.0/0", "10.99.0.9"))).text
        == "the default route is new: by 10.99.0.9 on eth0"
    )
    # Another table is another matter: who is led by it depends on rules.
    other = one(tell(seen, route("0.0.0.0/0", "10.99.0.9", table=300)))
    assert other.text.startswith("the route to 0.0.0.0/0 in table 300 is new")
    assert other.detail["targets"] == ["cme-a"]
    assert one(tell(seen, route("10.60.0.7/32", kind=7))).detail["after"] == "unreachable"
    assert one(tell(seen, route("10.60.0.0/24", "10.99.0.2", gone=True))).detail["targets"] == []


def test_a_target_of_one_interface_is_led_by_no_other() -> None:
    seen = picture(watched=[Watched("b", "", "B", "10.60.0.7", 0, "eth1")])
    assert one(tell(seen, route("10.60.0.0/16", "10.99.0.2", index=2))).detail["targets"] == []
    assert one(tell(seen, route("10.60.0.0/16", "10.99.0.2", index=3))).detail["targets"] == ["b"]


def test_next_hops_come_and_go_one_by_one() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2", "10.99.0.3"))
    less = one(tell(seen, route("10.60.0.0/16", "10.99.0.2", gone=True)))
    assert (less.detail["before"], less.detail["after"]) == (
        "by 10.99.0.2 on eth0 and by 10.99.0.3 on eth0",
        "by 10.99.0.3 on eth0",
    )
    more = one(tell(seen, route("10.60.0.0/16", "10.99.0.2", flags=APPEND)))
    assert more.detail["after"] == "by 10.99.0.3 on eth0 and by 10.99.0.2 on eth0"
    assert one(tell(seen, route("10.60.0.0/16", "10.99.0.2", "10.99.0.3", gone=True))).detail["after"] is None


def test_what_was_not_announced_is_seen_by_reading_again_and_told_once() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"), neighbour("10.99.0.2", MAC))
    now = [*HERE, route("10.60.0.0/16", "10.99.0.3"), neighbour("10.99.0.2", OTHER)]
    said = texts(read(seen, *now, link(9, "eth9")))
    assert said == [
        "there is an interface eth9 now",
        "the route to 10.60.0.0/16 is by 10.99.0.3 on eth0 now, and was by 10.99.0.2 on eth0; "
        "it leads to cme-a",
        f"the neighbour 10.99.0.2 on eth0 has another MAC address: {OTHER}, and had {MAC}",
    ]
    assert read(seen, *now, link(9, "eth9")) == []
    gone = texts(read(seen, *HERE, neighbour("10.99.0.2", OTHER)))
    assert gone == [
        "the interface eth9 is gone",
        "the route to 10.60.0.0/16 is gone: it was by 10.99.0.3 on eth0; it leads to cme-a",
    ]


def test_rows_of_one_place_are_one_route_each_time_they_are_read() -> None:
    twice = [route("10.61.0.0/16", "10.99.0.2"), route("10.61.0.0/16", "10.99.0.3")]
    seen = picture(*twice)
    assert read(seen, *HERE, *twice) == []


def test_news_between_rows_are_told_once() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"))
    part = (24, 2)
    seen.begin(part)
    seen.row(route("10.99.0.0/24"))
    seen.row(route("10.60.0.0/16", "10.99.0.2"))
    said = tell(seen, route("10.60.0.0/16", "10.99.0.3"), route("10.62.0.0/16", "10.99.0.2"))
    seen.row(route("10.62.0.0/16", "10.99.0.2"))
    assert len(said) == 2
    assert list(seen.end(part)) == []
    # While rows come for the first time, what is new may be old.
    first = Picture(list)
    first.begin(part)
    assert tell(first, route("10.60.0.0/16", "10.99.0.2")) == []
    assert len(tell(first, route("10.60.0.0/16", "10.99.0.3"))) == 1


def test_a_reading_that_was_cut_off_changes_nothing() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"))
    seen.begin((24, 2))
    seen.abandon((24, 2))
    assert read(seen, *HERE, route("10.60.0.0/16", "10.99.0.2")) == []


def test_many_routes_share_what_they_have_in_common_and_there_is_an_end() -> None:
    many = [route(f"10.{n >> 8}.{n & 255}.0/24", "10.99.0.2") for n in range(1_000)]
    seen = picture(*many)
    held = seen.routes[4]
    assert len(held.table.current) == 1_001
    assert len({id(ways) for ways in held.table.current.values()}) == 2
    held.table.most = 1_001
    beyond = route("20.0.0.0/24", "10.99.0.2")
    assert read(seen, *HERE, *many, beyond) == []
    assert (len(held.table.current), held.table.beyond) == (1_001, 1)
    assert tell(seen, beyond, beyond) == [], "it cannot be known whether that is new"
    assert len(tell(seen, route("10.0.7.0/24", "10.99.0.3"))) == 1


# -- neighbours ----------------------------------------------------------------------------------------------


def test_who_leads_to_whom_is_seen_anew_only_where_targets_are_concerned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 500 targets it takes 10 ms and more, and others change hundreds of times a second."""
    bound = [*GATEWAY, Watched("cme-b", "CME", "B", "10.61.0.7", interface="eth1")]
    made = picture(route("10.60.0.0/16", "10.99.0.2"), neighbour("10.99.0.2", MAC), watched=bound)
    looked: list[bytes] = []
    towards = Routes.towards

    def look(routes: Routes, address: bytes) -> Iterator[tuple[int, Way]]:
        looked.append(address)
        return towards(routes, address)

    monkeypatch.setattr(Routes, "towards", look)
    for n in range(5):
        tell(made, route(f"192.168.{n}.0/24", f"10.99.0.{n + 3}"), link(10 + n, f"veth{n}"))
        assert one(tell(made, neighbour("10.99.0.2", f"02:00:00:00:01:0{n}"))).detail["targets"] == ["cme-a"]
        tell(made, neighbour(f"10.99.0.{n + 3}", MAC))
    assert len(looked) <= len(bound)
    [said] = tell(made, neighbour("10.99.0.7", OTHER))
    assert "the gateway 10.99.0.7" in said.text  # of a route to no target
    tell(made, route("10.60.0.0/24", "10.99.0.9"), neighbour("10.99.0.9", MAC))
    assert one(tell(made, neighbour("10.99.0.9", OTHER))).detail["targets"] == ["cme-a"]
    tell(made, link(3, "wan1"), link(9, "eth1"))
    assert one(tell(made, link(9, "eth1", carrier=0))).detail["targets"] == ["cme-b"]


def test_a_gateway_whose_mac_changes_is_a_failover_and_being_asked_again_is_nothing() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"), neighbour("10.99.0.2", MAC))
    assert tell(seen, *(neighbour("10.99.0.2", MAC, state) for state in (STALE, 0x08, 0x10, 0x02))) == []
    said = one(tell(seen, neighbour("10.99.0.2", OTHER, STALE)))
    assert said.text == (
        f"the gateway 10.99.0.2 on eth0 has another MAC address (failover?): {OTHER}, and had {MAC}; "
        "behind it: cme-a"
    )
    assert said.interface == "eth0"
    assert said.detail == {
        "what": "mac",
        "address": "10.99.0.2",
        "before": MAC,
        "after": OTHER,
        "state": "known",
        "gateway": True,
        "targets": ["cme-a"],
    }


def test_silence_and_the_answer_after_it() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"), neighbour("10.99.0.2", MAC))
    asked = neighbour("10.99.0.2", state=0x01)
    failed = neighbour("10.99.0.2", state=FAILED)
    said = tell(seen, failed, asked, failed, failed, asked, neighbour("10.99.0.2", MAC))
    assert texts(said) == [
        "the gateway 10.99.0.2 on eth0 does not answer any more; behind it: cme-a",
        "the gateway 10.99.0.2 on eth0 answers again; behind it: cme-a",
    ]
    # It stays silent when the kernel forgets that it was, and asks again.
    nobody = [neighbour("10.99.0.3", state=FAILED), neighbour("10.99.0.3", state=FAILED, gone=True)]
    tell(seen, route("10.61.0.0/16", "10.99.0.3"))
    assert len(tell(seen, *nobody * 3)) == 1
    # Of others it is not told: whoever scans a network leaves hundreds of them.
    assert tell(seen, neighbour("10.99.0.200", state=FAILED)) == []
    assert len(tell(seen, neighbour("10.99.0.200", MAC), neighbour("10.99.0.200", OTHER))) == 1


def test_a_gateway_that_was_forgotten_is_compared_with_who_answers_next() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"), neighbour("10.99.0.2", MAC))
    assert tell(seen, neighbour("10.99.0.2", MAC, gone=True)) == []
    assert read(seen, *HERE, route("10.60.0.0/16", "10.99.0.2")) == []
    assert one(tell(seen, neighbour("10.99.0.2", OTHER))).detail["before"] == MAC
    # Another interface that gets the same number has other neighbours.
    tell(seen, link(gone=True), link())
    assert tell(seen, neighbour("10.99.0.2", MAC)) == []


def test_what_somebody_does_by_hand_is_no_failure() -> None:
    seen = picture(route("10.60.0.0/16", "10.99.0.2"), neighbour("10.99.0.2", MAC))
    assert tell(seen, neighbour("10.99.0.2", state=FAILED, port=77)) == []
    said = one(tell(seen, neighbour("10.99.0.2", OTHER, 0x80, port=77)))
    assert "(set on this host)" in said.text


def test_a_target_on_the_line_itself_is_a_neighbour() -> None:
    seen = picture(neighbour("10.99.0.50", MAC), watched=[Watched("near", "", "", "10.99.0.50")])
    said = one(tell(seen, neighbour("10.99.0.50", OTHER)))
    assert said.text.startswith("the neighbour 10.99.0.50 on eth0 has another MAC address (failover?)")
    assert said.detail["targets"] == ["near"]


# -- targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("10.60.7.9", 0, "0400"),
        ("10.60.7.9", 16, "04100a3c"),
        ("10.60.7.9", 21, "04150a3c00"),
        ("10.60.7.9", 32, "04200a3c0709"),
        ("fd99::1", 10, "100afd80"),
    ],
)
def test_a_network_is_written_short(text: str, length: int, expected: str) -> None:
    assert prefix(ip(text), length).hex() == expected


def test_targets_are_found_by_network() -> None:
    aims = Aims(
        [
            Watched("a", "", "", "10.60.0.7"),
            Watched("six", "", "", "fe80::7%eth0"),
            Watched("no", "", "", "x"),
        ]
    )
    assert aims.within(prefix(ip("10.60.0.0"), 16)) == [ip("10.60.0.7")]
    assert aims.within(prefix(ip("10.61.0.0"), 16)) == ()
    assert aims.within(prefix(ip("::"), 0)) == [ip("fe80::7")]
    assert packed("x") == b""
