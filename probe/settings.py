"""A TOML file in, one frozen typed tree out; a wrong file is refused whole, naming file, key, problem and
remedy.

Every key is a field below and its comment says its unit and its meaning; a key that is not here is an error.
Secrets are never values in the tree: they come from files, or from `COLOPROBE_...` environment variables.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType, inspect

from probe.errors import SettingsError
from probe.units import ByteSize, Duration

Id = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z")]
Tag = Annotated[str, Meta(max_length=128)]
_IDS = "a-z, 0-9 and '-', starting with a letter or digit, at most 63 characters"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: frozen, and a key it does not know is an error."""


class AgentTable(_Table):
    id: Id  # who measures: the topic, the tag `agent`
    site: Tag = ""  # where it stands: the tag `site`
    state_dir: str = "/var/lib/coloprobe"  # the spool lives here
    user: str = ""  # leave uid 0 for this user once sockets are open


class WindowTable(_Table):
    length: Duration = Duration.parse("10s")  # windows are [n * length, (n + 1) * length) of the wall clock
    timeout: Duration = Duration.parse("1s")  # a reply later than this is late, its probe lost
    histogram: Duration = Duration.parse("60s")  # the longer window of probe_histogram


class EngineTable(_Table):
    tick: Duration = Duration.parse("5ms")  # how often the engine wakes while probes are due
    receive_buffer: ByteSize = ByteSize.parse("16MiB")  # a socket's buffer for replies and stamps


class Knobs(_Table):
    """What `[defaults]` may set for every target, and a target for itself."""

    kind: Literal["icmp"] | UnsetType = UNSET
    interval: Duration | UnsetType = UNSET  # between two probes of one flow
    size: Annotated[int, Meta(ge=24, le=8972)] | UnsetType = (
        UNSET  # bytes of IP payload, ICMP header included
    )
    dscp: Annotated[int, Meta(ge=0, le=63)] | UnsetType = UNSET
    flows: Annotated[int, Meta(ge=1, le=1)] | UnsetType = UNSET  # this version measures one flow a target
    schedule: Literal["periodic", "poisson"] | UnsetType = UNSET


class Target(_Table):
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


class MqttTable(_Table):
    url: str = "mqtt://127.0.0.1:1883"  # mqtt:// or mqtts://, host, port
    username: str = ""  # default: the agent's or collector's id
    password_file: str = ""  # or COLOPROBE_MQTT_PASSWORD
    ca_file: str = ""  # trust this authority instead of the system's
    cert_file: str = ""  # with key_file: mutual TLS
    key_file: str = ""
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    share_group: str = ""  # collectors only: a shared subscription of this name; empty: an ordinary one


class UplinkTable(_Table):
    acknowledge: Literal["end-to-end", "broker"] = "end-to-end"
    window: Annotated[int, Meta(ge=1, le=1024)] = 64  # batches in flight
    ack_timeout: Duration = Duration.parse(
        "30s"
    )  # publish a batch again after this long without acknowledgement


class SpoolTable(_Table):
    max_bytes: ByteSize = ByteSize.parse("512MiB")  # the oldest batches go first, and are counted


class AgentSettings(_Table):
    """agent.toml."""

    agent: AgentTable
    target: tuple[Target, ...]
    window: WindowTable = WindowTable()
    engine: EngineTable = EngineTable()
    defaults: Knobs = Knobs()
    mqtt: MqttTable = MqttTable()
    uplink: UplinkTable = UplinkTable()
    spool: SpoolTable = SpoolTable()


class CollectorTable(_Table):
    id: Id  # the tag `collector`
    state_dir: str = "/var/lib/coloprobe"  # quarantined lines only


class InfluxTable(_Table):
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


class LimitsTable(_Table):
    batch_bytes: ByteSize = ByteSize.parse("256KiB")  # one batch, unpacked
    held_bytes: ByteSize = ByteSize.parse("32MiB")  # batches held while the sink does not answer
    quarantine_bytes: ByteSize = ByteSize.parse("64MiB")  # the quarantine file, then the oldest part goes


class CollectorSettings(_Table):
    """collector.toml."""

    collector: CollectorTable
    mqtt: MqttTable = MqttTable(share_group="collectors")
    influx: InfluxTable = InfluxTable()
    limits: LimitsTable = LimitsTable()


Settings = TypeVar("Settings", AgentSettings, CollectorSettings)

MIN_INTERVAL = Duration.parse("1ms")
MAX_RATE = 200_000  # probes a second of one agent: beyond what one engine sends


def load_agent(path: str | Path) -> AgentSettings:
    """Read agent.toml.

    Raises: SettingsError (unreadable, not TOML, unknown or ill-typed key, or values that contradict each
        other).
    """
    return agent_from(_read(path), str(path))


def load_collector(path: str | Path) -> CollectorSettings:
    """Read collector.toml. Raises: SettingsError, as `load_agent`."""
    raw = _read(path)
    if isinstance(raw.get("mqtt"), dict):
        raw["mqtt"].setdefault("share_group", "collectors")
    settings = _convert(raw, CollectorSettings, str(path))
    _check_url(str(path), "mqtt.url", settings.mqtt.url, ("mqtt", "mqtts"))
    _check_url(str(path), "influx.url", settings.influx.url, ("http", "https"))
    _check_mqtt_files(str(path), settings.mqtt)
    return settings


