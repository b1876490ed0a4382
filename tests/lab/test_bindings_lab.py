"""A source and an interface that go, come back or come late, under a real agent: what is bound to them is
measured as soon as it can be, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from probe.telemetry.lines import Point
from tests.lab.netlab import Namespace
from tests.lab.running import LabAgent, probes
from tests.system.commands import wait_for

Pair = tuple[Namespace, Namespace]

NAME = "cross0"
KINDS = {"icmp": "", "tcp": "port = 9\n", "connect": "port = 9\n"}


def join(near: Namespace, far: Namespace) -> None:
    """A second line between both, with addresses of its own."""
    mac = "02:00:00:00:99:0{}".format
    words = f"ip link add {NAME} address {mac(1)} type veth peer name {NAME} address {mac(2)}"
    near.run([*words.split(), "netns", far.name])
    for namespace, own, other in ((far, 2, 1), (near, 1, 2)):
        for words in (
            f"ip link set {NAME} up",
            f"ip addr add 10.77.0.{own}/24 dev {NAME}",
            f"ip addr add fd77::{own}/64 dev {NAME} nodad",
            f"ip neigh replace 10.77.0.{other} lladdr {mac(other)} dev {NAME} nud permanent",
            f"ip neigh replace fd77::{other} lladdr {mac(other)} dev {NAME} nud permanent",
        ):
            namespace.run(words.split())


def tables(bound: Callable[[int], str]) -> tuple[list[str], str]:
    """Names and settings of a target of each kind and version; `bound`: a line for each."""
    names, text = [], ""
    for kind, more in KINDS.items():
        for version, address in ((4, "10.77.0.2"), (6, "fd77::2")):
            names.append(f"{kind}{version}")
            text += f'[[target]]\nname = "{names[-1]}"\nkind = "{kind}"\naddress = "{address}"\n'
            text += f'interval = "50ms"\n{more}{bound(version)}\n'
    return names, text


def came(points: list[Point], name: str) -> list[int]:
    return [int(point.fields["received"]) for point in probes(points, name)]


@pytest.mark.parametrize("by", ["interface", "source"])
def test_what_comes_late_is_measured_from_then_on(pair: Pair, tmp_path: Path, by: str) -> None:
    near, far = pair
    lines = {"interface": lambda _: f'interface = "{NAME}"', "source": _source}
    names, text = tables(lines[by])
    other = f'[[target]]\nname = "other"\naddress = "{far.ipv4}"\n'
    agent = LabAgent(near, tmp_path, text + other).start()
    late = "it is measured as soon as that is there"
    wait_for(lambda: agent.text().count(late) == len(names), "what is not measured")
    join(near, far)
    answered = far.rule("accept", matches=["icmp type echo-request ip daddr 10.77.0.2"])
    wait_for(lambda: answered.counts().seen >= 5, "probes")
    points = agent.stop()
    for name in names:
        assert sum(came(points, name)) >= 1, name
    assert all(point.fields["lost"] == 0 for point in probes(points, "other"))


def _source(version: int) -> str:
    return f'source = "{"10.77.0.1" if version == 4 else "fd77::1"}"'


def test_an_interface_that_was_made_again_is_measured_by_again(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    join(near, far)
    names, text = tables(lambda _: f'interface = "{NAME}"')
    answered = far.rule("accept", matches=["icmp type echo-request ip daddr 10.77.0.2"])
    other = f'[[target]]\nname = "other"\naddress = "{far.ipv4}"\n'
    agent = LabAgent(near, tmp_path, text + other, window="500ms").start()
    wait_for(lambda: answered.counts().seen >= 5, "probes")
    near.run(["ip", "link", "del", NAME])
    wait_for(lambda: "ENODEV" in agent.text(), "that it is gone")
    # For longer than a window, by what the other target sees meanwhile.
    meanwhile = far.rule("accept", matches=[f"icmp type echo-request ip daddr {far.ipv4}"])
    wait_for(lambda: meanwhile.counts().seen >= 125, "a window without it")
    join(near, far)
    before = answered.counts().seen
    wait_for(lambda: answered.counts().seen >= before + 25, "probes by the new one")
    points = agent.stop()
    assert agent.text().count(f"interface {NAME} is another one now") == 1
    for name in names:
        windows = came(points, name)
        assert windows[-2] > 0, (name, windows)
        assert 0 in windows, (name, windows)
    assert all(point.fields["lost"] == 0 for point in probes(points, "other"))
