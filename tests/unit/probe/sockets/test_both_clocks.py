"""Golden messages of both clocks in, what a socket makes of them out, by all the code that reads memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from probe.sockets import abi
from probe.sockets.packet_socket import PacketSocket, Replies, Stamps
from tests.unit.probe.sockets.messages import Kernel, Message, vector, vectors

Opener = Callable[..., PacketSocket]
INTERFACE = 3
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    it = Kernel()
    monkeypatch.setattr(abi, "recvmmsg", it.recvmmsg)
    monkeypatch.setattr(abi, "call_sendmmsg", lambda _fd, _at, count, _flags: count)
    return it


@pytest.fixture
def opened(kernel: Kernel) -> Iterator[Opener]:
    """Opens sockets that nothing is sent through, and that read from `kernel`."""
    assert kernel is not None
    handles = []

    def make(version: int, *interfaces: int, choose_id: bool = True) -> PacketSocket:
        handles.append(socket.socket(FAMILIES[version], socket.SOCK_DGRAM))
        stamping = abi.HARDWARE_STAMPING if interfaces else abi.STAMPING
        handles[-1].setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, stamping)
        return PacketSocket(
            handles[-1], raw=False, choose_id=choose_id, max_size=64, names=True, hardware=interfaces
        )

    yield make
    for handle in handles:
        handle.close()


def named(found: dict[str, Any]) -> str:
    return f"ipv{found['version']}-{found.get('what', 'error').replace(' ', '-')}"


def pairs(stamps: Stamps | None) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(id, time) by the kernel's clock, and by the interface's."""
    assert stamps is not None
    soft = list(zip(stamps.ids.tolist(), stamps.stamp.tolist(), strict=True))
    if stamps.hard_ids is None or stamps.hard_stamp is None:
        return soft, []
    return soft, list(zip(stamps.hard_ids.tolist(), stamps.hard_stamp.tolist(), strict=True))


def times(replies: Replies | None) -> list[tuple[int, int]]:
    """(stamp, hard) of each."""
    assert replies is not None
    assert replies.hard is not None
    return list(zip(replies.stamp.tolist(), replies.hard.tolist(), strict=True))


def expected(*found: dict[str, Any]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    soft = [(one["id"], one["stamp"]) for one in found if one["stamp"]]
    return soft, [(one["id"], one["hard"]) for one in found if one["hard"]]


@pytest.mark.parametrize("found", vectors("sent"), ids=named)
def test_a_departure_is_booked_under_the_clock_that_saw_it(
    kernel: Kernel, opened: Opener, found: dict[str, Any]
) -> None:
    it = opened(found["version"], INTERFACE)
    kernel.errors.append(found["message"])
    assert pairs(it.stamps()) == expected(found)
    assert it.stamps() is None


@pytest.mark.parametrize("version", [4, 6])
def test_without_hardware_stamps_there_is_the_kernels_clock_alone(
    kernel: Kernel, opened: Opener, version: int
) -> None:
    it = opened(version)
    sent, received = vector("sent", version, "by the kernel"), vector("received", version, "by the kernel")
    kernel.errors.append(sent["message"])
    kernel.ordinary.append(received["message"])
    stamps, replies = it.stamps(), it.receive()
    assert stamps is not None
    assert replies is not None
    assert pairs(stamps) == ([(7, sent["stamp"])], [])
    assert replies.stamp.tolist() == [received["stamp"]]
    assert stamps.hard_ids is None
    assert stamps.hard_stamp is None
    assert replies.hard is None


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("choose_id", [True, False])
def test_both_clocks_and_errors_between_them_in_one_block(
    kernel: Kernel, opened: Opener, version: int, choose_id: bool
) -> None:
    it = opened(version, INTERFACE, choose_id=choose_id)
    base = 0
    if not choose_id:  # the kernel counts, and its id 7 is our 107
        base = 100
        it.set_destinations([bytes(28)])
        it.prepare(slice(0, 8), np.zeros(8, np.int64), 64, np.arange(base, base + 8, dtype=np.uint32))
        assert it.send(0, 8) == (8, 0)
    soft, hard = vector("sent", version, "by the kernel"), vector("sent", version, "by the interface")
    error = vector("error", version)
    for _ in range(3):
        # Rows are used again, after messages of other lengths.
        kernel.errors += [soft["message"]] * 8
        assert len(pairs(it.stamps())[0]) == 8
        kernel.errors += [each["message"] for each in (error, soft, error, error, hard, soft, error, hard)]
        stamps = it.stamps()
        assert pairs(stamps) == ([(7 + base, soft["stamp"])] * 2, [(7 + base, hard["hard"])] * 2)
        assert stamps is not None
        assert len(stamps.errors) == 4
        for one in stamps.errors:
            assert (one.type, one.code) == (error["type"], error["code"])
            assert one.quoted == error["message"].data
            assert one.destination == error["message"].name.ljust(28, b"\0")
            assert not one.local  # the destination itself said so


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_of_this_host_about_another_one_is_local(
    kernel: Kernel, opened: Opener, version: int
) -> None:
    it = opened(version)
    found = vector("error", version)["message"]
    kernel.errors.append(Message(found.control, found.data, abi.sockaddr(*FAR[version])))
    kernel.errors.append(Message(found.control, found.data))
    stamps = it.stamps()
    assert stamps is not None
    assert [error.local for error in stamps.errors] == [True, True]
    assert [error.destination for error in stamps.errors] == [abi.sockaddr(*FAR[version]), b""]


FAR = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}


def test_a_departure_that_no_clock_saw_is_no_error(kernel: Kernel, opened: Opener) -> None:
    for version in (4, 6):
        it = opened(version, INTERFACE)
        kernel.errors.append(Message(vector("sent", version, "by the kernel")["message"].control[64:]))
        stamps = it.stamps()
        assert pairs(stamps) == ([], [])
        assert stamps is not None
        assert stamps.errors == ()


@pytest.mark.parametrize("found", vectors("received"), ids=named)
def test_an_arrival_has_the_time_by_each_clock_that_saw_it(
    kernel: Kernel, opened: Opener, found: dict[str, Any]
) -> None:
    it = opened(found["version"], 2, INTERFACE)
    kernel.ordinary.append(found["message"])
    replies = it.receive()
    assert times(replies) == [(found["stamp"], found["hard"])]
    assert replies is not None
    assert replies.sources[0].tobytes() == found["message"].name.ljust(28, b"\0")


@pytest.mark.parametrize("version", [4, 6])
def test_arrivals_of_all_sorts_in_one_block(kernel: Kernel, opened: Opener, version: int) -> None:
    it = opened(version, INTERFACE)
    kinds = [vector("received", version, f"by {what}") for what in ("both", "the kernel", "the interface")]
    for turn in range(4):  # a row that held a short message holds a long one next, and the other way round
        order = [kinds[(i * 5 + turn) % 3] for i in range(7)]
        kernel.ordinary += [each["message"] for each in order] + [Message(b"")]
        assert times(it.receive()) == [(each["stamp"], each["hard"]) for each in order] + [(0, 0)]


def test_the_time_by_another_interfaces_clock_is_none(kernel: Kernel, opened: Opener) -> None:
    it = opened(4, INTERFACE + 1)
    both, alone = (vector("received", 4, f"by {what}") for what in ("both", "the interface"))
    kernel.ordinary += [both["message"], alone["message"]]
    assert times(it.receive()) == [(both["stamp"], 0), (0, 0)]


def test_two_stamps_a_probe_leave_room_for_fewer_probes(opened: Opener) -> None:
    assert opened(4, INTERFACE).patience < opened(4).patience
