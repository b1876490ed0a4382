"""`python -m tests.lab` in, what a person gets from it out: status, words, a log, and nothing left behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.running import AS_NOBODY
from tests.lab.truthlog import BACKWARD, FORWARD, read
from tests.system.commands import DEADLINE_S, ROOT, wait_for

pytestmark = pytest.mark.emulator

# As a person starts it: with warnings as errors, what pyroute2 forks would complain of sockets it inherits.
COMMAND = [sys.executable, "-m", "tests.lab"]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    ours = [path for path in Path("/run/netns").glob("coloprobe-*") if is_gone(path.name.split("-")[1])]
    assert not ours


def is_gone(pid: str) -> bool:
    return not Path("/proc", pid).exists()


def start(*argv: str, **options: object) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *argv], text=True, cwd=ROOT, **pipes)  # type: ignore[call-overload, no-any-return]


def lab(*argv: str) -> tuple[int, str, str]:
    process = start(*argv)
    output, complaints = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output, complaints


def test_a_command_runs_at_the_near_end_of_the_link_that_was_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "link.jsonl"
    asked = [
        "--loss",
        "every:4",
        "--backward-loss",
        "every:3",
        "--delay",
        "1ms",
        "--seed",
        "x",
        "--log",
        str(log),
    ]
    status, output, complaints = lab(*asked, "--", "ping", "-c", "8", "-i", "0.01", "-W", "0.2", "10.99.0.2")
    assert status == 0
    assert "8 packets transmitted, 4 received" in output
    assert complaints == "forward: 8 in, 2 lost, 6 out; backward: 6 in, 2 lost, 4 out\n"
    truth = read(log)
    assert truth.settings["seed"] == "x"
    assert truth.reasons == {(FORWARD, "every"): 2, (BACKWARD, "every"): 2}


@pytest.mark.parametrize(
    ("command", "wanted"),
    [("exit 7", 7), ("kill -9 $$", 137), ("ping -c 1 -W 1 fd50::1 && ping -c 1 10.50.1.2", 0)],
)
def test_its_status_is_the_commands(command: str, wanted: int) -> None:
    assert lab("--", "sh", "-c", command)[0] == wanted


def test_a_command_that_takes_too_long_is_ended() -> None:
    assert lab("--for", "200ms", "--", "sleep", "600")[0] == 128 + signal.SIGTERM


def test_without_a_command_it_prints_lines_that_work_until_its_time_is_over() -> None:
    process = start("--loss", "every:2")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(12)]
    try:
        assert re.fullmatch(r"near  (coloprobe-\d+-\d+-near)  10\.99\.0\.1  fd99::1\n", lines[0])
        assert lines[1].startswith("far ")
        (ping,) = [line for line in lines if line.endswith(" ping fd99::2\n")]
        done = subprocess.run(
            [*ping.split(), "-c", "4", "-i", "0.01", "-W", "0.2"], capture_output=True, text=True
        )
        assert "4 packets transmitted, 1 received" in done.stdout
        assert sum(" coloprobe " in line or "probe.cli" in line for line in lines) == 2
    finally:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert complaints == "forward: 4 in, 2 lost, 2 out; backward: 2 in, 1 lost, 1 out\n"
    assert lab("--for", "100ms")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(number: signal.Signals) -> None:
    process = start()
    assert process.stdout is not None
    name = process.stdout.readline().split()[1]
    assert Path("/run/netns", name).exists()
    process.send_signal(number)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number
    assert not Path("/run/netns", name).exists()


def test_on_a_terminal_it_counts_while_packets_cross() -> None:
    mine, its = pty.openpty()
    process = start(stderr=its)
    os.close(its)
    shown = b""
    try:
        assert process.stdout is not None
        near = process.stdout.readline().split()[1]
        ping = ["nsenter", f"--net=/run/netns/{near}", "ping", "-c", "3", "-i", "0.01", "10.99.0.2"]
        subprocess.run(ping, capture_output=True, check=True)

        def counted() -> bool:
            nonlocal shown
            shown += os.read(mine, 4096)
            return b"\rforward: 3 in, 0 lost, 3 out; backward: 3 in" in shown.replace(b"\x1b[K", b"")

        wait_for(counted)
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
        os.close(mine)


def test_who_may_not_is_told_what_to_do() -> None:
    done = subprocess.run([*AS_NOBODY, *COMMAND], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == "python -m tests.lab: making network namespaces needs root; begin the line with sudo\n"
    )


def test_what_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    status, _, complaints = lab("--log", str(tmp_path / "no" / "where"))
    assert (status, complaints.count("\n")) == (1, 1)
    assert "--log" in complaints
    assert "No such file or directory" in complaints
    status, _, complaints = lab("--", "no-such-command")
    assert status == 1
    assert "python -m tests.lab: there is no command 'no-such-command'\n" in complaints
