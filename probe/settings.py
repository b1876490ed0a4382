"""A TOML file in, one frozen typed tree out; a wrong file is refused whole, with file, key, problem, remedy.

Every key is a field below and its comment says its unit and its meaning; a key that is not here is an error.
Secrets are never values in the tree: they come from files, or from `COLOPROBE_...` environment variables.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from probe.errors import SettingsError
from probe.keys import exposed
from probe.settings_checks import CONTROL, check_mqtt_files, check_ranges, check_state_dir, check_url
from probe.settings_tables import (
    AgentTable,
    AskTable,
    CollectorTable,
    DetectTable,
    EngineTable,
    HostTable,
    InfluxTable,
    LimitsTable,
    MqttTable,
    SpoolTable,
    TraceTable,
    UplinkTable,
    WindowTable,
)
from probe.tables import Table, convert, read_toml
from probe.target_settings import KINDS, Knobs, Target, targets_from
from probe.units import ByteSize, Duration

__all__ = [
    "AgentSettings",
    "AgentTable",
    "AskTable",
    "CollectorSettings",
    "CollectorTable",
    "DetectTable",
    "EngineTable",
    "HostTable",
    "InfluxTable",
    "Knobs",
    "LimitsTable",
    "MqttTable",
    "SpoolTable",
    "Target",
    "TraceTable",
    "UplinkTable",
    "WindowTable",
    "agent_from",
    "digest",
    "exposed",
    "exposed_secrets",
    "load_agent",
    "load_collector",
    "read_secret",
    "warn_of_exposed",
]


class AgentSettings(Table, frozen=True):
    """agent.toml."""

    agent: AgentTable
    target: tuple[Target, ...]
    window: WindowTable = WindowTable()
    engine: EngineTable = EngineTable()
    defaults: Knobs = Knobs()
    host: HostTable = HostTable()
    detect: DetectTable = DetectTable()
    trace: TraceTable = TraceTable()
    ask: AskTable = AskTable()
    mqtt: MqttTable = MqttTable()
    uplink: UplinkTable = UplinkTable()
    spool: SpoolTable = SpoolTable()


class CollectorSettings(Table, frozen=True):
    """collector.toml."""

    collector: CollectorTable
    mqtt: MqttTable = MqttTable(share_group="collectors")
    influx: InfluxTable = InfluxTable()
    limits: LimitsTable = LimitsTable()


log = logging.getLogger(__name__)

Settings = TypeVar("Settings", AgentSettings, CollectorSettings)

MAX_RATE = 200_000  # probes a second of one agent: beyond what one engine sends
MAX_MEMORY = 430_000_000  # bytes for probes of open windows: ten million ICMP echo requests

# Between which values a quantity makes sense; the upper ends also keep every sum of them within 64 bits.
_AGENT_RANGES: dict[str, tuple[Duration, Duration] | tuple[ByteSize, ByteSize]] = {
    "window.length": (Duration.parse("10ms"), Duration.parse("1h")),
    "window.timeout": (Duration.parse("10ms"), Duration.parse("1h")),
    "window.histogram": (Duration.parse("10ms"), Duration.parse("1d")),
    "engine.tick": (Duration.parse("100us"), Duration.parse("100ms")),
    "engine.receive_buffer": (ByteSize.parse("64KiB"), ByteSize.parse("1GiB")),
    "uplink.ack_timeout": (Duration.parse("100ms"), Duration.parse("1h")),
    "spool.max_bytes": (ByteSize.parse("1MiB"), ByteSize.parse("1024GiB")),
    "trace.timeout": (Duration.parse("10ms"), Duration.parse("10s")),
    "ask.longest": (Duration.parse("1s"), Duration.parse("10m")),
}
# Zero: never.
_OFTEN = (Duration.parse("1s"), Duration.parse("7d"))
_CLOCK_ERRORS = (Duration.parse("1ns"), Duration.parse("10s"))
_COLLECTOR_RANGES: dict[str, tuple[Duration, Duration] | tuple[ByteSize, ByteSize]] = {
    "influx.timeout": (Duration.parse("10ms"), Duration.parse("10m")),
    "limits.batch_bytes": (ByteSize.parse("1KiB"), ByteSize.parse("64MiB")),
    "limits.held_bytes": (ByteSize.parse("1KiB"), ByteSize.parse("64GiB")),
    "limits.quarantine_bytes": (ByteSize.parse("1KiB"), ByteSize.parse("1024GiB")),
}


def load_agent(path: str | Path) -> AgentSettings:
    """Read agent.toml.

    Raises: SettingsError (unreadable, not TOML, unknown or ill-typed key, or values that contradict each
        other).
    """
    return agent_from(read_toml(path), str(path))


def load_collector(path: str | Path) -> CollectorSettings:
    """Read collector.toml. Raises: SettingsError, as `load_agent`."""
    raw = read_toml(path)
    if isinstance(raw.get("mqtt"), dict):
        raw["mqtt"].setdefault("share_group", "collectors")
    settings = convert(raw, CollectorSettings, str(path))
    check_url(str(path), "mqtt.url", settings.mqtt.url, ("mqtt", "mqtts"))
    check_url(str(path), "influx.url", settings.influx.url, ("http", "https"))
    check_mqtt_files(str(path), settings.mqtt.cert_file, settings.mqtt.key_file)
    check_ranges(settings, _COLLECTOR_RANGES, str(path), "")
    check_state_dir(settings.collector.state_dir, str(path), "collector.state_dir")
    if re.search(r"[/+#\x00-\x1f\x7f]", settings.mqtt.share_group):
        group = settings.mqtt.share_group
        raise SettingsError(
            str(path), "mqtt.share_group", f"{group!r} is not usable", "text without /, + and #"
        )
    if settings.limits.held_bytes < settings.limits.batch_bytes:
        raise SettingsError(
            str(path),
            "limits.held_bytes",
            f"{settings.limits.held_bytes} cannot hold one batch",
            f"limits.batch_bytes = {settings.limits.batch_bytes} or more",
        )
    return settings


def agent_from(raw: Mapping[str, Any], file: str) -> AgentSettings:
    """Check a parsed TOML document; `file` is how errors call it. Raises: SettingsError."""
    raw = dict(raw)
    targets, defaults, host = raw.get("target", []), raw.get("defaults", {}), raw.get("host")
    convert(defaults, Knobs, file, "defaults")
    if not isinstance(targets, list) or not targets:
        raise SettingsError(
            file, "target", "no target is given", "at least one [[target]] with name and address"
        )
    if isinstance(host, dict):
        unset = {key for key in ("clock_error", "counters") if host.get(key) == ""}
        raw["host"] = {key: value for key, value in host.items() if key not in unset}
    settings = convert({**raw, "target": []}, AgentSettings, file)
    settings = msgspec.structs.replace(settings, target=targets_from(targets, defaults, file))
    _check_agent(settings, file)
    return settings


def _check_agent(settings: AgentSettings, file: str) -> None:
    window = settings.window
    check_ranges(settings, _AGENT_RANGES, file, "")
    check_state_dir(settings.agent.state_dir, file, "agent.state_dir")
    if CONTROL.search(settings.agent.site):
        raise SettingsError(file, "agent.site", "has a control character", "printable text")
    if window.length < window.timeout:
        raise SettingsError(
            file,
            "window.length",
            f"{window.length} is shorter than window.timeout",
            f"{window.timeout} or longer",
        )
    if window.histogram < window.length or window.histogram % window.length:
        raise SettingsError(
            file,
            "window.histogram",
            f"{window.histogram} is not a whole number of windows",
            f"a multiple of window.length = {window.length}",
        )
    check_url(file, "mqtt.url", settings.mqtt.url, ("mqtt", "mqtts"))
    check_mqtt_files(file, settings.mqtt.cert_file, settings.mqtt.key_file)
    if settings.host.clock_error is not None:
        check_ranges(settings, {"host.clock_error": _CLOCK_ERRORS}, file, "")
    for key, value in (("host.counters", settings.host.counters), ("trace.every", settings.trace.every)):
        if value:
            check_ranges(settings, {key: _OFTEN}, file, "")
    rate = sum(target.rate for target in settings.target)
    if rate > MAX_RATE:
        raise SettingsError(
            file,
            "target",
            f"all targets together ask for {rate:,.0f} probes/s",
            f"at most {MAX_RATE:,}: longer intervals, fewer flows or smaller bursts",
        )
    _check_memory(settings, rate, file)


def _check_memory(settings: AgentSettings, rate: float, file: str) -> None:
    """An engine remembers every probe until its window is closed."""
    window = settings.window
    span = (int(window.length) + 2 * int(window.timeout)) / 1e9
    size = span * sum(target.rate * KINDS[target.kind].row for target in settings.target)
    if size > MAX_MEMORY:
        raise SettingsError(
            file,
            "window.length",
            f"{window.length} at {rate:,.0f} probes/s means remembering {rate * span:,.0f} probes in "
            f"{size / 1e6:,.0f} MB",
            f"at most {MAX_MEMORY / 1e6:,.0f} MB: shorter windows and timeouts, longer intervals, "
            "fewer flows or smaller bursts",
        )


def read_secret(path: str, environment: str, file: str, key: str) -> str | None:
    """The secret of the file at `path`, or of the variable `environment`; None where neither is set.

    One trailing newline is not part of a secret. Raises: SettingsError where the file cannot be read or is
    empty.
    """
    if not path:
        return os.environ.get(environment) or None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        remedy = f"a file that this user can read, or the variable {environment}"
        raise SettingsError(file, key, f"cannot read {path!r}: {reason}", remedy) from None
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise SettingsError(file, key, f"{path!r} is empty", "a file that holds the secret")
    return secret


def exposed_secrets(settings: AgentSettings | CollectorSettings) -> list[tuple[str, str, str]]:
    """Key, what is wrong, and what to do, for each file of a secret that is open to everybody."""
    files = [(f"mqtt.{key}", getattr(settings.mqtt, key)) for key in ("password_file", "key_file")]
    if isinstance(settings, AgentSettings):
        keys = dict.fromkeys(target.key_file for target in settings.target)
        files += [("target.key_file", path) for path in keys]
    else:
        files += [(f"influx.{key}", getattr(settings.influx, key)) for key in ("token_file", "password_file")]
    return [(key, *found) for key, path in files if path and (found := exposed(path))]


def warn_of_exposed(settings: AgentSettings | CollectorSettings, file: str) -> None:
    """Log them, for a process that starts."""
    for key, problem, remedy in exposed_secrets(settings):
        log.warning("%s: %s: %s; %s", file, key, problem, remedy)


def digest(settings: AgentSettings | CollectorSettings) -> str:
    """SHA-256 (hex) of the settings as understood: equal files with other comments have equal digests."""
    return hashlib.sha256(msgspec.json.encode(settings, enc_hook=int)).hexdigest()
