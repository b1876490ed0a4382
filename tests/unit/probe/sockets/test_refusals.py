"""Real sockets that are refused in, the time of it out."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from probe.sockets.refusals import Refusals

PATIENCE_S = 10.0


def noted(refusals: Refusals, descriptor: int) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while (when := refusals.when(descriptor)) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return when


def test_each_refusal_is_noted_once_and_an_accepted_connection_never() -> None:
    refusals = Refusals()
    refusals.start()
    refusals.start()
    with (
        socket.create_server(("127.0.0.1", 0)) as there,
        socket.socket() as shut,
        socket.socket() as accepted,
    ):
        shut.bind(("127.0.0.1", 0))
        accepted.connect(there.getsockname())
        refusals.watch(accepted.fileno())
        for _ in range(3):
            with socket.socket() as refused:
                before = time.time_ns()
                with pytest.raises(ConnectionRefusedError):
                    refused.connect(shut.getsockname())
                refusals.watch(refused.fileno())
                assert before <= noted(refusals, refused.fileno()) <= time.time_ns()
                assert refusals.when(refused.fileno()) == 0
                refusals.forget(refused.fileno())
        # The others were noted behind it, so it would have been.
        assert refusals.when(accepted.fileno()) == 0
    refusals.close()


def test_its_thread_ends_with_it() -> None:
    before = threading.active_count()
    Refusals().close()
    refusals = Refusals()
    refusals.start()
    assert threading.active_count() == before + 1
    refusals.close()
    assert threading.active_count() == before
