"""Files of secrets and their modes in, what is told about them out."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from probe.check import check
from probe.findings import Finding
from probe.settings import exposed, load_agent, load_collector, warn_of_exposed

AGENT = """
[agent]
id = "a"
state_dir = "{home}"
[[target]]
name = "t"
address = "127.0.0.1"
kind = "stamp"
key_file = "{home}/stamp.key"
[mqtt]
url = "mqtt://127.0.0.1:9"
password_file = "{home}/password"
cert_file = "{home}/cert"
key_file = "{home}/key"
"""
COLLECTOR = """
[collector]
id = "c"
state_dir = "{home}"
[mqtt]
url = "mqtt://127.0.0.1:9"
password_file = "{home}/password"
[influx]
url = "http://127.0.0.1:9"
token_file = "{home}/token"
password_file = "{home}/influx"
"""


@pytest.mark.parametrize(
    ("mode", "may"),
    [
        (0o600, ""),
        (0o640, ""),
        (0o660, ""),
        (0o604, "read"),
        (0o644, "read"),
        (0o602, "change"),
        (0o777, "read"),
    ],
)
def test_who_may_open_a_secret(tmp_path: Path, mode: int, may: str) -> None:
    file = tmp_path / "secret"
    file.touch()
    file.chmod(mode)
    found = exposed(file)
    if not may:
        assert found is None
        return
    assert found == (
        f"everybody on this host may {may} {file} (mode {mode:04o})",
        f"chmod 600 {file} (640 where the service reads it by its group)",
    )


def test_what_is_not_there_is_no_finding(tmp_path: Path) -> None:
    assert exposed(tmp_path / "absent") is None


def test_a_start_tells_each_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for name in ("stamp.key", "password", "cert", "key", "token", "influx"):
        (tmp_path / name).write_text("hidden")
        (tmp_path / name).chmod(0o644)
    for load, text, keys in (
        (load_agent, AGENT, ["mqtt.password_file", "mqtt.key_file", "target.key_file"]),
        (load_collector, COLLECTOR, ["mqtt.password_file", "influx.token_file", "influx.password_file"]),
    ):
        caplog.clear()
        file = tmp_path / "settings.toml"
        file.write_text(text.format(home=tmp_path))
        warn_of_exposed(load(file), str(file))
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == len(keys)
        for one, key in zip(said, keys, strict=True):
            assert one.startswith(f"{file}: {key}: everybody on this host may read {tmp_path}/")
            assert "; chmod 600 " in one
        assert "hidden" not in caplog.text
        for name in ("stamp.key", "password", "key", "token", "influx"):
            (tmp_path / name).chmod(0o640)
        caplog.clear()
        warn_of_exposed(load(file), str(file))
        assert caplog.records == []
        for name in ("stamp.key", "password", "key", "token", "influx"):
            (tmp_path / name).chmod(0o644)


def test_check_tells_them_too(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(COLLECTOR.format(home=tmp_path))
    (tmp_path / "token").write_text("hidden")
    (tmp_path / "token").chmod(0o644)
    out = io.StringIO()
    check(file, True, out, None)
    found = {line["part"]: line for line in map(json.loads, out.getvalue().splitlines())}
    assert (found["influx.token_file"]["state"], found["influx.token_file"]["remedy"]) == (
        "warning",
        f"chmod 600 {tmp_path}/token (640 where the service reads it by its group)",
    )
    assert "hidden" not in out.getvalue()


def test_check_tells_what_crosses_the_network_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.check._broker", lambda *_: Finding("broker", "ok", ""))
    file, text = tmp_path / "settings.toml", COLLECTOR.replace("password_file", "# password_file")

    def told() -> dict[str, str]:
        file.write_text(text.format(home=tmp_path))
        out = io.StringIO()
        check(file, True, out, None)
        found = [json.loads(line) for line in out.getvalue().splitlines()]
        return {one["part"]: one["remedy"] for one in found if one["part"].endswith(".url")}

    assert told() == {}
    text = text.replace("127.0.0.1:9", "broker.example:9")
    assert told() == {
        "mqtt.url": "mqtts://, with ca_file where it is your own CA",
        "influx.url": "https://, with ca_file where it is your own CA",
    }
    text = text.replace("mqtt://", "mqtts://").replace("http://", "https://")
    assert told() == {}
