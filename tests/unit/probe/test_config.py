"""The example of agent.toml and the systemd units in: they load, say the defaults, and fit the commands."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from probe.command_line import parser
from probe.errors import UsageError
from probe.settings import AgentSettings, Knobs, Target, load_agent, load_collector
from probe.target_settings import KINDS

CONFIG = Path(__file__).parents[3] / "config"
EXAMPLE = CONFIG / "agent.toml"
WITH_SETTINGS = ("agent", "collector")
UNITS = (*WITH_SETTINGS, "reflect")

# Of systemd 252 (Debian 12), from systemd.unit(5), systemd.service(5) and systemd.exec(5).
KNOWN = {
    "Unit": "Description Wants After StartLimitIntervalSec",
    "Service": (
        "Type ExecStart ExecReload Restart RestartSec RestartPreventExitStatus TimeoutStopSec User Group "
        "StateDirectory StateDirectoryMode UMask AmbientCapabilities CapabilityBoundingSet NoNewPrivileges "
        "ProtectSystem ProtectHome PrivateTmp PrivateDevices PrivateUsers ProtectClock ProtectControlGroups "
        "ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc "
        "LockPersonality MemoryDenyWriteExecute RemoveIPC RestrictNamespaces RestrictRealtime "
        "RestrictSUIDSGID RestrictAddressFamilies SystemCallArchitectures SystemCallErrorNumber "
        "SystemCallFilter"
    ),
    "Install": "WantedBy",
}


def test_the_example_loads_and_what_it_sets_is_the_default() -> None:
    settings = load_agent(EXAMPLE)
    plain = AgentSettings(agent=settings.agent, target=settings.target)
    knobs = {key.name: getattr(Target, key.name, None) for key in msgspec.structs.fields(Knobs)}
    assert set(knobs) == {key.name for key in msgspec.structs.fields(type(settings.defaults))}
    first = settings.target[1]  # it sets nothing but who it is
    for name in knobs:
        default = next(key.default for key in msgspec.structs.fields(Target) if key.name == name)
        assert getattr(first, name) == default, name
        said = getattr(settings.defaults, name)
        # These differ by kind, or are the kernel's.
        assert said is UNSET if name in ("size", "port", "ttl") else said == default, name
    assert msgspec.structs.replace(settings, defaults=Knobs()) == plain
    assert settings.agent.state_dir == "/var/lib/coloprobe"


def test_it_shows_every_kind_and_what_its_comments_say_of_them() -> None:
    settings = load_agent(EXAMPLE)
    assert {target.kind for target in settings.target} == {"icmp", "tcp", "stamp"}
    text = EXAMPLE.read_text(encoding="utf-8")
    for name in ("icmp", "stamp"):
        kind = KINDS[name]
        assert f"{name} {kind.size} ({kind.smallest} to {kind.largest})" in text
    assert f"stamp {KINDS['stamp'].port}; tcp and connect need one" in text


def test_what_it_only_mentions_is_allowed_too(tmp_path: Path) -> None:
    text, switched_on = re.subn(
        r"^# (\w+ = )", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert switched_on > 10
    everything = tmp_path / "agent.toml"
    everything.write_text(text, encoding="utf-8")
    assert load_agent(everything).agent.user == "coloprobe"


def test_it_mentions_every_key_of_every_table() -> None:
    parts = re.split(r"^\[+(\w+)\]+$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown: defaultdict[str, set[str]] = defaultdict(set)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        shown[name] |= set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))
    known = {
        table.name: {
            key.name for key in msgspec.structs.fields(Target if table.name == "target" else table.type)
        }
        for table in msgspec.structs.fields(AgentSettings)
    }
    known["mqtt"].remove("share_group")  # the collectors'
    assert shown == known


def test_the_operators_page_explains_every_kind_and_every_knob() -> None:
    page = (CONFIG.parent / "docs/operating.md").read_text(encoding="utf-8")
    section = page.split("## What can be measured")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {*KINDS, *(set(Knobs.__struct_fields__) - {"port"})} <= named


def unit(name: str) -> dict[str, dict[str, str]]:
    """The sections of a unit; fails where a key comes twice in one."""
    sections: dict[str, dict[str, str]] = {}
    for line in (CONFIG / "systemd" / f"coloprobe-{name}.service").read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(header[1], {})
        elif line and not line.startswith("#"):
            key, separator, value = line.partition("=")
            assert separator, line
            assert key not in section, line
            section[key] = value
    return sections


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_has_no_key_that_systemd_does_not_know(name: str) -> None:
    for section, keys in unit(name).items():
        assert set(keys) <= set(KNOWN[section].split()), section


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_a_unit_starts_a_command_that_exists_with_the_examples_settings(name: str) -> None:
    service = unit(name)["Service"]
    program, *arguments = service["ExecStart"].split()
    assert Path(program).name == "coloprobe"
    parsed = parser().parse_args(arguments)
    assert parsed.config == Path(f"/etc/coloprobe/{name}.toml")
    assert (CONFIG / f"{name}.toml").exists()
    if name == "agent":
        state_dir = load_agent(EXAMPLE).agent.state_dir
    else:
        state_dir = load_collector(CONFIG / "collector.toml").collector.state_dir
    assert state_dir == f"/var/lib/{service['StateDirectory']}"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["RestartPreventExitStatus"] == "2"  # what SettingsError ends with


def test_the_reflectors_unit_starts_it_and_names_its_options() -> None:
    service = unit("reflect")["Service"]
    program, *arguments = service["ExecStart"].split()
    assert (Path(program).name, parser().parse_args(arguments).bind) == ("coloprobe", ":862")
    text = (CONFIG / "systemd/coloprobe-reflect.service").read_text(encoding="utf-8")
    options = re.findall(r"^# (--\S+ \S+) ", text, re.MULTILINE)
    assert len(options) == 3
    parsed = parser().parse_args(["reflect", *" ".join(options).split()])
    assert (parsed.bind, str(parsed.key_file)) == ("192.0.2.10:862", "/etc/coloprobe/stamp.key")
    assert service["RestartPreventExitStatus"] == str(UsageError.exit_status)
    # SIGHUP ends it; there is nothing to reload.
    assert "ExecReload" not in service


def test_who_needs_a_capability_has_one_and_no_other() -> None:
    agent, collector, reflector = (unit(name)["Service"] for name in UNITS)
    assert agent["AmbientCapabilities"] == agent["CapabilityBoundingSet"] == "CAP_NET_RAW"
    assert reflector["AmbientCapabilities"] == reflector["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert {"PrivateUsers", "ProtectClock"}.isdisjoint(reflector)
    assert collector["CapabilityBoundingSet"] == ""
    assert "AmbientCapabilities" not in collector
    # Both would take away what it needs: the raw socket, and adjtimex(2).
    assert {"PrivateUsers", "ProtectClock"}.isdisjoint(agent)


def test_an_agent_may_open_every_family_of_sockets_that_it_has_a_use_for() -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in (CONFIG.parent / "probe").rglob("*.py"))
    used = set(re.findall(r"\bAF_[A-Z0-9]+", code)) - {"AF_UNSPEC"}
    allowed = set(unit("agent")["Service"]["RestrictAddressFamilies"].split())
    assert {"AF_INET", "AF_PACKET"} <= used <= allowed
