"""The spool on a real file: order, limits, damage, a second opener, a full disk and kill -9."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from probe.errors import SpoolError
from probe.telemetry.spool import Spool

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.sqlite3"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    spool = Spool(path, 64 * MIB)
    yield spool
    spool.close()


def fill(spool: Spool, count: int, size: int = 10) -> list[int]:
    return [spool.append(lambda number: b"%d " % number + random.randbytes(size)) for _ in range(count)]


def test_numbers_are_consecutive_and_the_payload_knows_its_own(spool: Spool) -> None:
    assert re.fullmatch("[0-9a-f]{16}", spool.id)
    assert (spool.last, spool.depth, spool.bytes, spool.dropped) == (0, 0, 0, 0)
    assert [spool.append(lambda number: b"batch=%di" % number) for _ in range(3)] == [1, 2, 3]
    assert [spool.get(number) for number in (1, 3, 4)] == [b"batch=1i", b"batch=3i", None]
    assert (spool.last, spool.depth) == (3, 3)
    assert spool.bytes > 0


def test_a_number_that_is_on_disk_although_its_commit_failed_is_not_given_again(spool: Spool) -> None:
    fill(spool, 3)
    spool.last -= 1  # as after a commit that was done and ended with an error
    spool.depth -= 1
    assert spool.append(lambda number: b"new %d" % number) == 4
    assert spool.get(4) == b"new 4"
    assert spool.get(3) != b"new 3"
    assert spool.depth == 4


def test_numbers_are_read_in_pages(spool: Spool) -> None:
    fill(spool, 10)
    assert spool.forget([(2, 3), (9, 9)]) == 3
    assert spool.numbers(0, 4) == [1, 4, 5, 6]
    assert spool.numbers(6, 100) == [7, 8, 10]
    assert spool.numbers(10, 100) == []


def test_numbers_go_on_after_a_restart_even_when_nothing_waits(path: Path, spool: Spool) -> None:
    fill(spool, 5)
    spool.forget([(1, 5)])
    assert (spool.depth, spool.bytes) == (0, 0)
    spool.close()
    again = Spool(path, 64 * MIB)
    assert (again.id, again.last, again.depth) == (spool.id, 5, 0)
    assert fill(again, 1) == [6]
    again.close()
    again.close()


def test_forgetting_ranges_that_are_nowhere_costs_nothing_and_does_nothing(spool: Spool) -> None:
    fill(spool, 3)
    assert spool.forget([(7, 10**30), (-(10**30), 0), (3, 2)]) == 0
    assert spool.forget([(2, 10**30)]) == 2
    assert spool.forget([]) == 0
    assert fill(spool, 1) == [4]  # a range past the end took no future number with it
    assert spool.numbers(0, 10) == [1, 4]


def test_ranges_of_another_spool_delete_nothing(spool: Spool) -> None:
    """An acknowledgement for a file that was set aside a moment ago has the numbers of the new one, too."""
    fill(spool, 3)
    assert spool.forget([(1, 3)], "ffffffffffffffff") == 0
    assert spool.forget([(1, 2)], spool.id) == 2
    assert spool.numbers(0, 10) == [3]


def test_failing_maker_leaves_nothing_behind(spool: Spool) -> None:
    def fail(number: int) -> bytes:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        spool.append(fail)
    assert fill(spool, 1) == [1]


def test_limit_drops_the_oldest_and_counts_across_restarts(path: Path) -> None:
    spool = Spool(path, MIB)
    fill(spool, 200, 10_000)
    assert spool.dropped > 90
    assert spool.depth == 200 - spool.dropped
    assert spool.numbers(0, 1000) == list(range(spool.dropped + 1, 201))
    assert spool.bytes <= MIB
    spool.close()
    assert path.stat().st_size <= MIB
    again = Spool(path, MIB)
    assert (again.dropped, again.depth, again.bytes) == (spool.dropped, spool.depth, spool.bytes)
    again.close()


def test_batch_over_the_limit_by_itself_still_goes_through(path: Path) -> None:
    spool = Spool(path, 100_000)
    fill(spool, 3, 10_000)
    assert fill(spool, 1, 200_000) == [4]
    assert spool.numbers(0, 10) == [4]
    assert spool.dropped == 3
    assert fill(spool, 1, 10) == [5]
    assert spool.numbers(0, 10) == [5]
    spool.close()


def test_drained_file_shrinks(path: Path, spool: Spool) -> None:
    fill(spool, 300, 100_000)
    assert path.stat().st_size > 20 * MIB
    for number in range(1, 301):
        spool.forget([(number, number)])
    fill(spool, 1)
    spool.close()
    assert path.stat().st_size < 2 * MIB


def test_second_process_is_refused(path: Path, spool: Spool) -> None:
    code = "import sys, pathlib, probe.telemetry.spool as s; s.Spool(pathlib.Path(sys.argv[1]), 1 << 20)"
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "SpoolError" in result.stderr
    assert "another process uses this spool; every agent needs its own agent.state_dir" in result.stderr
    assert fill(spool, 1) == [1]
    with pytest.raises(SpoolError, match="another process uses this spool"):
        Spool(path, MIB)


def test_what_is_measured_is_not_for_every_user_of_the_host(path: Path) -> None:
    with closing(Spool(path, MIB)):
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_unusable_places_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"agent\.state_dir"):
        Spool(tmp_path / "file" / "spool.sqlite3", MIB)
    (tmp_path / "spool.sqlite3").mkdir()
    with pytest.raises(SpoolError, match="cannot be opened"):
        Spool(tmp_path / "spool.sqlite3", MIB)


def test_closed_spool_says_so(spool: Spool) -> None:
    spool.close()
    with pytest.raises(SpoolError, match="closed"):
        spool.get(1)


def test_file_of_a_newer_version_is_left_alone(path: Path, spool: Spool) -> None:
    fill(spool, 1)
    spool.close()
    with sqlite3.connect(path) as db:
        db.execute("pragma user_version = 7")
    db.close()
    with pytest.raises(SpoolError, match=r"made by a newer coloprobe \(7\); upgrade"):
        Spool(path, MIB)


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_that_is_no_database_is_set_aside(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    for n in (1, 2, 3, 4, 5):
        path.write_bytes(content)
        spool = Spool(path, MIB)
        assert spool.set_aside == [path.with_name(f"spool.sqlite3.corrupt-{n}")]
        assert fill(spool, 1) == [1]
        spool.close()
    kept = sorted(file.name for file in path.parent.iterdir() if file.suffix != ".reserve")
    assert kept == ["spool.sqlite3", *(f"spool.sqlite3.corrupt-{n}" for n in (3, 4, 5))]


def test_database_of_something_else_is_set_aside_whole(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("create table t (x)")
        db.execute("insert into t values (7)")
    db.close()
    spool = Spool(path, MIB)
    spool.close()
    with sqlite3.connect(spool.set_aside[0]) as db:
        assert db.execute("select x from t").fetchall() == [(7,)]
    db.close()


def test_damage_found_while_running_begins_a_new_file(path: Path, spool: Spool) -> None:
    fill(spool, 200, 10_000)
    spool.close()
    size = path.stat().st_size
    with path.open("r+b") as file:  # the header and the first tables stay
        file.seek(5 * 4096)
        file.write(b"\xff" * (size - 5 * 4096))
    again = Spool(path, 64 * MIB)
    old = spool.id
    assert [again.get(number) for number in (1, 100, 200)] == [None, None, None]
    number = again.append(lambda number: b"%s %d" % (again.id.encode(), number))
    assert again.id != old
    assert again.set_aside == [path.with_name("spool.sqlite3.corrupt-1")]
    assert number == 1
    assert again.get(1) == b"%s 1" % again.id.encode()
    again.close()


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_ends_in_a_traceback(path: Path, seed: int) -> None:
    spool = Spool(path, MIB)
    fill(spool, 30, 5_000)
    spool.close()
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 20, 500))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data[: chance.choice((len(data), len(data) // 2))])
    try:
        spool = Spool(path, MIB)
    except SpoolError:
        return  # a version from the future, for example
    first = spool.append(lambda number: b"new")
    for number in spool.numbers(0, 100):
        spool.get(number)
    spool.forget([(1, first - 1)])
    spool.append(lambda number: b"new")
    assert spool.get(spool.last) == b"new"
    spool.close()


def test_threads_take_turns(spool: Spool) -> None:
    seen: list[int] = []

    def work() -> None:
        for _ in range(50):
            number = spool.append(lambda number: b"%d" % number)
            seen.append(number)
            assert spool.get(number) == b"%d" % number
            spool.forget([(number, number)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 201))
    assert spool.depth == 0


APPENDER = """
import sys
from pathlib import Path
from probe.telemetry.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
print(spool.id, spool.last, flush=True)
while True:
    number = spool.append(lambda number: b"%d:" % number + b"x" * (number * 7919 % 20000))
    print(number, flush=True)
    if number % 10 == 0:
        spool.forget([(number - 9, number - 5)])
