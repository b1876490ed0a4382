"""Windows in, table rows out: states, losses, gaps and what a stranger may send."""

from __future__ import annotations

import re

from collectors.board.rows import HISTORY, SPARK_HEIGHT, Summary, Window, row_of, shown, spark_of, state_of
from probe.clock import SECOND

T = 1_700_000_000 * SECOND
L = 2 * SECOND


def window(n: int, sent: int = 20, lost: int = 0, p50: int = 30_000) -> Summary:
    fields: dict[str, int | float] = {"sent": sent, "received": sent - lost, "lost": lost}
    if sent:
        fields["loss"] = lost / sent
    if sent > lost:
        fields |= {"rtt_p50_ns": p50, "rtt_p99_ns": p50 * 2, "rtt_max_ns": p50 * 3, "jitter_ns": 500}
    return Summary.of(Window(T + n * L, fields))


def at(n: int) -> int:
    """Half a second after the n-th window closed."""
    return T + (n + 1) * L + SECOND // 2


def test_states() -> None:
    fine = [window(n) for n in range(10)]
    assert state_of(fine, L, at(9)) == "ok"
    assert state_of([*fine, window(10, lost=20)], L, at(10)) == "no reply"
    assert state_of([*fine, window(10, sent=0)], L, at(10)) == "not sent"
    assert state_of([*fine, window(10, lost=1)], L, at(10)) == "loss"
    assert state_of(fine, L, at(9) + 60 * SECOND) == "stale"
    assert state_of([*fine, window(10, lost=20)], L, at(10) + 60 * SECOND) == "stale"


def answers(open_: int, closed: int) -> Summary:
    fields = {"sent": 20, "received": open_ + closed, "lost": 20 - open_ - closed}
    return Summary.of(Window(T, {**fields, "open": open_, "closed": closed}))


def test_a_port_that_nobody_listens_on_is_not_ok() -> None:
    for window, state, more in (
        (answers(20, 0), "ok", "open"),
        (answers(0, 20), "closed", "closed"),
        (answers(0, 19), "closed", "closed"),
        (answers(1, 19), "ok", "19 of 20 closed"),
        (answers(0, 0), "no reply", ""),
    ):
        row = row_of(1, {"kind": "tcp"}, [window], at(0))
        assert (row.state, row.more, shown(row)["more"]) == (state, more, more)


def test_one_way_delays_stand_beside_the_kind() -> None:
    def more(**fields: int) -> str:
        window = Summary.of(Window(T, {"sent": 1, "received": 1, "lost": 0, **fields}))
        return row_of(1, {"kind": "stamp"}, [window], at(0)).more

    assert more(forward_p50_ns=3_000_000, backward_p50_ns=-1_500) == "→ 3.00 ms ← -1.50 µs"
    assert more(forward_p50_ns=0) == "→ 0 ns ← –"  # noqa: RUF001
    assert more() == ""


def test_of_a_loss_the_row_says_which_way_it_was() -> None:
    def more(**fields: int) -> str:
        window = Summary.of(Window(T, {"sent": 30, "received": 5, "lost": 25, **fields}))
        return row_of(1, {"kind": "stamp"}, [window], at(0)).more

    lost = {"forward_lost": 24, "backward_lost": 0}
    assert more(forward_p50_ns=559, backward_p50_ns=429, **lost) == "→ 559 ns, 24 lost ← 429 ns"
    assert more(**lost) == "→ 24 lost"
    assert more(forward_lost=1_200, backward_lost=3) == "→ 1,200 lost ← 3 lost"
    assert more(forward_lost=0, backward_lost=0) == ""


def test_loss_is_remembered_for_a_minute_of_data_and_not_longer() -> None:
    windows = [window(0, lost=1), *(window(n) for n in range(1, 60))]
    states = [state_of(windows[: n + 1], L, at(n)) for n in range(60)]
    assert states == ["loss"] * 30 + ["ok"] * 30


