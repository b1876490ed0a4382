"""A TOML file in, one frozen typed tree out; a wrong file is refused whole, with file, key, problem, remedy.

Every key is a field below and its comment says its unit and its meaning; a key that is not here is an error.
Secrets are never values in the tree: they come from files, or from `COLOPROBE_...` environment variables.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from probe.errors import SettingsError
from probe.tables import ID_PATTERN, convert, read_toml
from probe.units import ByteSize, Duration

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Tag = Annotated[str, Meta(max_length=128)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: a key it does not know is an error. Type checkers want `frozen` said again below."""


class AgentTable(_Table, frozen=True):
    id: Id  # who measures: the topic, the tag `agent`
    site: Tag = ""  # where it stands: the tag `site`
    state_dir: str = "/var/lib/coloprobe"  # the spool lives here
    user: str = ""  # leave uid 0 for this user once sockets are open


class WindowTable(_Table, frozen=True):
    length: Duration = Duration.parse("10s")  # windows are [n * length, (n + 1) * length) of the wall clock
    timeout: Duration = Duration.parse("1s")  # a reply later than this is late, its probe lost
    histogram: Duration = Duration.parse("60s")  # the longer window of probe_histogram


class EngineTable(_Table, frozen=True):
    tick: Duration = Duration.parse("10ms")  # how often the engine wakes while probes are due
    receive_buffer: ByteSize = ByteSize.parse("16MiB")  # a socket's buffer for replies and stamps
    # "raw": a raw socket; TX stamps are taken in the driver. "ring": whole Ethernet frames, and both stamps
    # from a ring in shared memory: cheaper at high rates; TX stamps are taken at the tap, just before the
    # driver. Targets for which this cannot be done get a raw socket.
    backend: Literal["raw", "ring"] = "raw"


class Knobs(_Table, frozen=True):
    """What `[defaults]` may set for every target, and a target for itself."""

    kind: Literal["icmp"] | UnsetType = UNSET
    interval: Duration | UnsetType = UNSET  # between two probes of one flow
    size: Annotated[int, Meta(ge=24, le=8972)] | UnsetType = (
        UNSET  # bytes of IP payload, ICMP header included
    )
    dscp: Annotated[int, Meta(ge=0, le=63)] | UnsetType = UNSET
    flows: Annotated[int, Meta(ge=1, le=1)] | UnsetType = UNSET  # this version measures one flow a target
    schedule: Literal["periodic", "poisson"] | UnsetType = UNSET


class Target(_Table, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]  # the tag `target`; unique in a file
    address: Annotated[str, Meta(min_length=1, max_length=253)]  # IPv4, IPv6 or a name
    venue: Tag = ""  # the exchange: the tag `venue`
    line: Tag = ""  # the cross-connect or feed, for example A or B: the tag `line`
    kind: Literal["icmp"] = "icmp"
    interval: Duration = Duration.parse("100ms")
    size: Annotated[int, Meta(ge=24, le=8972)] = 64
    dscp: Annotated[int, Meta(ge=0, le=63)] = 0
    flows: Annotated[int, Meta(ge=1, le=1)] = 1
    schedule: Literal["periodic", "poisson"] = "periodic"


class MqttTable(_Table, frozen=True):
    url: str = "mqtt://127.0.0.1:1883"  # mqtt:// or mqtts://, host, port
    username: str = ""  # default: the agent's or collector's id
    password_file: str = ""  # or COLOPROBE_MQTT_PASSWORD
    ca_file: str = ""  # trust this authority instead of the system's
    cert_file: str = ""  # with key_file: mutual TLS
    key_file: str = ""
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    share_group: str = ""  # collectors only: a shared subscription of this name; empty: an ordinary one


class UplinkTable(_Table, frozen=True):
    acknowledge: Literal["end-to-end", "broker"] = "end-to-end"
    window: Annotated[int, Meta(ge=1, le=1024)] = 64  # batches in flight
    ack_timeout: Duration = Duration.parse(
        "30s"
    )  # publish a batch again after this long without acknowledgement


class SpoolTable(_Table, frozen=True):
    max_bytes: ByteSize = ByteSize.parse("512MiB")  # the oldest batches go first, and are counted


class AgentSettings(_Table, frozen=True):
    """agent.toml."""

    agent: AgentTable
    target: tuple[Target, ...]
    window: WindowTable = WindowTable()
    engine: EngineTable = EngineTable()
    defaults: Knobs = Knobs()
    mqtt: MqttTable = MqttTable()
    uplink: UplinkTable = UplinkTable()
    spool: SpoolTable = SpoolTable()


class CollectorTable(_Table, frozen=True):
    id: Id  # the tag `collector`
    state_dir: str = "/var/lib/coloprobe"  # quarantined lines only


class InfluxTable(_Table, frozen=True):
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
    timeout: Duration = Duration.parse("10s")  # of one write


class LimitsTable(_Table, frozen=True):
    batch_bytes: ByteSize = ByteSize.parse("256KiB")  # one batch, unpacked
    held_bytes: ByteSize = ByteSize.parse("32MiB")  # batches held while the sink does not answer
    quarantine_bytes: ByteSize = ByteSize.parse("64MiB")  # the quarantine file, then the oldest part goes


class CollectorSettings(_Table, frozen=True):
    """collector.toml."""

    collector: CollectorTable
    mqtt: MqttTable = MqttTable(share_group="collectors")
    influx: InfluxTable = InfluxTable()
    limits: LimitsTable = LimitsTable()


Settings = TypeVar("Settings", AgentSettings, CollectorSettings)

