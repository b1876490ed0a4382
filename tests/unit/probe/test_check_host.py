"""Settings in, what this host lets an agent do out: in words, each with its remedy."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe import check_host, kinds
from probe.check_host import host_findings
from probe.findings import Finding
from probe.host.clock import ClockState
from probe.host.hardware import Config, Hardware
from probe.host.mtu import mtu
from probe.settings import agent_from


def found(*targets: dict[str, Any], **tables: Any) -> dict[str, Finding]:
    """By part. Targets are reflectors in this host unless they say otherwise."""
    full = [
        {"name": f"t{n}", "address": "127.0.0.1", "kind": "stamp", **target}
        for n, target in enumerate(targets or ({},))
    ]
    raw = {"agent": {"id": "a", **tables.pop("agent", {})}, "target": full, **tables}
    findings = list(host_findings(agent_from(raw, "agent.toml")))
    assert all(finding.remedy for finding in findings if finding.state != "ok"), findings
    parts = {finding.part: finding for finding in findings}
    assert len(parts) == len(findings)
    return parts


def clock(monkeypatch: pytest.MonkeyPatch, state: ClockState) -> None:
    for module in (check_host, kinds):
        monkeypatch.setattr(module, "clock_state", lambda: state)


def test_without_a_disciplined_clock_there_are_no_one_way_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, ClockState(False, 16_000_000_000))
    assert found()["one-way delays"] == Finding(
        "one-way delays",
        "warning",
        "forward_*, backward_* and clock_error_ns will be absent: "
        "the kernel does not call the wall clock synchronised",
        "run chrony or ptp4l with phc2sys, here and at the reflectors; where something disciplines the clock "
        "without telling the kernel, say how far it may be off: host.clock_error",
    )


def test_with_one_it_says_how_far_they_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, ClockState(True, 25_000))
    one_way = found()["one-way delays"]
    assert one_way.state == "ok"
    assert one_way.text == (
        "this host's clock is at most 25.0 us off; the reflector's own error is added to that, and where its "
        "clock is not synchronised they are absent"
    )


def test_a_clock_that_the_settings_vouch_for_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, ClockState(False, 16_000_000_000))
    parts = found(host={"clock_error": "20us"})
    assert parts["clock"] == Finding(
        "clock", "ok", "at most 20.0 us off by host.clock_error (the kernel says: it is not synchronised)"
    )
    assert "at most 20.0 us off" in parts["one-way delays"].text
    clock(monkeypatch, ClockState(True, 5_000))
    assert found(host={"clock_error": "20us"})["clock"].text.endswith("(the kernel says: at most 5.00 us)")


def test_only_what_the_kinds_of_the_file_need_is_looked_at() -> None:
    connect = {"kind": "connect", "port": 9}
    assert not [part for part in found(connect) if part.startswith(("sockets", "TCP probes", "one-way"))]
    assert "TCP connections" not in found()


def test_what_a_target_is_and_how_often_its_port_is_probed() -> None:
    parts = found(
        {"kind": "connect", "port": 9, "flows": 4}, {"address": "no-such.invalid"}, {"address": "::1"}
    )
    assert parts["target t0"].text == "127.0.0.1 is 127.0.0.1, connect to port 9, 1 probes/s in 4 flows"
    assert parts["target t2"].text == "::1 is ::1, stamp to port 862, 10 probes/s"
    assert parts["target t1"].state == "failed"
    assert parts["target t1"].text.startswith("'no-such.invalid' has no address: ")


def test_connections_that_nobody_answers_have_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = {"kind": "connect", "port": 9, "interval": "10ms", "flows": 3}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    assert found(gateway)["TCP connections"] == Finding(
        "TCP connections", "ok", "301 at once where nobody answers; 928 are possible"
    )
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert found(gateway)["TCP connections"] == Finding(
        "TCP connections",
        "warning",
        "301 at once where nobody answers, and 160 are possible: the rest is not sent",
        "longer intervals, fewer flows, a shorter window.timeout, or LimitNOFILE=397 in the systemd unit",
    )


# -- where packets leave -------------------------------------------------------------------------------------


def test_a_source_and_an_interface_of_this_host() -> None:
    parts = found({"source": "127.0.0.1", "interface": "lo"}, {"address": "::1", "source": "::1"})
    assert parts["source 127.0.0.1 interface lo"] == Finding(
        "source 127.0.0.1 interface lo", "ok", "is of this host (IPv4)"
    )
    assert parts["source ::1"].text == "is of this host (IPv6)"


def test_a_source_that_is_not_of_this_host() -> None:
    here = found({"source": "203.0.113.77"}, {"source": "203.0.113.77"})["source 203.0.113.77"]
    assert (here.state, here.text) == (
        "failed",
        "cannot send from 203.0.113.77: Cannot assign requested address (asked for by target t0)",
    )
    names = ", ".join(name for _, name in socket.if_nameindex())
    assert here.remedy == f"what `ip -br address` lists here; interfaces: {names}"


def test_an_interface_that_is_not_of_this_host() -> None:
    here = found({"interface": "none0"})["interface none0"]
    assert here.state == "failed"
    assert here.text == "cannot send by interface 'none0': No such device (asked for by target t0)"


def test_probes_that_may_not_be_fragmented_have_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    large = {"size": 1481, "dont_fragment": True}
    assert not [part for part in found(large) if part.startswith("size")]
    monkeypatch.setattr(check_host, "mtu", lambda name: {"lo": 1500}[name])
    assert found(large)["size of target t0"] == Finding(
        "size of target t0",
        "failed",
        "1481 bytes and the IP header do not fit the MTU of lo (1500), and dont_fragment is set: "
        "no probe can be sent",
        "a size of at most 1480, or without dont_fragment",
    )
    six = found({**large, "address": "::1", "size": 1461})["size of target t0"]
    assert six.remedy.startswith("a size of at most 1460, ")
    for fits in ({**large, "size": 1480}, {**large, "address": "::1", "size": 1460}, {"size": 9000}):
        assert "size of target t0" not in found(fits)


def test_the_mtu_is_the_kernels() -> None:
    for _, name in socket.if_nameindex():
        assert mtu(name) == int(Path(f"/sys/class/net/{name}/mtu").read_text())
    assert mtu("none0") == 0


# -- keys ----------------------------------------------------------------------------------------------------


def test_a_key_that_can_be_read_by_nobody_else(tmp_path: Path) -> None:
    key = tmp_path / "stamp.key"
    key.write_text("secret\n")
    part = f"key_file {key}"
    key.chmod(0o644)
    assert found({"key_file": str(key)}, {"key_file": str(key)})[part] == Finding(
        part, "warning", "everybody on this host may read it", f"chmod o= {key}"
    )
    key.chmod(0o640)
    assert found({"key_file": str(key)})[part] == Finding(part, "ok", "can be read, and not by everybody")
    key.write_text(" \n")
    assert found({"key_file": str(key)})[part].text.startswith(f"key_file {key} is empty (")


def test_a_key_that_is_not_there() -> None:
    assert found({"key_file": "/none/key"})["key_file /none/key"] == Finding(
        "key_file /none/key",
        "failed",
        "cannot read key_file /none/key: No such file or directory",
        "a file with the reflector's key that this user can read",
    )


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.root
def test_the_key_has_to_be_for_the_user_that_the_agent_becomes(public: Path) -> None:
    key = public / "stamp.key"
    key.write_text("secret")
    key.chmod(0o600)
    part = f"key_file {key}"
    refused = found({"key_file": str(key)}, agent={"user": "nobody"})[part]
    assert (refused.state, refused.text) == ("failed", f"cannot read key_file {key}: Permission denied")
    assert refused.remedy == "a file with the reflector's key that user nobody can read"
    shutil.chown(key, "nobody")
    assert found({"key_file": str(key)}, agent={"user": "nobody"})[part].state == "ok"
    assert os.geteuid() == 0  # itself again


# -- interfaces ----------------------------------------------------------------------------------------------

CAN = Hardware("lo", True, True, True, True, 3, Config(0, 0, 0), False, True, "switched off (as it was)")


@pytest.mark.parametrize(
    ("hardware", "stamps", "state", "text", "remedy"),
    [
        (CAN, "off", "ok", '; the hardware\'s are not used: engine.hardware_stamps = "off"', ""),
        (
            CAN,
            "auto",
            "warning",
            "; no hardware stamps yet: switched off (as it was)",
            "hwstamp_ctl -i lo -t 1 -r 1 (linuxptp) before the agent starts, or "
            'engine.hardware_stamps = "on"',
        ),
        (
            CAN,
            "on",
            "warning",
            "; no hardware stamps yet: switched off (as it was)",
            "hwstamp_ctl -i lo -t 1 -r 1 (linuxptp) before the agent starts, or "
            "CAP_NET_ADMIN for the agent, which then switches it on when it starts",
        ),
        (
            Hardware("lo", True, True, True, True, 3, Config(0, 1, 1), True, True, ""),
            "auto",
            "ok",
            "",
            "",
        ),
        (
            Hardware("lo", True, True, True, False, 3, None, False, False, "PTP packets alone"),
            "auto",
            "ok",
            "; no hardware stamps: PTP packets alone",
            "",
        ),
        (Hardware("lo", True, True, False, False, -1, None, False, False, "none"), "auto", "ok", "", ""),
        (
            Hardware("lo", False, True, False, False, -1, None, False, False, "none"),
            "auto",
            "warning",
            ": the driver takes no TX stamps",
            "RTTs through it include the way from our send call to the driver (unstamped)",
        ),
    ],
)
def test_what_stamps_an_interface_takes(
    monkeypatch: pytest.MonkeyPatch, hardware: Hardware, stamps: str, state: str, text: str, remedy: str
) -> None:
    monkeypatch.setattr(check_host, "describe", lambda _: hardware)
    got = found(engine={"hardware_stamps": stamps})["timestamping lo"]
    assert (got.state, got.text, got.remedy) == (state, f"{hardware}{text}", remedy)
