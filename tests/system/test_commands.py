"""Commands in, what a person or a script gets from them out: words, exit statuses, JSON lines, completion."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system import servers
from tests.system.commands import Command, coloprobe, run, wait_for

COMMANDS = (
    "up",
    "agent",
    "collect",
    "ping",
    "ask",
    "agents",
    "diagnose",
    "reflect",
    "show",
    "check",
    "completion",
)

AGENT = """
[agent]
id = "ny4-01"
state_dir = "{directory}/state"
[window]
length = "500ms"
timeout = "200ms"
histogram = "500ms"
[defaults]
interval = "20ms"
[[target]]
name = "one"
address = "127.0.0.1"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
"""

COLLECTOR = """
[collector]
id = "fanin-1"
state_dir = "{directory}/fan-in"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
[influx]
api = "v1"
"""


def written(directory: Path, text: str, port: int = 9, more: str = "", name: str = "agent.toml") -> Path:
    file = directory / name
    file.write_text(text.format(directory=directory, port=port) + more, encoding="utf-8")
    return file


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status 2 and one line that says these words, in this order."""
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    assert re.search(".*".join(map(re.escape, ("coloprobe: ", *words))), line), line


# -- settings that are wrong ---------------------------------------------------------------------------------

BAD_AGENTS = {
    "unknown key": (AGENT + "colour = 1\n", "mqtt.colour: unknown key (allowed: url, username, "),
    "unknown table": (AGENT + "[windows]\n", "windows: unknown key (allowed: agent, target, window, "),
    "ill-typed key": (
        AGENT.replace('"500ms"', "500", 1),
        "window.length: 500 is not text with a unit (allowed: for example '250us', '100ms' or '10s')",
    ),
    "no unit": (
        AGENT.replace('"20ms"', '"20"'),
        "defaults.interval: '20' is not a number with a unit (allowed: for example '100ms' or '10s'; units ",
    ),
    "same name": (
        AGENT + '[[target]]\nname = "one"\naddress = "::1"\n',
        "target[1].name: 'one' is taken by target[0] (allowed: a name that no other target has)",
    ),
    "too often": (
        AGENT.replace('"20ms"', '"999us"'),
        "defaults.interval: 999us is out of range (allowed: 1ms to 1h)",
    ),
    "short window": (
        AGENT.replace('"500ms"', '"100ms"'),
        "window.length: 100ms is shorter than window.timeout (allowed: 200ms or longer)",
    ),
    "secret missing": (
        AGENT + 'password_file = "/nonexistent/secret"\n',
        "mqtt.password_file: cannot read '/nonexistent/secret': No such file or directory (allowed: a file",
    ),
    "no user": (
        AGENT.replace("[window]", 'user = "no-such-user"\n[window]'),
        "agent.user: no user 'no-such-user' on this host (allowed: a user that exists, or none)",
    ),
    "not TOML": ("[agent\n", "is not TOML: "),
}


@pytest.mark.parametrize("case", BAD_AGENTS)
def test_a_wrong_agent_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    text, words = BAD_AGENTS[case]
    file = tmp_path / "agent.toml"
    file.write_text(text.replace("{directory}", str(tmp_path)).replace("{port}", "9"), encoding="utf-8")
    refused(run("agent", "-c", file), f"{file}: ", words)
    assert not (tmp_path / "state").exists()


BAD_COLLECTORS = {
    "unknown key": ('bukket = "x"\n', "influx.bukket: unknown key (allowed: url, api, "),
    "ill-typed key": ("timeout = 5\n", "influx.timeout: 5 is not text with a unit (allowed: "),
    "secret missing": (
        'username = "u"\npassword_file = "/nonexistent/secret"\n',
        "influx.password_file: cannot read '/nonexistent/secret': No such file or directory (allowed: ",
    ),
}


@pytest.mark.parametrize("case", BAD_COLLECTORS)
def test_a_wrong_collector_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    more, words = BAD_COLLECTORS[case]
    file = written(tmp_path, COLLECTOR, more=more, name="collector.toml")
    refused(run("collect", "-c", file), f"{file}: {words}")


