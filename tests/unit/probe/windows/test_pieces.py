"""A cut in pieces gives the same numbers as the whole, and no target is cut in two."""

from __future__ import annotations

import pytest
from hypothesis import given

from probe.windows.layout import ORDINARY, Layout, pieces
from probe.windows.summary import OPTIONAL, summarise
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.windows.drawing import TIMEOUT, windows
from tests.unit.probe.windows.plain import Probe, Window


@pytest.mark.parametrize("rows", [1, 30, 100, 10_000])
@repeatable
@given(window=windows())
def test_pieces_together_say_what_the_whole_says(window: Window, rows: int) -> None:
    cut, layout = window.cut(5, 10), window.layout
    whole = summarise(cut, window.flows, TIMEOUT, layout)
    flow_at, group_at = 0, window.flows
    for first, flows, piece, its in pieces(cut, window.flows, rows, layout):
        assert first == flow_at
        part = summarise(piece, flows, TIMEOUT, its)
        assert (part.start_ns, part.end_ns) == (5, 10)
        # The piece's rows among those of the whole: its flows, and the targets that have several of them.
        mine = [*range(first, first + flows), *range(group_at, group_at + len(its.groups))]
        for name, column in part.values.items():
            if not any(name in names for names in OPTIONAL.values()):
                assert column.tolist() == whole.values[name][mine].tolist(), name
        for name in ("timed", "steps", "pairs"):
            assert getattr(part, name).tolist() == getattr(whole, name)[mine].tolist(), name
        for block, names in OPTIONAL.items():
            nobody = [False] * len(mine)
            has = whole.present[block][mine].tolist() if block in whole.present else nobody
            assert (part.present[block].tolist() if block in part.present else nobody) == has, block
            for name in names if any(has) else ():
                values = zip(has, part.values[name].tolist(), whole.values[name][mine].tolist(), strict=True)
                assert all(a == b for there, a, b in values if there), name
        flow_at, group_at = flow_at + flows, group_at + len(its.groups)
    assert (flow_at, group_at) == (window.flows, len(window.rows))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_a_target_stays_in_one_piece(rows: int) -> None:
    nothing = (0,) * 9
    probes = tuple(Probe(flow=flow, due=flow, sent=flow) for flow in range(9))
    window = Window((probes,), (False,) * 9, nothing, nothing, nothing, counts=(1, 4, 1, 1, 2))
    found = [(first, flows) for first, flows, _, _ in pieces(window.cut(), 9, rows, window.layout)]
    assert {first for first, _ in found} <= {0, 1, 5, 6, 7}
    assert len(found) == {1: 5, 2: 3, 3: 2, 5: 2, 100: 1}[rows]
    assert sum(flows for _, flows in found) == 9


def test_pieces_grow_to_the_end_of_a_target() -> None:
    layout = Layout.of(["icmp"] * 9, [(0, 1), (1, 4), (5, 1), (6, 1), (7, 2)])
    assert [layout.end_of(flow) for flow in range(10)] == [0, 1, 5, 5, 5, 5, 6, 7, 9, 9]
    assert layout.part(1, 7) == Layout(groups=((0, 4),))
    assert layout.part(5, 7) == ORDINARY
