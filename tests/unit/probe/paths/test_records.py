"""What a trace's process writes in, records or the error that it means out; anything else in, an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ChildError, ColoprobeError, MissingPartError, PrivilegeError, SocketError
from probe.paths.records import (
    Answer,
    Done,
    Failed,
    Hop,
    Path,
    Record,
    Request,
    Start,
    Traced,
    decode,
    decode_request,
    encode,
    protocol_of,
)
from tests.unit.probe.repeatable import repeatable


@pytest.mark.parametrize(
    "record",
    [
        Start("192.0.2.9", (61000, 61001), (5, 6)),
        Answer(0, 3, "192.0.2.1", 5000, "kernel", "exceeded"),
        Path(1, (Hop(1, ("a", "b"), 3, 2, 9, "", 1500), Hop(2, (), 3)), True, "reset", 1500, 1, True, 61000),
        Done(9, 8, 1, 1, "Operation not permitted"),
    ],
)
def test_records_come_back_as_they_were(record: Record) -> None:
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    ("failed", "kind", "text"),
    [
        (Failed("MissingPartError", "scapy"), MissingPartError, "scapy is not installed; install it with"),
        (Failed("PrivilegeError", "needs CAP_NET_RAW"), PrivilegeError, "needs CAP_NET_RAW"),
        (Failed("SocketError", "no route"), SocketError, "no route"),
        (Failed("Whatever", "it broke"), ChildError, "it broke"),
    ],
)
def test_a_failure_is_the_error_that_it_was(failed: Failed, kind: type[ColoprobeError], text: str) -> None:
    with pytest.raises(kind, match=text):
        decode(encode(failed))


@repeatable
@given(st.binary(max_size=80))
def test_anything_else_is_a_childs_error(line: bytes) -> None:
    with pytest.raises(ChildError, match="a trace said what is not understood"):
        decode(line)
    with pytest.raises(ChildError, match="no request for a trace"):
        decode_request(line)


def test_a_request_comes_back_and_knows_how_long_it_may_take() -> None:
    request = Request("192.0.2.1", 2, "tcp", 9000, seed="x")
    assert decode_request(encode(request)) == request
    assert 60 < request.longest_s() < 180


@pytest.mark.parametrize(
    ("kind", "port", "wanted", "result"),
    [
        ("icmp", 0, "auto", ("icmp", 0)),
        ("stamp", 862, "auto", ("udp", 862)),
        ("tcp", 9000, "auto", ("tcp", 9000)),
        ("connect", 9000, "auto", ("tcp", 9000)),
        ("tcp", 9000, "udp", ("udp", 33434)),
        ("stamp", 862, "icmp", ("icmp", 0)),
        ("icmp", 0, "udp", ("udp", 33434)),
    ],
)
def test_packets_are_what_the_target_is_probed_with(
    kind: str, port: int, wanted: str, result: tuple[str, int]
) -> None:
    assert protocol_of(Traced("x", "192.0.2.1", 2, kind, port), wanted) == result
