"""Agents and events in, panel lines out; what comes from the network cannot become markup."""

from __future__ import annotations

from collectors.board import markup
from collectors.board.panels import Event, Health, event_of, health_of
from collectors.board.rows import Window
from probe.clock import SECOND
from probe.telemetry.lines import Value

T = 1_700_000_000 * SECOND


def test_an_agent_in_good_health() -> None:
    fields: dict[str, Value] = {
        "spool_batches": 1,
        "spool_bytes": 4096,
        "spool_dropped": 0,
        "rss_bytes": 61_000_000,
        "socket_drops": 0,
        "clock_synchronised": True,
        "clock_error_ns": 210_000,
        "version": "0.1.0",
    }
    points = [Window(T, {**fields, "cpu_ns": 0}), Window(T + 10 * SECOND, {**fields, "cpu_ns": 300_000_000})]
    health = health_of({"agent": "ny4-01", "site": "NY4"}, points, T + 12 * SECOND)
    assert dict(health.facts) == {
        "spool": "1 batch",
        "cpu": "3.00 %",
        "rss": "58.2 MiB",
        "socket drops": "0",
        "clock": "synchronised ±210 µs",
        "version": "0.1.0",
    }
    assert (health.live, health.alarms) == (True, frozenset())


def test_an_agent_in_trouble() -> None:
    fields = {"spool_batches": 900, "spool_bytes": 5 << 20, "spool_dropped": 3, "socket_drops": 12}
    point = Window(T, {**fields, "clock_synchronised": False, "cpu_ns": 5})
    health = health_of({"agent": "a"}, [point], T + 120 * SECOND)
    assert health.alarms == {"spool dropped", "socket drops", "clock"}
    assert dict(health.facts)["spool"] == "900 batches, 5.00 MiB"
    assert dict(health.facts)["cpu"] == "–"  # noqa: RUF001
    assert not health.live


def test_a_restarted_agent_has_no_negative_cpu() -> None:
    points = [Window(T, {"cpu_ns": 10**12}), Window(T + SECOND, {"cpu_ns": 5})]
    assert dict(health_of({}, points, T).facts)["cpu"] == "–"  # noqa: RUF001


def test_events() -> None:
    tags = {"agent": "a", "kind": "link", "interface": "ens1f0"}
    up = event_of(tags, Window(T, {"text": "ens1f0 is up", "detail": ""}))
    down = event_of(tags, Window(T, {"text": "ens1f0 is down"}))
    assert (up.when, up.kind, up.subject, up.words, up.alarm) == (
        "22:13:20",
        "link",
        "a ens1f0",
        "ens1f0 is up",
        False,
    )
    assert down.alarm
    assert event_of({}, Window(1 << 62, {"text": 5})).words == "5"


def test_texts_of_strangers_are_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>"
    event = Event(T, "12:00:00", evil, evil, evil, alarm=False)
    health = Health(evil, evil, True, T, (("version", evil),), frozenset())
    for html in (markup.events([event]), markup.agents([health])):
        assert "<img" not in html
        assert "&lt;img" in html


def test_chips_count_states_worst_first() -> None:
    rows = [{"state": state} for state in ("ok", "no reply", "ok", "stale")]
    html = markup.chips(rows)
    assert html.index("1 no reply") < html.index("1 stale") < html.index("2 ok")
    assert "loss" not in html