def test_stale_counts_in_windows_where_they_are_long() -> None:
    minute = [Window(T + n * 60 * SECOND, {"sent": 60, "received": 60, "lost": 0}) for n in range(3)]
    slow = [Summary.of(window) for window in minute]
    end = T + 180 * SECOND
    assert state_of(slow, 60 * SECOND, end + 170 * SECOND) == "ok"
    assert state_of(slow, 60 * SECOND, end + 190 * SECOND) == "stale"


def test_a_row_shows_the_newest_window_and_the_loss_of_its_history() -> None:
    windows = [window(0, lost=10), *(window(n) for n in range(1, 9)), window(9, p50=28_450)]
    row = row_of(7, {"target": "nyse-a", "venue": "NYSE", "kind": "icmp", "dscp": "46"}, windows, at(9))
    assert (row.state, row.sent, row.loss, row.loss_history) == ("loss", 20, 0.0, 0.05)
    assert row.end_ns == T + 10 * L
    line = shown(row)
    assert (line["target"], line["venue"], line["line"], line["kind"]) == (
        "nyse-a",
        "NYSE",
        "",
        "icmp dscp 46",
    )
    assert (line["p50_text"], line["p99_text"], line["max_text"]) == ("28.4 µs", "56.9 µs", "85.3 µs")
    assert (line["loss_text"], line["history_text"], line["history_level"]) == ("0 %", "5.00 %", "bad")


def test_nothing_received_shows_dashes_and_never_a_zero() -> None:
    line = shown(row_of(1, {}, [window(0, lost=20)], at(0)))
    assert line["state"] == "no reply"
    assert {line[f"{name}_text"] for name in ("jitter", "p50", "p99", "max")} == {"–"}  # noqa: RUF001
    assert line["loss_text"] == "100 %"


def test_worse_states_sort_higher() -> None:
    rows = [
        row_of(1, {}, [window(0)], at(0)),
        row_of(2, {}, [window(0, lost=1)], at(0)),
        row_of(3, {}, [window(0, lost=2)], at(0)),
        row_of(4, {}, [window(0, sent=0)], at(0)),
        row_of(5, {}, [window(0)], at(0) + 300 * SECOND),
        row_of(6, {}, [window(0, lost=20)], at(0)),
    ]
    rows.insert(3, row_of(7, {}, [answers(0, 20)], at(0)))
    severities = [shown(row)["severity"] for row in rows]
    assert severities == sorted(severities, key=float)  # type: ignore[arg-type]
    assert len(set(severities)) == len(rows)


def test_a_window_of_a_stranger_is_no_crash() -> None:
    odd = Window(T, {"sent": "many", "lost": True, "loss": "x", "rtt_p50_ns": "fast", "received": 1.5})
    line = shown(row_of(1, {"target": "t"}, [Summary.of(odd)], at(0)))
    assert line["state"] == "not sent"
    assert line["p50"] is None


def test_a_spark_has_its_gaps_and_its_losses() -> None:
    lost = range(3, 8)  # from second 6 to 16: the step from 10 to 15 has no reply
    windows = [window(n, lost=20 if n in lost else 0) for n in (*range(10), 20, 21)]
    spark = spark_of(windows, L)
    assert spark.p50.count("M") == 3  # before the loss, after it, and after the gap in the data
    assert spark.loss.count("M") == 2  # the steps that the loss touches
    assert spark_of([], L).p50 == ""


def test_a_spark_hides_no_spike_between_its_steps() -> None:
    spike = [window(n, p50=900_000 if n == 75 else 30_000) for n in range(150)]
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", spark_of(spike, L).p99)]
    assert min(heights) == 2.0
    assert len(heights) <= 61


def test_a_flat_line_is_drawn_flat_and_everything_stays_inside() -> None:
    steady = spark_of([window(n, p50=30_000 + n % 2) for n in range(150)], L)
    heights = {float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", steady.p50)}
    assert max(heights) - min(heights) < 0.2
    wild = spark_of([window(n, p50=10 ** (n % 9)) for n in range(HISTORY // L)], L)
    for path in (wild.p50, wild.p99):
        assert all(0 <= float(y) <= SPARK_HEIGHT for y in re.findall(r"[ML][\d.]+ (-?[\d.]+)", path))
