"""Links with MTUs, and routers that say so or do not, in: the search finds the smallest and where it is
out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from probe.paths.mtu import LEAST, SMALL, Ask, Found, Outcome, search
from tests.unit.probe.repeatable import repeatable

ROUNDS = 40


class Links:
    """links: the MTU of the link in front of each hop; talk: whether the hop before it says so.

    loss: of answers. mute: hops that never answer at all.
    """

    def __init__(
        self,
        links: Sequence[int],
        talk: Sequence[bool],
        loss: float = 0.0,
        mute: frozenset[int] = frozenset(),
        seed: int = 0,
    ) -> None:
        self.links, self.talk, self.loss, self.mute = links, talk, loss, mute
        self.random = random.Random(seed)
        self.packets = self.rounds = 0
        self.said: int | None = None  # what routers say instead of the truth

    def outcome(self, ask: Ask) -> Outcome:
        size, ttl = ask
        for hop, (mtu, talks) in enumerate(zip(self.links, self.talk, strict=True), start=1):
            if size > mtu:
                limit = mtu if self.said is None else self.said
                return Outcome(limit=limit) if talks and hop - 1 not in self.mute else Outcome()
            if hop == min(ttl, len(self.links)):
                return Outcome(passed=hop not in self.mute)
        raise AssertionError

    def twice(self, ask: Ask) -> Outcome:
        """Each packet is sent again where it is not answered."""
        for _ in range(2):
            self.packets += 1
            if self.random.random() >= self.loss and (found := self.outcome(ask)) != Outcome():
                return found
        return Outcome()

    def find(self, least: int = LEAST[4], hint: int = 0) -> Found | None:
        looking = search(self.links[0], len(self.links), least, hint)
        try:
            asked = next(looking)
            while True:
                self.rounds += 1
                assert self.rounds < ROUNDS
                told: Mapping[Ask, Outcome] = {ask: self.twice(ask) for ask in asked}
                asked = looking.send(told)
        except StopIteration as stop:
            found: Found | None = stop.value
            return found


def first_limit(links: Sequence[int]) -> int:
    """The last hop that packets just above the path's MTU reach."""
    return next(hop for hop, mtu in enumerate(links) if mtu == min(links))


MTUS = st.integers(SMALL + 1, 9100)
LINKS = st.lists(MTUS, min_size=1, max_size=8)


@repeatable
@given(LINKS, st.booleans(), MTUS)
def test_what_another_path_has_found_saves_time_and_changes_nothing(
    links: list[int], talk: bool, hint: int
) -> None:
    for wrong in (hint, min(links), links[0], 0):
        network, plain = (Links(links, [talk] * len(links)) for _ in range(2))
        assert network.find(hint=wrong) == plain.find()
        if wrong == min(links):
            assert network.rounds <= max(plain.rounds, 5)


@repeatable
@given(LINKS, st.data())
def test_the_smallest_link_is_found_whoever_tells(links: list[int], data: st.DataObject) -> None:
    talk = data.draw(st.lists(st.booleans(), min_size=len(links), max_size=len(links)))
    network = Links(links, talk)
    found = network.find()
    assert found is not None
    assert found.mtu == min(links)
    if found.mtu == links[0]:
        assert found.last is None
        return
    limits = [mtu for at, mtu in enumerate(links) if mtu < min(links[:at], default=1 << 20)]
    if all(talk) or not any(talk):
        assert found.silent is not any(talk)
    assert found.last == first_limit(links)
    for ttl in range(1, len(links) + 1):
        reaches = min(links[:ttl])
        # Between two limits, of which one is told and one is not, the nearer one is enough.
        if len(limits) == 2 or all(talk):
            assert found.at(ttl, links[0]) == reaches, ttl
    assert network.packets < 400


@repeatable
@given(
    st.lists(st.sampled_from([1500, 1492, 1400, 1280, 9000]), min_size=2, max_size=6), st.integers(0, 1 << 20)
)
def test_lost_packets_are_no_limit(links: list[int], seed: int) -> None:
    """Of ten packets one is lost: every size is tried twice, and a limit has to hold."""
    network = Links([1500] * len(links), [False] * len(links), loss=0.1, seed=seed)
    found = network.find()
    assert found is None or found.mtu >= 1492 or found.silent
    if found is not None and found.mtu == 1500:
        assert found.last is None


def test_a_target_that_does_not_answer_is_measured_up_to_the_hop_before_it() -> None:
    network = Links([1500, 1500, 1400, 1500], [True] * 4, mute=frozenset({4}))
    assert network.find() == Found(1400, 2, False, ((1500, 2),))
    assert Links([1500] * 4, [True] * 4, mute=frozenset({2, 3, 4})).find() is None


def test_an_old_router_that_says_0_is_heard_but_not_followed() -> None:
    network = Links([1500, 1400], [True, True])
    network.said = 0
    found = network.find()
    assert found is not None
    assert (found.mtu, found.last, found.silent) == (1400, 1, False)


def test_a_router_that_asks_for_less_than_any_link_has_is_not_believed() -> None:
    network = Links([1500, 1400], [True, True])
    network.said = 40
    found = network.find(LEAST[6])
    assert found is not None
    assert found.mtu == 1400
