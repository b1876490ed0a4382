"""A settings file in, what works and what does not out: one finding a part, each with its remedy."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from probe.check_host import as_user, host_findings
from probe.clock import SystemClock
from probe.errors import ColoprobeError, SettingsError
from probe.findings import Finding
from probe.settings import (
    AgentSettings,
    CollectorSettings,
    MqttTable,
    exposed_secrets,
    load_agent,
    load_collector,
    read_secret,
)

_TIMEOUT_S = 10.0


OpenSink = Callable[[CollectorSettings, str, Any], Any]


def check(file: Path, as_json: bool, out: TextIO, open_sink: OpenSink | None) -> int:
    """Check agent.toml or collector.toml, told apart by their tables. Returns 0, or 1 where something failed.

    Raises: SettingsError where the file is wrong.
    """
    failed = False
    for finding in _findings(file, open_sink):
        failed |= finding.state == "failed"
        if as_json:
            print(json.dumps({k: v for k, v in asdict(finding).items() if v}), file=out, flush=True)
        else:
            print(finding.words, file=out, flush=True)
    return 1 if failed else 0


def _findings(file: Path, open_sink: OpenSink | None) -> Iterator[Finding]:
    if _is_collector(file):
        collector = load_collector(file)
        yield Finding("settings", "ok", f"{file}: collector {collector.collector.id}")
        yield from _exposed(collector)
        yield _writable("collector.state_dir", collector.collector.state_dir)
        yield _broker(collector.mqtt, collector.collector.id, str(file))
        yield _sink(collector, str(file), open_sink)
        return
    agent = load_agent(file)
    yield Finding("settings", "ok", f"{file}: agent {agent.agent.id}, {len(agent.target)} targets")
    yield from _exposed(agent)
    yield from host_findings(agent)
    yield _writable("agent.state_dir", agent.agent.state_dir)
    yield _broker(agent.mqtt, agent.agent.id, str(file), agent.agent.user)


def _exposed(settings: AgentSettings | CollectorSettings) -> Iterator[Finding]:
    """Secrets that everybody may read, here or on the way. Keys of targets have findings of their own."""
    links = [("mqtt.url", settings.mqtt.url)]
    if isinstance(settings, CollectorSettings):
        links.append(("influx.url", settings.influx.url))
    for key, url in links:
        if url.startswith(("mqtt:", "http:")) and not _stays_here(url):
            text = f"{url}: whoever is on the way can read and change what is sent, the password too"
            yield Finding(
                key, "warning", text, f"{url.partition(':')[0]}s://, with ca_file where it is your own CA"
            )
    for key, problem, remedy in exposed_secrets(settings):
        if key != "target.key_file":
            yield Finding(key, "warning", problem, remedy)


def _stays_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_collector(file: Path) -> bool:
    import tomllib

    try:
        return "collector" in tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # loading it as an agent's file says what is wrong


def _writable(key: str, directory: str) -> Finding:
    path = Path(directory)
    try:
        # Not made here: it would belong to whoever runs the check, and not to the service's user.
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        trial = there / f".check-{secrets.token_hex(4)}"
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as problem:
        return Finding(
            key, "failed", f"{directory}: {problem.strerror}", "a directory that this user can write"
        )
    return Finding(key, "ok", f"{directory} can be {'written' if there == path else 'made'}")


def _broker(mqtt: MqttTable, identity: str, file: str, user: str = "") -> Finding:
    """`user`: who the agent becomes, when it has read the password and before it reads certificates."""
    from probe.preparing import load_late_imports
    from probe.telemetry.mqtt import connect

    async def trial(password: str | None) -> None:
        client = f"{identity}-check-{secrets.token_hex(4)}"
        async with connect(mqtt, client_id=client, username=mqtt.username or identity, password=password):
            return

    try:
        password = read_secret(mqtt.password_file, "COLOPROBE_MQTT_PASSWORD", file, "mqtt.password_file")
        load_late_imports()  # that user may not be able to read them
        with as_user(user):
            asyncio.run(asyncio.wait_for(trial(password), _TIMEOUT_S))
    except SettingsError as problem:
        return Finding("broker", "failed", str(problem), f"{problem.key}: {problem.allowed}")
    except ColoprobeError as problem:
        said = str(problem).removeprefix(f"{mqtt.url}: ")
        return Finding("broker", "failed", f"{mqtt.url}: {said}", "start the broker, or correct [mqtt]")
    except TimeoutError:
        return Finding(
            "broker",
            "failed",
            f"{mqtt.url}: no answer in {_TIMEOUT_S:.0f} s",
            "check mqtt.url and the firewall",
        )
    return Finding("broker", "ok", f"{mqtt.url} takes us")


def _sink(settings: CollectorSettings, file: str, open_sink: OpenSink | None) -> Finding:
    if open_sink is None:
        remedy = "pip install 'coloprobe[collector]'"
        return Finding("influx", "failed", "the collector's parts are not installed", remedy)

    async def trial() -> None:
        sink = open_sink(settings, file, SystemClock())
        try:
            await sink.check()
        finally:
            await sink.close()

    try:
        asyncio.run(asyncio.wait_for(trial(), _TIMEOUT_S + settings.influx.timeout.seconds))
    except SettingsError as problem:
        return Finding("influx", "failed", str(problem), f"{problem.key}: {problem.allowed}")
    except ColoprobeError as problem:
        return Finding(
            "influx", "failed", f"{settings.influx.url}: {problem}", "start InfluxDB, or correct [influx]"
        )
    except TimeoutError:
        return Finding(
            "influx", "failed", f"{settings.influx.url}: no answer", "check influx.url and the firewall"
        )
    return Finding("influx", "ok", f"{settings.influx.url} takes us ({settings.influx.api})")
