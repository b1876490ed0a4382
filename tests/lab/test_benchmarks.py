"""The benchmark's own parts in, agreement with the wire out: what is compared with must do the same work."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import programs
from benchmarks.measure import BenchmarkError, Program, interleave, memory_bytes, run_whole
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
    near, _ = targets
    for program in programs.paced(c_loop, 20, 10, 1)[1:]:
        with Capture(near) as capture:
            _, output = run_whole(near, program.full, program.stop_after_s)
        per_target = Counter(trip.target for trip in capture.round_trips())
        assert sorted(per_target) == sorted(programs.targets(20)), program.name
        work = program.read(output)
        assert work.probes == work.received == per_target.total()
        # fping is interrupted in the middle of a round.
        assert all(count in (9, 10, 11) for count in per_target.values()), program.name


def test_fping_is_asked_for_no_more_than_it_survives(targets: Pair, c_loop: Path) -> None:
    near, _ = targets
    fping = programs.saturated(c_loop, 10**9)[2]
    run, output = run_whole(near, fping.full)
    assert fping.read(output).probes == programs.FPING_MOST
    assert run.cpu_s > 0


def test_a_program_that_fails_is_reported_and_the_others_go_on(pair: Pair) -> None:
    near, _ = pair
    good = Program(
        "good",
        ["echo", '{"probes": 3, "received": 2}'],
        ["echo", '{"probes": 0, "received": 0}'],
        programs.read_json,
    )
    bad = Program("bad", ["sh", "-c", "echo broken; exit 3"], ["true"], programs.read_fping)
    mute = Program("mute", ["true"], ["true"], programs.read_json)
    rows = interleave(near, [good, bad, mute], 2, lambda _: None)
    assert not rows[0].problem
    assert [run.work.probes for run in rows[0].full] == [3, 3]
    assert rows[0].answered == pytest.approx(2 / 3)
    assert "printed no totals" in rows[1].problem
    assert "not the JSON" in rows[2].problem


def test_a_programs_last_words_are_kept(pair: Pair) -> None:
    with pytest.raises(BenchmarkError, match="sh ended with 3: broken"):
        run_whole(pair[0], ["sh", "-c", "echo broken; exit 3"])


def test_memory_is_read_in_bytes() -> None:
    memory = memory_bytes(1)
    assert 0 < memory["VmRSS"] <= memory["VmHWM"]
    assert memory["VmRSS"] % 1024 == 0
