"""[defaults] and [[target]] in, targets with every value that is in effect out; each contradiction is named.

What a target leaves out comes from [defaults], then from its kind. A default that a kind has no use for means
nothing to its targets (one file, several kinds); the same key in the target itself is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from probe.errors import SettingsError
from probe.tables import Table, convert
from probe.units import Duration

Tag = Annotated[str, Meta(max_length=128)]
KindName = Literal["icmp", "stamp", "tcp", "connect"]

Port = Annotated[int, Meta(ge=1, le=65535)]
Size = Annotated[int, Meta(ge=24, le=9000)]
Dscp = Annotated[int, Meta(ge=0, le=63)]
Flows = Annotated[int, Meta(ge=1, le=64)]
Burst = Annotated[int, Meta(ge=1, le=64)]
Ttl = Annotated[int, Meta(ge=1, le=255)]
Schedule = Literal["periodic", "poisson"]

MIN_INTERVAL, MAX_INTERVAL = Duration.parse("1ms"), Duration.parse("1h")
POLITE = Duration.parse("1s")  # a target that takes connections sees at most one probe in this time
_INTERVAL = Duration.parse("100ms")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Kind:
    """What is particular to a kind of probe; sizes are bytes of IP payload.

    smallest, largest: sizes that may be asked for; equal where the size is fixed. size: the default.
    port: the default one; None: there are no ports; 0: it has to be given.
    polite: it reaches the port that a gateway takes connections on.
    row: bytes of memory for each probe whose window is open.
    """

    smallest: int
    largest: int
    size: int
    port: int | None
    polite: bool
    row: int


KINDS: Mapping[str, Kind] = {
    "icmp": Kind(24, 9000, 64, None, False, 43),
    # UDP 8, RFC 8762 section 4.2.1: 44; RFC 8972: extra padding with a secret 12, follow-up telemetry 20.
    "stamp": Kind(52, 9000, 84, 862, False, 96),
    # A header and the option that says the segment size.
    "tcp": Kind(24, 24, 24, 0, True, 51),
    # The kernel's own SYN, with the options that it always sends.
    "connect": Kind(40, 40, 40, 0, True, 43),
}
# With a key, section 4.2.2: 112 in place of 44, and the HMAC of the extensions 20.
_AUTHENTICATED = Kind(120, 9000, 172, 862, False, 96)
_PORTS = '"stamp", "tcp" or "connect"'


class Knobs(Table, frozen=True):
    """What `[defaults]` may set for every target, and a target for itself."""

    kind: KindName | UnsetType = UNSET
    port: Port | UnsetType = UNSET
    interval: Duration | UnsetType = UNSET  # between two probes of one flow
    size: Size | UnsetType = UNSET  # bytes of IP payload, the probe's own header included
    dscp: Dscp | UnsetType = UNSET
    flows: Flows | UnsetType = UNSET  # streams with a fixed 5-tuple each, so that each keeps its path
    schedule: Schedule | UnsetType = UNSET
    burst: Burst | UnsetType = UNSET  # probes back to back, of each flow in each interval
    ttl: Ttl | UnsetType = UNSET  # of IPv6: the hop limit; default: the kernel's
    source: str | UnsetType = UNSET  # an IP address of this host; empty: the route's
    interface: str | UnsetType = UNSET  # send and receive by this one only (SO_BINDTODEVICE); empty: by route
    dont_fragment: bool | UnsetType = UNSET  # DF on every packet; larger than the path's MTU is not sent
    key_file: str | UnsetType = UNSET  # stamp: authenticated mode, with the key in this file; empty: without


class Written(Knobs, frozen=True, kw_only=True):
    """A [[target]] as it stands in the file."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    address: Annotated[str, Meta(min_length=1, max_length=253)]
    venue: Tag = ""
    line: Tag = ""


class Target(Table, frozen=True):
    """A target with everything that is in effect."""

    name: str  # the tag `target`; unique in a file
    address: str  # IPv4, IPv6 or a name
    venue: str = ""  # the exchange: the tag `venue`
    line: str = ""  # the cross-connect or feed, for example A or B: the tag `line`
    kind: KindName = "icmp"
    port: int = 0  # 0: the kind has none
    interval: Duration = _INTERVAL  # tcp, connect: as long as politeness wants
    size: int = 64
    dscp: int = 0
    flows: int = 1
    schedule: Schedule = "periodic"
    burst: int = 1
    ttl: int = 0  # 0: the kernel's
    source: str = ""
    interface: str = ""
    dont_fragment: bool = False
    key_file: str = ""

    @property
    def rate(self) -> float:
        """Probes a second, of all flows and bursts."""
        return self.flows * self.burst * 1e9 / self.interval

    @property
    def family(self) -> int:
        """socket.AF_INET or AF_INET6 where `source` ties it to one, else 0 (any)."""
        return _family(self.source) if self.source else 0


def targets_from(raw: list[Any], defaults: Mapping[str, Any], file: str) -> tuple[Target, ...]:
    """Every [[target]] of a document in effect. Raises: SettingsError."""
    common = convert(defaults, Knobs, file, "defaults")
    _check_interval(common, file, "defaults.interval")
    made = []
    first: dict[str, int] = {}
    for i, table in enumerate(raw):
        own = convert(table, Written, file, f"target[{i}]")
        if own.name in first:
            raise SettingsError(
                file,
                f"target[{i}].name",
                f"{own.name!r} is taken by target[{first[own.name]}]",
                "a name that no other target has",
            )
        first[own.name] = i
        made.append(target_from(own, common, file, f"target[{i}].{{}}".format))
    return tuple(made)


