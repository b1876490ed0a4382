"""A host that gets in the agent's way in, the wire's losses and the host's own doing told apart out."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from probe.telemetry.lines import Point
from tests.lab.emulated import EmulatedLink
from tests.lab.link import Constant, Every, Impairments
from tests.lab.netlab import Lab, Namespace
from tests.lab.running import LabAgent, probes, total
from tests.lab.test_agent_lab import Pair, seen
from tests.system.commands import wait_for

STOPPED_S = 3
# Which of both it is depends on which comes first; it is told of once.
BUSY = re.compile("this host has no processor to spare|the agent waits for a processor")
# Our probes, by their length: 20 bytes of IP header and 64 of ICMP.
OURS = ["ip length 84 icmp type echo-request"]


def about(points: Sequence[Point], field: str) -> list[int | float]:
    """What the agent said of itself, batch after batch."""
    found = sorted((p for p in points if p.measurement == "agent"), key=lambda p: int(p.fields["batch"]))
    return [p.fields[field] for p in found if field in p.fields]  # type: ignore[misc]


def host_events(points: Sequence[Point]) -> list[str]:
    return [str(p.fields["text"]) for p in points if p.measurement == "event" and p.tags["kind"] == "host"]


@contextlib.contextmanager
def hogged(namespace: Namespace) -> Iterator[None]:
    """Every processor busy with something else."""
    hogs = namespace.popen(["stress-ng", "--cpu", str(2 * (os.cpu_count() or 1)), "--quiet"])
    try:
        yield
    finally:
        hogs.terminate()
        hogs.wait(10)


def test_a_stopped_process_loses_nothing_that_the_wire_did_not(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule(every=7)
    agent = LabAgent(near, tmp_path, {"far": far.ipv4}).start()
    seen(agent, rule, 150)
    os.kill(agent.pid, signal.SIGSTOP)
    time.sleep(STOPPED_S)  # the length of the stop is the test's input
    os.kill(agent.pid, signal.SIGCONT)
    seen(agent, rule, rule.counts().seen + 250)
    points = agent.stop()
    windows, counts = probes(points, "far"), rule.counts()
    assert (total(windows, "sent"), total(windows, "lost")) == (counts.seen, counts.hit)
    assert total(windows, "late") == total(windows, "errors") == total(windows, "unstamped") == 0
    # Every 10 ms one was due; those of the last 250 ms still left.
    assert 100 * STOPPED_S - 100 <= about(points, "skipped")[-1] <= 100 * STOPPED_S + 100
    assert about(points, "stalls")[-1] >= 1
    told = [text for text in host_events(points) if "did not run the agent" in text]
    # Where a hypervisor took as much time as that meanwhile, nobody in here can tell the two apart.
    assert "it was stopped" in told[0] or "the hypervisor gave the machine no processor" in told[0]


@pytest.mark.stress
def test_hogged_processors_change_no_count_and_are_told_of(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule(every=7)
    agent = LabAgent(near, tmp_path, {"far": far.ipv4})
    with hogged(near):
        agent.start()
        wait_for(lambda: BUSY.search(agent.text()), "the host's trouble is told of")
        seen(agent, rule, rule.counts().seen + 250)
    points = agent.stop()
    windows, counts = probes(points, "far"), rule.counts()
    assert (total(windows, "sent"), total(windows, "lost")) == (counts.seen, counts.hit)
    assert total(windows, "late") == total(windows, "errors") == total(windows, "unstamped") == 0
    assert any(BUSY.search(text) for text in host_events(points))
    assert max(about(points, "host_busy")) >= 0.97
    assert about(points, "cpu_wait_ns")[-1] > 0


def test_a_flooded_receive_buffer_is_no_loss_and_cannot_be_flooded_again(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    passed = far.rule("accept", matches=OURS)
    targets = f'[engine]\nreceive_buffer = "64KiB"\n[[target]]\nname = "far"\naddress = "{far.ipv4}"'
    agent = LabAgent(near, tmp_path, targets, interval="5ms", window="500ms").start()
    seen(agent, passed, 120)
    flood = ["ping", "-q", "-f", "-l", "500", "-s", "8", "-w", "1", far.ipv4]
    near.run(flood)
    wait_for(lambda: "receive buffer was full" in agent.text(), "the flood is told of")
    seen(agent, passed, passed.counts().seen + 120)
    told = time.time_ns()
    seen(agent, passed, passed.counts().seen + 120)
    near.run(flood)
    seen(agent, passed, passed.counts().seen + 250)
    points = agent.stop()
    windows = probes(points, "far")
    assert total(windows, "lost") == total(windows, "late") == 0
    assert total(windows, "sent") + total(windows, "errors") == passed.counts().seen
    assert total(windows, "errors") > 0
    # The second flood did not come through to our socket.
    later = [window for window in windows if window.time_ns > told]
    assert len(later) > 2
    assert total(later, "errors") == 0
    assert about(points, "socket_drops")[-1] > 0
    assert any("receive buffer was full" in text for text in host_events(points))


def test_a_reload_takes_no_reply_for_a_strangers(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    passed = far.rule("accept")
    agent = LabAgent(near, tmp_path, {"far": far.ipv4}, interval="1ms").start()
    for n in range(1, 4):
        seen(agent, passed, passed.counts().seen + 300)
        os.kill(agent.pid, signal.SIGHUP)
        wait_for(lambda n=n: agent.text().count("settings reloaded") == n, "it has reloaded")  # type: ignore[misc]
    seen(agent, passed, passed.counts().seen + 500)
    points = agent.stop()
    windows = probes(points, "far")
    assert about(points, "foreign_packets")[-1] == 0
    assert total(windows, "sent") == total(windows, "received") == passed.counts().seen


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.emulator
def test_replies_that_came_while_nobody_read_are_told_from_lost_ones(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    link = lab.emulated(Impairments(loss=Every(7)), Impairments(delay=Constant(150_000_000)))
    address = link.far.ipv4 if version == 4 else link.far.ipv6
    engine = '[engine]\nreceive_buffer = "64KiB"\n[[target]]\nname = "far"\nsize = 1400\n'
    agent = LabAgent(link.near, tmp_path, f'{engine}address = "{address}"\n', interval="1ms").start()
    stopped_until_all_has_come(agent, link)
    points = agent.stop()
    wire = link.traffic()[0]
    windows = probes(points, "far")
    drops = about(points, "socket_drops")[-1]
    assert drops > 20
    late = total(windows, "late")  # where this machine holds the emulator up
    # What is due after the stop leaves in a burst, whose replies fill the buffer again and cost TX stamps:
    # without
    # one, a probe that nobody answers is in doubt. None is called lost that was not.
    assert wire.lost * 0.8 < total(windows, "lost") - late <= wire.lost
    assert total(windows, "lost") + total(windows, "errors") == wire.lost + drops + late
    assert total(windows, "sent") + total(windows, "errors") == wire.arrived
    told = [re.search(r"dropped (\d+) packets", text) for text in host_events(points)]
    assert sum(int(match[1]) for match in told if match) == drops


@pytest.mark.emulator
def test_a_clean_target_loses_nothing_because_another_one_does(lab: Lab, tmp_path: Path) -> None:
    link = lab.emulated(Impairments(), Impairments(delay=Constant(150_000_000)))
    link.far.answer_for("10.50.0.0/16")
    link.near.route("10.50.0.0/16", link.far.ipv4)
    rule = link.far.rule(every=3, matches=["ip daddr 10.50.0.1 icmp type echo-request"])
    names = "".join(
        f'[[target]]\nname = "t{n}"\naddress = "10.50.0.{n}"\ndscp = {n % 2}\n' for n in (1, 2, 3, 4)
    )
    agent = LabAgent(
        link.near, tmp_path, f'[engine]\nreceive_buffer = "64KiB"\n{names}', interval="1ms"
    ).start()
    stopped_until_all_has_come(agent, link)
    points = agent.stop()
    assert about(points, "socket_drops")[-1] > 50
    lossy = probes(points, "t1")
    # Loss near an overflow is in doubt.
    assert 0 < total(lossy, "lost") <= rule.counts().hit
    for name in ("t2", "t3", "t4"):
        assert total(probes(points, name), "lost") == total(probes(points, name), "late") == 0
    assert (
        total(points_of_all(points), "sent") + total(points_of_all(points), "errors")
        == link.traffic()[0].arrived
    )


def points_of_all(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.measurement == "probe"]


def stopped_until_all_has_come(agent: LabAgent, link: EmulatedLink) -> None:
    """Stop the agent while more replies come to it than it has room for; let it run before and after."""

    def more() -> None:
        arrived = link.traffic()[0].arrived
        wait_for(lambda: link.traffic()[0].arrived > arrived + 1500, "probes on the link")

    more()
    os.kill(agent.pid, signal.SIGSTOP)
    wait_for(lambda: link.traffic()[1].in_flight == 0, "all replies have come")
    os.kill(agent.pid, signal.SIGCONT)
    more()
