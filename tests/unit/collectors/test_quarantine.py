"""What is set aside can be read, stays within its limit, and no agent pushes out another one's."""

from __future__ import annotations

import base64
import json
import sys
import threading
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from collectors.quarantine import DAY_NS, LINES_EACH, Entry, Quarantine, entries
from collectors.validate import BadLine
from probe.telemetry.topics import BatchId

ID = BatchId("ny4-01", "9f2c41d0", 17)
NOW = 1_790_000_000_000_000_000


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_an_entry_says_when_who_what_and_why(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "new", "fanin-1", 1 << 20)
    quarantine.prepare()
    quarantine.add(
        [Entry(ID, "no timestamp", 'probe "ä\x00" 1'), Entry(ID, "gzip: cut", b"\x1f\x8b\xff", 0)], NOW
    )
    common = {"time": NOW, "agent": "ny4-01", "spool": "9f2c41d0", "batch": 17}
    assert read(quarantine.path) == [
        {**common, "reason": "no timestamp", "line": 'probe "ä\x00" 1'},
        {**common, "reason": "gzip: cut", "payload": base64.b64encode(b"\x1f\x8b\xff").decode()},
    ]


def test_many_bad_lines_of_a_batch_share_one_entry_and_none_is_left_out() -> None:
    bad = [BadLine(f"x{n}", f"reason {n}") for n in range(LINES_EACH + 20)]
    made = entries(ID, bad)
    assert len(made) == LINES_EACH + 1
    assert sum(entry.lines for entry in made) == len(bad)
    texts = [line for entry in made for line in str(entry.content).split("\n")]
    assert texts == [line.text for line in bad]
    assert made[-1].reason == f"20 more lines of this batch; the first: reason {LINES_EACH}"


def test_the_file_and_its_predecessor_stay_within_the_limit_and_evictions_are_counted(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, "c", 20_000)
    for n in range(400):
        quarantine.add([Entry(BatchId(f"a{n}", "9f2c41d0", 1), "r", f"{n} " + "x" * 100)], NOW)
        assert on_disk(tmp_path) <= 20_000
    kept = [*read(tmp_path / "quarantine-c.jsonl.1"), *read(quarantine.path)]
    assert [int(entry["line"].split()[0]) for entry in kept] == list(range(400 - len(kept), 400))
    assert quarantine.evicted == 400 - len(kept) > 0


def test_one_agent_cannot_push_out_the_others(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, "c", 20_000)
    quarantine.add([Entry(ID, "r", "the honest one")], NOW)
    rubbish = Entry(BatchId("bad", "9f2c41d0", 1), "r", "x" * 500)
    for _ in range(500):
        quarantine.add([rubbish], NOW)
    assert read(quarantine.path)[0]["line"] == "the honest one"
    kept = sum(entry["agent"] == "bad" for entry in read(quarantine.path))
    assert kept + quarantine.withheld == 500
    assert 0 < kept * 500 <= 20_000 // 4
    quarantine.add([rubbish], NOW + DAY_NS)
    assert sum(entry["agent"] == "bad" for entry in read(quarantine.path)) == kept + 1


def test_threads_take_turns(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, "c", 40_000)
    quarantine.prepare()
    failures: list[BaseException] = []

    def add(agent: str) -> None:
        try:
            for number in range(1, 101):
                batch = BatchId(f"{agent}{number}", "9f2c41d0", number)  # no agent uses up its share
                quarantine.add([Entry(batch, "bad", "x" * 1000)] * 5, NOW)
        except OSError as failure:
            failures.append(failure)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=add, args=(agent,)) for agent in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    kept = sum(len(read(path)) for path in tmp_path.iterdir())
    assert kept + quarantine.evicted + quarantine.withheld == 2 * 100 * 5


def test_what_was_set_aside_survives_a_restart(tmp_path: Path) -> None:
    for number in (1, 2):
        Quarantine(tmp_path, "c", 20_000).add([Entry(ID, "r", f"line {number}")], NOW)
    assert [entry["line"] for entry in read(tmp_path / "quarantine-c.jsonl")] == ["line 1", "line 2"]


@given(content=st.one_of(st.text(), st.binary(), st.just("\x00" * 5000)))
def test_an_entry_is_one_line_of_bounded_json_whatever_it_holds(content: str | bytes) -> None:
    data = Entry(ID, "r", content).encode(NOW, 2000)
    assert data.count(b"\n") == 1
    assert len(data) <= 2000
    assert json.loads(data)["agent"] == "ny4-01"