@pytest.mark.parametrize("command", ["agent", "collect", "check"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    missing = tmp_path / "nothing.toml"
    refused(run(command, "-c", missing), f"{missing}: cannot read it: No such file or directory")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("ping", "udp://127.0.0.1:1"),
            "udp:// is not a kind of probe (allowed: a host, icmp://host, stamp://",
        ),
        (
            ("ping", "tcp://127.0.0.1"),
            "'tcp://127.0.0.1' has no port (allowed: a host, icmp://host, stamp://",
        ),
        (
            ("up", "127.0.0.1/8", "--for", "1s"),
            "'127.0.0.1/8' is not a target (allowed: a host, icmp://host, stamp://",
        ),
        (("reflect", "--bind", "127.0.0.1:0"), "--bind '127.0.0.1:0' is no address to listen on (allowed: "),
        (
            ("reflect", "--bind", "127.0.0.1:8620", "--key-file", "/nonexistent/key"),
            "cannot read --key-file /nonexistent/key: No such file or directory",
        ),
        (
            ("ping", "stamp://127.0.0.1", "--key-file", "/nonexistent/key"),
            "cannot read --key-file /nonexistent/key: No such file or directory",
        ),
        (
            ("ping", "stamp://127.0.0.1", "-s", "50"),
            'command line: -s/--size: 50 is not allowed for kind = "stamp" (allowed: 52 to 9000)',
        ),
        (
            ("ping", "127.0.0.1", "--key-file", "/k"),
            'command line: --key-file: kind = "icmp" has no keys (allowed: no key_file, or kind = "stamp")',
        ),
        (
            ("ping", "127.0.0.1", "--source", "::1"),
            "command line: --source: '::1' is not of the family of TARGET = '127.0.0.1' (allowed: an IPv4 ",
        ),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments: tuple[str, ...], words: str) -> None:
    refused(run(*arguments), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ping", "127.0.0.1", "-i", "0.5ms"), "-i/--interval: '0.5ms' is out of range (allowed: 1ms to 1h)"),
        (("ping", "127.0.0.1", "-i", "2d"), "-i/--interval: '2d' is out of range (allowed: 1ms to 1h)"),
        (("ping", "127.0.0.1", "-W", "365d"), "-W/--timeout: '365d' is out of range (allowed: 1ms to 1h)"),
        (("ping", "::1", "--flows", "65"), "--flows: '65' is not a whole number from 1 to 64"),
        (("ping", "::1", "--burst", "0"), "--burst: '0' is not a whole number from 1 to 64"),
        (("ping", "::1", "--ttl", "256"), "--ttl: '256' is not a whole number from 1 to 255"),
        (("ping", "::1", "--dscp", "64"), "--dscp: '64' is not a whole number from 0 to 63"),
        (("ping", "::1", "-s", "9001"), "-s/--size: '9001' is not a whole number from 24 to 9000"),
        (("reflect", "--rate", "0"), "--rate: '0' is not a whole number from 1 to 10000000"),
        (("reflect", "--clock-error", "1m"), "--clock-error: '1m' is out of range (allowed: 1ns to 10s)"),
        (("up", "--interval", "1us"), "--interval: '1us' is out of range (allowed: 1ms to 1h)"),
        (("up", "--for", "0s"), "--for: '0s' is out of range (allowed: 1ns to 36500d)"),
        (("show", "--last", "999999999d"), "--last: '999999999d' is out of range (allowed: 1ns to 36500d)"),
    ],
)
def test_quantities_that_nobody_can_mean_are_refused(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(f"error: argument {words}")


# -- check ---------------------------------------------------------------------------------------------------


def findings(file: Path, status: int) -> dict[str, dict[str, Any]]:
    """What `check --json` found, by part."""
    done = run("check", "-c", file, "--json")
    assert done.returncode == status, done
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(one.get("remedy") for one in found if one["state"] != "ok"), found
    assert ("failed" in {one["state"] for one in found}) == (status == 1)
    plain = run("check", "-c", file)
    assert plain.returncode == status
    assert [line for line in plain.stdout.splitlines() if line.startswith("failed")] == [
        f"failed  {one['part']}: {one['text']}" for one in found if one["state"] == "failed"
    ]
    return {one["part"]: one for one in found}


def test_check_says_yes_where_everything_works(
    tmp_path: Path, mosquitto: servers.Server, influxdb: servers.Influx
) -> None:
    url = f'url = "http://127.0.0.1:{influxdb.port}"\n'
    fan_in = findings(written(tmp_path, COLLECTOR, mosquitto.port, url, "collector.toml"), 0)
    assert list(fan_in) == ["settings", "collector.state_dir", "broker", "influx"]
    assert {one["state"] for one in fan_in.values()} == {"ok"}
    agent = findings(written(tmp_path, AGENT, mosquitto.port), 0)
    for part in ("settings", "sockets IPv4", "sockets IPv6", "target one", "agent.state_dir", "broker"):
        assert agent[part]["state"] == "ok", agent
    assert {"clock", "timestamping lo"} <= set(agent)
    # Made by root here, they would not be the service's.
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "fan-in").exists()


def test_check_tells_what_is_down(tmp_path: Path) -> None:
    influx = f'url = "http://127.0.0.1:{servers.free_port()}"\n'
    port = servers.free_port()
    fan_in = findings(written(tmp_path, COLLECTOR, port, influx, "collector.toml"), 1)
    assert (fan_in["broker"]["state"], fan_in["influx"]["state"]) == ("failed", "failed")
    assert "refused" in fan_in["broker"]["text"]
    assert fan_in["influx"]["remedy"] == "start InfluxDB, or correct [influx]"
    agent = findings(written(tmp_path, AGENT, port), 1)
    assert (agent["broker"]["state"], agent["target one"]["state"]) == ("failed", "ok")
    assert agent["broker"]["remedy"] == "start the broker, or correct [mqtt]"


