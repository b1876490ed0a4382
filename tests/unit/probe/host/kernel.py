"""Facts in, the bytes by which a kernel would tell of them out; and a picture that has been told."""

from __future__ import annotations

import socket
import struct
import tomllib
from collections.abc import Sequence
from pathlib import Path

from probe.host.picture import PARTS, Picture
from probe.host.rtnetlink import ADDRESS, LINK, NEIGHBOUR, ROUTE, Message, messages
from probe.host.table import Said
from probe.host.watched import Watched

V4, V6 = 2, 10
REACHABLE, STALE, FAILED, PERMANENT = 0x02, 0x04, 0x20, 0x80
UP = 0x1 | 0x1000
_VECTORS = Path(__file__).parents[3] / "vectors" / "netlink.toml"
GATEWAY = [Watched("cme-a", "CME", "A", "10.60.0.7")]


def recorded(table: str, what: str) -> list[bytes]:
    """Datagrams that a real kernel wrote."""
    rows = tomllib.loads(_VECTORS.read_text(encoding="utf-8"))[table]
    return [bytes.fromhex(row["bytes"]) for row in rows if row["what"] == what]


def every_recorded() -> list[bytes]:
    rows = tomllib.loads(_VECTORS.read_text(encoding="utf-8"))
    return [bytes.fromhex(row["bytes"]) for table in rows.values() for row in table]


def _attribute(which: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), which) + value + bytes(-len(value) % 4)


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def ip(text: str) -> bytes:
    return socket.inet_pton(V6 if ":" in text else V4, text)


def link(index: int = 2, name: str = "eth0", *, gone: bool = False, **what: int) -> Message:
    """`up`, `carrier`, `changes`, `mtu`, `operstate` and `kind` as numbers."""
    body = struct.pack("=BxHiII", what.get("family", 0), 1, index, UP if what.get("up", 1) else 0, 0)
    carrier = what.get("carrier", 1)
    body += _attribute(3, name.encode() + b"\0") + _attribute(4, _u32(what.get("mtu", 1500)))
    body += _attribute(16, bytes([what.get("operstate", 6 if carrier else 2)])) + _attribute(
        33, bytes([carrier])
    )
    body += _attribute(35, _u32(what.get("changes", 1)))
    if what.get("veth"):
        body += _attribute(18, _attribute(1, b"veth\0"))
    return Message(LINK + gone, 0, 0, 0, body)


def address(text: str, length: int, index: int = 2, *, gone: bool = False, flags: int = 0x80) -> Message:
    packed = ip(text)
    body = struct.pack("=BBBBI", V4 if len(packed) == 4 else V6, length, flags, 0, index)
    return Message(ADDRESS + gone, 0, 0, 0, body + _attribute(1, packed))


def route(
    network: str,
    *legs: str,
    index: int = 2,
    gone: bool = False,
    flags: int = 0,
    table: int = 254,
    kind: int = 1,
) -> Message:
    """`legs`: addresses of gateways, or none: on the interface itself."""
    text, length = network.split("/")
    packed = ip(text)
    family = V4 if len(packed) == 4 else V6
    body = struct.pack("=8BI", family, int(length), 0, 0, min(table, 255), 4, 0, kind, 0)
    body += _attribute(15, _u32(table)) + (_attribute(1, packed) if int(length) else b"")
    if len(legs) > 1:
        hops = [_attribute(5, ip(leg)) for leg in legs]
        body += _attribute(9, b"".join(struct.pack("=HBBi", 8 + len(h), 0, 0, index) + h for h in hops))
    else:
        body += b"".join(_attribute(5, ip(leg)) for leg in legs) + _attribute(4, _u32(index))
    return Message(ROUTE + gone, flags, 0, 0, body)


def neighbour(
    text: str, mac: str = "", state: int = REACHABLE, index: int = 2, *, gone: bool = False, port: int = 0
) -> Message:
    packed = ip(text)
    body = struct.pack("=B3xiHBB", V4 if len(packed) == 4 else V6, index, state, 0, 1) + _attribute(1, packed)
    body += _attribute(2, bytes.fromhex(mac.replace(":", ""))) if mac else b""
    return Message(NEIGHBOUR + gone, 0, 0, port, body)


def read(picture: Picture, *rows: Message) -> list[Said]:
    """All tables are read, and this is what is in them."""
    said = []
    picture.heed()
    for part in PARTS:
        picture.begin(part)
        for row in rows:
            if row.kind == part[0] and part[1] in (0, row.body[0]):
                picture.row(row)
        said += [change.say() for change in picture.end(part)]
    return said


def tell(picture: Picture, *news: Message) -> list[Said]:
    """These are announced."""
    picture.heed()
    return [change.say() for message in news for change in picture.announced(message)]


def texts(said: Sequence[Said]) -> list[str]:
    return [one.text for one in said]


def datagram(*news: Message) -> bytes:
    """As it comes out of the socket."""
    data = b""
    for message in news:
        head = struct.pack(
            "=IHHII", 16 + len(message.body), message.kind, message.flags, message.sequence, message.port
        )
        data += head + message.body + bytes(-len(message.body) % 4)
    assert len(list(messages(data))) == len(news)
    return data
