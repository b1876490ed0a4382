"""An agent with many flows over two paths in, its points held against the paths out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.netlab import Lab
from tests.lab.reflecting import Reflecting
from tests.lab.running import LabAgent, probes, total
from tests.lab.two_paths import TwoPaths
from tests.system.commands import wait_for

MS = 1_000_000
FLOWS = 16


@pytest.mark.emulator
@pytest.mark.parametrize("version", [4, 6])
def test_each_flow_keeps_its_path_and_the_target_has_both(lab: Lab, tmp_path: Path, version: int) -> None:
    paths = TwoPaths(lab, fast=1 * MS, slow=3 * MS)
    address = paths.ipv4 if version == 4 else paths.ipv6
    target = f'[[target]]\nname = "there"\naddress = "{address}"\nkind = "stamp"\nflows = {FLOWS}'
    with Reflecting(paths.far, tmp_path, "--clock-error", "10us"):
        agent = LabAgent(
            paths.near, tmp_path, target + '\n[host]\nclock_error = "10us"\n', interval="100ms"
        ).start()
        wait_for(lambda: sum(paths.carried()) > 30 * FLOWS, "thirty probes of each flow")
        points = probes(agent.stop(), "there")
    carried = paths.carried()
    groups: dict[bool, list[str]] = {False: [], True: []}
    for flow in map(str, range(FLOWS)):
        mine = [point for point in points if point.tags.get("flow") == flow]
        assert total(mine, "lost") == total(mine, "errors") == 0
        ways = {int(p.fields["forward_p50_ns"]) > 2 * MS for p in mine if "forward_p50_ns" in p.fields}
        assert len(ways) == 1  # it never changes
        groups[ways.pop()] += [flow]
    assert min(map(len, groups.values())) > 0
    for slow, sent in zip((False, True), carried, strict=True):
        mine = [point for point in points if point.tags.get("flow") in groups[slow]]
        # What left in the instant of the end is in no point.
        assert total(mine, "sent") in range(sent - FLOWS, sent + 1)
    whole = [point for point in points if "flow" not in point.tags]
    each = [point for point in points if "flow" in point.tags]
    assert total(whole, "sent") == total(each, "sent")
    full = max(whole, key=lambda point: int(point.fields["sent"]))
    assert 1 * MS <= int(full.fields["forward_min_ns"]) < 2 * MS
    assert int(full.fields["forward_max_ns"]) >= 3 * MS
    # Not the longest: on a busy machine the emulator itself comes late once.
    assert int(full.fields["forward_p90_ns"]) < 5 * MS