def agent_from(raw: Mapping[str, Any], file: str) -> AgentSettings:
    """Check a parsed TOML document; `file` is how errors call it. Raises: SettingsError."""
    raw = dict(raw)
    _convert(raw.get("defaults", {}), Knobs, file, "defaults")
    if not isinstance(raw.get("target", []), list) or not raw.get("target"):
        raise SettingsError(
            file, "target", "no target is given", "at least one [[target]] with name and address"
        )
    raw["target"] = [
        {**raw.get("defaults", {}), **target} if isinstance(target, dict) else target
        for target in raw["target"]
    ]
    settings = _convert(raw, AgentSettings, file)
    _check_agent(settings, file)
    return settings


def _check_agent(settings: AgentSettings, file: str) -> None:
    window = settings.window
    for key, value in (("window.length", window.length), ("window.timeout", window.timeout)):
        if value < Duration.parse("10ms"):
            raise SettingsError(file, key, f"{value} is too short", "10ms or longer")
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
    if not Duration.parse("100us") <= settings.engine.tick <= Duration.parse("100ms"):
        raise SettingsError(file, "engine.tick", f"{settings.engine.tick} is out of range", "100us to 100ms")
    if settings.uplink.ack_timeout < Duration.parse("100ms"):
        raise SettingsError(
            file, "uplink.ack_timeout", f"{settings.uplink.ack_timeout} is too short", "100ms or longer"
        )
    if settings.spool.max_bytes < ByteSize.parse("1MiB"):
        raise SettingsError(
            file, "spool.max_bytes", f"{settings.spool.max_bytes} is too small", "1MiB or more"
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
        if re.search(r"[\x00-\x1f\x7f]", target.name + target.venue + target.line):
            raise SettingsError(
                file, f"target[{i}]", "name, venue or line has a control character", "printable text"
            )
        if target.interval < MIN_INTERVAL:
            raise SettingsError(
                file, f"target[{i}].interval", f"{target.interval} is too short", f"{MIN_INTERVAL} or longer"
            )
    rate = sum(1e9 / t.interval * t.flows for t in settings.target)
    if rate > MAX_RATE:
        raise SettingsError(
            file, "target", f"all targets together ask for {rate:,.0f} probes/s", f"at most {MAX_RATE:,}"
        )


def _check_url(file: str, key: str, url: str, schemes: tuple[str, ...]) -> None:
    allowed = " or ".join(f"{scheme}://host:port" for scheme in schemes)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as problem:
        raise SettingsError(file, key, f"{url!r} is not a URL: {problem}", allowed) from None
    if parts.scheme not in schemes or not parts.hostname:
        raise SettingsError(file, key, f"{url!r} is not usable", allowed)
    if parts.password or parts.username:
        raise SettingsError(file, key, "the URL holds credentials", "username and a password or token file")


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


def _read(path: str | Path) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as stream:
            return tomllib.load(stream)
    except OSError as problem:
        raise SettingsError(
            str(path), "", f"cannot read it: {problem.strerror}", "a readable TOML file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(str(path), "", f"is not TOML: {problem}", "see https://toml.io") from None


T = TypeVar("T")


def _convert(raw: Any, shape: type[T], file: str, prefix: str = "") -> T:
    try:
        return msgspec.convert(raw, shape, dec_hook=_quantity)
    except msgspec.ValidationError as problem:
        key, what, allowed = _explain(str(problem), shape, prefix)
        raise SettingsError(file, key, what, allowed) from None


def _quantity(kind: type, value: Any) -> Any:
    if issubclass(kind, (Duration, ByteSize)):
        if not isinstance(value, str):
            raise ValueError(
                f"expected text with a unit, got {value!r} (allowed: for example '10s' or '512MiB')"
            )
        return kind.parse(value)
    raise NotImplementedError(kind)  # pragma: no cover - a settings field of a type that nobody taught us


def _explain(message: str, shape: type, prefix: str) -> tuple[str, str, str]:
    """msgspec's wording ('... - at `$.target[0].size`') as (key's path, problem, allowed)."""
    text, _, where = message.partition(" - at `$")
    where = where.removesuffix("`").removeprefix(".")
    path = ".".join(part for part in (prefix, where) if part)
    known = _type_at(shape, where)
    if (unknown := re.search(r"unknown field `([^`]*)`", text)) and isinstance(known, inspect.StructType):
        return (
            ".".join(p for p in (path, unknown[1]) if p),
            "unknown key",
            ", ".join(f.name for f in known.fields),
        )
    if missing := re.search(r"missing required field `([^`]*)`", text):
        return ".".join(p for p in (path, missing[1]) if p), "is missing", "see the example in config/"
    if "matching regex" in text:
        return path, "is not a valid id", _IDS
    what, _, allowed = text.partition(" (allowed: ")
    return path, what, allowed.removesuffix(")") or _allowed(known)


def _type_at(shape: Any, where: str) -> inspect.Type:
    """What msgspec knows about the type at the path `where` of `shape`."""
    info = inspect.type_info(shape)
    for part in re.findall(r"[a-z_]+|\[", where):
        if isinstance(info, inspect.StructType):
            info = next((f.type for f in info.fields if f.name == part), info)
        elif isinstance(info, inspect.VarTupleType):
            info = info.item_type
    return info


def _allowed(info: inspect.Type) -> str:
    """Words for what a type allows."""
    if isinstance(info, inspect.UnionType):
        info = info.types[0]
    if isinstance(info, inspect.LiteralType):
        return " or ".join(f'"{value}"' for value in info.values)
    if isinstance(info, inspect.IntType):
        return f"{info.ge} to {info.le}" if info.ge is not None else "a whole number"
    if isinstance(info, inspect.StrType):
        return "text"
    if isinstance(info, inspect.CustomType):
        return "text with a unit, for example '10s' or '512MiB'"
    return "a table" if isinstance(info, inspect.StructType) else "a list of tables"