"""


def test_kill_9_loses_nothing_that_append_returned(path: Path) -> None:
    ids = set()
    told = 0
    for round_ in range(5):
        with subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            spool_id, start = child.stdout.readline().split()
            ids.add(spool_id)
            assert int(start) in (told, told + 1)  # the last one may have been stored and not told
            expected = int(start)
            for line in child.stdout:
                expected += 1
                assert int(line) == expected
                if expected == int(start) + 60 + 17 * round_:
                    child.send_signal(signal.SIGKILL)
                told = expected
    spool = Spool(path, 1 << 30)
    assert ids == {spool.id.encode()}
    assert spool.last in (told, told + 1)
    there = spool.numbers(0, 10_000)
    assert len(there) == spool.depth
    must = {number for number in range(1, told + 1) if (number - 1) % 10 >= 5 or number > told // 10 * 10}
    assert must <= set(there)
    for number in there:
        assert spool.get(number) == b"%d:" % number + b"x" * (number * 7919 % 20000)
    spool.close()


SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from probe.errors import SpoolError
from probe.telemetry.spool import Spool
home = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", home], check=True)
spool = Spool(home / "spool.sqlite3", 1 << 30)
for n in range(1, 2001):
    assert spool.append(lambda number: b"%d:" % number + b"x" * 20_000) == n
assert spool.dropped > 1000, spool.dropped
assert spool.numbers(0, 5000) == list(range(spool.dropped + 1, 2001))
assert spool.get(2000).startswith(b"2000:")
(home / "more").write_bytes(b"")
spool.forget([(1, 2000)])
spool.close()
with (home / "more").open("wb", buffering=0) as other:
    try:
        while True:
            other.write(bytes(4096))
    except OSError:
        pass
try:
    Spool(home / "other.sqlite3", 1 << 30)
except SpoolError as problem:
    print(problem)
spool = Spool(home / "spool.sqlite3", 1 << 30)
try:
    for n in range(1000):
        spool.append(lambda number: b"x" * 200_000)
except SpoolError as problem:
    print(problem)
(home / "more").unlink()
print(spool.append(lambda number: b"x" * 200_000) > 2000, spool.get(spool.last) == b"x" * 200_000)
"""