def test_check_tells_wrong_passwords(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    tool = servers.program("mosquitto_passwd")
    subprocess.run([tool, "-c", "-b", passwords, "fanin-1", "right"], check=True, capture_output=True)
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    rules = f"allow_anonymous false\npassword_file {passwords}"
    with (
        servers.mosquitto(tmp_path, extra_conf=rules) as broker,
        servers.influxdb(tmp_path, extra_http="auth-enabled = true") as influx,
    ):
        influx.query("CREATE USER admin WITH PASSWORD 'right' WITH ALL PRIVILEGES")
        text = COLLECTOR.replace("[influx]", f'password_file = "{secret}"\n[influx]')
        more = f'url = "http://127.0.0.1:{influx.port}"\nusername = "admin"\npassword_file = "{secret}"\n'
        found = findings(written(tmp_path, text, broker.port, more, "collector.toml"), 1)
    assert found["broker"]["state"] == found["influx"]["state"] == "failed"
    assert "mqtt.password_file" in found["broker"]["text"]
    assert "influx.password_file" in found["influx"]["text"]


def test_check_tells_a_database_that_is_not_there(
    tmp_path: Path, mosquitto: servers.Server, influxdb: servers.Influx
) -> None:
    more = f'url = "http://127.0.0.1:{influxdb.port}"\ndatabase = "other"\n'
    found = findings(written(tmp_path, COLLECTOR, mosquitto.port, more, "collector.toml"), 1)
    assert found["broker"]["state"] == "ok"
    assert "CREATE DATABASE other" in found["influx"]["text"]


# -- help, completion, show ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_that_parses(command: str) -> None:
    from probe.command_line import parser

    done = run(command, "--help", COLUMNS="200")
    assert done.returncode == 0
    example = re.search(
        rf"^Example: (?:eval \"\$\()?coloprobe ({command} .*?)\)?\"?$", done.stdout, re.MULTILINE
    )
    assert example, done.stdout
    assert parser().parse_args(example[1].split()).command == command


def test_help_names_every_command() -> None:
    done = run("--help")
    assert all(re.search(rf"^ +{command} ", done.stdout, re.MULTILINE) for command in COMMANDS)


def completed(script: Path, *words: str) -> set[str]:
    """What a real bash offers for the last of these words."""
    program = f"""
        source {script}
        COMP_WORDS=(coloprobe {" ".join(words)}) COMP_CWORD={len(words)}
        $(complete -p coloprobe | sed 's/.*-F \\([^ ]*\\).*/\\1/') coloprobe {words[-1] or '""'} ""
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(done.stdout.split())


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    done = run("completion", "bash")
    assert done.returncode == 0
    script = tmp_path / "coloprobe.bash"
    script.write_text(done.stdout)
    assert completed(script, "pi") == {"ping"}
    assert completed(script, "c") == {"collect", "check", "completion"}
    assert completed(script, "ping", "--inter") == {"--interval", "--interface"}
    assert completed(script, "ping", "--fl") == {"--flows"}
    assert f"{tmp_path}/coloprobe.bash" in completed(script, "ping", "--key-file", f"{tmp_path}/")


def test_reflect_answers_and_says_what_it_did(tmp_path: Path) -> None:
    port = servers.free_port()
    command = Command(tmp_path, "reflect", "reflect", "--bind", f"127.0.0.1:{port}", "--clock-error", "20us")
    try:
        command.start()
        wait_for(lambda: "reflecting STAMP (unauthenticated)" in command.text(), "it listens")
        assert f"on 127.0.0.1:{port}, at most 10000 replies/s to an address" in command.text()
        assert "the clock is trusted to 20us, as --clock-error says" in command.text()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(30)
            sender.sendto((7).to_bytes(4, "big") + bytes(40), ("127.0.0.1", port))
            reply, _ = sender.recvfrom(2048)
        assert len(reply) == 44
        assert reply[24:28] == (7).to_bytes(4, "big")  # the sender's number
        assert command.stop() == 0
        assert "ended: 1 replies to 1 packets, 1 sessions" in command.text()
    finally:
        command.kill()


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_too(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert "coloprobe" in done.stdout


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_show_says_where_it_found_nothing(tmp_path: Path, as_json: list[str]) -> None:
    for state in (tmp_path, tmp_path / "missing"):
        done = run("show", "--state", state, *as_json)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert str(state) in line
        assert "coloprobe up" in line


def test_ping_json_can_be_read_line_by_line() -> None:
    done = run("ping", "127.0.0.1", "-c", "3", "-i", "10ms", "--json")
    assert done.returncode == 0
    *probes, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [probe["seq"] for probe in probes] == [0, 1, 2]
    assert all(list(p) == ["flow", "seq", "sent_ns", "rtt_ns", "stamp", "outcome"] for p in probes)
    assert (summary["measurement"], summary["target"], summary["sent"]) == ("probe", "127.0.0.1", 3)


def test_a_reader_that_goes_away_is_no_failure() -> None:
    line = " ".join(coloprobe("ping", "127.0.0.1", "-c", "50", "-i", "10ms"))
    script = f"set -o pipefail; {line} | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
