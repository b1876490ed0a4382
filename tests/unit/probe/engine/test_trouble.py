"""Readings of a host's load in, what the operator is told out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from probe.clock import MILLISECOND, SECOND
from probe.engine.trouble import BUSY_FOR, CALM_FOR, TELL_EVERY, Trouble
from probe.host.processors import Load

CORES = 2


@dataclass
class Host:
    """Two processors and a clock; `live` lets time pass with shares of it in use."""

    now: int = 10**15
    load: Load = field(default_factory=Load)

    def read(self) -> Load:
        return self.load

    def live(
        self, length: int, *, busy: float = 0.1, waited: float = 0.0, stolen: float = 0.0, used: float = 0.01
    ) -> int:
        self.now += length
        total = CORES * length
        self.load = replace(
            self.load,
            busy=self.load.busy + int(busy * total),
            idle=self.load.idle + total - int(busy * total),
            stolen=self.load.stolen + int(stolen * total),
            waited=self.load.waited + int(waited * length),
            used=self.load.used + int(used * length),
        )
        return self.now


def started() -> tuple[Host, Trouble]:
    host = Host(load=Load(waited=5 * SECOND, used=SECOND, busy=10**13, idle=10**13, stolen=10**12))
    trouble = Trouble(host.read)
    trouble.begin(host.now)
    return host, trouble


@pytest.mark.parametrize(
    ("lived", "reason"),
    [
        ({"waited": 0.9, "busy": 1.0}, "other programs held the processors"),
        ({"stolen": 0.8, "busy": 1.0}, "the hypervisor gave the machine no processor"),
        ({"used": 0.9, "busy": 0.6, "waited": 0.6}, "the agent itself was busy"),
        ({}, "it was stopped, or waited for memory or a disk, or the machine was paused"),
        ({"busy": 1.0}, "it was stopped, or waited for memory or a disk, or the machine was paused"),
    ],
)
def test_a_stall_has_its_reason(lived: dict[str, float], reason: str) -> None:
    host, trouble = started()
    for _ in range(5):
        assert trouble.look(host.live(SECOND)) == []
    host.live(300 * MILLISECOND)
    text = trouble.stalled(5 * SECOND, host.live(5 * SECOND, **lived))
    assert text is not None
    assert "did not run the agent for 5000 ms" in text
    assert reason in text


@pytest.mark.parametrize(
    ("lived", "reason"),
    [
        ({"used": 0.2, "busy": 0.3}, "it was stopped"),
        ({"waited": 0.02, "busy": 1.0, "used": 0.1}, "it was stopped"),
        ({"busy": 1.0, "stolen": 0.4, "waited": 0.1}, "it was stopped"),
    ],
)
def test_what_is_usual_explains_no_short_stall(lived: dict[str, float], reason: str) -> None:
    host, trouble = started()
    for _ in range(5):
        trouble.look(host.live(SECOND, **lived))
    host.live(900 * MILLISECOND, **lived)
    text = trouble.stalled(150 * MILLISECOND, host.live(150 * MILLISECOND))
    assert text is not None
    assert reason in text


def test_a_machine_that_got_no_processor_at_all_says_so() -> None:
    host, trouble = started()
    for _ in range(5):
        trouble.look(host.live(SECOND))
    text = trouble.stalled(SECOND, host.live(SECOND, busy=1.0, stolen=1.0))
    assert "the hypervisor gave the machine no processor" in (text or "")


def test_stalls_are_summed_up() -> None:
    host, trouble = started()
    told = [trouble.stalled(200 * MILLISECOND, host.live(300 * MILLISECOND, waited=0.5)) for _ in range(10)]
    assert [text is not None for text in told] == [True] + [False] * 9
    assert trouble.look(host.live(SECOND)) == []
    (text,) = trouble.look(host.live(TELL_EVERY))
    assert "did not run the agent for 9 times, 1800 ms in all and at most 200 ms" in text
    assert trouble.look(host.live(2 * TELL_EVERY)) == []
    assert trouble.rest() == []


def test_what_is_left_is_told_at_the_end() -> None:
    host, trouble = started()
    trouble.stalled(SECOND, host.live(SECOND))
    trouble.stalled(SECOND, host.live(SECOND))
    trouble.dropped(1, host.now)
    trouble.dropped(7, host.now)
    stalls, drops = trouble.rest()
    assert "for 1000 ms" in stalls
    assert "dropped 7 packets" in drops
    assert trouble.rest() == []


def test_stalls_do_not_keep_it_from_looking() -> None:
    host, trouble = started()
    texts = []
    for _ in range(40):
        trouble.stalled(200 * MILLISECOND, host.live(250 * MILLISECOND, busy=1.0, waited=0.8))
        texts += trouble.look(host.now)
    assert any("no processor to spare" in text for text in texts)
    assert trouble.share == 1.0


def test_a_busy_host_is_told_of_when_it_begins_and_ends() -> None:
    host, trouble = started()
    told = []
    for second in range(100):
        busy = 0.99 if 10 <= second < 60 else 0.4
        texts = trouble.look(host.live(SECOND, busy=busy, waited=0.02 if busy > 0.9 else 0.0))
        told += [(second, text) for text in texts]
    assert [second for second, _ in told] == [10 + BUSY_FOR - 1, 60 + CALM_FOR - 1]
    assert (
        "no processor to spare: 99% of its processors in use, the agent waited 2.0% of the last 1.0 s"
        in told[0][1]
    )
    assert "hypervisor" not in told[0][1]
    assert "spare again" in told[1][1]
    assert trouble.share == pytest.approx(0.4, abs=0.001)
    assert trouble.waited == SECOND


def test_waiting_counts_even_where_processors_are_idle() -> None:
    host, trouble = started()  # as in a container with a quota
    texts = [trouble.look(host.live(SECOND, busy=0.2, waited=0.3)) for _ in range(BUSY_FOR)]
    assert "the agent waits for a processor: 20% of its" in texts[-1][0]
    assert "waited 30.0%" in texts[-1][0]


def test_what_the_hypervisor_took_is_named() -> None:
    host, trouble = started()
    texts = [trouble.look(host.live(SECOND, busy=1.0, stolen=0.25)) for _ in range(BUSY_FOR)]
    assert "25% went to the hypervisor" in texts[-1][0]


def test_one_busy_second_is_nothing() -> None:
    host, trouble = started()
    for second in range(50):
        assert trouble.look(host.live(SECOND, busy=1.0 if second % 2 else 0.5)) == []


def test_it_does_not_look_oftener_than_once_a_second() -> None:
    host, trouble = started()
    for _ in range(9):
        assert trouble.look(host.live(100 * MILLISECOND, busy=1.0)) == []
        assert trouble.share == 0.0
    trouble.look(host.live(100 * MILLISECOND, busy=1.0))
    assert trouble.share == 1.0


def test_where_the_kernel_tells_nothing_nothing_is_said() -> None:
    trouble = Trouble(Load)
    trouble.begin(0)
    assert [trouble.look(second * SECOND) for second in range(1, 20)] == [[]] * 19
    assert trouble.share == 0.0


def test_drops_are_summed_up() -> None:
    _, trouble = started()
    now = 10**15
    assert "dropped 3 packets" in (trouble.dropped(3, now) or "")
    assert trouble.dropped(4, now + SECOND) is None
    assert trouble.dropped(0, now + TELL_EVERY - 1) is None
    assert "dropped 4 packets" in (trouble.dropped(0, now + TELL_EVERY) or "")
    assert trouble.dropped(0, now + 5 * TELL_EVERY) is None
