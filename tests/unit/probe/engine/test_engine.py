"""The engine on a clock that is turned by hand: what it sends when, and what it makes of what comes back."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from probe.clock import MICROSECOND, MILLISECOND, SECOND
from probe.packets.icmp import echo_view
from probe.sockets.memory import Fate, fates, lossless
from probe.sockets.packet_socket import Replies
from tests.unit.probe.engine.driving import TOKEN, Driver


def test_every_full_window_has_its_probes_and_its_place_on_the_wall_clock() -> None:
    driver = Driver(lossless(300 * MICROSECOND), flows=3)
    driver.run(3700 * MILLISECOND)
    driver.finish()
    assert [cut.start_ns % SECOND for cut in driver.cuts[1:]] == [0] * (len(driver.cuts) - 1)
    full = driver.summaries()[1:-1]
    assert len(full) >= 2
    for summary in full:
        assert summary.values["sent"].tolist() == [100, 100, 100]
        assert summary.values["lost"].tolist() == [0, 0, 0]
        assert summary.values["rtt_p50_ns"].tolist() == [300 * MICROSECOND] * 3
    assert sum(driver.totals(n)["sent"] for n in range(3)) == len(driver.socket.sent)


def test_a_window_that_the_agent_began_in_carries_the_instant_it_began() -> None:
    driver = Driver(lossless(MILLISECOND))
    driver.clock.advance(123_456_789)
    began = driver.clock.wall_ns
    driver.run(2 * SECOND)
    assert driver.cuts[0].start_ns == began
    assert driver.cuts[0].end_ns == (began // SECOND + 1) * SECOND


def test_probes_are_spread_so_that_no_tick_is_a_burst() -> None:
    driver = Driver(lossless(MILLISECOND), flows=50, interval=100 * MILLISECOND)
    sizes = []
    for _ in range(200):
        before = len(driver.socket.sent)
        wake = driver.engine.turn()
        sizes.append(len(driver.socket.sent) - before)
        driver.clock.advance(max(1, wake - driver.clock.mono_ns))
    assert sum(sizes) > 100
    assert max(sizes) <= 2  # one every 2 ms, on a tick of 2 ms


def test_open_loop_a_dead_target_is_probed_on_schedule() -> None:
    driver = Driver(lambda _n, _p: Fate())
    driver.run(SECOND + 20 * MILLISECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["sent"] == 100
    assert (totals["received"], totals["lost"]) == (0, 100)
    assert (
        driver.summaries()[0].values["loss_burst_max"][0] + driver.summaries()[1].values["loss_burst_max"][0]
        == 100
    )


def test_lost_late_duplicate_and_reordered_are_told_apart() -> None:
    plain = Fate((5 * MILLISECOND,))
    some = {
        3: Fate(),  # lost
        7: Fate((250 * MILLISECOND,)),  # late: after the timeout
        11: Fate((MILLISECOND, 2 * MILLISECOND, 3 * MILLISECOND)),  # two duplicates
        15: Fate((30 * MILLISECOND,)),  # overtaken by the replies to 16 and 17
    }
    driver = Driver(lambda n, _p: some.get(n, plain))
    driver.run(2 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["lost"] == 2
    assert totals["late"] == 1
    assert totals["duplicates"] == 2
    # The late reply was overtaken as well: by the replies to all that were sent in between.
    assert totals["reordered"] == 2
    assert totals["received"] == totals["sent"] - 2


def test_a_reply_after_its_window_was_closed_is_counted_late_once() -> None:
    driver = Driver(lambda n, _p: Fate((3 * SECOND, 3 * SECOND + MILLISECOND) if n == 5 else (MILLISECOND,)))
    driver.run(5 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert (totals["lost"], totals["late"], totals["duplicates"]) == (1, 1, 1)
    assert driver.channel.counters.foreign == 0


def test_a_refused_probe_never_left_and_is_no_loss() -> None:
    driver = Driver(lambda n, _p: Fate(refused=errno.EPERM) if n % 10 == 0 else Fate((MILLISECOND,)))
    driver.run(SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["errors"] == driver.channel.counters.refused > 5
    assert totals["lost"] == 0
    assert totals["sent"] == totals["received"] == len(driver.socket.sent)
    assert driver.channel.counters.last_errno == errno.EPERM


def test_a_full_send_buffer_delays_and_the_lag_shows() -> None:
    state = {"left": 3}

    def rule(n: int, _packet: bytes) -> Fate:
        if n == 20 and state["left"]:
            state["left"] -= 1
            return Fate(refused=errno.EAGAIN)
        return Fate((MILLISECOND,))

    driver = Driver(rule)
    driver.run(SECOND)
    driver.finish()
    assert driver.totals()["errors"] == 0
    assert driver.totals()["lost"] == 0
    lag = max(int(s.values["send_lag_max_ns"][0]) for s in driver.summaries())
    assert 4 * MILLISECOND < lag <= 30 * MILLISECOND


def test_a_stuck_probe_without_a_stamp_is_an_error_of_this_host() -> None:
    driver = Driver(lambda n, _p: Fate(stamped=False) if n == 50 else Fate((MILLISECOND,)))
    driver.run(SECOND)
    driver.finish()
    assert driver.totals()["errors"] == 1
    assert driver.totals()["lost"] == 0


def test_where_stamps_end_with_a_change_of_route_loss_is_loss_again() -> None:
    """From one line over to another, whose driver takes no stamps, and which then loses everything."""
    driver = Driver(lambda n, _p: Fate((MILLISECOND,) if n < 300 else (), stamped=n < 100))
    driver.run(5 * SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["received"] == 300
    assert (totals["lost"], totals["errors"]) == (len(driver.socket.sent) - 300, 0)


def test_without_kernel_stamps_our_clock_stands_in_and_is_named() -> None:
    driver = Driver(lambda _n, _p: Fate((MILLISECOND,), stamped=False))
    driver.run(SECOND)
    driver.finish()
    totals = driver.totals()
    assert totals["unstamped"] == totals["received"] == totals["sent"] > 0
    assert totals["errors"] == 0


def test_only_replies_with_the_secret_are_believed() -> None:
    reply = bytearray(64)
    reply[8:16] = TOKEN
    wrong_token = bytes(reply[:8]) + b"\0" * 8 + bytes(reply[16:])
    future = bytearray(reply)
    future[16:24] = (1 << 40).to_bytes(8, "big")
    truncated = bytes(reply[:12])
    driver = Driver(lossless(MILLISECOND))
    driver.run(100 * MILLISECOND)
    for n, packet in enumerate((wrong_token, bytes(future), truncated, b"", b"\x00")):
        driver.socket.deliver((driver.clock.mono_ns + n, packet))
    driver.run(SECOND)
    driver.finish()
    assert driver.channel.counters.foreign == 5
    assert driver.totals()["duplicates"] == driver.totals()["lost"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_packets_change_no_number(seed: int) -> None:
    rng = np.random.default_rng(seed)
    driver = Driver(lossless(MILLISECOND))
    for _ in range(50):
        driver.run(10 * MILLISECOND)
        driver.socket.deliver((driver.clock.mono_ns, rng.bytes(int(rng.integers(0, 200)))))
    driver.run(SECOND)
    driver.finish()
    totals = driver.totals()
    assert (totals["lost"], totals["errors"], totals["duplicates"], totals["late"]) == (0, 0, 0, 0)
    assert driver.channel.counters.foreign + driver.channel.counters.unanswerable == 50


def test_a_stall_is_reported_and_does_not_burst_or_lose() -> None:
    driver = Driver(lossless(MILLISECOND))
    driver.run(300 * MILLISECOND)
    before = len(driver.socket.sent)
    driver.clock.advance(5 * SECOND)  # SIGSTOP
    driver.engine.turn()
    assert len(driver.socket.sent) - before <= 26  # what was due in the last 250 ms
    driver.run(2 * SECOND)
    driver.finish()
    assert driver.totals()["lost"] == 0
    assert driver.channel.counters.skipped >= 470
    assert driver.engine.counters.stalls == 1
    assert [notice.kind for notice in driver.notices] == ["host"]
    starts = [cut.start_ns for cut in driver.cuts]
    assert len(set(starts)) == len(starts)


def test_a_stall_while_the_queues_of_a_late_turn_are_read_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(lossless(MILLISECOND))
    driver.run(300 * MILLISECOND)
    read, stops = driver.socket.receive, [600 * MILLISECOND]

    def receive() -> Replies | None:
        driver.clock.advance(stops.pop() if stops else 0)
        return read()

    monkeypatch.setattr(driver.socket, "receive", receive)
    driver.clock.advance(25 * MILLISECOND)  # late, but no stall yet
    driver.engine.turn()
    driver.run(SECOND)
    driver.finish()
    assert not stops
    assert driver.channel.counters.skipped >= 30
    assert driver.engine.counters.stalls == 1
    assert ["600 ms" in notice.text for notice in driver.notices] == [True]


@pytest.mark.parametrize("into", [MILLISECOND, 100 * MILLISECOND, 240 * MILLISECOND, 900 * MILLISECOND])
def test_a_stall_moves_no_probe_into_another_window(into: int) -> None:
    """Also where the stalled window had just begun, and nobody had looked at it yet."""
    driver = Driver(lossless(MILLISECOND))
    start = driver.clock.wall_ns
    driver.run(2 * SECOND - start % SECOND + into)
    before = len(driver.socket.sent)
    driver.clock.advance(3 * SECOND)
    driver.run(2 * SECOND)
    driver.finish()
    sent = [int(summary.values["sent"][0]) for summary in driver.summaries()]
    told = dict(zip((cut.start_ns for cut in driver.cuts), sent, strict=True))
    stalled = (start + 2 * SECOND - start % SECOND) // SECOND * SECOND
    assert sum(told.values()) == len(driver.socket.sent)
    assert sum(sent for window, sent in told.items() if window <= stalled) == before
    assert max(told.values()) <= 100


@pytest.mark.parametrize("step", [-3600 * SECOND, -50 * MILLISECOND, 50 * MILLISECOND, 3600 * SECOND])
def test_a_step_of_the_wall_clock_changes_no_round_trip_time(step: int) -> None:
    driver = Driver(lossless(20 * MILLISECOND))
    driver.run(1300 * MILLISECOND)
    driver.socket.about_to_step()
    driver.clock.step(step)
    driver.run(2500 * MILLISECOND)
    driver.finish()
    totals = driver.totals()
    assert (totals["lost"], totals["errors"]) == (0, 0)
    for summary in driver.summaries():
        if summary.timed[0]:
            assert summary.values["rtt_min_ns"][0] > 19 * MILLISECOND
            assert summary.values["rtt_max_ns"][0] < 21 * MILLISECOND
    starts = [cut.start_ns for cut in driver.cuts]
    assert len(set(starts)) == len(starts)
    assert [notice.kind for notice in driver.notices] == ["clock"]


def test_sequence_numbers_wrap_without_a_trace() -> None:
    driver = Driver(lossless(MILLISECOND), interval=MILLISECOND, capacity=8192)
    driver.channel.ledger.head = driver.channel.ledger.planned = driver.channel.ledger.floor = 65_500
    driver.run(SECOND)
    driver.finish()
    sequences = [
        int(echo_view(np.frombuffer(p, np.uint8).reshape(1, -1))["seq"][0]) for p in driver.socket.sent
    ]
    assert 65_535 in sequences
    assert 0 in sequences
    assert driver.totals()["lost"] == 0


def test_the_same_fates_by_list() -> None:
    driver = Driver(
        fates([Fate((MILLISECOND,)), Fate(), Fate((MILLISECOND,))] + [Fate((MILLISECOND,))] * 200)
    )
    driver.run(500 * MILLISECOND)
    driver.finish()
    assert driver.totals()["lost"] == 1


def test_why_this_host_refuses_is_told_once_for_each_reason() -> None:
    reasons = [errno.EPERM, errno.ENETUNREACH]
    driver = Driver(lambda n, _p: Fate(refused=reasons[n // 50 % 2]) if n % 5 == 0 else Fate((MILLISECOND,)))
    driver.run(3 * SECOND)
    driver.finish()
    texts = [notice.text for notice in driver.notices if notice.kind == "host"]
    assert len(texts) == 2
    assert "EPERM: Operation not permitted" in texts[0]
    assert "ENETUNREACH: Network is unreachable" in texts[1]


def test_the_end_does_not_wait_for_an_endless_timeout_nor_call_it_loss() -> None:
    driver = Driver(lambda n, _p: Fate() if n % 10 == 0 else Fate((MILLISECOND,)))
    driver.engine._timeout = driver.timeout = 3600 * SECOND
    driver.run(SECOND)
    before = driver.clock.mono_ns
    driver.finish()
    assert driver.clock.mono_ns - before < 11 * SECOND
    assert driver.totals()["lost"] == 0
    assert driver.totals()["received"] > 80
