"""What a trace is asked in, and what it answers out: the JSON lines between a trace's process and its
parent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from probe.errors import (
    ChildError,
    ColoprobeError,
    MissingPartError,
    PrivilegeError,
    SocketError,
)

Protocol = Literal["icmp", "udp", "tcp"]
UDP_PORT = 33434  # where traceroute(8) has always sent to: nobody listens there


@dataclass(frozen=True)
class Traced:
    """A target whose path is wanted. family: AF_INET or AF_INET6; port 0: its kind has none."""

    name: str
    address: str  # numeric; of IPv6 perhaps with a scope
    family: int
    kind: str = "icmp"
    port: int = 0
    flows: int = 1
    dscp: int = 0
    source: str = ""
    interface: str = ""


def protocol_of(traced: Traced, wanted: str = "auto") -> tuple[Protocol, int]:
    """What its packets are made of, and the port they go to (0: none)."""
    kinds: dict[str, Protocol] = {"icmp": "icmp", "stamp": "udp", "tcp": "tcp", "connect": "tcp"}
    names: dict[str, Protocol] = {"icmp": "icmp", "udp": "udp", "tcp": "tcp"}
    protocol = names.get(wanted) or kinds.get(traced.kind, "icmp")
    same = kinds.get(traced.kind) == protocol
    if protocol == "icmp":
        return protocol, 0
    if protocol == "udp":
        return protocol, traced.port if same and traced.port else UDP_PORT
    return protocol, traced.port


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One trace. Times in ns, `rate` in packets a second, `seed`: what its flows' identities are made
    from."""

    address: str
    family: int
    protocol: Protocol
    port: int = 0
    flows: int = 4
    max_hops: int = 30
    probes: int = 3
    timeout: int = 1_000_000_000
    rate: float = 50.0
    dscp: int = 0
    source: str = ""
    interface: str = ""
    seed: str = ""
    mtu: bool = True

    def longest_s(self) -> float:
        """After how long a trace is surely over, seconds: every probe of every hop, and all its waits."""
        hops = self.flows * self.max_hops * (self.probes + 2) / self.rate
        # A search for an MTU takes at most so many packets and rounds; SYNs to a port are a second apart.
        mtu = min(self.flows, 4) * (200 / self.rate + 16 * self.timeout / 1e9) if self.mtu else 0
        return 30 + hops + mtu + self.probes * self.flows + (self.probes + 4) * self.timeout / 1e9


class Hop(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one flow saw at one TTL.

    addresses: who answered, whoever answered most first; none: it was silent. rtt_ns: the smallest. what: of
    an answer that is no plain "time exceeded", in words. mtu: bytes, the largest packet known to get here.
    """

    ttl: int
    addresses: tuple[str, ...] = ()
    sent: int = 0
    received: int = 0
    rtt_ns: int | None = None
    what: str = ""
    mtu: int | None = None

    @property
    def address(self) -> str:
        return self.addresses[0] if self.addresses else ""


class Start(msgspec.Struct, frozen=True, tag="start"):
    """It begins. identities: of each flow, what tells it apart: a port, or an ICMP id."""

    source: str
    identities: tuple[int, ...]
    labels: tuple[int, ...] = ()  # IPv6 flow labels


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """One probe was answered. stamp: "kernel" where both times are, else "user"."""

    flow: int
    ttl: int
    address: str
    rtt_ns: int
    stamp: Literal["kernel", "user"]
    what: str


class Path(msgspec.Struct, frozen=True, tag="path"):
    """A flow's whole path.

    reached: the target answered, in the words of `answer`. mtu: bytes of IP packet, None: not found out.
    mtu_hop: the last TTL that larger packets reach, None: none is lost on the way. black_hole: they vanish
    there without an ICMP message.
    """

    flow: int
    hops: tuple[Hop, ...]
    reached: bool
    answer: str = ""
    mtu: int | None = None
    mtu_hop: int | None = None
    black_hole: bool = False
    identity: int = 0


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is over. unstamped: answers whose RTT is by this program's own clock. refused: not let out by us."""

    sent: int
    answered: int
    unstamped: int
    refused: int = 0
    refusal: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It cannot be done, and why: the class of the error and its message."""

    error: str
    text: str


Record = Start | Answer | Path | Done | Failed
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_request = msgspec.json.Decoder(Request)
_ERRORS: dict[str, type[ColoprobeError]] = {
    "PrivilegeError": PrivilegeError,
    "SocketError": SocketError,
}


def encode(record: Record | Request) -> bytes:
    """One line, without its newline."""
    return msgspec.json.encode(record)


def decode(line: bytes) -> Start | Answer | Path | Done:
    """A line of the child's. Raises: ChildError (it is none), or the error that it tells of."""
    try:
        record: Record = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeError) as problem:
        raise ChildError(f"a trace said what is not understood: {problem}: {line[:80]!r}") from None
    if isinstance(record, Failed):
        if record.error == "MissingPartError":
            raise MissingPartError(record.text, "trace")
        raise _ERRORS.get(record.error, ChildError)(record.text)
    return record


def decode_request(line: bytes) -> Request:
    """What the parent asked. Raises: ChildError."""
    try:
        return _request.decode(line)
    except (msgspec.DecodeError, UnicodeError) as problem:
        raise ChildError(f"no request for a trace: {problem}") from None
