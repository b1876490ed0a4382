"""What the units of systemd allow, around real processes that do all their work with it; and who gets in."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.lab.handshaking import listen
from tests.lab.netlab import Namespace
from tests.lab.reflecting import PORT, Reflecting
from tests.lab.running import LabAgent, probes, total
from tests.system.asking import asked
from tests.system.commands import ROOT, coloprobe, wait_for

Pair = tuple[Namespace, Namespace]
CAP_DAC_READ_SEARCH, CAP_NET_RAW = 1 << 2, 1 << 13
OPEN = 9000
# `MemoryDenyWriteExecute=yes`, by prctl(PR_SET_MDWE) where the kernel has it (6.3).
NO_NEW_CODE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
TARGETS = """
[engine]
backend = "ring"
[[target]]
name = "icmp"
address = "{far.ipv4}"
[[target]]
name = "icmp-six"
address = "{far.ipv6}"
[[target]]
name = "stamp"
kind = "stamp"
address = "{far.ipv4}"
[[target]]
name = "tcp"
kind = "tcp"
address = "{far.ipv4}"
port = 9000
interval = "50ms"
[[target]]
name = "connect"
kind = "connect"
address = "{far.ipv6}"
port = 9000
interval = "50ms"
"""
NAMES = ("icmp", "icmp-six", "stamp", "tcp", "connect")


@cache
def nobody_cannot_read_us() -> bool:
    """Whether interpreter and checkout are in somebody's private folder."""
    # The interpreter is started twice: setpriv may start what nobody could.
    again = (sys.executable, "-c", "import probe.agent, collectors.collector")
    trial = [*with_only(), sys.executable, "-c", NO_NEW_CODE, *again]
    return subprocess.run(trial, cwd=ROOT, capture_output=True, check=False).returncode != 0


def with_only(*capabilities: str) -> tuple[str, ...]:
    """The start of a command line that runs as nobody, with these capabilities and no way to others."""
    those = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return (
        *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"),
        *("--inh-caps", those, "--ambient-caps", those, "--bounding-set", those),
    )


