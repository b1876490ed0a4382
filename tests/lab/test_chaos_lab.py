"""A short run of the chaos script in, every batch in the database out, whatever was broken meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.plan import draw
from tests.chaos.run import run
from tests.chaos.site import FleetSize, Site, cast

pytestmark = pytest.mark.system

SEED = 616  # every kind of fault, a blackout of all but the agents, queues that overflow

LENGTH_S = 18


def test_nothing_is_lost_and_nothing_is_there_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = draw(SEED, LENGTH_S, cast(fleet=True), pace_s=1.0, longest_s=3.0)
    fleet = FleetSize(agents=4, targets=5, length_s=LENGTH_S)
    with Site(tmp_path, plan, fleet=fleet) as site:
        result = run(site, tell=print)
    assert result.verdict.problems == [], f"{result}\n{capsys.readouterr().out}"
    assert sum(result.injected.values()) == len(plan.faults) >= 12
    assert result.verdict.lost == 0
    assert result.verdict.batches > 5 * LENGTH_S
    # The faults were felt: something had to be sent twice.
    assert result.verdict.sent_again > 0
