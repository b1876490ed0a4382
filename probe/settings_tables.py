"""Nothing in, the tables of agent.toml and collector.toml out: every key with its type, unit and default."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from probe.tables import ID_PATTERN, Table
from probe.target_settings import Tag
from probe.units import ByteSize, Duration

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
    watch: bool = True  # changes of links, addresses, routes and neighbours as events
    # How often interfaces are read. Not set, or "": each window. "0s": never.
    counters: Duration | None = None
    sessions: bool = True  # the kernel's account of this host's TCP connections to targets, each window


class DetectTable(Table, frozen=True):
    enabled: bool = (
        True  # tell what windows show: loss bursts, shifts of latency and jitter, unreachable targets
    )
    shift: Annotated[float, Meta(ge=0.02, le=10)] = 0.2  # of the usual RTT: a change of its level by so much
    loss_burst: Annotated[int, Meta(ge=1, le=100_000)] = 3  # consecutive probes lost
    unreachable: Annotated[int, Meta(ge=1, le=1000)] = 2  # windows without an answer


class TraceTable(Table, frozen=True):
    every: Duration = Duration.parse("10m")  # the path of every target this often; "0s": never by itself
    on_event: bool = True  # also when something was detected at a target
    flows: Annotated[int, Meta(ge=1, le=64)] = 4  # paths asked for, unless the target has more flows
    max_hops: Annotated[int, Meta(ge=1, le=64)] = 30
    probes: Annotated[int, Meta(ge=1, le=100)] = 3  # of each hop and flow
    timeout: Duration = Duration.parse("1s")  # a hop that has not answered by then is silent
    rate: Annotated[int, Meta(ge=1, le=10_000)] = 50  # packets a second, of all traces together
    protocol: Literal["auto", "icmp", "udp", "tcp"] = "auto"  # auto: as the target is probed


class AskTable(Table, frozen=True):
    # What this agent does when somebody asks it over the broker; []: nothing.
    allow: tuple[Literal["ping", "trace", "sessions", "links", "check"], ...] = (
        "ping",
        "trace",
        "sessions",
        "links",
        "check",
    )
    any_target: bool = False  # true: ping and trace also to what is no target here
    per_minute: Annotated[int, Meta(ge=1, le=600)] = 12  # asks that are answered
    longest: Duration = Duration.parse("60s")  # one answer
    packets_per_second: Annotated[int, Meta(ge=1, le=10_000)] = 100  # of one answer


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
