"""`coloprobe diagnose` over a recording: whose trouble is asked for, and names that nobody has."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from collectors.diagnose.command import Where, run
from collectors.diagnose.naming import is_large, named
from collectors.show import as_object
from probe.clock import SECOND
from probe.errors import SinkRefused, UsageError
from tests.unit.collectors.diagnose.faults import catalogue
from tests.unit.collectors.diagnose.site import points


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Where:
    folder = tmp_path_factory.mktemp("recording")
    file = folder / "said.jsonl"
    lines = [json.dumps(as_object(point)) for point in points(catalogue()["line-loss"])]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Where(folder, recording=file)


def asked(where: Where, target: str = "", agent: str = "") -> str:
    out = io.StringIO()
    run(where, 900 * SECOND, False, out, target=target, agent=agent)
    return out.getvalue()


def test_one_target_or_agent_can_be_asked_for(where: Where) -> None:
    for target, agent in (("", ""), ("g1-a", ""), ("", "agent-1"), ("g1-a", "agent-1")):
        assert "1. interface: line-loss" in asked(where, target, agent)
    assert asked(where, target="g1-b") == "no fault at g1-b; elsewhere: interface: line-loss\n"
    assert asked(where, agent="agent-2") == "no fault at agent-2; elsewhere: interface: line-loss\n"


def test_a_point_of_the_future_does_not_move_the_end_of_a_recording(where: Where, tmp_path: Path) -> None:
    assert where.recording is not None
    point = {"time": 2**62, "measurement": "agent", "agent": "agent-9", "batch": 1}
    file = tmp_path / "said.jsonl"
    file.write_text(where.recording.read_text(encoding="utf-8") + json.dumps(point), encoding="utf-8")
    assert asked(Where(tmp_path, recording=file)).replace(str(file), "") == asked(where).replace(
        str(where.recording), ""
    )


def test_a_name_that_nobody_has_is_an_error_with_those_that_there_are(where: Where) -> None:
    with pytest.raises(UsageError, match=r"no target 'g9' .*there are: edge-a, edge-b, g1-a, .* and 6 more"):
        asked(where, target="g9")
    with pytest.raises(
        UsageError, match=r"no agent 'x' has data of that time \(there are: agent-1, agent-2\)"
    ):
        asked(where, agent="x")


def test_where_there_is_no_store_it_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match="--state says where"):
        asked(Where(tmp_path))


@pytest.mark.parametrize(
    ("target", "line", "gateway", "variant"),
    [
        ("nyse-pillar-a", "A", "nyse-pillar", ""),
        ("nyse-pillar-b-tcp", "B", "nyse-pillar", ""),
        ("nyse-pillar-a-big", "A", "nyse-pillar", "big"),
        ("nyse-pillar-a-9000", "A", "nyse-pillar", "9000"),
        ("edge-lineA", "A", "edge", ""),
        ("192.0.2.10", "", "192.0.2.10", ""),
        ("2001:db8::1", "A", "2001:db8::1", ""),
        ("tcp", "A", "tcp", ""),
        ("a", "A", "a", ""),
        ("", "", "", ""),
    ],
)
def test_what_a_name_says(target: str, line: str, gateway: str, variant: str) -> None:
    assert named(target, line) == (gateway, variant)
    assert is_large(variant) == (variant in ("big", "9000"))