MIN_INTERVAL = Duration.parse("1ms")
MAX_RATE = 200_000  # probes a second of one agent: beyond what one engine sends
MAX_REMEMBERED = 10_000_000  # probes in memory, of 43 bytes each

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
_TARGET_RANGES = {"interval": (MIN_INTERVAL, Duration.parse("1h"))}
_COLLECTOR_RANGES: dict[str, tuple[Duration, Duration] | tuple[ByteSize, ByteSize]] = {
    "influx.timeout": (Duration.parse("10ms"), Duration.parse("10m")),
    "limits.batch_bytes": (ByteSize.parse("1KiB"), ByteSize.parse("64MiB")),
    "limits.held_bytes": (ByteSize.parse("1KiB"), ByteSize.parse("64GiB")),
    "limits.quarantine_bytes": (ByteSize.parse("1KiB"), ByteSize.parse("1024GiB")),
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
    _check_url(str(path), "mqtt.url", settings.mqtt.url, ("mqtt", "mqtts"))
    _check_url(str(path), "influx.url", settings.influx.url, ("http", "https"))
    _check_mqtt_files(str(path), settings.mqtt)
    _check_ranges(settings, _COLLECTOR_RANGES, str(path), "")
    _check_state_dir(settings.collector.state_dir, str(path), "collector.state_dir")
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
    convert(raw.get("defaults", {}), Knobs, file, "defaults")
    if not isinstance(raw.get("target", []), list) or not raw.get("target"):
        raise SettingsError(
            file, "target", "no target is given", "at least one [[target]] with name and address"
        )
    raw["target"] = [
        {**raw.get("defaults", {}), **target} if isinstance(target, dict) else target
        for target in raw["target"]
    ]
    settings = convert(raw, AgentSettings, file)
    _check_agent(settings, file)
    return settings


def _check_agent(settings: AgentSettings, file: str) -> None:
    window = settings.window
    _check_ranges(settings, _AGENT_RANGES, file, "")
    _check_state_dir(settings.agent.state_dir, file, "agent.state_dir")
    if _CONTROL.search(settings.agent.site):
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
    _check_url(file, "mqtt.url", settings.mqtt.url, ("mqtt", "mqtts"))
    _check_mqtt_files(file, settings.mqtt)
    first: dict[str, int] = {}
    for i, target in enumerate(settings.target):
        if target.name in first:
            raise SettingsError(
                file,
                f"target[{i}].name",
                f"{target.name!r} is taken by target[{first[target.name]}]",
                "a name that no other target has",
            )
        first[target.name] = i
        for name in ("name", "address", "venue", "line"):
            if _CONTROL.search(getattr(target, name)):
                raise SettingsError(file, f"target[{i}].{name}", "has a control character", "printable text")
        inherited = settings.defaults.interval == target.interval
        _check_ranges(target, _TARGET_RANGES, file, "defaults." if inherited else f"target[{i}].")
    rate = sum(1e9 / t.interval * t.flows for t in settings.target)
    if rate > MAX_RATE:
        raise SettingsError(
            file, "target", f"all targets together ask for {rate:,.0f} probes/s", f"at most {MAX_RATE:,}"
        )
    _check_memory(settings, rate, file)


def _check_memory(settings: AgentSettings, rate: float, file: str) -> None:
    """An engine remembers every probe until its window is closed."""
    window = settings.window
    span = (int(window.length) + 2 * int(window.timeout)) / 1e9
    if rate * span > MAX_REMEMBERED:
        raise SettingsError(
            file,
            "window.length",
            f"{window.length} at {rate:,.0f} probes/s means remembering {rate * span:,.0f} probes",
            f"at most {MAX_REMEMBERED:,}: shorter windows and timeouts, or longer intervals",
        )


def _check_ranges(
    table: _Table,
    ranges: Mapping[str, tuple[Duration, Duration] | tuple[ByteSize, ByteSize]],
    file: str,
    prefix: str,
) -> None:
    for key, (low, high) in ranges.items():
        value = attrgetter(key)(table)
        if not low <= value <= high:
            raise SettingsError(file, prefix + key, f"{value} is out of range", f"{low} to {high}")


def _check_state_dir(state_dir: str, file: str, key: str) -> None:
    if not state_dir or _CONTROL.search(state_dir):
        raise SettingsError(
            file, key, f"{state_dir!r} is not a folder's path", "a folder, for example /var/lib/coloprobe"
        )


def _check_url(file: str, key: str, url: str, schemes: tuple[str, ...]) -> None:
    allowed = " or ".join(f"{scheme}://host:port" for scheme in schemes)
    try:
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")  # as the resolver's library does, which fails in its own way
    except UnicodeError:
        raise SettingsError(file, key, f"{url!r} names no possible host", allowed) from None
    except ValueError as problem:
        raise SettingsError(file, key, f"{url!r} is not a URL: {problem}", allowed) from None
    if parts.password or parts.username:
        raise SettingsError(file, key, "the URL holds credentials", "username and a password or token file")
    # urlsplit drops line ends and tabs in silence; a query may hold a secret, and nothing here reads one.
    if (
        parts.scheme not in schemes
        or not parts.hostname
        or parts.query
        or parts.fragment
        or re.search(r"[\x00-\x20\x7f]", url)
    ):
        raise SettingsError(file, key, f"{url!r} is not usable", allowed)


def _check_mqtt_files(file: str, mqtt: MqttTable) -> None:
    if bool(mqtt.cert_file) != bool(mqtt.key_file):
        missing = "mqtt.key_file" if mqtt.cert_file else "mqtt.cert_file"
        raise SettingsError(file, missing, "is not set", "cert_file and key_file together, or neither")


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


def digest(settings: AgentSettings | CollectorSettings) -> str:
    """SHA-256 (hex) of the settings as understood: equal files with other comments have equal digests."""
    return hashlib.sha256(msgspec.json.encode(settings, enc_hook=int)).hexdigest()
