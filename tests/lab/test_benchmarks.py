"""The benchmark's own parts in, agreement with the wire out: what is compared with must do the same work."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import programs
from benchmarks.measure import Program, interleave, measure, memory_bytes
from tests.lab.capture import Capture
from tests.lab.netlab import Namespace

Pair = tuple[Namespace, Namespace]


@pytest.fixture(scope="module")
def c_loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return programs.build_c_loop(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def targets(pair: Pair) -> Pair:
    near, far = pair
    far.answer_for(programs.TARGET_NETWORK)
    near.route(programs.TARGET_NETWORK, far.ipv4)
    return pair


def test_the_c_loop_stamps_and_matches_every_probe(targets: Pair, c_loop: Path) -> None:
    near, far = targets
    seen = far.rule("accept")
    with Capture(near) as capture:
        record = json.loads(near.run([c_loop, "saturated", programs.FIRST_TARGET.compressed, "1000"]).stdout)
    assert (record["probes"], record["received"], seen.counts().seen) == (1000, 1000, 1000)
    trips = [trip.rtt_ns for trip in capture.round_trips()]
    assert len(trips) == 1000
    assert None not in trips
    # A capture stamps before the driver does and shares the stamp of arrival, so its times are longer.
    assert 0 < record["rtt_mean_ns"] <= sum(trip or 0 for trip in trips) / 1000


def test_the_c_loop_does_not_call_lost_probes_received(targets: Pair, c_loop: Path) -> None:
    near, far = targets
    rule = far.rule(every=10)
    record = json.loads(near.run([c_loop, "saturated", programs.FIRST_TARGET.compressed, "640"]).stdout)
    assert (record["probes"], record["received"], rule.counts().hit) == (640, 576, 64)


def test_all_paced_programs_send_the_same_to_every_target(targets: Pair, c_loop: Path) -> None:
    near, far = targets
    for program in programs.paced(c_loop, 20, 10, 2):
        with Capture(near) as capture:
            run = measure(near, far, program)
        per_target = Counter(trip.target for trip in capture.round_trips())
        assert sorted(per_target) == sorted(programs.targets(20)), program.name
        assert run.work.probes == run.work.received
        # fping is stopped in the middle of a round, and does not count the probe that it is just sending.
        assert 0 <= per_target.total() - run.work.probes <= (1 if program.stop_after_s else 0)
        assert all(count in (18, 19, 20, 21) for count in per_target.values()), program.name


def test_what_a_probe_costs_adds_up_to_what_the_process_used(targets: Pair, c_loop: Path) -> None:
    near, far = targets
    run = measure(near, far, programs.saturated(c_loop, 20_000)[1])
    assert run.work.probes == 20_000
    assert 2_000 <= run.first.probes < 19_000 <= run.last.probes <= 20_000
    assert 0 < run.first.cpu_s < run.last.cpu_s <= run.cpu_s
    assert run.around_s + run.cpu_per_probe_s * 20_000 == pytest.approx(run.cpu_s)


def test_fping_is_asked_for_no_more_than_it_survives(targets: Pair, c_loop: Path) -> None:
    near, far = targets
    run = measure(near, far, programs.saturated(c_loop, 10**9)[2])
    assert run.work.probes == programs.FPING_MOST


def test_a_program_that_fails_is_reported_and_the_others_go_on(targets: Pair, c_loop: Path) -> None:
    near, far = targets
    said = '{"probes": 3, "received": 2}'
    rows = interleave(
        near,
        far,
        [
            programs.saturated(c_loop, 20_000)[1],
            Program("bad", ["sh", "-c", "echo broken; exit 3"], programs.read_json, (1, 2)),
            Program("mute", ["true"], programs.read_json, (1, 2)),
            Program("no totals", ["true"], programs.read_fping, (1, 2)),
            Program("idle", ["echo", said], programs.read_json, (1, 2)),
        ],
        2,
        lambda _: None,
    )
    assert [len(row.runs) for row in rows] == [2, 0, 0, 0, 0]
    assert not rows[0].problem
    assert rows[0].answered == 1
    assert rows[1].problem == "sh ended with 3: broken"
    assert "not the JSON" in rows[2].problem
    assert "printed no totals" in rows[3].problem
    assert rows[4].problem == "idle sent 3 probes, too few to tell what one costs"


def test_memory_is_read_in_bytes() -> None:
    memory = memory_bytes(1)
    assert 0 < memory["VmRSS"] <= memory["VmHWM"]
    assert memory["VmRSS"] % 1024 == 0
