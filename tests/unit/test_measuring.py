"""The page of definitions and the code in, agreement out: every field is there, its numbers are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from probe import host_watch
from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.detect import detector, found, levels, shifts
from probe.engine import channel, engine, stamps
from probe.host import listener, neighbours, quota, routes, sessions
from probe.settings import EngineTable
from probe.telemetry.schema import AGENT, INTERFACE, PROBE, PROBE_HISTOGRAM, SESSION, Measurement
from probe.windows.histogram import BOUNDS

PAGE = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8")
UNITS = {"int": ("count", "ns", "bytes", "bit/s"), "float": ("ratio",), "bool": ("bool",), "str": ("text",)}


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("title", "measurement"),
    [
        ("Fields of `probe`", PROBE),
        ("Field of `probe_histogram`", PROBE_HISTOGRAM),
        ("Fields of `interface`", INTERFACE),
        ("Fields of `session`", SESSION),
    ],
)
def test_every_field_is_defined_once_in_the_order_of_the_schema(title: str, measurement: Measurement) -> None:
    defined = re.findall(r"^- \*\*`(\w+)`\*\* \(([\w/]+)\)\. ", section(title), re.MULTILINE)
    assert [name for name, _ in defined] == [field.name for field in measurement.fields]
    for (name, unit), field in zip(defined, measurement.fields, strict=True):
        assert unit in UNITS[field.kind]
        assert (unit == "ns") == name.endswith("_ns")
        assert (unit == "bit/s") == name.endswith("_bps")


def test_what_it_says_of_other_fields_exists() -> None:
    known = {field.name for field in AGENT.fields}
    named = set(re.findall(r"`agent\.(\w+)`", PAGE))
    assert named
    assert named <= known


# A sentence of the page, and the constant behind its number.
@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("within 250 ms of its due time", channel.CATCH_UP, 250 * MILLISECOND),
        ("250 ms + `window.timeout` + 2 ms after its end", engine.MARGIN, 2 * MILLISECOND),
        ("unread, up to 250 ms", engine.DRAIN_EVERY, 250 * MILLISECOND),
        ("at most 250 ms later", engine.DRAIN_EVERY, 250 * MILLISECOND),
        ("a tick comes more than 100 ms late", channel.STALL, 100 * MILLISECOND),
        ("more than 200 us (a step)", stamps.STEP, 200 * MICROSECOND),
        ("Ticks (default 10 ms)", int(EngineTable().tick), 10 * MILLISECOND),
        ("from 1,024 ns to 2^36 ns (69 s)", BOUNDS[-1], 2**36),
        ("up to 1,024 ns", BOUNDS[0], 1_024),
        ("and by 40 us or more (2 us where", detector.NOTABLE, 40 * MICROSECOND),
        ("(2 us where most RTTs are by the interface's clock)", detector.NOTABLE_HARDWARE, 2 * MICROSECOND),
        ("has stayed for 60 windows", shifts.STAYS, 60),
        ("median of the last 32 windows", levels.HISTORY, 32),
        ("at most 1.25 steps from", detector.LATENCY.clip, 1.25),
        ("it tells at 0.32 steps", detector.LATENCY.least, 0.32),
        ("counts as at most 0.3 steps", detector.LATENCY.restless, 0.3),
        ("median lies 0.8 steps off", levels.NEARLY, 0.8),
        ("if at least 6 RTTs show it", detector.LATENCY.probes, 6),
        ("told from the 7th window on", detector.LATENCY.learn, 6),
        ("jitter from the 17th", detector.JITTER.learn, 16),
        ("takes four windows and 100 RTTs", detector.JITTER.windows, 4),
        ("four windows and 100 RTTs", detector.JITTER.probes, 100),
        ("More than 16 events of one kind", found.TOGETHER, 16),
        ("At most 32 interfaces", host_watch.MOST_INTERFACES, 32),
        ("takes more than 50 ms to tell them", host_watch.SLOW, 50 * MILLISECOND),
        ("at most 16 of a target", sessions.MOST_OF_A_TARGET, 16),
        ("and 256 in all", sessions.MOST, 256),
        ("`waiting_ns` is 1 s or more", sessions.STALL, SECOND),
        ("looks for them 100 ms later", listener.SETTLED, 100 * MILLISECOND),
        ("Of a kind 40 changes a window", quota.WEIGHTY, 40),
        ("and 10 others", quota.OTHERS, 10),
        ("more than 500 announcements in a second", listener.BUDGET, 500),
        ("20,000 networks of each family", routes.MOST, 20_000),
        ("as many neighbours", neighbours.MOST, 20_000),
    ],
)
def test_its_numbers_are_the_codes(text: str, value: float, expected: float) -> None:
    assert text in " ".join(PAGE.split())
    assert value == expected


def test_what_it_says_of_the_jitter_of_short_windows() -> None:
    assert "48 % of it at 10, 80 % at 25, 99.8 % at 100" in " ".join(PAGE.split())
    assert [f"{1 - (15 / 16) ** k:.1%}" for k in (10, 25, 100)] == ["47.6%", "80.1%", "99.8%"]
    assert round(BOUNDS[-1] / SECOND) == 69