PASSING = """
import subprocess, sys
from pathlib import Path
from probe.telemetry.spool import Spool
home, ballast = Path(sys.argv[1]), Path(sys.argv[1]) / "more"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", home], check=True)
spool = Spool(home / "spool.sqlite3", 1 << 30)
spool.append(lambda number: b"x" * 2_000)
with ballast.open("wb", buffering=0) as other:
    for size in (1 << 20, 4096):
        try:
            while True:
                other.write(bytes(size))
        except OSError:
            pass
for _ in range(50):  # young as it is, it has a reserve to go on with
    spool.append(lambda number: b"x" * 20_000)
print(spool.dropped, spool.depth)
while not spool.dropped:
    spool.append(lambda number: b"x" * 20_000)
with ballast.open("r+b") as other:
    other.truncate(int(sys.argv[2]))
spool.append(lambda number: b"x" * 2_000)  # notices
before = spool.dropped
for _ in range(20):
    spool.append(lambda number: b"x" * 20_000)
print(spool.dropped - before, spool.depth >= 20)
"""


@pytest.mark.root
@pytest.mark.parametrize("ballast", [0, 6 << 20])
def test_when_the_disk_has_room_again_nothing_is_dropped_any_more(tmp_path: Path, ballast: int) -> None:
    command = ["unshare", "-m", sys.executable, "-c", PASSING, str(tmp_path), str(ballast)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("0 51\n0 True\n", "")


@pytest.mark.root
def test_full_disk_is_like_the_limit_and_passes(tmp_path: Path) -> None:
    command = ["unshare", "-m", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    *problems, last = result.stdout.splitlines()
    assert last == "True True"
    assert problems
    assert all(
        problem.endswith("the disk is full; make room there, or lower spool.max_bytes")
        for problem in problems
    )


@pytest.mark.parametrize(
    "damage",
    [
        "update spool set id = 'ac01d9e255f' || char(0)",
        "update spool set last = 1000000000000000000",
        "update spool set last = -5, dropped = -1",
        "insert into batch values (-3, x'00')",
    ],
)
def test_a_row_that_names_what_no_collector_takes_is_damage(path: Path, spool: Spool, damage: str) -> None:
    fill(spool, 3)
    spool.close()
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    again = Spool(path, 64 * MIB)
    assert len(again.set_aside) == 1
    assert again.append(lambda number: b"new") == 1
    again.close()


def test_a_payload_that_became_text_is_bytes_again(path: Path, spool: Spool) -> None:
    fill(spool, 1)
    spool.close()
    with sqlite3.connect(path) as database:
        database.execute("update batch set payload = cast(x'ff00' as text)")
    database.close()
    again = Spool(path, 64 * MIB)
    assert again.get(1) == b"\xff\0"
    again.close()


DWINDLING = """
import os, subprocess, sys
from pathlib import Path
from random import randbytes
from probe.telemetry.spool import Spool
home, role = Path(sys.argv[1]), sys.argv[2]
if role == "child":
    spool = Spool(home / "spool.sqlite3", 1 << 30)
    for _ in range(150):
        spool.append(lambda number: b"%d:" % number + randbytes(20_000))
    print(spool.last, spool.depth, flush=True)
    os.kill(os.getpid(), 9)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", home], check=True)
for _ in range(5):
    subprocess.run([sys.executable, "-c", sys.argv[3], sys.argv[1], "child", ""], check=False)
    with (home / "more").open("ab", buffering=0) as other:  # takes whatever is left
        try:
            while True:
                other.write(bytes(4096))
        except OSError:
            pass
spool = Spool(home / "spool.sqlite3", 1 << 30)
there = spool.numbers(0, 10_000)
assert there == list(range(spool.dropped + 1, spool.last + 1)), "not the newest ones"
assert all(spool.get(number).startswith(b"%d:" % number) for number in there)
assert spool.forget([(1, spool.last)]) == len(there)
"""


@pytest.mark.root
def test_a_disk_that_others_fill_to_the_last_byte_takes_new_batches_for_old_ones(tmp_path: Path) -> None:
    command = ["unshare", "-m", sys.executable, "-c", DWINDLING, str(tmp_path), "", DWINDLING]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    lasts, depths = zip(*(map(int, line.split()) for line in result.stdout.splitlines()), strict=True)
    assert lasts == (150, 300, 450, 600, 750)
    assert min(depths) > 10
