"""What traces see in, ids that change when the path does and at no other time out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from probe.paths.memory import FORMER, PathMemory, text
from tests.unit.probe.repeatable import repeatable

Hops = list[tuple[str, ...]]


def _path(length: int) -> Hops:
    return [*((f"r{n}",) for n in range(length - 1)), ("target",)]


# A path: routers and the target, all different.
PATHS = st.integers(2, 12).map(_path)


def silenced(hops: Hops, which: set[int]) -> Hops:
    return [() if at in which else who for at, who in enumerate(hops)]


def some(hops: Hops) -> st.SearchStrategy[set[int]]:
    """Hops that are silent, the target not among them."""
    return st.sets(st.integers(0, len(hops) - 2))


@repeatable
@given(st.data())
def test_silence_never_changes_an_id_and_what_is_learnt_does_not_either(data: st.DataObject) -> None:
    path = data.draw(PATHS)
    memory = PathMemory()
    first = memory.observe(silenced(path, data.draw(some(path))), True)
    assert first.path_id
    for _ in range(data.draw(st.integers(1, 6))):
        seen = silenced(path, data.draw(some(path)))
        if data.draw(st.booleans()):  # the target is silent: who answered last ends it
            verdict = memory.observe([*seen[:-1], ()], False)
        else:
            verdict = memory.observe(seen, True)
        assert (verdict.changed, verdict.path_id) == (False, first.path_id)
    assert memory.observe([], False).path_id == first.path_id
    assert memory.observe(path, True).hops == tuple(map(frozenset, path))


@repeatable
@given(st.data())
def test_another_router_is_another_path_and_the_way_back_has_its_old_id(data: st.DataObject) -> None:
    path = data.draw(PATHS)
    at = data.draw(st.integers(0, len(path) - 2))
    other = [*path[:at], ("elsewhere",), *path[at + 1 :]]
    memory = PathMemory()
    first = memory.observe(path, True)
    silent = data.draw(some(path)) - {at}
    found = memory.observe(silenced(other, silent), True)
    assert (found.changed, found.before_id, found.hop) == (True, first.path_id, at + 1)
    assert found.path_id != first.path_id
    assert (found.before, found.after) == (text(path), text(silenced(other, silent)))
    assert not memory.observe(other, True).changed
    back = memory.observe(path, True)
    assert (back.changed, back.path_id, back.before_id) == (True, first.path_id, found.path_id)


@repeatable
@given(PATHS, st.integers(1, 4))
def test_a_longer_path_is_another_one(path: Hops, more: int) -> None:
    longer = [*path[:-1], *((f"new{n}",) for n in range(more)), path[-1]]
    memory = PathMemory()
    first = memory.observe(path, True)
    found = memory.observe(longer, True)
    assert (found.changed, found.hop) == (True, len(path))
    back = memory.observe(path, True)
    assert (back.changed, back.hop, back.path_id) == (True, len(path), first.path_id)


def test_a_target_that_misses_its_nearest_probes_is_not_further_away_at_once() -> None:
    memory = PathMemory()
    near: Hops = [("a",), ("b",), ("t",)]
    far: Hops = [("a",), ("b",), (), ("t",)]
    first = memory.observe(near, True)
    assert not memory.observe(far, True).changed
    assert not memory.observe(near, True).changed  # the doubt is gone
    assert not memory.observe(far, True).changed
    found = memory.observe(far, True)
    assert (found.changed, found.hop, found.before_id) == (True, 3, first.path_id)


def test_a_router_with_several_addresses_is_one() -> None:
    memory = PathMemory()
    first = memory.observe([("a",), ("b1", "b2"), ("t",)], True)
    for who in ("b2", "b1", "b2"):
        assert memory.observe([("a",), (who,), ("t",)], True).path_id == first.path_id
    # One that shows its other address only later is learnt, when two traces have seen both.
    other = PathMemory()
    other.observe([("b1",), ("t",)], True)
    for _ in range(2):
        assert not other.observe([("b1", "b2"), ("t",)], True).changed
    assert not other.observe([("b2",), ("t",)], True).changed


def test_a_change_in_the_midst_of_a_trace_is_found_by_the_next_one() -> None:
    memory = PathMemory()
    memory.observe([("a",), ("old",), ("t",)], True)
    assert not memory.observe([("a",), ("old", "new"), ("t",)], True).changed
    found = memory.observe([("a",), ("new",), ("t",)], True)
    assert (found.changed, found.hop) == (True, 2)


def test_a_path_of_which_nothing_was_seen_has_no_id() -> None:
    memory = PathMemory()
    assert memory.observe([], False).path_id == memory.observe([(), ()], False).path_id == ""
    first = memory.observe([("a",), ("t",)], True)
    assert (first.changed, memory.observe([], False).path_id) == (False, first.path_id)


def test_what_is_remembered_is_bounded() -> None:
    memory = PathMemory()
    ids = [memory.observe([(f"r{n}",), ("t",)], True).path_id for n in range(3 * FORMER)]
    assert len(set(ids)) == len(ids)
    assert len(memory._paths) <= FORMER + 1


def test_ids_are_the_same_in_every_run() -> None:
    assert PathMemory().observe([("10.0.0.1",), (), ("10.0.9.9",)], True).path_id == "67793c7cf40b"
