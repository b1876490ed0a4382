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
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from probe.errors import SettingsError
from probe.keys import exposed
from probe.settings_checks import CONTROL, check_mqtt_files, check_ranges, check_state_dir, check_url
from probe.tables import ID_PATTERN, Table, convert, read_toml
from probe.target_settings import KINDS, Knobs, Tag, Target, targets_from
from probe.units import ByteSize, Duration

__all__ = [
    "AgentSettings",
    "AgentTable",
    "CollectorSettings",
    "CollectorTable",
    "EngineTable",
    "HostTable",
    "InfluxTable",
    "Knobs",
    "LimitsTable",
    "MqttTable",
    "SpoolTable",
    "Target",
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

Id = Annotated[str, Meta(pattern=ID_PATTERN)]


class AgentTable(Table, frozen=True):
    id: Id  # who measures: the topic, the tag `agent`
    site: Tag = ""  # where it stands: the tag `site`
    state_dir: str = "/var/lib/coloprobe"  # the spool lives here
    user: str = ""  # leave uid 0 for this user once sockets are open


class WindowTable(Table, frozen=True):
    length: Duration = Duration.parse("10s")  # windows are [n * length, (n + 1) * length) of the wall clock
    timeout: Duration = Duration.parse("1s")  # a reply later than this is late, its probe lost
    histogram: Duration = Duration.parse("60s")  # the longer window of probe_histogram


class EngineTable(Table, frozen=True):
    tick: Duration = Duration.parse("10ms")  # how often the engine wakes while probes are due
    receive_buffer: ByteSize = ByteSize.parse("16MiB")  # a socket's buffer for replies and stamps
    # "raw": a raw socket; TX stamps are taken in the driver. "ring": whole Ethernet frames, and both stamps
    # from a ring in shared memory: cheaper at high rates; TX stamps are taken at the tap, just before the
    # driver. Targets for which this cannot be done get a raw socket.
    backend: Literal["raw", "ring"] = "raw"
    # "auto": also by the interface's own clock where it has one, and where somebody has switched that on or
    # this process may. "off": by the kernel's alone.
    hardware_stamps: Literal["auto", "on", "off"] = "auto"


class HostTable(Table, frozen=True):
    # How far the wall clock is off at most, where it is disciplined without the kernel being told. Not set,
    # or "": the kernel's own account, adjtimex(2), which also says whether it is synchronised at all.
    clock_error: Duration | None = None


class MqttTable(Table, frozen=True):
    url: str = "mqtt://127.0.0.1:1883"  # mqtt:// or mqtts://, host, port
    username: str = ""  # default: the agent's or collector's id
    password_file: str = ""  # or COLOPROBE_MQTT_PASSWORD
    ca_file: str = ""  # trust this authority instead of the system's
    cert_file: str = ""  # with key_file: mutual TLS
    key_file: str = ""
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    share_group: str = ""  # collectors only: a shared subscription of this name; empty: an ordinary one


class UplinkTable(Table, frozen=True):
    acknowledge: Literal["end-to-end", "broker"] = "end-to-end"
    # "gzip": batches leave as the spool has them, packed where it pays. "none": as text, for consumers that
    # unpack nothing, as Telegraf. "auto": "none" with acknowledge = "broker", else "gzip".
    compress: Literal["auto", "gzip", "none"] = "auto"
    window: Annotated[int, Meta(ge=1, le=1024)] = 64  # batches in flight
    ack_timeout: Duration = Duration.parse(
        "30s"
    )  # publish a batch again after this long without acknowledgement


class SpoolTable(Table, frozen=True):
    max_bytes: ByteSize = ByteSize.parse("512MiB")  # the oldest batches go first, and are counted


class AgentSettings(Table, frozen=True):
    """agent.toml."""

    agent: AgentTable
    target: tuple[Target, ...]
    window: WindowTable = WindowTable()
    engine: EngineTable = EngineTable()
    defaults: Knobs = Knobs()
    host: HostTable = HostTable()
    mqtt: MqttTable = MqttTable()
    uplink: UplinkTable = UplinkTable()
    spool: SpoolTable = SpoolTable()


class CollectorTable(Table, frozen=True):
    id: Id  # the tag `collector`
    state_dir: str = "/var/lib/coloprobe"  # quarantined lines only


class InfluxTable(Table, frozen=True):
    url: str = "http://127.0.0.1:8086"
    api: Literal["v2", "v1"] = (
        "v2"  # v2: InfluxDB 1.8+, 2.x, 3.x, VictoriaMetrics; v1: /write of InfluxDB 1.x
    )
    org: str = ""  # v2
    bucket: str = "coloprobe"  # v2
    token_file: str = ""  # v2, or COLOPROBE_INFLUX_TOKEN
    database: str = "coloprobe"  # v1
    retention_policy: str = ""  # v1; empty: the database's default one
    username: str = ""  # v1
    password_file: str = ""  # v1, or COLOPROBE_INFLUX_PASSWORD
    ca_file: str = ""  # of https://: trust this authority instead of the system's
    timeout: Duration = Duration.parse("10s")  # of one write


class LimitsTable(Table, frozen=True):
    batch_bytes: ByteSize = ByteSize.parse("256KiB")  # one batch, unpacked
    held_bytes: ByteSize = ByteSize.parse("32MiB")  # batches held while the sink does not answer
    quarantine_bytes: ByteSize = ByteSize.parse("64MiB")  # the quarantine file, then the oldest part goes
    series: Annotated[int, Meta(ge=1, le=10_000_000)] = 50_000  # of one agent a day; lines beyond go aside


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
}
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
    if isinstance(host, dict) and host.get("clock_error") == "":
        raw["host"] = {key: value for key, value in host.items() if key != "clock_error"}
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
