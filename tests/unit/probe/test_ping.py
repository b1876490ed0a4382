"""Options in, what `coloprobe ping` plans, measures and refuses out."""

from __future__ import annotations

import io
import re
import socket

import msgspec
import numpy as np
import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.channel import FAR
from probe.errors import SocketError, UsageError
from probe.ping import Counted, PingOptions, ping
from probe.sockets import datagram
from probe.sockets.opening import SocketOptions
from probe.target_settings import Target
from probe.units import Duration

TIMEOUT = 200 * MILLISECOND
TARGET = Target(name="there", address="192.0.2.1", interval=Duration(100 * MILLISECOND))


def changed(**values: object) -> Target:
    return msgspec.structs.replace(TARGET, **values)


# -- the schedule --------------------------------------------------------------------------------------------


def taken(schedule: Counted, *, step: int = 250 * MILLISECOND, limit: int = 1024) -> list[tuple[int, int]]:
    """All that it gives in an hour: flow and due time."""
    schedule.begin(0)
    out, until = [], 0
    while schedule.earliest() != FAR and until < 3600 * SECOND:
        until += step
        flows, dues = schedule.take(until, limit)
        assert (np.diff(dues) >= 0).all()
        out += list(zip(flows.tolist(), dues.tolist(), strict=True))
    return out


def test_the_first_probe_is_due_at_once_and_the_flows_are_spread_over_the_interval() -> None:
    schedule = Counted(changed(flows=4), range(4), 3, np.random.default_rng(1))
    probes = taken(schedule)
    assert probes == [(n % 4, n * 25 * MILLISECOND) for n in range(12)]
    assert schedule.earliest() == FAR


def test_flows_with_a_socket_each_are_spread_in_the_same_way() -> None:
    target = changed(flows=4, kind="stamp")
    for lane in range(4):
        schedule = Counted(target, range(lane, lane + 1), 2, np.random.default_rng(1))
        assert [due for _, due in taken(schedule)] == [
            lane * 25 * MILLISECOND,
            (100 + lane * 25) * MILLISECOND,
        ]


@pytest.mark.parametrize("limit", [1, 3, 1024])
@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize("schedule", ["periodic", "poisson"])
def test_each_flow_gets_its_count(schedule: str, burst: int, limit: int) -> None:
    target = changed(flows=5, schedule=schedule, burst=burst)
    counted = Counted(target, range(5), 7, np.random.default_rng(2))
    probes = taken(counted, step=SECOND, limit=limit)
    assert np.bincount([flow for flow, _ in probes]).tolist() == [7] * 5
    flow, dues = 2, [due for flow, due in probes if flow == 2]
    assert flow == 2
    instants = sorted(set(dues))
    assert [dues.count(instant) for instant in instants[:2]] == [burst] * 2
    assert len(instants) == -(-7 // burst)


def test_without_a_count_it_goes_on() -> None:
    schedule = Counted(TARGET, range(1), None, np.random.default_rng(1))
    schedule.begin(0)
    assert len(schedule.take(10 * SECOND, 1 << 20)[0]) == 100
    assert schedule.skip(100 * SECOND) == 0  # every probe is reported
    assert schedule.earliest() == 10 * SECOND


# -- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            PingOptions(changed(interval=Duration(MILLISECOND), flows=64, burst=64)),
            "--flows 64 and --burst 64 at -i 1ms are 4,096,000 probes/s (allowed: at most 200,000)",
        ),
        (
            PingOptions(changed(interval=Duration(MILLISECOND), flows=4), timeout=3600 * SECOND),
            "--flows 4 and --burst 1 at -i 1ms with -W 1h mean remembering 28,852,800 probes "
            "(allowed: at most 10,000,000)",
        ),
        (
            PingOptions(changed(address="localhost", source="127.0.0.1"), family=10),
            "--source: '127.0.0.1' is not of the family that -6 asks for",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_the_command_lines_words(options: PingOptions, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        ping(options, out=io.StringIO())


def test_flows_that_get_no_socket_are_said_and_the_others_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = datagram.open_datagram
    calls = iter(range(100))

    def scarce(options: SocketOptions, *, kept: int) -> datagram.DatagramSocket:
        if next(calls) in (1, 3):
            raise SocketError("there are no more")
        return opened(options, kept=kept)

    monkeypatch.setattr(datagram, "open_datagram", scarce)
    monkeypatch.setattr("probe.ping.drop_privileges", lambda: None)
    monkeypatch.setattr("probe.ping.signal.signal", lambda *_: None)
    port = unused_port()
    target = changed(kind="stamp", address="127.0.0.1", port=port, size=84, flows=4)
    out = io.StringIO()
    assert ping(PingOptions(target, count=2, timeout=TIMEOUT), out=out) == 1  # nobody answers there
    assert capsys.readouterr().err.count("there: not all of its 4 flows: there are no more\n") == 1
    rows = [line.split() for line in out.getvalue().splitlines() if line.startswith("   ")]
    table = {row[0]: row[1:4] for row in rows if row[0].isdecimal() and len(row) > 6}
    assert [table[flow][1:] for flow in ("0", "2")] == [["2", "2"]] * 2
    assert [table[flow] for flow in ("1", "3")] == [["-", "0", "0"]] * 2
    assert out.getvalue().rstrip().endswith("flows 1, 3 could not be measured")
    monkeypatch.setattr(datagram, "open_datagram", lambda *_, **__: scarce_at_all())
    with pytest.raises(SocketError, match="nothing left"):
        ping(PingOptions(target, count=2, timeout=TIMEOUT), out=out)


def scarce_at_all() -> datagram.DatagramSocket:
    raise SocketError("nothing left")


def unused_port() -> int:
    """Of UDP on this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
