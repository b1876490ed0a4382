"""The benchmark's own parts in, agreement with the wire out: what is compared with must do the same work.

No figure is judged here, only that each part runs and reads its programs rightly.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import programs, rates, run, soak, trend
from benchmarks.accuracy import errors
from benchmarks.measure import BenchmarkError, Program, Run, interleave, measure
from benchmarks.meters import METERS, Meter, Readings
from benchmarks.parts import Bench, Size
from benchmarks.processes import memory_bytes, usage
from benchmarks.rates import paced, saturated
from benchmarks.report import BEGIN, END, Bar, Report
from benchmarks.scale import scale
from tests.lab.capture import Capture
from tests.lab.netlab import Lab, Namespace
from tests.lab.peers import irtt_server

Pair = tuple[Namespace, Namespace]
pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def c_loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return programs.build_c_loop(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def targets(pair: Pair) -> Pair:
    near, far = pair
    far.answer_for(programs.TARGET_NETWORK)
    near.route(programs.TARGET_NETWORK, far.ipv4)
    return pair


@pytest.fixture
def irtt(targets: Pair) -> Iterator[str]:
    with irtt_server(targets[1]) as server:
        yield server


@pytest.fixture
def bench(lab: Lab, targets: Pair, c_loop: Path, tmp_path: Path) -> Bench:
    near, far = targets
    size = Size(
        accuracy_probes=20,
        accuracy_rounds=1,
        probes=40_000,
        saturated_rounds=1,
        window_s=1,
        paced_rounds=1,
        scale_windows=2,
        scale_window_s=1,
    )
    return Bench(lab, near, far, c_loop, tmp_path, size, Report())


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


@pytest.mark.parametrize("drain_ms", ["0", "250"])
def test_the_c_loop_paced_reads_every_reply_however_late(targets: Pair, c_loop: Path, drain_ms: str) -> None:
    near, _ = targets
    argv: list[str | Path] = [
        c_loop,
        "paced",
        programs.FIRST_TARGET.compressed,
        "20",
        "100",
        "1.1",
        "10",
        drain_ms,
    ]
    record = json.loads(near.run(argv).stdout)
    assert (record["probes"], record["received"]) == (2200, 2200)


def test_what_a_probe_costs_adds_up_to_what_the_process_used(targets: Pair, c_loop: Path, irtt: str) -> None:
    near, far = targets
    run = measure(near, far, programs.saturated(c_loop, 20_000, irtt)[1])
    assert run.work.probes == 20_000
    assert 2_000 <= run.first.probes < 19_000 <= run.last.probes <= 20_000
    assert 0 < run.first.cpu_s < run.last.cpu_s <= run.cpu_s
    assert run.around_s + run.cpu_per_probe_s * 20_000 == pytest.approx(run.cpu_s)


def test_fping_is_asked_for_no_more_than_it_survives(targets: Pair, c_loop: Path, irtt: str) -> None:
    near, far = targets
    fping = next(p for p in programs.saturated(c_loop, 10**9, irtt) if p.name.startswith("fping"))
    run = measure(near, far, fping)
    assert run.work.probes == programs.FPING_MOST


def test_a_program_that_fails_is_reported_and_the_others_go_on(
    targets: Pair, c_loop: Path, irtt: str
) -> None:
    near, far = targets
    said = '{"probes": 3, "received": 2}'
    rows = interleave(
        near,
        far,
        [
            programs.saturated(c_loop, 20_000, irtt)[1],
            Program("bad", ["sh", "-c", "echo broken; exit 3"], programs.read_json, (1, 2)),
            Program("mute", ["true"], programs.read_json, (1, 2)),
            Program("no totals", ["true"], programs.read_fping, (1, 2)),
            Program("idle", ["echo", said], programs.read_json, (1, 2)),
            Program("absent", ["no-such-tool"], programs.read_json, (1, 2), needs="apt-get install it"),
        ],
        2,
        lambda _: None,
    )
    assert [len(row.runs) for row in rows] == [2, 0, 0, 0, 0, 0]
    assert not rows[0].problem
    assert rows[0].answered == 1
    assert rows[1].problem == "sh ended with 3: broken"
    assert "not the JSON" in rows[2].problem
    assert "printed no totals" in rows[3].problem
    assert rows[4].problem == "idle sent 3 probes, too few to tell what one costs"
    assert rows[5].problem == "no-such-tool is missing; it comes with: apt-get install it"


def test_memory_is_read_in_bytes() -> None:
    memory = memory_bytes(1)
    assert 0 < memory["VmRSS"] <= memory["VmHWM"]
    assert memory["VmRSS"] % 1024 == 0


def test_a_process_is_seen_with_its_files_and_threads() -> None:
    used = usage(1)
    assert used.rss_bytes > 0
    assert used.threads >= 1
    assert used.cpu_s >= 0


@pytest.mark.parametrize("meter", METERS, ids=lambda meter: meter.name)
def test_every_probe_of_every_tool_is_found_on_the_wire(bench: Bench, meter: Meter) -> None:
    found = errors(meter.run(bench, 20))
    slow_or_cut = 4 if meter.name.startswith(("scapy", "coloprobe agent")) else 20
    assert found.probes >= slow_or_cut
    # smokeping_prober does not count its first replies.
    assert found.unmatched <= (3 if meter.name.startswith("smokeping") else 0)
    assert abs(found.mean) < 1e6


def test_errors_are_signed_and_counted_probe_by_probe() -> None:
    wire = dict.fromkeys(range(1, 201), 10000)
    tool = {number: 10_000 + 1_000 * number for number in range(1, 201)}
    tool[1] = 0
    del wire[200]
    found = errors(Readings(tool, wire))
    assert (found.probes, found.unmatched) == (199, 1)
    assert (found.first, found.median, found.p99, found.largest) == (-10, 100, 198, 199)
    means = errors(Readings({}, dict.fromkeys(range(7), 1), means=(30_000.0, 10_000.0), answered=5))
    assert (means.probes, means.unmatched, means.mean, means.p99) == (5, 2, 20, None)
    with pytest.raises(BenchmarkError, match="none is among"):
        errors(Readings({1: 5}, {2: 5}))


def test_all_rates_are_measured_and_printed(bench: Bench) -> None:
    saturated(bench)
    text = "\n".join(bench.report.text)
    assert "not measured" not in text
    assert all(len(bar.values) == 1 and bar.values[0] > 0 for bar in bench.report.bars)
    for record in bench.report.data["saturated"]:
        assert len(record["runs"]) == 1, record["name"]


def test_all_paced_programs_send_the_same_to_every_target(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, failed = bench.far.rule("accept"), []

    def counting(near: Namespace, far: Namespace, program: Program) -> Run:
        before = arrived.counts().seen
        try:
            return measure(near, far, program)
        except BenchmarkError:  # as on a machine that was busy; it is run again
            failed.append(arrived.counts().seen - before)
            raise

    monkeypatch.setattr("benchmarks.measure.measure", counting)
    with Capture(bench.near, quiet=True) as capture:
        paced(bench)
    assert "not measured" not in "\n".join(bench.report.text)
    assert [bar.values[0] > 0 for bar in bench.report.bars] == [True] * 4  # of both senders
    records = [r for r in bench.report.data["paced"] if not r["name"].startswith("irtt")]
    sent = 0
    for record in records:
        work = record["runs"][0]["work"]
        sent += work["probes"]
        # smokeping_prober does not count its first reply from a target.
        assert work["received"] >= work["probes"] - (400 if record["name"].startswith("smokeping") else 0)
    per_target = Counter(trip.target for trip in capture.round_trips())
    assert sorted(per_target) == sorted(programs.targets(rates.TARGETS))
    # fping does not count the probe that it is just sending, smokeping_prober not what it sends while asked.
    assert sent <= per_target.total() - sum(failed) <= sent + 400
    assert max(per_target.values()) - min(per_target.values()) <= 2 * (len(records) + len(failed))


def test_scale_measures_whole_windows_of_every_size(bench: Bench) -> None:
    scale(bench)
    assert "not measured" not in "\n".join(bench.report.text)
    for scaled in bench.report.data["scale"]:
        assert len(scaled["windows_s"]) == 2
        assert min(scaled["windows_s"]) > 0
        assert scaled["histogram_lines"] >= min(scaled["targets"], 2000)
        # Due in a window, whole ones: a flow of 5 s has a fifth of its probes in each.
        assert all(abs(sent - 2000) <= 20 for sent in scaled["probes"])


def test_a_bar_needs_values_and_says_what_it_saw() -> None:
    assert not Bar("x", [], 1).met
    assert Bar("x", [3, 1, 2], 2).met
    assert not Bar("x", [3, 1, 2], 2.5, at_least=True).met
    assert str(Bar("x", [3, 1, 2], 1)) == "  x: 2.00 (1.00 to 3.00); bar: at most 1, NOT MET"


def test_what_was_printed_is_what_the_page_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    report = Report()
    report.say("machine")
    report.table(("tool", "us", "runs"), [("a", ("1.0", "3")), ("bb", ("not measured: gone",))])
    report.write_into(page)
    text = page.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert text == f"before\n{BEGIN}\n```\n" + re.sub(r" +\n", "\n", printed) + f"```\n{END}\nafter\n"
    assert "  bb    not measured: gone\n" in text
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the lines"):
        report.write_into(page)


def test_a_part_that_fails_is_told_and_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: Bench) -> None:
        raise BenchmarkError("a traceback\nits last line")

    def fine(bench: Bench) -> None:
        bench.report.bars.append(Bar("fine", [1], 1))

    monkeypatch.setattr(run, "PARTS", {"broken": broken, "fine": fine})
    assert run.main([]) == 1
    said = capsys.readouterr().out
    assert "  broken is not measured: its last line\n" in said
    assert "  fine: 1.00 (1.00 to 1.00); bar: at most 1, met\n" in said


def test_only_a_whole_run_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--write", "--quick"])
    assert "leave --quick and --only out" in capsys.readouterr().err
    assert BEGIN in run.PAGE.read_text(encoding="utf-8")


def test_a_soak_reads_both_processes_and_misses_no_batch(targets: Pair, tmp_path: Path) -> None:
    readings, arrived = soak.soak(targets[0], tmp_path, 4, 1, Report())
    assert len(readings.agent) == len(readings.collector) == len(readings.spool_bytes) >= 4
    assert min(readings.spool_bytes) > 0
    assert all(used.rss_bytes > 10e6 and used.files > 5 for used in (*readings.agent, *readings.collector))
    assert arrived.complete
    assert arrived.batches >= 1
    assert (arrived.lost, arrived.skipped) == (0, 0)
    assert arrived.sent >= 5_000
    report = Report()
    assert soak.describe(readings, arrived, report)
    assert "0 missing; left in the spool: 0" in "\n".join(report.text)


def test_missing_batches_are_no_complete_run() -> None:
    arrived = soak.Arrived(batches=3, missing=[], left_in_spool=0, sent=1, lost=0, skipped=0)
    assert arrived.complete
    assert not replace(arrived, missing=[2]).complete
    assert not replace(arrived, left_in_spool=1).complete
    assert not replace(arrived, batches=0).complete


def test_a_slope_is_told_from_noise_and_from_a_start() -> None:
    times = [float(second) for second in range(0, 3601, 10)]
    grown = [50 + 2 * time / 3600 for time in times]
    assert trend.slope_per_hour(times, grown) == pytest.approx(2)
    assert trend.verdict(times, grown).startswith("+2.00 MB/h, from 50.1 to 51.9 MB, at most 52.0 MB")
    assert trend.verdict(times, grown).endswith("IT GROWS")
    assert trend.verdict(times, [50 + at % 3 for at, _ in enumerate(times)]).endswith("flat")
    assert trend.verdict(times[:60], grown[:60]).endswith("too short a run to tell")
    assert times[trend.settled(times, 300)] == 300
    assert times[trend.settled(times[:10], 300)] == 30


def test_a_chart_shows_every_reading_and_spans_its_least() -> None:
    lines = trend.chart([1.0, 1.0, 9.0, 1.0], height=4)
    assert lines == ["     8.00 |  *", "     6.00 |", "     4.00 |", "     2.00 |** *"]
    assert [line.count("*") for line in trend.chart([5.0] * 300, width=50, height=3)] == [0, 50, 0]