def target_from(own: Written, common: Knobs, file: str, place: Callable[[str], str]) -> Target:
    """One target in effect. `place`: how errors call one of its keys. Raises: SettingsError."""
    return _Effective(own, common, file, place).target()


def polite_interval(interval: Duration, flows: int, burst: int) -> Duration:
    """At least what keeps all probes of a target together below one in POLITE."""
    return max(interval, Duration(POLITE * flows * burst))


class _Effective:
    """One target and the defaults, and where each value stands in the file."""

    def __init__(self, own: Written, common: Knobs, file: str, place: Callable[[str], str]) -> None:
        self._own, self._common = own, common
        self._file, self._place = file, place

    def target(self) -> Target:
        own = self._own
        for name in ("name", "address", "venue", "line"):
            if _CONTROL.search(getattr(own, name)):
                raise SettingsError(
                    self._file, self._place(name), "has a control character", "printable text"
                )
        _check_interval(own, self._file, self._place("interval"))
        kind: KindName = self._get("kind", "icmp")
        knobs = {
            name: value for name in _SHARED if not isinstance(value := self._get(name, UNSET), UnsetType)
        }
        self._check_source(knobs.get("source", ""))
        self._check_interface(knobs.get("interface", ""))
        key_file = self._key_file(kind)
        return Target(
            name=own.name,
            address=own.address,
            venue=own.venue,
            line=own.line,
            kind=kind,
            port=self._port(kind),
            interval=self._interval(kind),
            size=self._size(kind, key_file),
            key_file=key_file,
            **knobs,
        )

    def _get(self, name: str, default: Any) -> Any:
        for table in (self._own, self._common):
            value = getattr(table, name)
            if value is not UNSET:
                return value
        return default

    def _key(self, name: str) -> str:
        """Where the value in effect stands."""
        if getattr(self._own, name) is UNSET and getattr(self._common, name) is not UNSET:
            return f"defaults.{name}"
        return self._place(name)

    def _wrong(self, name: str, problem: str, allowed: str) -> SettingsError:
        return SettingsError(self._file, self._key(name), problem, allowed)

    def _port(self, kind: str) -> int:
        known = KINDS[kind].port
        if known is None:
            if self._own.port is not UNSET:
                raise self._wrong("port", f'kind = "{kind}" has no ports', f"no port, or kind = {_PORTS}")
            return 0
        port = int(self._get("port", known))
        if not port:
            raise self._wrong("port", f'is missing, for kind = "{kind}"', "1 to 65535")
        return port

    def _interval(self, kind: str) -> Duration:
        interval = Duration(self._get("interval", _INTERVAL))
        if KINDS[kind].polite and self._own.interval is UNSET:
            return polite_interval(interval, self._get("flows", 1), self._get("burst", 1))
        return interval

    def _size(self, kind: str, key_file: str) -> int:
        known = KINDS[kind] if not key_file else _AUTHENTICATED
        if known.smallest == known.largest:
            if self._own.size is not UNSET:
                raise self._wrong(
                    "size", f'kind = "{kind}" always sends {known.size} bytes', "no size for this target"
                )
            return known.size
        size = int(self._get("size", known.size))
        if not known.smallest <= size <= known.largest:
            which = f'kind = "{kind}"' + (" with a key_file" if key_file else "")
            allowed = f"{known.smallest} to {known.largest}"
            if self._own.size is UNSET:
                which = f"target {self._own.name!r}, {which}"
                allowed += ", or that target's own size"
            raise self._wrong("size", f"{size} is not allowed for {which}", allowed)
        return size

    def _key_file(self, kind: str) -> str:
        path = str(self._get("key_file", ""))
        if kind != "stamp":
            if self._own.key_file is not UNSET and path:
                raise self._wrong(
                    "key_file", f'kind = "{kind}" has no keys', 'no key_file, or kind = "stamp"'
                )
            return ""
        if _CONTROL.search(path):
            raise self._wrong("key_file", f"{path!r} is not a file's path", "a file with the key, or none")
        return path

    def _check_source(self, source: str) -> None:
        if not source:
            return
        family = _family(source)
        if not family:
            raise self._wrong(
                "source",
                f"{source!r} is not an address that packets can come from",
                "an IP address of this host",
            )
        literal = _family(self._own.address.partition("%")[0], any_address=True)
        if literal and literal != family:
            named = f"{self._place('address')} = {self._own.address!r}"
            name = "IPv4" if literal == 2 else "IPv6"
            raise self._wrong(
                "source", f"{source!r} is not of the family of {named}", f"an {name} address of this host"
            )

    def _check_interface(self, interface: str) -> None:
        # dev_valid_name() of the kernel.
        if interface and (
            len(interface.encode()) > 15
            or interface in (".", "..")
            or re.search(r"[/:\s\x00-\x1f\x7f]", interface)
        ):
            raise self._wrong(
                "interface",
                f"{interface!r} is not an interface's name",
                "at most 15 bytes without spaces, / and :, for example eth0",
            )


# Keys that mean the same for every kind.
_SHARED = ("dscp", "flows", "schedule", "burst", "ttl", "source", "interface", "dont_fragment")


def _check_interval(knobs: Knobs, file: str, key: str) -> None:
    interval = knobs.interval
    if not isinstance(interval, UnsetType) and not MIN_INTERVAL <= interval <= MAX_INTERVAL:
        raise SettingsError(file, key, f"{interval} is out of range", f"{MIN_INTERVAL} to {MAX_INTERVAL}")


def _family(text: str, *, any_address: bool = False) -> int:
    """AF_INET (2) or AF_INET6 (10) of an address that a host may have; 0 where it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return 0
    if not any_address and (address.is_multicast or address.is_unspecified):
        return 0
    return 2 if address.version == 4 else 10
