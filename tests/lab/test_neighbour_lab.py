"""An agent whose first probes have to wait for a MAC address in, no trace of that wait in its numbers out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.capture import Capture
from tests.lab.definitions import MS, flow
from tests.lab.netlab import Lab
from tests.lab.running import LabAgent, probes, total
from tests.system.commands import wait_for

WAIT = 200 * MS
# The answer to the first question is lost, so that the kernel asks again after its `retrans_time_ms`.
MUTE = {
    4: "table arp mute { chain hooked { type filter hook input priority 0; numgen inc mod 1000 0 drop; }; }",
    6: "table inet mute { chain hooked { type filter hook input priority 0; "
    "icmpv6 type nd-neighbor-solicit numgen inc mod 1000 0 drop; }; }",
}


@pytest.mark.parametrize("version", [4, 6])
def test_waiting_for_a_neighbour_is_in_no_rtt_and_the_first_probe_counts(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    near, far = lab.pair(static_neighbours=False)
    far.nft(MUTE[version])
    near.sysctl(f"net.ipv{version}.neigh.{near.interface}.retrans_time_ms", str(WAIT // MS))
    rule = far.rule("accept")
    target = far.ipv4 if version == 4 else far.ipv6
    agent = LabAgent(near, tmp_path, {"far": target})
    with Capture(near) as capture:
        agent.start()

        def enough() -> bool:
            assert agent.running(), agent.text()
            return rule.counts().seen >= 150

        wait_for(enough, "150 probes")
        windows = probes(agent.stop(), "far")
    seen = flow(capture.echoes(), target)
    # They did wait: all that were due meanwhile left at once, the first of all among them.
    waited = [probe for probe in seen if probe.sent_ns < seen[0].sent_ns + 5 * MS]
    assert len(waited) > 10
    assert [probe.number for probe in seen] == list(range(len(seen)))
    assert total(windows, "sent") == total(windows, "received") == len(seen)
    for field in ("lost", "late", "errors", "unstamped", "duplicates"):
        assert total(windows, field) == 0, field
    # The wire's own longest time, and what a shared machine may add between two stamps.
    longest = max(probe.rtt() or 0 for probe in seen)
    assert max(int(window.fields["rtt_max_ns"]) for window in windows) <= longest + 5 * MS < WAIT / 2
