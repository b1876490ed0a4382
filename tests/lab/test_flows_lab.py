"""An agent with many flows over two paths in, its points held against the paths out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from probe.telemetry.lines import Point
from tests.lab.netlab import Lab
from tests.lab.reflecting import Reflecting
from tests.lab.running import LabAgent, probes, total
from tests.lab.two_paths import TwoPaths
from tests.system.commands import wait_for

MS = 1_000_000
FLOWS = 16


@pytest.mark.emulator
def test_each_flow_keeps_its_path_and_a_target_has_both(lab: Lab, tmp_path: Path) -> None:
    # So far apart that an emulator on a busy machine makes no flow look like one of the other path.
    paths = TwoPaths(lab, fast=1 * MS, slow=9 * MS)
    rules = {
        ip: [
            paths.far.rule("accept", matches=[f'iifname "{device}" meta nfproto {ip} udp dport 862'])
            for device in paths.devices
        ]
        for ip in ("ipv4", "ipv6")
    }
    targets = "\n".join(
        f'[[target]]\nname = "{name}"\naddress = "{address}"\nkind = "stamp"\nflows = {FLOWS}'
        for name, address in (("ipv4", paths.ipv4), ("ipv6", paths.ipv6))
    )
    with Reflecting(paths.far, tmp_path, "--clock-error", "10us"):
        agent = LabAgent(
            paths.near, tmp_path, targets + '\n[host]\nclock_error = "10us"\n', interval="100ms"
        ).start()
        wait_for(lambda: sum(paths.carried()) > 2 * 30 * FLOWS, "thirty probes of each flow")
        points = agent.stop()
    for name, ways in rules.items():
        keeps_its_path(probes(points, name), [way.counts().hit for way in ways])
    assert sum(paths.carried()) == sum(way.counts().hit for ways in rules.values() for way in ways)


def keeps_its_path(points: Sequence[Point], carried: Sequence[int]) -> None:
    """Each flow of a target; `carried`: its probes on the fast path and on the slow one."""
    groups: dict[bool, list[str]] = {False: [], True: []}
    for flow in map(str, range(FLOWS)):
        mine = [point for point in points if point.tags.get("flow") == flow]
        assert total(mine, "lost") == total(mine, "errors") == 0
        ways = {int(p.fields["forward_p50_ns"]) > 5 * MS for p in mine if "forward_p50_ns" in p.fields}
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
    assert int(full.fields["forward_max_ns"]) >= 9 * MS
    # Not the longest: on a busy machine the emulator itself comes late once.
    assert int(full.fields["forward_p90_ns"]) < 12 * MS
