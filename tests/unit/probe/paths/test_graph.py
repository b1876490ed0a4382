"""Paths of several flows in, one graph out: branches where they differ, everything else once."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from probe.paths.graph import lines, rows
from probe.paths.records import Hop, Path
from tests.unit.probe.repeatable import repeatable


def path(flow: int, routers: str, *, mtu: int | None = None) -> Path:
    """`a b|c * t`: as `probe.paths.memory.text` writes it."""
    hops = []
    for ttl, who in enumerate(routers.split(), start=1):
        names = tuple(who.split("|")) if who != "*" else ()
        hops.append(Hop(ttl, names, 3, 3 if names else 0, 1000 * ttl if names else None, "", mtu))
    return Path(flow, tuple(hops), True, "echo reply", mtu)


def drawn(*paths: Path) -> list[str]:
    """Each line without its times."""
    return [" ".join(line.replace(" ms", "").split()) for line in lines(paths)]


def test_one_way_is_a_list() -> None:
    assert drawn(path(0, "a b t"), path(1, "a b t")) == ["1 a 0.001", "2 b 0.002", "3 t 0.003"]


def test_a_fork_has_branches_and_what_is_behind_it_stands_once() -> None:
    assert drawn(path(0, "a b c t"), path(1, "a x y t"), path(2, "a b c t")) == [
        "1 a 0.001",
        "|-- flows 0 2",
        "| 2 b 0.002",
        "| 3 c 0.003",
        "|-- flow 1",
        "| 2 x 0.002",
        "| 3 y 0.003",
        "4 t 0.004",
    ]


def test_a_fork_within_a_branch() -> None:
    assert drawn(path(0, "a b c e t"), path(1, "a b d e t"), path(2, "a x y z t")) == [
        "1 a 0.001",
        "|-- flows 0 1",
        "| 2 b 0.002",
        "| |-- flow 0",
        "| | 3 c 0.003",
        "| |-- flow 1",
        "| | 3 d 0.003",
        "| 4 e 0.004",
        "|-- flow 2",
        "| 2 x 0.002",
        "| 3 y 0.003",
        "| 4 z 0.004",
        "5 t 0.005",
    ]


def test_branches_of_different_length_meet_again() -> None:
    assert drawn(path(0, "a b t"), path(1, "a t")) == [
        "1 a 0.001",
        "|-- flow 0",
        "| 2 b 0.002",
        "|-- flow 1",
        "2 t 0.002",
    ]


def test_silence_between_routers_that_others_share_is_theirs() -> None:
    assert drawn(path(0, "a b t"), path(1, "a * t")) == [
        "1 a 0.001",
        "2 b 0.002 loss 50 % (3/6)",
        "3 t 0.003",
    ]
    assert drawn(path(0, "a * t")) == ["1 a 0.001", "2 * silent", "3 t 0.003"]
    # Of two that it can be it is neither.
    assert "| 2 * silent" in drawn(path(0, "a b t"), path(1, "a c t"), path(2, "a * t"))


def test_a_router_with_several_addresses_is_one_line() -> None:
    assert drawn(path(0, "a b|c t"), path(1, "a c t"))[1] == "2 b, c 0.002"


def test_where_the_mtu_falls_is_said_once() -> None:
    hops = [
        Hop(ttl, (name,), 3, 3, 1000, "", mtu)
        for ttl, name, mtu in ((1, "a", 1500), (2, "b", 1400), (3, "t", 1400))
    ]
    text = lines([Path(0, tuple(hops), True)], mtu=1500)
    assert ["mtu" in line for line in text] == [False, True, False]
    assert text[1].endswith("mtu 1400 from here")


ROUTES = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d|e", "*"]), max_size=7), min_size=1, max_size=6)


@repeatable
@given(ROUTES)
def test_every_hop_of_every_flow_is_in_it(routes: list[list[str]]) -> None:
    paths = [path(flow, " ".join(route)) for flow, route in enumerate(routes)]
    made = rows(paths)
    for one in paths:
        mine = [row.hop for row in made if row.hop is not None and one.flow in row.flows]
        assert len(mine) == len(one.hops)
        for hop, row in zip(one.hops, mine, strict=True):
            assert set(hop.addresses) <= set(row.addresses)
    assert sum(row.hop.sent for row in made if row.hop is not None) == _sent(paths)
    assert lines(paths) is not None


def _sent(paths: Sequence[Path]) -> int:
    return sum(hop.sent for one in paths for hop in one.hops)