def as_the_unit_does(*capabilities: str) -> tuple[str, ...]:
    """The same; with the capability to read, which opens no socket, where nobody cannot read what runs."""
    reading = ("dac_read_search",) if nobody_cannot_read_us() else ()
    return (*with_only(*capabilities, *reading), sys.executable, "-c", NO_NEW_CODE)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of nobody's, which everybody can reach."""
    with tempfile.TemporaryDirectory(prefix="coloprobe-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


def capabilities(pid: int) -> dict[str, set[int]]:
    """By the kernel's names, what the threads of a process have."""
    found: dict[str, set[int]] = {}
    for file in Path(f"/proc/{pid}/task").glob("*/status"):
        for name, value in re.findall(r"^(Cap\w+):\s*(\w+)$", file.read_text(), re.MULTILINE):
            found.setdefault(name, set()).add(int(value, 16))
    return found


def test_an_agent_measures_everything_with_raw_sockets_and_nothing_else(pair: Pair, folder: Path) -> None:
    """With `ring`, which needs packet sockets besides all the others."""
    near, far = pair
    near.sysctl("net.ipv4.ping_group_range", "1 0")  # nobody may open ping sockets
    with (
        Reflecting(far, folder, wrapper=as_the_unit_does("net_bind_service")) as reflector,
        listen(far, 4, OPEN, backlog=4096),
        listen(far, 6, OPEN, backlog=4096),
    ):
        agent = LabAgent(
            near,
            folder,
            TARGETS.format(far=far),
            interval="50ms",
            window="500ms",
            wrapper=as_the_unit_does("net_raw"),
        ).start()
        rule = far.rule("accept", matches=[f"udp dport {PORT}"])
        wait_for(lambda: rule.counts().seen >= 40 or not agent.running(), "it measures")
        assert agent.running(), agent.text()
        measuring, reflecting = capabilities(agent.pid), capabilities(reflector.pid)
        uids = re.findall(r"^[UG]id:\s+(.*)$", Path(f"/proc/{agent.pid}/status").read_text(), re.MULTILINE)
        points = agent.stop()
    assert {uid for line in uids for uid in line.split()} == {"65534"}
    assert measuring["CapEff"] == measuring["CapPrm"] == {CAP_NET_RAW}
    assert measuring["CapInh"] == measuring["CapAmb"] == {0}
    most = {CAP_NET_RAW | (CAP_DAC_READ_SEARCH if nobody_cannot_read_us() else 0)}
    assert measuring["CapBnd"] == most
    # The port is open: there is nothing more to do with a capability.
    assert reflecting["CapEff"] == reflecting["CapPrm"] == reflecting["CapInh"] == reflecting["CapAmb"] == {0}
    for name in NAMES:
        windows = probes(points, name)
        assert total(windows, "received") == total(windows, "sent") > 0, name
        assert total(windows, "errors") == total(windows, "unstamped") == 0, name
    for name in ("icmp", "icmp-six"):
        assert f"whole frames on veth0 to {name}: " in agent.text()


@pytest.mark.parametrize("user", ["nobody", "root", "nobody without"])
def test_what_an_agent_starts_has_raw_sockets_where_it_has_them_itself(user: str) -> None:
    """After it gave up everything else, and all ways back (no_new_privs)."""
    program = """
import asyncio
from probe import children
from probe.sockets.privileges import drop_privileges
drop_privileges()
children.command = lambda argv: ["grep", "Cap", "/proc/self/status"]  # nobody may run that anywhere
async def body():
    async for line in children.lines_of(["child"], timeout_s=60):
        print(line.decode())
asyncio.run(body())
print(open("/proc/self/status").read())
"""
    wrapper = {"nobody": as_the_unit_does("net_raw"), "nobody without": as_the_unit_does(), "root": ()}[user]
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told, parent = done.stdout.split("Name:")
    child = {name: int(mask, 16) for name, mask in re.findall(r"(Cap\w+):\s*(\w+)", told)}
    assert child["CapEff"] == child["CapPrm"] == (CAP_NET_RAW if user != "nobody without" else 0)
    # It is handed on to what was started, and to nothing else.
    assert "CapInh:\t0000000000000000" in parent
    assert "CapAmb:\t0000000000000000" in parent


def test_check_tells_what_falls_away_without_net_admin(pair: Pair, folder: Path) -> None:
    near, far = pair
    settings = f'[engine]\nreceive_buffer = "1GiB"\n[[target]]\nname = "far"\naddress = "{far.ipv4}"\n'
    LabAgent(near, folder, settings)  # writes the file
    command = coloprobe("check", "-c", folder / "agent.toml")
    done = near.run([*as_the_unit_does("net_raw"), *command], check=False)
    told = r"receive buffer: .* of engine\.receive_buffer: without CAP_NET_ADMIN net\.core\.rmem_max"
    assert re.search(told, done.stdout), done
    assert "sockets IPv4: raw socket (CAP_NET_RAW)" in done.stdout


def test_a_collector_needs_no_capability(folder: Path) -> None:
    file, log = folder / "collector.toml", folder / "collector.log"
    file.write_text(
        f'[collector]\nid = "c"\nstate_dir = "{folder}/state"\n[mqtt]\nurl = "mqtt://127.0.0.1:9"\n'
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*as_the_unit_does(), *coloprobe("collect", "-c", file)], stdout=output, stderr=output, cwd=ROOT
        )
    try:
        wait_for(lambda: "is the broker running there" in log.read_text() or process.poll(), log.read_text())
        assert process.poll() is None, log.read_text()
        held = capabilities(process.pid)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert held["CapEff"] == held["CapBnd"] == {CAP_DAC_READ_SEARCH if nobody_cannot_read_us() else 0}


def test_a_board_that_others_can_reach_asks_for_the_token_of_its_link(pair: Pair, folder: Path) -> None:
    near, far = pair
    log, out = folder / "up.log", folder / "up.out"
    where = ("--board", ":8080", "--broker", ":1883", "--state", folder / "state")
    with log.open("wb") as errors, out.open("wb") as output:
        process = far.popen(coloprobe("up", far.ipv4, *where), stdout=output, stderr=errors, cwd=ROOT)
    try:
        wait_for(lambda: "probing" in out.read_text() or process.poll() is not None, log.read_text())
        link = re.search(r"^board   http://.*:8080(/\?token=([\w-]{32}))$", out.read_text(), re.MULTILINE)
        assert link, out.read_text() + log.read_text()
        board = f"http://{far.ipv4}:8080"
        assert near.call(lambda: asked(board))[0] == 401
        assert near.call(lambda: asked(board + link[1]))[0] == 303
        status, page = near.call(lambda: asked(board, Authorization=f"Bearer {link[2]}"))
        assert (status, link[2] in page) == (200, False)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    kept = folder / "state/board.token"
    assert (kept.stat().st_mode & 0o777, kept.read_text()) == (0o600, f"{link[2]}\n")
    assert link[2] not in log.read_text()
    assert "takes what any host sends; let it ask for a password (--broker-password-file)" in log.read_text()
