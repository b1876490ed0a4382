"""The paths of one trace in, `hop` and `path` points of the published schema out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from probe.paths.memory import Observed, text
from probe.paths.records import Hop, Path
from probe.telemetry.lines import Point, Value


def observed(path: Path) -> Observed:
    """Who answered at each TTL."""
    return [hop.addresses for hop in path.hops]


def hop_fields(hop: Hop) -> dict[str, Value]:
    """The fields of a `hop` point; what has no value is absent."""
    fields: dict[str, Value] = {"sent": hop.sent, "received": hop.received}
    if hop.sent:
        fields["loss"] = (hop.sent - hop.received) / hop.sent
    if hop.address:
        fields["address"] = hop.address
    if hop.rtt_ns is not None:
        fields["rtt_ns"] = hop.rtt_ns
    if hop.mtu is not None:
        fields["mtu"] = hop.mtu
    if hop.what:
        fields["answer"] = hop.what
    return fields


def path_fields(path: Path, path_id: str, protocol: str) -> dict[str, Value]:
    """The fields of a `path` point; what has no value is absent."""
    fields: dict[str, Value] = {
        "hops": len(path.hops),
        **({"path_id": path_id} if path_id else {}),
        "reached": path.reached,
        "protocol": protocol,
        "hop_list": text(observed(path)),
    }
    if path.answer:
        fields["answer"] = path.answer
    if path.mtu is not None:
        fields["mtu"] = path.mtu
        fields["mtu_black_hole"] = path.black_hole
    if path.mtu_hop is not None:
        fields["mtu_hop"] = path.mtu_hop
    return fields


def points(
    paths: Sequence[Path], ids: Mapping[int, str], protocol: str, tags: Mapping[str, str], when: int
) -> Iterator[Point]:
    """All hops of all flows, then a `path` point for each flow.

    ids: each flow's path id. tags: of all, `target` among them. when: ns since the epoch, the trace's begin.
    """
    for path in paths:
        for hop in path.hops:
            mine = {**tags, "flow": str(path.flow), "ttl": str(hop.ttl)}
            yield Point("hop", mine, hop_fields(hop), when)
    for path in paths:
        fields = path_fields(path, ids[path.flow], protocol)
        yield Point("path", {**tags, "flow": str(path.flow)}, fields, when)
