"""The source tree in, broken rules out: of imports, by syntax and by what a process loads, and of form."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.importrules import PACKAGES, imports, modules, violations

ROOT = Path(__file__).parents[2]
LONGEST = 400


def test_every_import_keeps_the_rules() -> None:
    assert violations(ROOT) == []


def test_the_rules_are_read_from_the_whole_tree() -> None:
    names = modules(ROOT)
    assert {"probe.errors", "probe.telemetry.lines", "collectors.collector"} <= set(names)
    targets = {found.target for rows in imports(ROOT).values() for found in rows}
    assert {"numpy", "aiomqtt", "probe.errors"} <= targets


# What is wrong, and the sentence that has to say so.
BAD: dict[str, tuple[dict[str, str], str]] = {
    "a packet codec that opens a socket": (
        {"probe/packets/icmp.py": "import socket\n"},
        "probe.packets.icmp: is pure, but reaches a socket, socket",
    ),
    "late, inside a function": (
        {"probe/windows/summary.py": "def f():\n    from time import time\n    return time()\n"},
        "probe.windows.summary: is pure, but reaches a clock, time",
    ),
    "through another module": (
        {"probe/telemetry/lines.py": "from probe import errors\n", "probe/errors.py": "import paho.mqtt\n"},
        "probe.telemetry.lines: is pure, but reaches MQTT, paho.mqtt (through probe.errors)",
    ),
    "through the package around it": (
        {"probe/packets/__init__.py": "import select\n", "probe/packets/icmp.py": ""},
        "probe.packets.icmp: is pure, but reaches a socket, select (through probe.packets)",
    ),
    "the project's own clock": (
        {"probe/windows/close.py": "from probe.clock import SECOND\n", "probe/clock.py": ""},
        "probe.windows.close: is pure, but reaches a clock, probe.clock",
    ),
    "a stage that knows a later one": (
        {"probe/sockets/raw.py": "from probe.engine import loop\n", "probe/engine/loop.py": ""},
        "probe.sockets.raw, line 1: imports probe.engine.loop: a stage knows its own records "
        "and those of the stage before it",
    ),
    "relative, to the same end": (
        {"probe/sockets/raw.py": "from ..engine import loop\n", "probe/engine/loop.py": ""},
        "probe.sockets.raw, line 1: imports probe.engine.loop: a stage knows its own records "
        "and those of the stage before it",
    ),
    "windows that know more of the engine than its samples": (
        {"probe/windows/close.py": "from probe.engine.loop import Loop\n", "probe/engine/loop.py": ""},
        "probe.windows.close, line 1: imports probe.engine.loop: a stage knows its own records "
        "and those of the stage before it",
    ),
    "a collector that knows the engine": (
        {
            "collectors/fanin.py": "\nfrom probe.engine.samples import Samples\n",
            "probe/engine/samples.py": "",
        },
        "collectors.fanin, line 2: imports probe.engine.samples: a collector shares with an agent only "
        "probe.telemetry, probe.settings, probe.errors, probe.clock, probe.units",
    ),
    "an agent that knows the collectors": (
        {"probe/agent.py": "def f():\n    import collectors.fanin\n", "collectors/fanin.py": ""},
        "probe.agent, line 2: imports collectors.fanin: only probe.cli may know the collectors",
    ),
    "a command line that loads them for everybody": (
        {"probe/cli.py": "import collectors\n", "collectors/__init__.py": ""},
        "probe.cli, line 1: imports collectors: late, inside a function, or every command pays for it",
    ),
    "numpy in a collector": (
        {"collectors/validate.py": "def f():\n    import numpy as np\n"},
        "collectors.validate: a collector does without numpy, but reaches it through collectors.validate",
    ),
    "numpy by a detour": (
        {
            "collectors/validate.py": "from probe.telemetry import spool\n",
            "probe/telemetry/spool.py": "import numpy\n",
        },
        "collectors.validate: a collector does without numpy, but reaches it through probe.telemetry.spool",
    ),
    "scapy in the agent": (
        {"probe/host/links.py": "def f():\n    from scapy.all import sr\n"},
        "probe.host.links, line 2: imports scapy.all: scapy stays in probe.paths",
    ),
    "scapy by name, at run time": (
        {"probe/engine/loop.py": "import importlib\nimportlib.import_module('scapy.all')\n"},
        "probe.engine.loop, line 2: imports scapy.all: scapy stays in probe.paths",
    ),
    "a child process's module loaded by its parent": (
        {"probe/paths/child.py": "import scapy.all\n", "probe/agent.py": "from probe.paths import child\n"},
        "probe.agent, line 1: imports probe.paths.child: which imports scapy, and so has to run in "
        "a process of its own",
    ),
    "two modules that know MQTT": (
        {"probe/telemetry/uplink.py": "import aiomqtt\n", "collectors/fanin.py": "import paho.mqtt.client\n"},
        "MQTT: is touched in collectors.fanin, probe.telemetry.uplink, and may be in one module only",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_rule_is_named(case: str, tmp_path: Path) -> None:
    files, sentence = BAD[case]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert sentence in violations(tmp_path)


def test_what_is_allowed_is_not_complained_about(tmp_path: Path) -> None:
    for name, text in {
        "probe/packets/icmp.py": "import numpy\nfrom probe.packets.checksum import fold\n",
        "probe/packets/checksum.py": "import struct\n",
        "probe/windows/close.py": "from probe.engine.samples import Samples\nfrom probe import errors\n",
        "probe/engine/samples.py": "import numpy\n",
        "probe/errors.py": "",
        "probe/cli.py": "def f():\n    from collectors.collector import run\n",
        "probe/paths/child.py": "import scapy.all\n",
        "collectors/collector.py": "from probe import __version__\nfrom probe.telemetry import lines\n",
        "probe/telemetry/lines.py": "import re\n",
        "probe/telemetry/mqtt.py": "import aiomqtt\nimport paho.mqtt.client\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert violations(tmp_path) == []


def loaded(program: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `program`."""
    done = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys; print(*(n for n in sys.modules if sys.modules[n]))"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_a_subprocess_shows_what_it_loads() -> None:
    assert "numpy" in loaded("import numpy")
    assert "numpy" not in loaded("import probe.errors")


def test_an_agent_loads_nothing_heavy() -> None:
    rows = [row for rows in imports(ROOT).values() for row in rows]
    by_itself = {row.importer for row in rows if row.target.startswith("scapy")}
    agents = [name for name in modules(ROOT) if name.startswith("probe") and name not in by_itself]
    heavy = {"scapy", "nicegui", "fastapi", "amqtt", "influxdb_client", "urllib3", "collectors", "pandas"}
    program = "\n".join(f"import {name}" for name in agents if not name.endswith("__main__"))
    assert loaded(program) & heavy == set()


def test_a_collector_loads_no_numpy_even_with_its_sinks_open() -> None:
    program = """
import collectors.collector
from collectors.sinks.influx import open_sink
from probe.settings import CollectorSettings, CollectorTable, InfluxTable
for api in ("v1", "v2"):
    settings = CollectorSettings(collector=CollectorTable(id="fanin"), influx=InfluxTable(api=api))
    open_sink(settings, "collector.toml")
"""
    found = loaded(program)
    assert "urllib3" in found
    assert found & {"numpy", "pandas", "scapy", "nicegui", "amqtt"} == set()


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_begins_with_what_goes_in_and_what_comes_out(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = docstring.partition("\n\n")[0]
    assert " in, " in first, f"say what goes in and what comes out: {first!r}"
    assert " out" in first, f"say what comes out: {first!r}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST, "is there a second noun in it?"
