"""Windows of flows in, a line for each out: the odd one is marked, what is not probed any more is gone."""

from __future__ import annotations

from collectors.board import markup
from collectors.board.flows import Flow, flows_of
from collectors.board.rows import Window
from probe.clock import SECOND

T = 1_700_000_000 * SECOND
L = 10 * SECOND


def windows(p50: int | None = 30_000, lost: int = 0, last: int = 9) -> list[Window]:
    rtt = {} if p50 is None else {"rtt_p50_ns": p50, "rtt_p99_ns": 2 * p50}
    return [
        Window(T + n * L, {"sent": 10, "received": 10 - lost, "lost": lost, **rtt}) for n in range(last + 1)
    ]


def test_one_bad_flow_of_sixteen() -> None:
    flows = flows_of((str(n), windows(lost=5 * (n == 7))) for n in range(16))
    assert [flow.name for flow in flows] == [str(n) for n in range(16)]  # 10 does not stand before 2
    assert [flow.name for flow in flows if flow.loss] == ["7"]
    assert flows[7].loss == 0.5
    slow = flows_of((str(n), windows(p50=90_000 if n == 3 else 30_000 + n)) for n in range(16))
    assert [flow.name for flow in slow if flow.odd] == ["3"]


def test_noise_is_not_odd() -> None:
    assert not any(flow.odd for flow in flows_of((str(n), windows(p50=1_000 * n)) for n in range(1, 15)))


def test_a_dead_flow_has_no_times_and_all_are_dead_where_nothing_answers() -> None:
    flows = flows_of([("0", windows()), ("1", windows(p50=None, lost=10))])
    assert flows[1] == Flow("1", 1.0, None, None, odd=False)
    assert [flow.loss for flow in flows_of([("0", windows(p50=None, lost=10))])] == [1.0]
    assert flows_of([]) == []
    assert flows_of([("0", [])]) == []


def test_loss_is_of_the_last_minute_and_other_flows_are_gone() -> None:
    before, after = windows(lost=10, last=3), windows()
    flows = flows_of([("0", [*before, *after[4:]]), ("1", windows(last=2))])
    assert [(flow.name, flow.loss) for flow in flows] == [("0", 0.0)]


def test_a_table_of_flows() -> None:
    assert markup.flows([]) == ""
    html = markup.flows(
        [Flow("0", 0.0, 50_000, 60_000, odd=False), Flow("<b>", 0.5, 100_000, None, odd=True)]
    )
    assert "width:50.0%" in html
    assert "width:100.0%" in html
    assert '<td class="bad">50.0 %</td><td class="warn">100 µs</td>' in html
    assert "<b>" not in html
    assert "width:0.0%" in markup.flows([Flow("0", 1.0, None, None, odd=False)])
