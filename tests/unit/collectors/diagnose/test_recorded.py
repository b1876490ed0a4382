"""Points recorded while a fault was really there (`python -m tests.faults --record DIR`), what is said."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from collectors.diagnose.facts import gather
from collectors.diagnose.verdicts import diagnose
from collectors.history import PointHistory, from_json
from probe.clock import SECOND
from probe.telemetry.lines import Point

FOLDER = Path(__file__).parents[3] / "vectors" / "faults"
INDEX: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
WINDOW = 2 * SECOND


# What windows alone show, without a word of hosts, interfaces, sessions or paths.
BY_WINDOWS = (
    *("ecmp-member", "firewall", "gateway-down", "gateway-slow", "line-delay", "line-loss"),
    *("mtu-black-hole", "port-closed", "route-change"),
)


def said(name: str, points: Iterable[Point]) -> list[str]:
    """The causes that are named of what is new."""
    history = PointHistory(points)
    about = INDEX[name]
    # One looked at it then; nothing came after that, if the broker was away.
    at = max(about["until_ns"], history.newest_ns(1 << 62) or 0)
    found = diagnose(gather(history, at - 60 * SECOND, at))
    # What was mended just before is in the recording too.
    since = about["began_ns"] - 4 * SECOND
    return [one.cause for one in found if one.since_ns is None or one.since_ns > since]


def recording(name: str) -> list[Point]:
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return list(from_json(file, name))


@pytest.mark.parametrize("name", sorted(INDEX))
def test_a_recorded_fault_is_named(name: str) -> None:
    found, faults = said(name, recording(name)), INDEX[name]["faults"]
    if len(faults) < 2:
        assert found[:1] == (faults or ["none"])
    else:
        assert set(faults) <= set(found)


@pytest.mark.parametrize("name", BY_WINDOWS)
def test_windows_alone_name_what_is_no_matter_of_the_host(name: str) -> None:
    assert said(name, [point for point in recording(name) if point.measurement == "probe"])[:1] == [name]


@pytest.mark.parametrize("name", ["firewall", "gateway-down", "mtu-black-hole"])
def test_who_falls_silent_within_the_newest_window_is_not_taken_for_who_loses_some(name: str) -> None:
    began = INDEX[name]["began_ns"]
    end = (began // WINDOW + 1) * WINDOW  # of the window in which it began
    first = [
        point
        for point in recording(name)
        if point.time_ns <= (end - WINDOW if point.measurement == "probe" else end + SECOND)
    ]
    found = diagnose(gather(PointHistory(first), end - 60 * SECOND, end + SECOND))
    assert [one.cause for one in found] == [name]


def test_what_hits_half_of_all_targets_is_not_usual() -> None:
    # Without the flows that tell paths apart there is no saying what it is: so nothing is named.
    some = [point for point in recording("ecmp-member") if point.tags.get("kind") != "stamp"]
    assert said("ecmp-member", some) == ["unknown"]
